"""Paired comparison: known intervals, scipy's test, and Holm's example."""

import math

import numpy as np
import pytest
from scipy import stats

from fcas_nnunet.evaluation.statistics.comparison import compare, holm


def test_a_constant_gain_has_a_point_for_an_interval():
    scores = np.linspace(0.5, 0.9, 12)
    result = compare({"aorta": scores}, {"aorta": scores + 0.02})["aorta"]
    assert result.difference == pytest.approx(0.02)
    assert result.interval == pytest.approx((0.02, 0.02))
    assert result.p_value == pytest.approx(2 / 2**12)  # all twelve signs alike, two-sided
    assert result.count == 12


def test_interval_and_test_agree_with_theory():
    rng = np.random.default_rng(0)
    first = rng.normal(0.8, 0.05, 200)
    second = first + rng.normal(0.01, 0.02, 200)
    result = compare({"a": first}, {"a": second}, seed=1)["a"]
    differences = second - first
    half_width = 1.96 * differences.std(ddof=1) / math.sqrt(200)
    assert result.interval == pytest.approx(
        (differences.mean() - half_width, differences.mean() + half_width), abs=3e-4
    )
    assert result.p_value == pytest.approx(stats.wilcoxon(second, first).pvalue)
    assert compare({"a": first}, {"a": second}, seed=1)["a"] == result


def test_cases_without_a_score_are_left_out():
    result = compare({"a": [0.5, math.nan, 0.1]}, {"a": [0.6, math.nan, 0.2]})["a"]
    assert result.count == 2
    assert result.difference == pytest.approx(0.1)
    nothing = compare({"a": [math.nan]}, {"a": [math.nan]})["a"]
    assert nothing.count == 0
    assert math.isnan(nothing.difference)


def test_a_score_in_one_result_alone_is_refused():
    with pytest.raises(ValueError, match=r"a score in both results or in neither, got one alone for b\."):
        compare({"a": [0.5], "b": [0.5]}, {"a": [0.6], "b": [math.nan]})


def test_no_difference_is_no_evidence():
    assert compare({"a": [0.5, 0.6]}, {"a": [0.5, 0.6]})["a"].p_value == 1


def test_holm_by_hand():
    # 0.01 · 4, 0.02 · 3 = 0.06, 0.03 · 2 = 0.06, 0.04 · 1 → 0.06 (never below the one before)
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, math.nan, 0.9])[0] == 1.0
    assert math.isnan(holm([0.6, math.nan])[1])


def test_other_labels_or_cases_are_refused():
    with pytest.raises(ValueError, match="must have the same labels and cases"):
        compare({"a": [0.1]}, {"b": [0.1]})
    with pytest.raises(ValueError, match="must have the same labels and cases"):
        compare({"a": [0.1]}, {"a": [0.1, 0.2]})
