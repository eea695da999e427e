"""Survey the training cases: the grid, the hashes, and the intensities of the structures of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from fcas_nnunet.generator.checkpoint import case_sha256
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.optimisation.batches import local_share
from fcas_nnunet.image_content import image_sha256
from fcas_nnunet.labels.contrast import means_by_code
from fcas_nnunet.orientation import Orientation


@dataclass(frozen=True)
class SurveyedCase:
    """A training case as surveyed.

    Attributes:
        shape: Voxels along the turned axes.
        spacing_mm: Voxel size along the turned axes.
        sha256: Hash of image, mask, surroundings and affine (`case_sha256`).
        image_sha256: Hash of the scan's first channel alone.
        means: Label id → mean of each channel in standard units.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    sha256: str
    image_sha256: str
    means: dict[int, tuple[float, ...]]


def survey(data: TrainingData, accelerator: Accelerator, towards: str) -> dict[str, SurveyedCase]:
    """Read every case, each process its share; `towards` holds the directions of D, H and W on the working grid.

    Returns:
        Case id → case, in the order of the cases; the same in every process.
    """
    local = []
    for case_id in local_share(data.case_ids, accelerator, "reading", "case"):
        case = data.load_case(case_id)
        assert case.image is not None, "training cases have images"
        turn = Orientation.of(case.affine, towards)
        of_channels = [means_by_code(channel, case.mask) for channel in case.standard_image]
        means = {label: tuple(means[label] for means in of_channels) for label in of_channels[0] if label}
        surveyed = SurveyedCase(
            turn.reorder(case.shape), turn.reorder(case.spacing_mm), case_sha256(case),
            image_sha256(case.image[0], case.affine), means,
        )  # fmt: skip
        local.append((case_id, surveyed))
    found = dict(gather_object(local))
    return {case_id: found[case_id] for case_id in data.case_ids}


def case_hashes(cases: Mapping[str, SurveyedCase]) -> dict[str, str]:
    """Case id → hash of the case's content."""
    return {case_id: case.sha256 for case_id, case in cases.items()}


def usual_means(cases: Iterable[SurveyedCase]) -> dict[int, tuple[float, ...]]:
    """Label id → average of its means over the cases that have it, in each channel."""
    found: dict[int, list[tuple[float, ...]]] = {}
    for case in cases:
        for label, means in case.means.items():
            found.setdefault(label, []).append(means)
    return {
        label: tuple(float(np.mean(of_channel)) for of_channel in zip(*means, strict=True))
        for label, means in sorted(found.items())
    }
