"""ACDC: cine MR of 150 patients at end-diastole and end-systole, with both ventricles and the left myocardium."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fcas_nnunet.datasets.layout import (
    MRI,
    TEST,
    TRAINING,
    Layout,
    Place,
    PublicSet,
    Scan,
    Split,
    find_scans,
    patient_folds,
)
from fcas_nnunet.listing import listed

ACDC = PublicSet.of_structures(
    {1: "right_ventricle", 2: "left_myocardium", 3: "left_ventricle"},
    key="acdc",
    name="ACDC",
    channel=MRI,
    reference="Bernard et al., IEEE Transactions on Medical Imaging 37(11), 2018",
    licence="CC BY-NC-SA 4.0",
)

#: Keys of a manifest's record.
PHASE, GROUP = "phase", "group"

_INFO = "Info.cfg"
_LAST_TRAINING_PATIENT = 100
_SEED = 1234  # nnU-Net's


def find(source: Path) -> Layout:
    """Find `training/patient001/patient001_frame01.nii.gz`, `..._frame01_gt.nii.gz`, ..., and likewise `testing`.

    Patients 1–100 are the published training part. Its folds keep both phases of a patient on one side; there are no
    published ones, so they are those of nnU-Net's own converter.

    Raises:
        MissingFileError: If there is no such folder.
        InputError: If no case is there.
    """
    pattern = r"(?:^|/)patient(\d{3})_frame(\d+)(_gt)?\.nii(?:\.gz)?$"
    form = "training/patient001/patient001_frame01.nii.gz, patient001_frame01_gt.nii.gz, ..."
    layout = find_scans(source, pattern, _place, form)
    scans = [replace(scan, about=_about(scan)) for scan in layout.scans]
    other = [scan.case_id for scan in scans if scan.about and PHASE not in scan.about]
    notes = [f"neither end-diastole nor end-systole by {_INFO}: {listed(other)}"] if other else []
    origin = "patients, shuffled as nnU-Net's own converter of ACDC does"
    return replace(layout, scans=scans, folds=_folds, folds_origin=origin, notes=[*layout.notes, *notes])


def _about(scan: Scan) -> dict[str, str]:
    """Phase of the heart and group of the patient (NOR, MINF, DCM, HCM, RV) by the patient's Info.cfg, if it is there.

    Its lines are "ED: 1", "ES: 12", "Group: DCM" and others.
    """
    path = scan.image.with_name(_INFO)
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    info = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    frame = str(int(scan.case_id.rpartition("frame")[2]))
    phase = next((name for name in ("ED", "ES") if info.get(name, "").lstrip("0") == frame), None)
    about = {PHASE: phase, GROUP: info.get("Group")}
    return {key: value for key, value in about.items() if value}


def _place(match: re.Match[str]) -> Place:
    split = TRAINING if int(match[1]) <= _LAST_TRAINING_PATIENT else TEST
    patient = f"patient{match[1]}"
    return Place(f"{patient}_frame{match[2]}", match[3] is not None, split, patient)


def _folds(case_ids: Sequence[str]) -> list[Split]:
    return patient_folds(case_ids, lambda case_id: case_id.partition("_")[0], _SEED)
