"""Folds of a real data set: nnU-Net's own, of which the generator sees the training cases alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.provenance.folds import training_fold


def cases(number: int) -> list[str]:
    return [f"case_{i:05d}" for i in range(number)]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """Six cases, of which nothing is read."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    return RawDataset(tmp_path / "Dataset901_Heart", {"background": 0}, {}, cases(6), {"numTraining": 6})


def test_a_fold_is_nnunets_own(dataset: RawDataset, tmp_path: Path) -> None:
    for fold, wanted in enumerate(generate_crossval_split(cases(6))):
        held_out = training_fold(dataset, fold)
        assert held_out.case_ids == sorted(wanted["train"])
        assert held_out.dataset_json["numTraining"] == len(wanted["train"])
    assert training_fold(dataset, None) is dataset
    assert list(tmp_path.iterdir()) == [], "nnU-Net writes the file itself"


def test_a_fold_of_the_users_split_is_taken(dataset: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / dataset.name / "splits_final.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{"train": cases(6)[3:][::-1], "val": cases(6)[:3]}]))
    assert training_fold(dataset, 0).case_ids == cases(6)[3:]
    with pytest.raises(ValueError, match=r"fold must be 0 to 0, got 1\. Name one of these, or add it to"):
        training_fold(dataset, 1)
    path.write_text(json.dumps([{"train": [*cases(6), "gone"], "val": []}]))
    with pytest.raises(ValueError, match="cases of fold 0 must be in Dataset901_Heart, got gone"):
        training_fold(dataset, 0)
    path.write_text('{"0": 1}')
    with pytest.raises(ValueError, match="content must be a list of folds"):
        training_fold(dataset, 0)


def test_too_few_cases_have_no_folds(dataset: RawDataset) -> None:
    with pytest.raises(ValueError, match="number of cases must be at least 5 for nnU-Net's folds, got 4"):
        training_fold(dataset.only(cases(4)), 0)
