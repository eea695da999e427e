"""Folds of synthetic sets: nnU-Net's own where few cases are validated on, else a sample; a user's own are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fcas_nnunet.integration.splits import ensure_splits, make_splits


def cases(number: int) -> list[str]:
    return [f"fcas_{i:05d}" for i in range(number)]


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


def test_what_fits_is_kept_and_what_does_not_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    own = [{"train": cases(200)[1:], "val": cases(200)[:1]}]
    path.write_text(json.dumps(own))
    ensure_splits(tmp_path, cases(200), feeds_cascade=False)
    assert json.loads(path.read_text()) == own
    ensure_splits(tmp_path, cases(200), feeds_cascade=True)
    assert len(json.loads(path.read_text())) == 5, "a cascade needs every case to be predicted"
    ensure_splits(tmp_path, cases(300), feeds_cascade=False)
    assert json.loads(path.read_text()) == make_splits(cases(300), False), "more cases than the file knows"


def test_too_few_cases_for_five_folds_get_none(tmp_path: Path) -> None:
    ensure_splits(tmp_path, cases(4), feeds_cascade=False)
    assert list(tmp_path.iterdir()) == []
