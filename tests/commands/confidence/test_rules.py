"""From probability to confidence: thresholds of FreeMask worked by hand, powers, means over cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fcas_nnunet.commands.confidence.rules import (
    LEAST_PROBABILITY,
    Rule,
    Weighing,
    confidence_of,
    loss_sums,
    losses,
    mean_losses,
)

MASK = np.array([[[0, 0, 1, 1]], [[1, 1, 2, 0]]])
#: Background 0.5, 1, 1; label 1: 0.5, 0.25, 1, 1; label 2: 0.1.
PROBABILITY = np.array([[[0.5, 1, 0.5, 0.25]], [[1, 1, 0.1, 1]]], np.float32)
EVERYWHERE = np.ones(MASK.shape, bool)


def test_freemask_keeps_what_loses_no_more_than_alpha_times_its_labels_mean() -> None:
    """In units of log 2: background loses 1, 0, 0: mean 1/3; label 1 loses 1, 2, 0, 0: mean 3/4."""
    means = mean_losses([loss_sums(PROBABILITY, MASK, EVERYWHERE)])
    assert means == pytest.approx({0: math.log(2) / 3, 1: 0.75 * math.log(2), 2: math.log(10)})
    strict = confidence_of(PROBABILITY, MASK, Weighing(Rule.FREEMASK, alpha=1.25), means)
    np.testing.assert_array_equal(strict, [[[0, 1, 0, 0]], [[1, 1, 1, 1]]])  # 1 > 1.25 · 0.75
    lax = confidence_of(PROBABILITY, MASK, Weighing(Rule.FREEMASK, alpha=1.5), means)
    np.testing.assert_array_equal(lax, [[[0, 1, 1, 0]], [[1, 1, 1, 1]]])  # 1 < 1.5 · 0.75 < 2


def test_the_mean_is_over_the_voxels_of_all_cases_that_count() -> None:
    other = np.full(MASK.shape, 1 / 16, np.float32)
    counted = np.zeros(MASK.shape, bool)
    counted[0, 0, 3] = True
    sums = loss_sums(other, MASK, counted)
    assert sums == {1: (1, pytest.approx(4 * math.log(2)))}
    means = mean_losses([loss_sums(PROBABILITY, MASK, EVERYWHERE), sums])
    assert means[1] == pytest.approx((3 + 4) / 5 * math.log(2))  # not the mean of 3/4 and 4
    assert means[2] == pytest.approx(math.log(10))


def test_a_label_that_never_counts_has_no_confidence_by_freemask() -> None:
    found = confidence_of(PROBABILITY, MASK, Weighing(Rule.FREEMASK), {0: 1.0, 1: 1.0})
    assert found[1, 0, 2] == 0


def test_soft_confidence_is_a_power_of_the_probability() -> None:
    plain = confidence_of(PROBABILITY, MASK, Weighing(), {})
    np.testing.assert_array_equal(plain, PROBABILITY)
    squared = confidence_of(PROBABILITY, MASK, Weighing(power=2), {})
    np.testing.assert_allclose(squared, PROBABILITY**2)
    assert confidence_of(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), int), Weighing(power=0), {}) == 1


def test_impossible_labels_have_a_finite_loss() -> None:
    assert losses(np.zeros(1, np.float32))[0] == pytest.approx(-math.log(LEAST_PROBABILITY), rel=1e-6)


def test_records_hold_the_settings_that_count() -> None:
    assert Weighing(power=2).to_record() == {"rule": "soft", "power": 2, "combination": "replace", "drop_below": None}
    assert "power" not in Weighing(Rule.FREEMASK).to_record()
