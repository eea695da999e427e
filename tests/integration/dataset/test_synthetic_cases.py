"""Which cases are whole, and what is removed around them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fcas_nnunet.integration.dataset.synthetic_cases import case_bytes, case_is_written, remove_leftovers, written_cases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """fcas_1 whole, fcas_2 without labels, two users' cases without confidence, strays of killed runs."""
    for name in (
        "imagesTr/fcas_1_0000.nii.gz", "confidenceTr/fcas_1.nii.gz", "labelsTr/fcas_1.nii.gz",
        "imagesTr/fcas_2_0000.nii.gz", "confidenceTr/fcas_2.nii.gz", "labelsTr/.fcas_2.nii.gz.0a1b2c3d.part",
        "imagesTr/fcas_4_0000.nii.gz", "labelsTr/fcas_4.nii.gz", "imagesTr/mine_0000.nii.gz", "labelsTr/mine.nii.gz",
        "imagesTr/.fcas_3_0000.nii.gz.0a1b2c3d.part", "notes.txt",
        ".dataset.json.0a1b2c3d.part", ".notes.txt.part",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_case_is_whole_with_image_confidence_and_labels(folder: Path) -> None:
    assert written_cases(folder) == {"fcas_1"}
    assert [case_is_written(folder, case_id) for case_id in ("fcas_1", "fcas_2", "mine")] == [True, False, False]
    assert case_bytes(folder, "fcas_1") == 27 + 26 + 22
    assert written_cases(folder / "absent") == set()


def test_leftovers_are_removed_and_nothing_else(folder: Path) -> None:
    remove_leftovers(folder, written_cases(folder), re.compile(r"fcas_\d+"))
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == [
        ".notes.txt.part", "confidenceTr/fcas_1.nii.gz", "imagesTr/fcas_1_0000.nii.gz",
        "imagesTr/fcas_4_0000.nii.gz", "imagesTr/mine_0000.nii.gz",
        "labelsTr/fcas_1.nii.gz", "labelsTr/fcas_4.nii.gz", "labelsTr/mine.nii.gz", "notes.txt",
    ]  # fmt: skip
