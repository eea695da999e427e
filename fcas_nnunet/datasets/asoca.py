"""ASOCA: 40 coronary CT angiograms with the coronary tree, 20 of them diseased, and 20 for testing without labels."""

from __future__ import annotations

import re
from pathlib import Path

from fcas_nnunet.datasets.layout import CT, TEST, TRAINING, Layout, Place, PublicSet, find_scans
from fcas_nnunet.faults import InputError

ASOCA = PublicSet.of_structures(
    {1: "coronary_arteries"},
    key="asoca",
    name="ASOCA",
    channel=CT,
    reference="Gharleghi et al., Scientific Data 10, 2023, and Computerized Medical Imaging and Graphics 97, 2022",
)

_LATER = r"(?P<kind>CTCA|Annotations)/(?P<cohort>Normal|Diseased)_(?P<n>\d+)"
_LATER_TEST = r"Testset_(?P<test_cohort>Normal|Diseased?)/(?P<test_n>\d+)"
_OF_2020 = r"(?P<part>Train|Train_Masks|Test)/(?P<old_n>\d+)"


def find(source: Path) -> Layout:
    """Find the cases of one of both releases.

    The later one has `Normal/CTCA/Normal_1.nrrd`, `Normal/Annotations/Normal_1.nrrd`, `Normal/Testset_Normal/0.nrrd`
    and likewise `Diseased`; that of 2020 has `Train/0.nrrd`, `Train_Masks/0.nrrd`, `Test/0.nrrd`.

    Raises:
        MissingFileError: If there is no such folder.
        InputError: If no case is there, or both releases are.
    """
    pattern = rf"(?:^|/)(?:{_LATER}|{_LATER_TEST}|{_OF_2020})\.nrrd$"
    layout = find_scans(source, pattern, _place, "Normal/CTCA/Normal_1.nrrd, ..., or Train/0.nrrd, ...")
    releases = {scan.case_id.startswith("asoca2020_") for scan in layout.scans}
    if len(releases) > 1:
        raise InputError(
            f"{source}: SRC must hold one release of ASOCA, got both, whose scans are the same. Name the folder of one."
        )
    return layout


def _place(match: re.Match[str]) -> Place:
    if match["kind"]:
        return Place(_later_id(match["cohort"], match["n"]), is_label=match["kind"].lower() == "annotations")
    if match["test_n"]:
        return Place(f"{_later_id(match['test_cohort'], match['test_n'])}_test", is_label=False, split=TEST)
    part = match["part"].lower()
    case_id = f"asoca2020_{'test_' if part == 'test' else ''}{int(match['old_n']):02d}"
    return Place(case_id, is_label=part == "train_masks", split=TEST if part == "test" else TRAINING)


def _later_id(cohort: str, number: str) -> str:
    return f"asoca_{'normal' if cohort.lower() == 'normal' else 'diseased'}_{int(number):02d}"
