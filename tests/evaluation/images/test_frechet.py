"""FID and KID: closed forms of Gaussians, other implementations, loops, and what one distribution gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import FIDMetric
from scipy.linalg import sqrtm

from fcas_nnunet.evaluation.images import frechet
from fcas_nnunet.evaluation.images.frechet import frechet_distance, kernel_distance


def with_moments(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Samples whose mean and covariance are exactly these."""
    drawn = np.random.default_rng(seed).normal(size=(count, len(mean)))
    drawn -= drawn.mean(axis=0)
    whitened = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T))).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


def covariance(seed: int, size: int = 6) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_fid_of_known_gaussians() -> None:
    """Diagonal covariances: |Δμ|² + Σ (σ₁ − σ₂)²; here 3² + 4² + (1 − 3)² + (2 − 2)² + (5 − 1)² = 45."""
    first = with_moments(np.zeros(3), np.diag([1.0, 4.0, 25.0]), 40, 0)
    second = with_moments(np.array([3.0, 0.0, 4.0]), np.diag([9.0, 4.0, 1.0]), 55, 1)
    assert frechet_distance(first, second) == pytest.approx(45, rel=1e-10)


def test_fid_of_gaussians_that_do_not_commute() -> None:
    mean, one, other = np.arange(6.0), covariance(0), covariance(1)
    wanted = mean @ mean + np.trace(one + other - 2 * np.real(sqrtm(one @ other)))
    found = frechet_distance(with_moments(0 * mean, one, 50, 2), with_moments(mean, other, 60, 3))
    assert found == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_fid_equals_monai(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(90, 20)), generator.gamma(2, size=(70, 20))
    wanted = FIDMetric()(torch.from_numpy(second), torch.from_numpy(first)).item()
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-8)


def test_fid_of_fewer_samples_than_features() -> None:
    """Σ₁ and Σ₂ live in planes: tr (Σ₁Σ₂)^½ by the eigenvalues of a small matrix."""
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(5, 64)), generator.normal(size=(7, 64)) + 0.2
    x, y = first - first.mean(0), second - second.mean(0)
    product = (x @ y.T) @ (y @ x.T) / (4 * 6)
    root_trace = np.sqrt(np.clip(np.linalg.eigvalsh(product), 0, None)).sum()
    shift = first.mean(0) - second.mean(0)
    wanted = shift @ shift + (x**2).sum() / 4 + (y**2).sum() / 6 - 2 * root_trace
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("rows_at_once", [1, 20, 4096])
@pytest.mark.parametrize("size", [3, 40])
def test_moments_of_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch, rows_at_once: int, size: int) -> None:
    """Far from zero, where sums of squares would lose their digits; `size` above the number of samples, too."""
    monkeypatch.setattr(frechet, "_ROWS_AT_ONCE", rows_at_once)
    features = 1e6 + np.random.default_rng(0).normal(size=(30, size))
    moments = frechet.Moments()
    for part in np.split(features, [1, 4, 18]):
        moments.add(part)
    mean, factor = moments.mean_and_factor()
    assert moments.count == 30
    np.testing.assert_allclose(mean, features.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(factor.T @ factor, np.cov(features.T), atol=1e-7)
    assert len(factor) <= min(30, size)


@given(seed=st.integers(0, 1000), shift=st.floats(-5, 5))
def test_fid_of_a_shift_is_its_square(seed: int, shift: float) -> None:
    features = np.random.default_rng(seed).normal(size=(30, 8))
    assert frechet_distance(features, features + shift) == pytest.approx(8 * shift**2, abs=1e-9)
    other = np.random.default_rng(seed + 1).normal(size=(12, 8))
    assert frechet_distance(features, other) == pytest.approx(frechet_distance(other, features), rel=1e-9)


def kid_by_loop(first: np.ndarray, second: np.ndarray, cases: list[int], others: list[int]) -> float:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    own = mean([kernel(x, y) for x, i in zip(first, cases, strict=True) for y, j in zip(first, cases, strict=True)
                if i != j])  # fmt: skip
    theirs = mean([kernel(x, y) for x, i in zip(second, others, strict=True)
                   for y, j in zip(second, others, strict=True) if i != j])  # fmt: skip
    return own + theirs - 2 * mean([kernel(x, y) for x in first for y in second])


def test_kid_equals_a_loop() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(9, 5)), generator.normal(0.3, 1.2, size=(7, 5))
    found = kernel_distance(first, second)
    assert found.value == pytest.approx(kid_by_loop(first, second, list(range(9)), list(range(7))), rel=1e-12)
    cases, others = [0, 0, 1, 1, 1, 2, 3, 3, 3], [0, 1, 1, 2, 2, 2, 0]
    found = kernel_distance(first, second, cases, others)
    assert found.value == pytest.approx(kid_by_loop(first, second, cases, others), rel=1e-12)


def test_the_jackknife_leaves_out_one_case_at_a_time() -> None:
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(8, 4)), generator.normal(size=(9, 4))
    cases, others = np.array([0, 0, 1, 1, 2, 2, 3, 3]), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    without = [[kernel_distance(first[cases != i], second, cases[cases != i].tolist(), others.tolist()).value
                for i in range(4)],
               [kernel_distance(first, second[others != i], cases.tolist(), others[others != i].tolist()).value
                for i in range(3)]]  # fmt: skip
    wanted = math.sqrt(3 / 4 * sum((v - np.mean(without[0])) ** 2 for v in without[0])
                       + 2 / 3 * sum((v - np.mean(without[1])) ** 2 for v in without[1]))  # fmt: skip
    found = kernel_distance(first, second, cases.tolist(), others.tolist())
    assert found.standard_error == pytest.approx(wanted, rel=1e-9)


def test_kid_of_one_distribution_is_zero_on_average_and_its_error_is_honest() -> None:
    """Scans with windows alike: were pairs within a scan counted, the distance would be far above 0."""
    generator = np.random.default_rng(0)
    found, naive = [], []
    for _ in range(200):
        sets = [(generator.normal(size=(12, 1, 6)) + 0.2 * generator.normal(size=(12, 5, 6))).reshape(60, 6)
                for _ in range(2)]  # fmt: skip
        cases = np.repeat(np.arange(12), 5).tolist()
        found.append(kernel_distance(*sets, cases, cases))
        naive.append(kernel_distance(*sets).value)
    values = np.array([distance.value for distance in found])
    standard_error_of_mean = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean()) < 3 * standard_error_of_mean
    assert 0.2 < np.mean(values < 0) < 0.8
    assert np.mean(naive) > 10 * standard_error_of_mean
    claimed = np.sqrt(np.mean([distance.standard_error**2 for distance in found]))
    assert 0.8 < claimed / values.std(ddof=1) < 1.8  # on the safe side under one distribution


def test_kid_of_a_shift_is_that_of_the_moments() -> None:
    """One feature, E (xy + 1)³ = 1 + 3 E[x] E[y] + 3 E[x²] E[y²] + E[x³] E[y³].

    N(0, 1) has the moments 0, 1, 0 and N(1, 1) has 1, 2, 4: within 1 + 3 = 4 and 1 + 3 + 12 + 16 = 32, across 1 + 6.
    """
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(3000, 1)), generator.normal(1.0, 1.0, size=(3000, 1))
    wanted = 4 + 32 - 2 * 7
    found = kernel_distance(first, second)
    assert abs(found.value - wanted) < 4 * found.standard_error
    assert 0.2 < found.standard_error < 2


@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_kid_is_symmetric(seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=(6, 3)), generator.normal(size=(8, 3))
    forth, back = kernel_distance(first, second), kernel_distance(second, first)
    assert forth.value == pytest.approx(back.value)
    assert forth.standard_error == pytest.approx(back.standard_error)


def test_too_few_cases_have_no_distance_and_no_error() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    assert math.isnan(kernel_distance(features, features, [0] * 6, list(range(6))).value)
    two = kernel_distance(features, features + 1, [0, 0, 0, 1, 1, 1], list(range(6)))
    assert math.isfinite(two.value)
    assert math.isnan(two.standard_error)


def test_what_does_not_compare_is_named() -> None:
    features = np.zeros((4, 3))
    with pytest.raises(ValueError, match=r"of one extractor, got \(4, 3\) and \(4, 2\)"):
        frechet_distance(features, features[:, :2])
    with pytest.raises(ValueError, match="the second set must have at least 2 samples, got 1"):
        kernel_distance(features, features[:1])
    with pytest.raises(ValueError, match="the first set must be finite"):
        frechet_distance(features * np.nan, features)
