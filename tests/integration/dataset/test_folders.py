"""Which folder an id or a name means, and which are free."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcas_nnunet.integration.dataset.folders import FIRST_CHANNEL, new_dataset_folder, resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset


@pytest.mark.parametrize(
    ("identifier", "kind", "message"),
    [
        ("902", FileNotFoundError, "data set 902: it must be a folder in nnUNet_raw=.*, which holds Dataset901_Heart"),
        ("Dataset901_Hart", FileNotFoundError, "which holds Dataset901_Heart"),
        ("heart", ValueError, "must be an id from 1 to 999 or a name like"),
        ("1000", ValueError, "must be an id from 1 to 999"),
    ],
)
def test_a_wrong_identifier_is_named(dataset: RawDataset, identifier: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        resolve_dataset(identifier)


def test_of_many_data_sets_some_are_named(dataset: RawDataset) -> None:
    for number in range(300, 600):
        (dataset.folder.parent / f"Dataset{number}_Study").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds Dataset300_Study, .*, Dataset319_Study and 281 more\. Give"):
        resolve_dataset("902")


def test_an_id_with_two_names_is_refused(dataset: RawDataset) -> None:
    (dataset.folder.parents[1] / "results" / "Dataset901_Old").mkdir()
    with pytest.raises(ValueError, match="got Dataset901_Heart, Dataset901_Old"):
        resolve_dataset("901")


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_case_whose_name_has_several_lines_is_refused(dataset: RawDataset, part: str) -> None:
    (dataset.folder / part / f"a\nb{FIRST_CHANNEL if part == 'imagesTr' else ''}.nii.gz").touch()
    with pytest.raises(ValueError, match=r"Dataset901_Heart: case ids must be of one line, .*, got 'a\\nb'\. Rename"):
        RawDataset.open(dataset.folder)


def test_a_file_in_the_place_of_a_root_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match=r"nnUNet_raw: must be a folder, got the file .*/file\. Name a folder"):
        resolve_dataset("901")


def test_unset_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(ValueError, match="nnUNet_raw: environment variable must name a folder, got nothing"):
        resolve_dataset("901")


def test_new_data_sets_take_free_ids(dataset: RawDataset) -> None:
    raw = dataset.folder.parent
    (raw.parent / "preprocessed" / "Dataset905_Other").mkdir()
    assert new_dataset_folder(None, default_name="HeartFCaS") == raw / "Dataset906_HeartFCaS"
    assert new_dataset_folder("907", default_name="HeartFCaS") == raw / "Dataset907_HeartFCaS"
    assert new_dataset_folder("901", default_name="HeartFCaS") == raw / "Dataset901_Heart"
    assert new_dataset_folder("Dataset908_Mine", default_name="HeartFCaS") == raw / "Dataset908_Mine"
    (raw / "Dataset903_HeartFCaS").mkdir()  # begun by the same command earlier
    assert new_dataset_folder(None, default_name="HeartFCaS") == raw / "Dataset903_HeartFCaS"
    with pytest.raises(ValueError, match="got one that belongs to Dataset905_Other"):
        new_dataset_folder("Dataset905_Mine", default_name="HeartFCaS")


def test_ids_and_names_lead_to_the_folder(dataset: RawDataset) -> None:
    assert resolve_dataset("901") == resolve_dataset("Dataset901_Heart") == dataset.folder
    assert (dataset.name, dataset.dataset_id) == ("Dataset901_Heart", 901)
