"""Compare how much the cases of two sets differ among themselves: the variety of synthetic scans and of patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

#: A real case is covered if a synthetic one is nearer to it than its third-nearest real case.
NEIGHBOURS = 3


@dataclass(frozen=True)
class FeatureVariety:
    """Variety of a synthetic set, measured by that of the real one; NaN where a set has too few cases."""

    spread_of_real: float  # root mean square distance of two synthetic cases, as a part of that of two real ones
    coverage: float  # share of the real cases that are covered; 7/8 for two samples of one distribution and one size


def feature_variety(real: Sequence[np.ndarray], synthetic: Sequence[np.ndarray]) -> FeatureVariety:
    """Compare two sets by the mean features of their cases.

    Fewer synthetic cases cover fewer real ones, so that coverages compare sets of equal numbers alone.

    Args:
        real: Features of each case's windows, [P, C].
        synthetic: The same of each synthetic case.

    Source: coverage is of Naeem et al., ICML 2020, arXiv 2002.09797, with k = 3 where patients are few.
    """
    ours, theirs = (np.stack([rows.mean(axis=0, dtype=np.float64) for rows in cases]) for cases in (synthetic, real))
    spreads = [math.sqrt(2 * case.var(axis=0, ddof=1).sum()) if len(case) > 1 else math.nan for case in (ours, theirs)]
    coverage = math.nan
    if len(theirs) > NEIGHBOURS:
        radii = np.sort(cdist(theirs, theirs), axis=1)[:, NEIGHBOURS]  # the first is the case itself
        coverage = float((cdist(theirs, ours).min(axis=1) < radii).mean())
    return FeatureVariety(spreads[0] / spreads[1] if spreads[1] else math.nan, coverage)
