"""Read every training case before the long work: its grid, its hashes, and the intensities of its structures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from fcas_nnunet.generator.checkpoint import case_sha256
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.image_content import image_sha256
from fcas_nnunet.labels.contrast import means_by_code
from fcas_nnunet.orientation import Orientation


@dataclass(frozen=True)
class SurveyedCase:
    """A training case; shape and voxel size are along the turned axes, `means_hu` are those of its labels.

    `sha256` is that of image, mask and surroundings, `image_sha256` that of the scan alone.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    sha256: str
    image_sha256: str
    means_hu: dict[int, float]


def survey(data: TrainingData, accelerator: Accelerator, towards: str) -> dict[str, SurveyedCase]:
    """Read every case, each process its share; `towards` are the directions of D, H and W on the working grid.

    Returns:
        Case id → case, in the order of the cases; the same in every process.
    """
    own = []
    for case_id in own_cases(data, accelerator, "reading"):
        case = data.load_case(case_id)
        assert case.image is not None, "training cases have images"
        turn = Orientation.of(case.affine, towards)
        means = {label: mean for label, mean in means_by_code(case.standard_image, case.mask).items() if label}
        surveyed = SurveyedCase(
            turn.reorder(case.shape), turn.reorder(case.spacing_mm), case_sha256(case),
            image_sha256(case.image, case.affine), means,
        )  # fmt: skip
        own.append((case_id, surveyed))
    found = dict(gather_object(own))
    return {case_id: found[case_id] for case_id in data.case_ids}


def own_cases(data: TrainingData, accelerator: Accelerator, what: str) -> tqdm[str]:
    """The cases of this process, with a progress bar."""
    own = data.case_ids[accelerator.process_index :: accelerator.num_processes]
    return tqdm(own, desc=what, unit="case", disable=not accelerator.is_main_process)


def case_hashes(cases: Mapping[str, SurveyedCase]) -> dict[str, str]:
    return {case_id: case.sha256 for case_id, case in cases.items()}


def usual_hu(cases: Iterable[SurveyedCase]) -> dict[int, float]:
    """Label id → mean of its means over the cases that have it."""
    found: dict[int, list[float]] = {}
    for case in cases:
        for label, mean in case.means_hu.items():
            found.setdefault(label, []).append(mean)
    return {label: float(np.mean(means)) for label, means in sorted(found.items())}
