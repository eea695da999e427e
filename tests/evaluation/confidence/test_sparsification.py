"""Sparsification, rank correlation and reliability: closed forms, ties, and second implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from fcas_nnunet.evaluation.confidence.sparsification import (
    ause,
    partial_spearman,
    reliability,
    sampled_voxels,
    sparsification_curve,
    spearman,
)

ERRORS = np.random.default_rng(0).exponential(size=20_000)


def test_ause_is_0_for_the_errors_own_order_and_1_for_the_reverse() -> None:
    assert ause(-ERRORS, ERRORS) == pytest.approx(0, abs=1e-12)
    assert ause(ERRORS, ERRORS) == pytest.approx(1, abs=1e-9)
    assert ause(np.exp(-ERRORS), ERRORS) == pytest.approx(0, abs=1e-12)  # any monotone map will do


def test_ause_of_a_constant_map_is_a_half_exactly_and_of_noise_nearly() -> None:
    assert ause(np.ones_like(ERRORS), ERRORS) == pytest.approx(0.5, abs=1e-12)
    assert ause(np.random.default_rng(1).random(len(ERRORS)), ERRORS) == pytest.approx(0.5, abs=0.02)


def test_curve_of_four_voxels_by_hand() -> None:
    """Errors 4 3 2 1 dropped in the order 3 4 (2 1 tied): 7/10, 3/10, then a straight line to nothing."""
    dropped, left = sparsification_curve(np.array([0.2, 0.1, 0.5, 0.5]), np.array([4.0, 3, 2, 1]))
    assert dropped.tolist() == [0, 0.25, 0.5, 1]
    assert left == pytest.approx([1, 0.7, 0.3, 0])
    # areas: ours 0.2125 + 0.125 + 0.075 = 0.4125; the oracle's (1 + 2 (0.6 + 0.3 + 0.1)) / 8 = 0.375
    assert ause(np.array([0.2, 0.1, 0.5, 0.5]), np.array([4.0, 3, 2, 1])) == pytest.approx((0.4125 - 0.375) / 0.25)


def test_area_equals_a_voxel_by_voxel_loop() -> None:
    """A second implementation: remove one voxel after the other, and sum what is left."""
    rng = np.random.default_rng(2)
    error, confidence = rng.random(500), rng.random(500)

    def area(order: np.ndarray) -> float:
        left = [error.sum() - sum(error[order[:n]]) for n in range(len(error) + 1)]
        return sum((a + b) / 2 for a, b in zip(left, left[1:], strict=False)) / len(error) / error.sum()

    ours, oracle = area(np.argsort(confidence)), area(np.argsort(-error))
    assert ause(confidence, error) == pytest.approx((ours - oracle) / (1 - 2 * oracle), rel=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 5), st.integers(2, 6))
def test_turned_over_maps_have_turned_over_ause(seed: int, power: float, levels: int) -> None:
    rng = np.random.default_rng(seed)
    error, confidence = rng.random(300) ** power, rng.integers(0, levels, 300)
    assert ause(confidence, error) + ause(-confidence, error) == pytest.approx(1, abs=1e-9)


def test_errors_that_are_all_alike_have_no_order() -> None:
    assert np.isnan(ause(np.arange(10.0), np.ones(10)))


def test_spearman_is_scipys() -> None:
    rng = np.random.default_rng(3)
    confidence = np.round(rng.random(1000), 1)  # many ties
    error = rng.random(1000) + confidence
    assert spearman(confidence, error) == pytest.approx(spearmanr(-confidence, error).statistic, abs=1e-12)
    assert spearman(np.ones(10), np.arange(10.0)) == 0


def test_ranks_of_gaussian_doubt_have_the_arcsine_correlation() -> None:
    """Spearman's ρ of two Gaussians of correlation r is 6/π · arcsin(r/2)."""
    rng = np.random.default_rng(4)
    doubt, other = rng.normal(size=(2, 200_000))
    error = 0.6 * doubt + 0.8 * other
    assert spearman(-doubt, error) == pytest.approx(6 / np.pi * np.arcsin(0.3), abs=0.006)


def test_partial_correlation_takes_out_what_the_controls_know() -> None:
    rng = np.random.default_rng(5)
    known, own, noise = rng.normal(size=(3, 100_000))
    error = known + own + noise
    assert partial_spearman(-known, error, {"known": known}) == pytest.approx(0, abs=1e-9)
    # with `known` out of it: corr(own, own + noise) = 1/√2, in ranks 6/π · arcsin(1/(2√2)); a little less, as ranks
    # are regressed
    assert partial_spearman(-(known + own), error, {"known": known}) == pytest.approx(0.67, abs=0.03)
    assert partial_spearman(-noise, own, {"known": known}) == pytest.approx(0, abs=0.01)


def test_partial_correlation_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(6)
    control = rng.random(5000)
    confidence, error = rng.random(5000) - control, rng.random(5000) + control
    ab, ac, bc = (
        spearmanr(x, y).statistic for x, y in ((-confidence, error), (-confidence, control), (error, control))
    )
    expected = (ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))
    assert partial_spearman(confidence, error, {"control": control}) == pytest.approx(expected, abs=1e-9)


def test_reliability_of_a_map_that_says_its_error() -> None:
    curve = reliability(-ERRORS, ERRORS, bins=10)
    assert curve.error == pytest.approx([-c for c in curve.confidence])
    assert curve.count == [2000] * 10
    assert sum(curve.error) / 10 == pytest.approx(ERRORS.mean())
    assert curve.expected is None
    promised = reliability(-ERRORS, ERRORS, expected=2 * ERRORS).expected
    assert promised == pytest.approx([2 * error for error in curve.error])


def test_samples_are_the_same_every_time_and_inside() -> None:
    where = np.random.default_rng(7).random((20, 20, 20)) > 0.5
    sample = sampled_voxels(where, 1, 100)
    assert len(np.unique(sample)) == 100
    assert where.ravel()[sample].all()
    assert np.array_equal(sample, sampled_voxels(where, 1, 100))
    assert len(sampled_voxels(where, 1)) == where.sum()


@pytest.mark.parametrize(
    ("confidence", "error", "message"),
    [
        (np.ones(3), np.ones(4), "got 3 for 4"),
        (np.ones(0), np.ones(0), "got 0 for 0"),
        (np.array([1, np.nan]), np.ones(2), "must be finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(confidence: np.ndarray, error: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ause(confidence, error)
