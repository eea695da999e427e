"""Write variants of the training cases on the working grid: the shapes and contrasts of the training pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fcas_nnunet.case import Case
from fcas_nnunet.config.generator import FCaSConfig, MaskConfig, PairConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_path
from fcas_nnunet.generator.data.contrasts import add_contrast, draw_contrasts
from fcas_nnunet.generator.data.grid import WorkingGrid, label_codes, orientation_known_to, to_unit_range
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.mgm.deformation import IDENTITY, Deformation, draw_deformation, mask_center_mm
from fcas_nnunet.generator.mgm.masks import deform_mask
from fcas_nnunet.generator.mgm.resampling import deform_image, deform_labels
from fcas_nnunet.geometry import Box, triple
from fcas_nnunet.intensities import IntensityScale
from fcas_nnunet.labels.anatomy import LabelRoles, label_roles
from fcas_nnunet.orientation import Orientation
from fcas_nnunet.seeds import derive_seed

REFERENCE, TEMPLATE = "reference_codes", "template_codes"
IMAGE = "image"


@dataclass(frozen=True)
class Variant:
    """One shape of one case under one contrast; shape 0 and contrast 0 are the case as it is."""

    case_id: str
    shape: int
    contrast: int

    @property
    def shape_file(self) -> str:
        """The masks, shared by all contrasts of this shape."""
        return f"{self.case_id}__s{self.shape}.safetensors"

    @property
    def image_file(self) -> str:
        """The image of this shape and contrast."""
        return f"{self.case_id}__s{self.shape}c{self.contrast}.safetensors"

    @property
    def latents_file(self) -> str:
        """The latents of that image."""
        return f"{self.case_id}__s{self.shape}c{self.contrast}__latents.safetensors"


def variants_of(case_id: str, pairs: PairConfig) -> list[Variant]:
    """List all variants of a case: every contrast of every shape."""
    return [Variant(case_id, s, c) for s in range(pairs.num_shapes) for c in range(pairs.num_contrasts)]


def all_variants(case_ids: Sequence[str], pairs: PairConfig) -> list[Variant]:
    """List all variants of some cases, case by case."""
    return [variant for case_id in case_ids for variant in variants_of(case_id, pairs)]


def make_variants(
    data: TrainingData, case_id: str, folder: Path, working_spacing_mm: Sequence[float], config: FCaSConfig
) -> None:
    """Write all variants of a case into a folder, unless all exist.

    Every shape is the case under one deformation, image, mask and surroundings alike; every contrast adds one offset
    per structure and channel, the same on all shapes, so that a pair of shapes under one contrast shows the denoiser
    that the template's contrast is the target's. Volumes smaller than a training crop are padded up to it with their
    border.
    """
    pairs = config.tcdm.pairs
    if all((folder / variant.image_file).exists() for variant in variants_of(case_id, pairs)):
        return
    roles, num_labels = label_roles(data.labels, data.roles), max(data.labels.values())
    case, _ = on_working_grid(data, case_id, working_spacing_mm, config)
    assert case.image is not None, "training cases have images"
    offsets = contrasts_of(case_id, len(case.image), num_labels, config)
    for shape in range(pairs.num_shapes):
        shaped = case.image, case.mask, case.surroundings
        if shape > 0:
            shaped = in_new_shape(*shaped, shape_of(case, shape, config), case.spacing_mm, roles)
        shaped_image, shaped_mask, around = shaped
        reference, template = label_codes(Case(case_id, None, shaped_mask, np.eye(4), around), num_labels)
        if pairs.reference_surroundings:
            reference = template
        save_tensors(
            {REFERENCE: torch.from_numpy(reference.copy()), TEMPLATE: torch.from_numpy(template.copy())},
            folder / Variant(case_id, shape, 0).shape_file,
        )
        for contrast in range(pairs.num_contrasts):
            in_contrast = add_contrast(shaped_image, template, offsets[contrast]) if contrast else shaped_image
            unit = to_unit_range(torch.from_numpy(in_contrast), config.grid.intensity_range)
            save_tensors({IMAGE: unit.half()}, folder / Variant(case_id, shape, contrast).image_file)


def on_working_grid(
    data: TrainingData, case_id: str, working_spacing_mm: Sequence[float], config: FCaSConfig
) -> tuple[Case, WorkingGrid]:
    """A training case on its working grid, padded to a training crop, in standard units; and that grid."""
    case, roles, num_labels = data.load_case(case_id), label_roles(data.labels, data.roles), max(data.labels.values())
    working = WorkingGrid.of_case(case, working_spacing_mm, config.tcdm, config.grid.crop_size)
    image = working.image_to_working(case.standard_image).numpy()
    codes = working.labels_to_working(label_codes(case, num_labels)[1], roles.thin).numpy()
    affine = Orientation.affine(working_spacing_mm, orientation_known_to(config.tcdm))
    scales = (IntensityScale(),) * len(image)
    found = Case(case_id, image, codes, affine, scales=scales)
    return of_codes(found, codes, num_labels, case.surroundings is not None), working


def of_codes(case: Case, codes: np.ndarray, num_labels: int, with_surroundings: bool) -> Case:
    """A case with the labels and, on request, the surroundings of codes, uint8 [D, H, W]."""
    mask = np.where(codes <= num_labels, codes, 0).astype(np.uint8)
    around = np.where(codes > num_labels, codes - num_labels, 0).astype(np.uint8) if with_surroundings else None
    return replace(case, mask=mask, surroundings=around)


def shape_of(case: Case, shape: int, config: FCaSConfig) -> Deformation:
    """The deformation of a case on its working grid that makes a shape of it."""
    if shape == 0:
        return IDENTITY
    return new_shape_of(
        case.mask, case.spacing_mm, config.masks, derive_seed(config.seed, "shape", case.case_id, shape)
    )


def contrasts_of(case_id: str, num_channels: int, num_labels: int, config: FCaSConfig) -> np.ndarray:
    """Offset of every code in every contrast of a case, float32 [contrasts, C, 256]; contrast 0 is the case's own."""
    pairs = config.tcdm.pairs
    offsets = draw_contrasts(
        pairs.num_contrasts, num_channels, num_labels, pairs.contrast_jitter, pairs.surroundings_jitter,
        derive_seed(config.seed, "contrast", case_id),
    )  # fmt: skip
    offsets[0] = 0
    return offsets


def in_new_shape(
    image: np.ndarray,
    mask: np.ndarray,
    surroundings: np.ndarray | None,
    deformation: Deformation,
    spacing_mm: tuple[float, float, float],
    roles: LabelRoles,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Deform image (float32 [C, D, H, W]), mask and surroundings (uint8 ids [D, H, W]) alike."""
    return (
        deform_image(image, deformation, spacing_mm),
        deform_mask(mask, deformation, spacing_mm, roles),
        None if surroundings is None else deform_labels(surroundings, deformation, spacing_mm),
    )


def new_shape_of(mask: np.ndarray, spacing_mm: tuple[float, float, float], masks: MaskConfig, seed: int) -> Deformation:
    """A random deformation of a whole case, about the middle of its mask."""
    center_mm = mask_center_mm(mask, spacing_mm)
    return draw_deformation(masks, triple(mask.shape), spacing_mm, seed, center_mm=center_mm)


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open a file of `save_tensors`, to read it in whole or in part.

    Raises:
        InputError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise InputError(
            f"{path}: cached tensors must be whole, got a damaged file ({error}). Delete {path.parent}, a cache."
        ) from error


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors that `save_tensors` wrote; raises as `open_tensors`."""
    with open_tensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def crop_at(start: Sequence[int], size: Sequence[int]) -> Box:
    """The crop of a size along (D, H, W) whose first voxel is `start`."""
    return triple(slice(int(a), int(a) + int(n)) for a, n in zip(start, size, strict=True))


def read_crop(path: Path, key: str, crop: Box) -> torch.Tensor:
    """Read a part of one stored tensor, whose last three axes are spatial, without reading the rest."""
    with open_tensors(path) as file:
        view = file.get_slice(key)
        return view[crop] if len(view.get_shape()) == 3 else view[(slice(None), *crop)]


def read_image(path: Path, crop: Box = (slice(None),) * 3) -> torch.Tensor:
    """Read a part of a stored image, float16 [C, D, H, W]."""
    image = read_crop(path, IMAGE, crop)
    return image if image.ndim == 4 else image[None]  # as earlier versions have cached the only channel


def stored_shape(path: Path, key: str) -> tuple[int, int, int]:
    """Spatial shape of a stored tensor."""
    with open_tensors(path) as file:
        return triple(file.get_slice(key).get_shape()[-3:])


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors, whole or not at all."""
    with atomic_path(path) as temporary:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
