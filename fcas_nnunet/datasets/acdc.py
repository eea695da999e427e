"""ACDC: cine MR of 150 patients at end-diastole and end-systole, with both ventricles and the left myocardium."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fcas_nnunet.datasets.layout import MRI, TEST, TRAINING, Layout, Place, PublicSet, Split, find_scans, patient_folds

ACDC = PublicSet.of_structures(
    {1: "right_ventricle", 2: "left_myocardium", 3: "left_ventricle"},
    key="acdc",
    name="ACDC",
    channel=MRI,
    reference="Bernard et al., IEEE Transactions on Medical Imaging 37(11), 2018",
    licence="CC BY-NC-SA 4.0",
)

_LAST_TRAINING_PATIENT = 100
_SEED = 1234  # nnU-Net's


def find(source: Path) -> Layout:
    """Find `training/patient001/patient001_frame01.nii.gz`, `..._frame01_gt.nii.gz`, ..., and likewise `testing`.

    Patients 1–100 are the published training part. Its folds keep both phases of a patient on one side; there are no
    published ones, so they are those of nnU-Net's own converter.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If no case is there.
    """
    pattern = r"(?:^|/)patient(\d{3})_frame(\d+)(_gt)?\.nii(?:\.gz)?$"
    form = "training/patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz, ..."
    layout = find_scans(source, pattern, _place, form)
    return replace(layout, folds=_folds, folds_origin="patients, shuffled as nnU-Net's own converter of ACDC does")


def _place(match: re.Match[str]) -> Place:
    split = TRAINING if int(match[1]) <= _LAST_TRAINING_PATIENT else TEST
    patient = f"patient{match[1]}"
    return Place(f"{patient}_frame{match[2]}", match[3] is not None, split, patient)


def _folds(case_ids: Sequence[str]) -> list[Split]:
    return patient_folds(case_ids, lambda case_id: case_id.partition("_")[0], _SEED)
