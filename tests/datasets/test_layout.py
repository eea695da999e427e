"""Files of a public data set are found wherever they lie, once each, and paired."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.dataset_conversion.Dataset027_ACDC import create_ACDC_split

from fcas_nnunet.datasets import la2018
from fcas_nnunet.datasets.layout import TEST, Layout, Place, PublicSet, find_scans, patient_folds

PATTERN = r"(?:^|/)(train|test)_(\d+)_(image|label)\.nii(?:\.gz)?$"


def place(match: re.Match[str]) -> Place:
    return Place(f"case_{match[2]}", match[3] == "label", TEST if match[1] == "test" else "Tr")


def touch(source: Path, *names: str, content: str = "") -> None:
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content or name)


def find(source: Path) -> Layout:
    return find_scans(source, PATTERN, place, "train_1_image.nii.gz, ...")


def found(layout: Layout, source: Path) -> dict[str, tuple[str, str | None, str]]:
    return {
        scan.case_id: (
            scan.image.relative_to(source).as_posix(),
            None if scan.label is None else scan.label.relative_to(source).as_posix(),
            scan.split,
        )
        for scan in layout.scans
    }


def test_scans_are_paired_wherever_they_lie(tmp_path: Path) -> None:
    touch(tmp_path, "b/x/train_2_image.nii.gz", "a/train_2_label.nii", "test_9_image.nii.gz", "train_1_image.nii",
          "c/train_1_label.nii.gz")  # fmt: skip
    layout = find(tmp_path)
    assert found(layout, tmp_path) == {
        "case_1": ("train_1_image.nii", "c/train_1_label.nii.gz", "Tr"),
        "case_2": ("b/x/train_2_image.nii.gz", "a/train_2_label.nii", "Tr"),
        "case_9": ("test_9_image.nii.gz", None, "Ts"),
    }
    assert [scan.case_id for scan in layout.scans] == ["case_1", "case_2", "case_9"]
    assert layout.skipped == {}


def test_what_is_no_pair_is_skipped_with_the_reason(tmp_path: Path) -> None:
    touch(tmp_path, "train_1_image.nii.gz", "train_1_label.nii.gz", "train_2_image.nii.gz", "train_3_label.nii.gz",
          "._train_1_image.nii.gz", "__MACOSX/train_4_image.nii.gz", "train_1_4d.nii.gz", "notes.txt")  # fmt: skip
    layout = find(tmp_path)
    assert [scan.case_id for scan in layout.scans] == ["case_1"]
    assert layout.skipped == {
        "macOS' own files": ["._train_1_image.nii.gz", "__MACOSX/train_4_image.nii.gz"],
        "volumes that are neither scan nor label of this layout": ["train_1_4d.nii.gz"],
        "training scans without a label file": ["train_2_image.nii.gz"],
        "labels without a scan": ["train_3_label.nii.gz"],
    }


def test_of_copies_one_is_taken_and_the_unmarked_one_if_there_is_one(tmp_path: Path) -> None:
    touch(tmp_path, "1-200 (1)/train_1_image.nii.gz", "1-200/train_1_image.nii.gz", content="same")
    touch(tmp_path, "1-200/train_1_label (1).nii.gz", "1-200/train_1_label(2).nii.gz", content="same label")
    touch(tmp_path, "201-400 (1)/train_5_image.nii.gz", "201-400 (1)/train_5_label.nii.gz")
    layout = find(tmp_path)
    assert found(layout, tmp_path) == {
        "case_1": ("1-200/train_1_image.nii.gz", "1-200/train_1_label (1).nii.gz", "Tr"),
        "case_5": ("201-400 (1)/train_5_image.nii.gz", "201-400 (1)/train_5_label.nii.gz", "Tr"),
    }
    assert layout.skipped == {
        "copies of files that were taken": ["1-200 (1)/train_1_image.nii.gz", "1-200/train_1_label(2).nii.gz"]
    }


def test_copies_that_differ_are_refused_all_at_once(tmp_path: Path) -> None:
    for number in (1, 2):
        touch(tmp_path, f"a/train_{number}_image.nii.gz", f"a (1)/train_{number}_image.nii.gz")
    with pytest.raises(ValueError, match="a case must have one such file, got .*besides, which differs") as error:
        find(tmp_path)
    assert len(str(error.value).splitlines()) == 2


def test_nothing_to_convert_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="SRC must be a folder, got none. Name the folder"):
        find(tmp_path / "missing")
    touch(tmp_path, "train_1_image.nii.gz")
    with pytest.raises(FileNotFoundError, match="SRC must be a folder, got a file. Unpack it, and name the folder"):
        find(tmp_path / "train_1_image.nii.gz")
    with pytest.raises(ValueError, match="SRC must hold train_1_image.nii.gz, .*got none. Name the folder"):
        find(tmp_path)  # a scan without its label is no case
    touch(tmp_path, "1-200.change2zip", "1-200.Z01")
    with pytest.raises(ValueError, match="Unpack 1-200.Z01, 1-200.change2zip first; .change2zip has to be renamed"):
        find(tmp_path)


def test_endings_that_no_reader_knows_are_refused_all_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "train_1_image.nii.gz", "train_1_label.NII.GZ", "train_2_image.Nii", "train_2_label.nii (1)")
    with pytest.raises(ValueError, match="got train_1_label.NII.GZ. Rename it") as error:
        find(tmp_path)
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        str(tmp_path / name) for name in ("train_1_label.NII.GZ", "train_2_image.Nii", "train_2_label.nii (1)")
    ]


def test_what_was_converted_before_is_no_source(tmp_path: Path) -> None:
    kinds = ("image", "label")
    touch(tmp_path, *(f"ACDC/train_1_{kind}.nii.gz" for kind in kinds))
    touch(tmp_path, *(f"nnUNet_raw/Dataset915_ACDC/labelsTr/train_{n}_{kind}.nii.gz" for n in (1, 2) for kind in kinds))
    layout = find(tmp_path)
    assert found(layout, tmp_path) == {"case_1": ("ACDC/train_1_image.nii.gz", "ACDC/train_1_label.nii.gz", "Tr")}
    assert layout.skipped == {}


def test_links_are_followed_and_circles_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "real/train_1_image.nii.gz", "real/train_1_label.nii.gz")
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to(tmp_path / "real")
    (source / "circle").symlink_to(source)
    assert found(find(source), source) == {
        "case_1": ("link/train_1_image.nii.gz", "link/train_1_label.nii.gz", "Tr")
    }  # fmt: skip


def test_the_folder_named_counts_as_part_of_the_path(tmp_path: Path) -> None:
    touch(tmp_path, "train/1_image.nii.gz", "train/1_label.nii.gz")
    layout = find_scans(
        tmp_path / "train", r"/train/(\d+)_(image|label)\.nii\.gz$|^train/(\d+)_(image|label)\.nii\.gz$",
        lambda match: Place(match[3], match[4] == "label"), "train/1_image.nii.gz",
    )  # fmt: skip
    assert [scan.case_id for scan in layout.scans] == ["1"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        touch(tmp_path, f"{number}/train_{number}_image.nii.gz", f"{number}/train_{number}_label.nii.gz")
    scandir = os.scandir

    def refused(folder: str) -> object:
        if os.path.basename(folder) == "2":
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError, match="Permission denied: .*2"):
        find(tmp_path)


def test_the_name_of_a_link_counts_as_well_as_that_of_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "unpacked/a/lgemri.nrrd", "unpacked/a/laendo.nrrd")
    (tmp_path / "Testing Set").symlink_to(tmp_path / "unpacked")
    (tmp_path / "link").symlink_to(tmp_path / "unpacked")
    for name, split in (("Testing Set", "Ts"), ("link", "Tr")):
        assert [scan.split for scan in la2018.find(tmp_path / name).scans] == [split]


def test_cases_are_left_out_by_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"train_{n}_{kind}.nii.gz" for n in (1, 2) for kind in ("image", "label")))
    layout = find(tmp_path).without(["case_2"], "--skip")
    assert [scan.case_id for scan in layout.scans] == ["case_1"]
    assert layout.skipped == {"left out by --skip": ["case_2"]}
    with pytest.raises(
        ValueError, match="--skip: cases must be among those that were found, case_1, case_2, got case_7"
    ):
        find(tmp_path).without(["case_7"], "--skip")
    with pytest.raises(ValueError, match="--skip: a case must be left to be converted, got all of them"):
        find(tmp_path).without(["case_1", "case_2"], "--skip")


def test_values_of_one_name_become_one_label() -> None:
    public = PublicSet.of_structures(
        {850: "artery", 205: "wall", 421: "artery", 7: "background"}, key="x", name="X", channel="CT"
    )
    assert public.labels == {"wall": 1, "artery": 2}
    assert public.values == {0: 0, 7: 0, 205: 1, 421: 2, 850: 2}


def test_folds_are_those_of_nnunets_converter_of_acdc(tmp_path: Path) -> None:
    cases = [f"patient{n:03d}_frame{frame}" for n in range(1, 101) for frame in ("01", f"{n % 9 + 5:02d}")]
    for case in cases:
        (tmp_path / f"{case}.nii.gz").touch()
    folds = patient_folds(cases, lambda case: case[: len("patient000")], 1234)
    expected = create_ACDC_split(str(tmp_path))
    assert [{key: set(fold[key]) for key in fold} for fold in folds] == [
        {key: set(fold[key]) for key in ("train", "val")} for fold in expected
    ]
    for fold in folds:
        assert not {case[:10] for case in fold["train"]} & {case[:10] for case in fold["val"]}
        assert len(fold["val"]) == 40 and len(fold["train"]) == 160
    assert np.unique(sum((fold["val"] for fold in folds), [])).tolist() == sorted(cases)


def test_fewer_patients_than_folds_have_none() -> None:
    assert patient_folds(["a_1", "a_2", "b_1", "c_1", "d_1"], lambda case: case[0], 1234) == []


def test_la2018_knows_a_test_case_in_whatever_folder_of_its_part(tmp_path: Path) -> None:
    for folder in ("Training Set/a", "Testing Set/b", "Testing Set/unpacked/c", "d"):
        touch(tmp_path, f"{folder}/lgemri.nrrd", f"{folder}/laendo.nrrd")
    parts = {scan.case_id: scan.split for scan in la2018.find(tmp_path).scans}
    assert parts == {"la2018_a": "Tr", "la2018_b": "Ts", "la2018_c": "Ts", "la2018_d": "Tr"}
