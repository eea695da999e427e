"""Verdicts on structures by hand: ratio to the real Dice, what is assumed, what stays undecided."""

from __future__ import annotations

import math

import pytest

from fcas_nnunet.evaluation.images.fidelity import Verdict, judge_structure


@pytest.mark.parametrize(
    ("synthetic", "verdict", "not_drawn"),
    [
        ([0.721, 0.721], Verdict.DRAWN, ()),  # nine tenths of 0.8 are 0.72
        ([0.719, 0.719], Verdict.POORLY_DRAWN, ()),
        ([0.401, 0.401], Verdict.POORLY_DRAWN, ()),  # and half are 0.4
        ([0.80, 0.39], Verdict.POORLY_DRAWN, (1,)),
        ([0.00, 0.70, 0.00], Verdict.NOT_DRAWN, (0, 2)),
        ([math.nan, math.nan], Verdict.UNDECIDED, ()),
    ],
)
def test_verdicts_are_relative_to_real_scans(
    synthetic: list[float], verdict: Verdict, not_drawn: tuple[int, ...]
) -> None:
    judged = judge_structure("left ventricle", synthetic, [0.8, 0.8])
    assert judged.verdict is verdict
    assert judged.cases_not_drawn == not_drawn
    assert judged.measured


def test_without_real_scores_thin_structures_are_expected_to_score_lower() -> None:
    chamber, vessel = (judge_structure(name, [0.7, 0.7], None) for name in ("LV", "coronary"))
    assert (chamber.verdict, chamber.real_dice) == (Verdict.POORLY_DRAWN, 0.88)
    assert (vessel.verdict, vessel.real_dice) == (Verdict.DRAWN, 0.75)
    assert chamber.ratio == pytest.approx(0.7 / 0.88)
    assert not chamber.measured


def test_a_flattered_ratio_calls_nothing_drawn_but_what_is_missing_stays_missing() -> None:
    verdicts = [judge_structure("aorta", [dice], [0.8], flattered=True).verdict for dice in (0.8, 0.5, 0.1)]
    assert verdicts == [Verdict.UNDECIDED, Verdict.POORLY_DRAWN, Verdict.NOT_DRAWN]


@pytest.mark.parametrize("real", [[0.2, 0.3], [math.nan], []])
def test_a_network_that_does_not_find_it_in_real_scans_cannot_judge(real: list[float]) -> None:
    judged = judge_structure("aorta", [0.0, 0.9], real)
    assert judged.verdict is Verdict.UNDECIDED
    assert math.isnan(judged.ratio)
    assert judged.cases_not_drawn == ()


def test_the_interval_covers_cases_of_both_sides() -> None:
    """Of two real scans, every fourth draw takes the worse one twice and every fourth the better one."""
    judged = judge_structure("aorta", [0.6, 0.6, math.nan], [0.6, 1.0])
    assert judged.ratio == pytest.approx(0.75)
    assert judged.ratio_interval == pytest.approx((0.6, 1.0))
    assert judge_structure("aorta", [0.44, 0.44], None).ratio_interval == pytest.approx((0.5, 0.5))
