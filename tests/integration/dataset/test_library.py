"""References and templates of other data sets: named like nnU-Net's data sets, read under the generator's labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fcas_nnunet_small import LABELS, SURROUNDINGS, small_case

from fcas_nnunet.integration.dataset.library import check_library, make_library, name_in, split_name
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json

SOURCE, OTHER = "Dataset901_Small", "Dataset903_Other"
#: Other ids and names for the same structures; one structure more, one less.
OTHER_LABELS = {"background": 0, "coronaries": 1, "LV": 2, "liver": 3}
OTHER_SURROUNDINGS = {"spine": 1, "lungs": 2}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """901 with p0 and p1; 903 with p0 and p7 under other ids and names."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    for number in range(2):
        write_case(tmp_path / SOURCE, small_case(number))
    write_dataset_json(tmp_path / SOURCE, LABELS, 2, surroundings=SURROUNDINGS)
    to_other = np.array([0, 2, 3, 1], np.uint8)  # left_ventricle, left_myocardium => liver, coronary_arteries
    for number in (0, 7):
        case = small_case(number)
        around = (2 * case.surroundings).astype(np.uint8)
        around[0, 0, :] = 1
        write_case(tmp_path / OTHER, replace(case, mask=to_other[case.mask], surroundings=around))
    write_dataset_json(tmp_path / OTHER, OTHER_LABELS, 2, surroundings=OTHER_SURROUNDINGS)
    return RawDataset.open(tmp_path / SOURCE)


def test_nothing_named_means_the_generators_own_cases(source: RawDataset) -> None:
    library = make_library(source, None, None, ["p1"])
    assert (library.references, library.templates, library.named_datasets()) == (["p0", "p1"], ["p1"], [])


def test_data_sets_cases_and_lists_are_named(
    source: RawDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    listed = tmp_path / "cases.txt"
    listed.write_text("903:p7   # a comment\n\n901:p1\n")
    library = make_library(source, ["903"], [str(listed), f"{OTHER}:p7,p0"], ["p0"])
    assert library.references == [f"{OTHER}:p0", f"{OTHER}:p7"]
    assert library.templates == [f"{OTHER}:p7", "p1", f"{OTHER}:p0"]
    assert library.named_references == (OTHER,)
    assert library.named_templates == (f"{OTHER}:p7", f"{SOURCE}:p1", f"{OTHER}:p7,p0")
    assert {d.name: d.case_ids for d in library.named_datasets()} == {OTHER: ["p0", "p7"], SOURCE: ["p1"]}
    check_library(library, draws_surroundings=True)
    assert f"labels of {OTHER} as those of {SOURCE}:\n  coronary_arteries <- coronaries" in caplog.text
    assert "nothing stands for left_myocardium" in caplog.text


def test_a_case_is_read_under_the_generators_labels(source: RawDataset) -> None:
    library = make_library(source, ["903"], ["903"], [])
    case, wanted = library.load_case(f"{OTHER}:p7"), small_case(7)
    np.testing.assert_array_equal(case.mask, np.where(wanted.mask == 2, 0, wanted.mask))  # no liver here
    np.testing.assert_array_equal(case.image, np.rint(wanted.image))
    around = wanted.surroundings.copy()
    around[0, 0, :] = 0  # no spine here
    np.testing.assert_array_equal(case.surroundings, around)
    np.testing.assert_array_equal(library.load_mask(f"{OTHER}:p7").mask, case.mask)
    assert library.image_paths(f"{OTHER}:p0")[0].parent.parent.name == OTHER
    assert library.image_paths("p0")[0].parent.parent.name == SOURCE


def test_of_a_fold_every_case_of_its_data_set_can_still_be_named(source: RawDataset) -> None:
    library = make_library(source.only(["p0"]), ["901:p1"], None, ["p0"])
    assert (library.references, library.templates) == (["p1"], ["p0"])
    assert library.load_mask("p1").mask.any()


def test_what_is_not_there_is_listed(source: RawDataset) -> None:
    with pytest.raises(ValueError, match="903_Other:p7,p8: cases must be in") as caught:
        make_library(source, ["903:p7,p8"], ["901:p9"], ["p0"])
    assert "Dataset901_Small:p9: cases must be in Dataset901_Small, got p9" in str(caught.value)
    with pytest.raises(FileNotFoundError, match="--references 904: it must be a folder"):
        make_library(source, ["904"], None, ["p0"])


@pytest.mark.parametrize("entry", ["903:", "903:,"])
def test_no_case_is_not_every_case(source: RawDataset, tmp_path: Path, entry: str) -> None:
    with pytest.raises(ValueError, match=f"{OTHER}:,?: cases must be in {OTHER}, got none"):
        make_library(source, None, [entry], ["p0"])
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="empty.txt: list must name at least one data set or case, got none"):
        make_library(source, [str(tmp_path / "empty.txt")], None, ["p0"])


def test_what_cannot_serve_is_refused_with_broken_files_at_once(source: RawDataset, tmp_path: Path) -> None:
    folder = tmp_path / OTHER
    (folder / "surroundings.json").write_text(json.dumps({"labels": {"background": 0, "spine": 1, "ribs": 2}}))
    (folder / "imagesTr" / "p7_0000.nii.gz").unlink()
    with pytest.raises(ValueError, match="p7: image must exist") as caught:
        check_library(make_library(source, ["903"], ["903:p7"], []), draws_surroundings=False)
    assert "surroundings must be those that the generator knows, got none for lungs" in str(caught.value)
    as_reference = make_library(source, ["903:p0"], None, ["p0"])
    assert as_reference.label_faults(draws_surroundings=False) == []
    assert len(as_reference.label_faults(draws_surroundings=True)) == 1
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "spleen": 2, "kidney": 3},
                    "numTraining": 2, "file_ending": ".nii.gz"})
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"{OTHER}: labels"):
        check_library(make_library(source, ["903:p0"], None, ["p0"]), draws_surroundings=False)


def test_names_tell_the_data_set() -> None:
    assert split_name("Dataset903_Other:a", SOURCE) == (OTHER, "a")
    assert split_name("a", SOURCE) == (SOURCE, "a")
    assert name_in("Dataset903_Other:a", OTHER) == name_in("a", SOURCE) == "a"
    assert name_in("Dataset903_Other:a", SOURCE) == "Dataset903_Other:a"
