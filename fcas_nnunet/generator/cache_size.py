"""The size of a training's cache of variants, latents and templates, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.data.grid import WorkingGrid
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import variants_of
from fcas_nnunet.generator.survey import SurveyedCase
from fcas_nnunet.generator.tcdm.templates import templates_of
from fcas_nnunet.machine import free_disk_bytes

#: Bytes per working voxel: two label maps of a shape; image of a channel (fp16), and mean and standard deviation of its
#: four latents (fp16, a 64th of the voxels); of a registered template, two images a channel and three label maps.
SHAPE_BYTES, IMAGE_BYTES, LATENTS_BYTES = 2.0, 2.0, 0.25
TEMPLATE_BYTES, TEMPLATE_IMAGES_BYTES = 3.0, 4.0


def missing_cache_bytes(
    data: TrainingData,
    cases: Mapping[str, SurveyedCase],
    working_spacing_mm: Sequence[float],
    config: FCaSConfig,
    folder: Path,
) -> float:
    """Return the bytes that the cache in `folder` will take on top of the files that are there already."""
    channels, total = len(data.channel_names), 0.0
    training = data.split()[0]
    for case_id, case in cases.items():
        grid = WorkingGrid.of(
            case.shape, case.spacing_mm, working_spacing_mm, config.tcdm.grid_multiple, config.grid.crop_size
        )
        variants = variants_of(case_id, config.tcdm.pairs)
        files = [
            (SHAPE_BYTES, {variant.shape_file for variant in variants}),
            (IMAGE_BYTES * channels, {variant.image_file for variant in variants}),
            (LATENTS_BYTES * channels, {variant.latents_file for variant in variants}),
        ]
        if config.tcdm.registers:
            names = {template.file for template in templates_of(case_id, training, config.tcdm.pairs)}
            files.append((TEMPLATE_BYTES + TEMPLATE_IMAGES_BYTES * channels, names))
        missing = sum(each * sum(not (folder / name).exists() for name in names) for each, names in files)
        total += missing * math.prod(grid.shape)
    return total


def check_disk(folder: Path, num_bytes: float, num_cases: int) -> None:
    """Raise an InputError if the disk of the cache's folder, which need not exist, has too little free space."""
    free = free_disk_bytes(folder)
    if num_bytes > free:
        raise InputError(
            f"{folder}: free disk space must be at least {num_bytes / 1e9:.3g} GB for the cache of {num_cases} cases, "
            f"which is removed after the training, got {free / 1e9:.3g} GB. Free some, lower tcdm.pairs.num_shapes, "
            "tcdm.pairs.num_contrasts or grid.max_voxels, or continue until it is full with --ignore_disk."
        )
