"""Survey the training cases: the grid, the hashes, and the intensities of the structures of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from fcas_nnunet import image_content, intensities, orientation
from fcas_nnunet.case import Case
from fcas_nnunet.files import file_sha256
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.generator.checkpoint import case_sha256
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.optimisation.batches import local_share
from fcas_nnunet.geometry import triple
from fcas_nnunet.image_content import image_sha256
from fcas_nnunet.labels import contrast
from fcas_nnunet.labels.contrast import means_by_code
from fcas_nnunet.orientation import Orientation

#: Modules that decide what is found; a change of one is a reason to read the cases again.
_RULES = (sys.modules[__name__], checkpoint, image_content, intensities, contrast, orientation)


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

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SurveyedCase:
        """The case of `asdict` after it was written as JSON."""
        means = {int(label): tuple(of_channels) for label, of_channels in content["means"].items()}
        sizes = {name: triple(content[name]) for name in ("shape", "spacing_mm")}
        return cls(**{**content, **sizes, "means": means})


def survey(data: TrainingData, accelerator: Accelerator, towards: str) -> dict[str, SurveyedCase]:
    """Read every case that is new or has changed, each process its share.

    Args:
        data: The labelled cases.
        accelerator: The processes.
        towards: Directions of D, H and W on the working grid.

    Returns:
        Case id → case, in the order of the cases; the same in every process.
    """
    known = data.known([towards, [file_sha256(Path(str(module.__file__))) for module in _RULES]])
    found = dict(gather_object(list(known.found.items())))  # what any process knows, so that all read the same cases
    unknown = [case_id for case_id in data.case_ids if case_id not in found]
    local = [(case_id, asdict(_surveyed(data.load_case(case_id), towards)))
             for case_id in local_share(unknown, accelerator, "reading", "case")]  # fmt: skip
    new = json.loads(json.dumps(gather_object(local)))
    if accelerator.is_main_process:
        known.save(dict(new))
    found |= dict(new)
    return {case_id: SurveyedCase.from_json(found[case_id]) for case_id in data.case_ids}


def _surveyed(case: Case, towards: str) -> SurveyedCase:
    assert case.image is not None, "training cases have images"
    turn = Orientation.of(case.affine, towards)
    of_channels = [means_by_code(channel, case.mask) for channel in case.standard_image]
    means = {label: tuple(means[label] for means in of_channels) for label in of_channels[0] if label}
    return SurveyedCase(
        turn.reorder(case.shape), turn.reorder(case.spacing_mm), case_sha256(case),
        image_sha256(case.image[0], case.affine), means,
    )  # fmt: skip


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
