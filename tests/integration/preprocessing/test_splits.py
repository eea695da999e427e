"""Folds of synthetic sets: nnU-Net's own where few cases are validated on, else a sample; a user's own are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import ensure_splits, make_splits, training_fold

NAME = "Dataset902_Synthetic"


def cases(number: int) -> list[str]:
    return [f"fcas_{i:05d}" for i in range(number)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the preprocessed data set."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    (tmp_path / NAME).mkdir()
    return tmp_path / NAME


def ensure(folder: Path, number: int, *, feeds_cascade: bool) -> None:
    """What fcas_prepare does for a data set of so many cases, of which nothing is read."""
    ensure_splits(RawDataset(folder, {"background": 0}, {}, cases(number), {}), feeds_cascade)


@pytest.mark.parametrize(("number", "cascade"), [(12, False), (100, False), (1000, True)])
def test_nnunets_own_folds_where_they_are_small_or_all_are_needed(number: int, cascade: bool) -> None:
    wanted = [{key: list(fold[key]) for key in fold} for fold in generate_crossval_split(cases(number))]
    assert make_splits(cases(number), cascade) == wanted


def test_many_cases_are_sampled_to_validate_on() -> None:
    splits = make_splits(cases(1000), feeds_cascade=False)
    assert len(splits) == 5
    for fold in splits:
        assert len(fold["val"]) == 20
        assert sorted(fold["train"] + fold["val"]) == cases(1000)
    assert len(set().union(*(fold["val"] for fold in splits))) == 100, "every fold has its own"
    assert make_splits(cases(1000)[::-1], feeds_cascade=False) == splits


def test_own_folds_are_kept_whatever_they_leave_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "splits_final.json"
    own = json.dumps([{"train": cases(200)[1:180], "val": cases(200)[:1]}])
    path.write_text(own)
    ensure(folder, 200, feeds_cascade=False)
    assert path.read_text() == own
    assert "20 of 200 cases are in none of them" in caplog.text


@pytest.mark.parametrize("stamped", [False, True])
def test_folds_that_nnunet_or_the_user_made_of_some_cases_are_kept(
    folder: Path, caplog: pytest.LogCaptureFixture, stamped: bool
) -> None:
    """Equal to what this package makes, but not written by it; or put in place of what it wrote."""
    path = folder / "splits_final.json"
    if stamped:
        ensure(folder, 14, feeds_cascade=False)
    path.write_text(json.dumps(make_splits(cases(10), False)))
    ensure(folder, 12, feeds_cascade=False)
    assert json.loads(path.read_text()) == make_splits(cases(10), False)
    assert "2 of 12 cases are in none of them. Delete the file for folds of all cases" in caplog.text
    with pytest.raises(ValueError, match="folds must name cases of the data set, got fcas_00008, fcas_00009"):
        ensure(folder, 8, feeds_cascade=False)
    path.unlink()
    ensure(folder, 12, feeds_cascade=False)
    assert json.loads(path.read_text()) == make_splits(cases(12), False)


@pytest.mark.parametrize(("made_for", "cascade"), [(200, False), (60, False), (60, True)])
def test_folds_made_for_other_cases_are_made_anew(folder: Path, made_for: int, cascade: bool) -> None:
    ensure(folder, made_for, feeds_cascade=cascade)
    ensure(folder, 300, feeds_cascade=False)
    assert json.loads((folder / "splits_final.json").read_text()) == make_splits(cases(300), False)
    ensure(folder, 300, feeds_cascade=True)
    assert json.loads((folder / "splits_final.json").read_text()) == make_splits(cases(300), True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "content must be JSON, got an error"),
        ("[]", r"content must be a list of folds \{.*\}, got \[\]"),
        ('[{"train": ["fcas_00000"]}]', r"content must be a list of folds .*, got \[\{\"train\": \["),
        ('[{"train": [1], "val": [2]}]', "content must be a list of folds"),
        ('[{"train": ["fcas_00000", "a"], "val": ["b"]}]', "folds must name cases of the data set, got a, b"),
        (
            '[{"train": ["fcas_00000"], "val": ["fcas_00000"]}]',
            "both in train and in val of a fold, got fcas_00000 in fold 0",
        ),
        (
            '[{"train": ["fcas_00000", "fcas_00000"], "val": []}]',
            "no case must be there twice in a list, got fcas_00000 twice in train of fold 0",
        ),
    ],
)
def test_broken_folds_are_refused_and_left_as_they_are(folder: Path, content: str, message: str) -> None:
    path = folder / "splits_final.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"splits_final\.json: .*{message}"):
        ensure(folder, 6, feeds_cascade=False)
    assert path.read_text() == content


def test_a_folder_in_the_place_of_the_folds_is_refused(folder: Path) -> None:
    (folder / "splits_final.json").mkdir()
    with pytest.raises(ValueError, match=r"splits_final\.json: folds must be a file, got a folder"):
        ensure(folder, 6, feeds_cascade=False)


def test_own_folds_must_predict_what_a_cascade_trains_on(folder: Path) -> None:
    content = json.dumps([{"train": cases(6)[1:], "val": cases(6)[:1]}])
    (folder / "splits_final.json").write_text(content)
    with pytest.raises(
        ValueError, match="every case in val of some fold, got none for fcas_00001, .* Correct the file"
    ):
        ensure(folder, 6, feeds_cascade=True)
    assert (folder / "splits_final.json").read_text() == content


def test_too_few_cases_for_five_folds_get_none(folder: Path) -> None:
    ensure(folder, 4, feeds_cascade=False)
    assert list(folder.iterdir()) == []


def real_cases(number: int) -> list[str]:
    return [f"case_{i:05d}" for i in range(number)]


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """Six cases, of which nothing is read."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return RawDataset(tmp_path / "Dataset901_Heart", {"background": 0}, {}, real_cases(6), {"numTraining": 6})


def test_a_fold_is_nnunets_own(real: RawDataset, tmp_path: Path) -> None:
    for fold, wanted in enumerate(generate_crossval_split(real_cases(6))):
        held_out = training_fold(real, fold)
        assert held_out.case_ids == sorted(wanted["train"])
        assert held_out.dataset_json["numTraining"] == len(wanted["train"])
    assert training_fold(real, None) is real
    assert list(tmp_path.iterdir()) == [], "nnU-Net writes the file itself"


def test_a_fold_of_the_users_split_is_taken(real: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / real.name / "splits_final.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"train": real_cases(6)[3:][::-1], "val": real_cases(6)[:3]}]))
    assert training_fold(real, 0).case_ids == real_cases(6)[3:]
    with pytest.raises(ValueError, match=r"fold must be 0 to 0, got 1\. Name one of these, or add it to"):
        training_fold(real, 1)
    path.write_text(json.dumps([{"train": [*real_cases(6), "gone"], "val": []}]))
    with pytest.raises(ValueError, match=r"splits_final\.json: folds must name cases of the data set, got gone"):
        training_fold(real, 0)
    path.write_text(json.dumps([{"train": real_cases(6), "val": ["nobody"]}]))
    with pytest.raises(ValueError, match=r"splits_final\.json: folds must name cases of the data set, got nobody"):
        training_fold(real, 0)
    path.write_text(json.dumps([{"train": real_cases(6), "val": real_cases(1)}]))
    with pytest.raises(ValueError, match="both in train and in val of a fold, got case_00000 in fold 0"):
        training_fold(real, 0)
    path.write_text('{"0": 1}')
    with pytest.raises(ValueError, match="content must be a list of folds"):
        training_fold(real, 0)


def test_too_few_cases_have_no_folds(real: RawDataset) -> None:
    with pytest.raises(ValueError, match="number of cases must be at least 5 for nnU-Net's folds, got 4"):
        training_fold(real.only(real_cases(4)), 0)
