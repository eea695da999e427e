"""Distances of two sets of features: the Fréchet distance of their Gaussians (FID), and the kernel distance (KID).

FID of few samples is biased far upwards (two samples of one distribution do not give 0), KID is not; a number of
either means nothing without its extractor's name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fcas_nnunet.faults import InputError

#: Samples that are reduced to a triangle together: the fewer, the more often.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class KernelDistance:
    """An unbiased squared maximum mean discrepancy."""

    value: float  # 0 in expectation for two samples of one distribution, and below 0 as often as above
    standard_error: float  # NaN where there are too few samples to tell


class Moments:
    """Mean and covariance of features that come part by part, of which only a triangle [C + 1, C + 1] is kept.

    For samples X with a column of ones in front, [1 X] = QR with R = [[√N, √N μ], [0, F]] (up to signs of rows), where
    FᵀF = (X − μ)ᵀ(X − μ); and the R of two parts is that of their Rs, one above the other. So the covariance is never
    squared out, and small singular values keep their digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._triangle: np.ndarray | None = None
        self._waiting: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """Add samples [N, C]; an InputError if any is not finite."""
        if not np.isfinite(features).all():
            raise InputError("features: must be finite, got NaN or infinite values. Check the scans.")
        ones = np.ones((len(features), 1))
        self._waiting.append(np.hstack([ones, features.astype(np.float64)]))
        self.count += len(features)
        if sum(map(len, self._waiting)) > _ROWS_AT_ONCE:
            self._reduce()

    def mean_and_factor(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean [C], and R [·, C] with RᵀR the samples' covariance (N − 1)."""
        self._reduce()
        assert self._triangle is not None, "samples were added"
        first = self._triangle[0]
        return first[1:] / first[0], self._triangle[1:, 1:] / math.sqrt(self.count - 1)

    def _reduce(self) -> None:
        parts = [*([] if self._triangle is None else [self._triangle]), *self._waiting]
        if self._waiting:
            self._triangle, self._waiting = np.asarray(np.linalg.qr(np.vstack(parts), mode="r")), []


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features; as `frechet_distance_of_moments`.

    Args:
        first: [N, C], N ≥ 2; covariances are the samples' (N − 1).
        second: [M, C], M ≥ 2.

    Raises:
        InputError: see `feature_faults`.
    """
    _check(first, second)
    moments = Moments(), Moments()
    for each, features in zip(moments, (first, second), strict=True):
        each.add(features)
    return frechet_distance_of_moments(*moments)


def frechet_distance_of_moments(first: Moments, second: Moments) -> float:
    """Fréchet distance of two Gaussians, |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½).

    With Σ₁ = R₁ᵀR₁, the last trace is the sum of the singular values of R₁R₂ᵀ: no root of a matrix is taken, so
    singular covariances (fewer samples than features) do no harm.

    Raises:
        InputError: if a set has fewer than two samples.

    Source: Heusel et al., NeurIPS 2017, arXiv 1706.08500.
    """
    if fewest := [moments.count for moments in (first, second) if moments.count < 2]:
        raise InputError(f"features: both sets must have at least 2 samples, got {fewest[0]}. Add cases.")
    (mean, factor), (other_mean, other_factor) = first.mean_and_factor(), second.mean_and_factor()
    root_trace = np.linalg.svd(factor @ other_factor.T, compute_uv=False).sum()
    spread = np.square(factor).sum() + np.square(other_factor).sum()
    return float(np.square(mean - other_mean).sum() + spread - 2 * root_trace)


def kernel_distance(
    first: np.ndarray,
    second: np.ndarray,
    first_cases: Sequence[object] | None = None,
    second_cases: Sequence[object] | None = None,
) -> KernelDistance:
    """Unbiased KID with the kernel (x·y / C + 1)³, over all pairs, not over drawn subsets.

    Windows of one scan resemble each other, so pairs within one case would make any two sets look different: where
    cases are named, only pairs from different cases count. The standard error is the jackknife's, which leaves out a
    case at a time.

    Args:
        first: Features of a set, [N, C].
        second: Features of the other, [M, C].
        first_cases: Case of each row; None = each row is its own.
        second_cases: Case of each row of `second`; cases of `first` and of `second` count as different even under one
            name.

    Returns:
        NaN where a set has one case only; its standard error is NaN where a set has two.

    Raises:
        InputError: see `feature_faults`.

    Source: Bińkowski et al., ICLR 2018, arXiv 1801.01401, Eq. 4 (there with x ≠ y for what is here other cases).
    """
    _check(first, second)
    groups = _group_numbers(first, first_cases), _group_numbers(second, second_cases)
    cases = min(len(np.unique(numbers)) for numbers in groups)
    if cases < 2:
        return KernelDistance(math.nan, math.nan)
    sides = [_own_pairs(first, groups[0]), _own_pairs(second, groups[1])]
    across = [_kernel_sums(first, second, groups[0]), _kernel_sums(second, first, groups[1])]
    means = [own.sum() / own_pairs.sum() for own, own_pairs in sides]
    total, pairs = across[0].sum(), len(first) * len(second)
    value = float(sum(means) - 2 * total / pairs)
    if cases < 3:
        return KernelDistance(value, math.nan)
    variance = 0.0
    for (own, own_pairs), other_mean, sums, numbers, others in zip(
        sides, means[::-1], across, groups, (second, first), strict=True
    ):
        # Without a case: a pair counts at both of its ends, so both go.
        own_mean = (own.sum() - 2 * own) / (own_pairs.sum() - 2 * own_pairs)
        without = own_mean + other_mean - 2 * (total - sums) / (pairs - np.bincount(numbers) * len(others))
        variance += (len(without) - 1) * np.var(without)
    return KernelDistance(value, math.sqrt(variance))


def feature_faults(first: np.ndarray, second: np.ndarray) -> list[str]:
    """List what keeps two sets of features from being compared, a sentence each."""
    faults = []
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        faults.append(
            f"features: both sets must be [samples, channels] of one extractor, got {first.shape} and {second.shape}. "
            "Extract both with the same network."
        )
    for name, features in (("first", first), ("second", second)):
        if len(features) < 2:
            faults.append(f"features: the {name} set must have at least 2 samples, got {len(features)}. Add cases.")
        if not np.isfinite(features).all():
            faults.append(f"features: the {name} set must be finite, got NaN or infinite values. Check its scans.")
    return faults


def _check(first: np.ndarray, second: np.ndarray) -> None:
    faults = feature_faults(first, second)
    if faults:
        raise InputError("\n".join(faults))


def _group_numbers(features: np.ndarray, cases: Sequence[object] | None) -> np.ndarray:
    if cases is None:
        return np.arange(len(features))
    assert len(cases) == len(features), f"{len(cases)} cases name {len(features)} rows"
    numbers = {case: number for number, case in enumerate(dict.fromkeys(cases))}
    return np.array([numbers[case] for case in cases])


def _kernel_sums(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of the kernel between the rows of every group of the first set and all of the second [G]."""
    x, y = first.astype(np.float64), second.astype(np.float64)
    sums = np.concatenate([_kernel(x[rows], y).sum(axis=1) for rows in _row_blocks(len(x))])
    return np.bincount(groups, weights=sums)


def _own_pairs(features: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every group, the kernel summed over pairs of its rows and those of other groups, and how many they are."""
    x = features.astype(np.float64)
    sums = [
        np.where(groups[rows, None] != groups[None], _kernel(x[rows], x), 0).sum(axis=1) for rows in _row_blocks(len(x))
    ]
    sizes = np.bincount(groups)
    return np.bincount(groups, weights=np.concatenate(sums)), sizes * (len(features) - sizes)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / C + 1)³ of all rows [N, M]."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _row_blocks(count: int) -> list[slice]:
    """Some rows at a time: the whole kernel matrix may not fit."""
    return [slice(start, start + 512) for start in range(0, count, 512)]
