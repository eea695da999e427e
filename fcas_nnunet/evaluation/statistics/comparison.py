"""Compare two results on the same cases: paired differences, their interval, and a test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from fcas_nnunet.faults import InputError
from fcas_nnunet.listing import listed

BOOTSTRAP_SAMPLES = 10_000
CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Comparison:
    """Second minus first, over the cases that have scores."""

    first_mean: float  # mean of the first scores
    second_mean: float  # mean of the second scores
    difference: float  # mean of the paired differences
    interval: tuple[float, float]  # 95 % percentile bootstrap interval of the difference
    p_value: float  # Wilcoxon's signed-rank test, two-sided; 1 where no pair differs
    holm_p_value: float  # the p value corrected over all compared labels (Holm)
    count: int  # number of pairs


def compare(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], seed: int = 0
) -> dict[str, Comparison]:
    """Compare two results label by label.

    Args:
        first: Label → score per case; NaN where a case has none in either.
        second: The same labels and cases in the same order.
        seed: Seed of the bootstrap.

    Raises:
        InputError: when labels or numbers of cases differ, or a case has a score in one result alone: leaving it out
            would hide what the other lacks.
    """
    if first.keys() != second.keys() or any(len(first[label]) != len(second[label]) for label in first):
        raise InputError(
            f"comparison: both results must have the same labels and cases, got {listed(sorted(first))} and "
            f"{listed(sorted(second))}. Score them against the same references."
        )
    lopsided = [label for label in first if np.any(np.isnan(first[label]) != np.isnan(second[label]))]
    if lopsided:
        raise InputError(
            f"comparison: each case must have a score in both results or in neither, got one alone for "
            f"{listed(lopsided)}. Compare another measure."
        )
    plain = {label: _compare(np.asarray(first[label]), np.asarray(second[label]), seed) for label in first}
    corrected = holm([c.p_value for c in plain.values()])
    return {
        label: Comparison(**{**vars(comparison), "holm_p_value": p})
        for (label, comparison), p in zip(plain.items(), corrected, strict=True)
    }


def resampled_means(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap means of scores [N], each over N of them drawn with replacement, [BOOTSTRAP_SAMPLES]."""
    return scores[rng.integers(len(scores), size=(BOOTSTRAP_SAMPLES, len(scores)))].mean(axis=1)


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Both ends of the middle 95 % of resampled values."""
    tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction; a NaN (nothing to test) stays NaN and does not count.

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def _compare(first: np.ndarray, second: np.ndarray, seed: int) -> Comparison:
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    differences = second - first
    if not len(differences):
        nan = math.nan
        return Comparison(nan, nan, nan, (nan, nan), nan, nan, 0)
    interval = percentile_interval(resampled_means(differences, np.random.default_rng(seed)))
    p_value = float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0
    return Comparison(
        float(first.mean()), float(second.mean()), float(differences.mean()), interval, p_value, math.nan,
        len(differences),
    )  # fmt: skip
