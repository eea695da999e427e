"""Which cases are held out."""

from __future__ import annotations

import pytest
from fcas_nnunet_small import LABELS, load_small_case

from fcas_nnunet.generator.data.training_data import TrainingData

SITES = [f"{site}_{i:02d}" for site in "abcd" for i in range(10)]


def data(case_ids: list[str]) -> TrainingData:
    return TrainingData(case_ids, load_small_case, LABELS, {})


def test_held_out_cases_come_from_everywhere() -> None:
    """Ids begin with the hospital: the last eighth by name would be one of them."""
    training, validation = data(SITES).split()
    assert sorted([*training, *validation]) == SITES
    assert training == sorted(training)
    assert len(validation) == 5
    assert len({case_id[0] for case_id in validation}) >= 3


@pytest.mark.parametrize("case_ids", [SITES, SITES[::-1]])
def test_which_are_held_out_does_not_depend_on_the_order(case_ids: list[str]) -> None:
    assert set(data(case_ids).split()[1]) == set(data(SITES).split()[1])


def test_of_few_cases_none_is_held_out() -> None:
    assert data(SITES[:3]).split() == (SITES[:3], [])
    assert len(data(SITES[:4]).split()[1]) == 1
