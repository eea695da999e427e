"""Measure the agreement of readers: Krippendorff's alpha for ordinal scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def ordinal_alpha(ratings: Sequence[Sequence[float]]) -> float:
    """Krippendorff's alpha with the ordinal difference: 1 = full agreement, 0 = as by chance, below 0 = against it.

    Args:
        ratings: Scores [readers, units]; NaN where a reader has not scored a unit.

    Returns:
        Alpha; NaN where no unit has two scores, or all scores are equal, so that there is nothing to agree on.

    Source: K. Krippendorff, Computing Krippendorff's alpha-reliability (2011).
    """
    table = np.asarray(ratings, dtype=float)
    shared = table[:, np.count_nonzero(~np.isnan(table), axis=0) >= 2]
    levels = np.unique(shared[~np.isnan(shared)])
    if len(levels) < 2:
        return math.nan
    coincidences = np.zeros((len(levels), len(levels)))
    for unit in shared.T:
        found = np.searchsorted(levels, unit[~np.isnan(unit)])
        counts = np.bincount(found, minlength=len(levels)).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(found) - 1)
    marginals = coincidences.sum(axis=1)
    differences = _ordinal_differences(marginals)
    total = marginals.sum()
    observed = (coincidences * differences).sum() / total
    expected = (np.outer(marginals, marginals) * differences).sum() / (total * (total - 1))
    return float(1 - observed / expected)


def _ordinal_differences(marginals: np.ndarray) -> np.ndarray:
    """Squared ordinal difference of each two levels: how many scores lie between them, the levels' own by half."""
    middle = np.cumsum(marginals) - marginals / 2
    return (middle[:, None] - middle[None, :]) ** 2
