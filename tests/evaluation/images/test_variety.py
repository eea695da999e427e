"""Variety of synthetic scans, as a part of the patients' own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fcas_nnunet.evaluation.images.variety import feature_variety


def cases(count: int, spread: float, seed: int, shift: float = 0.0) -> list[np.ndarray]:
    """Windows that differ within a case much more than cases do."""
    rng = np.random.default_rng(seed)
    centres = shift + spread * rng.standard_normal((count, 1, 6))
    noise = rng.standard_normal((count, 50, 6))
    return list((centres + 5 * (noise - noise.mean(axis=1, keepdims=True))).astype(np.float32))


def test_spread_is_that_of_the_cases_not_of_their_windows() -> None:
    assert feature_variety(cases(400, 2, 0), cases(400, 1, 1)).spread_of_real == pytest.approx(0.5, rel=0.05)
    assert feature_variety(cases(400, 2, 0), cases(400, 2, 1, shift=9)).spread_of_real == pytest.approx(1, rel=0.05)


def test_copies_of_one_scan_have_no_spread_and_cover_its_surroundings_alone() -> None:
    real = cases(40, 2, 0)
    copies = feature_variety(real, [real[0]] * 20)
    assert copies.spread_of_real == pytest.approx(0, abs=1e-6)
    assert 1 / 40 <= copies.coverage < 0.3


def test_coverage() -> None:
    """As many scans like the real ones cover 7 of 8, those of another place none."""
    real = cases(60, 2, 0)
    pairs = [feature_variety(cases(60, 2, seed), cases(60, 2, seed + 100)).coverage for seed in range(40)]
    assert np.mean(pairs) == pytest.approx(1 - 0.5**3, abs=0.02)
    assert feature_variety(real, cases(60, 2, 1, shift=30)).coverage == 0
    assert feature_variety(real, cases(60, 0.1, 1)).coverage < feature_variety(real, cases(60, 2, 1)).coverage


def test_coverage_by_hand() -> None:
    real = [np.array([[value]]) for value in (0.0, 1.0, 2.0, 3.0, 10.0)]  # third-nearest at 3, 2, 2, 3 and 9
    assert feature_variety(real, [np.array([[4.5]])]).coverage == pytest.approx(2 / 5)  # 3 and 10 are covered


def test_too_few_cases() -> None:
    few = feature_variety(cases(1, 1, 0), cases(1, 1, 1))
    assert math.isnan(few.spread_of_real)
    assert math.isnan(few.coverage)
