"""Intervals for synthetic cases that share templates and masks: resampling the parents, not the cases.

Four hundred scans drawn from twenty templates and twenty masks are not four hundred patients. What they share with
their parents makes tests over cases arbitrarily sure as their number grows, while the number of parents stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from fcas_nnunet.evaluation.statistics.comparison import percentile_interval

BOOTSTRAP_SAMPLES = 1_000


def parents_weights(
    parents: Sequence[tuple[str | None, str | None]], seed: int, samples: int = BOOTSTRAP_SAMPLES
) -> np.ndarray:
    """Draw each case's count in each sample: as often as its template was drawn, times as often as its reference.

    Args:
        parents: Template and reference of each case; a parent that is not known is the case's own.
        seed: Seed of the samples.
        samples: Number of samples.

    Returns:
        float32 [samples, cases].

    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007).
    """
    rng = np.random.default_rng(seed)
    weights = np.ones((samples, len(parents)), dtype=np.float32)
    for side in range(2):
        names = [pair[side] or f"unknown {number}" for number, pair in enumerate(parents)]
        known, places = np.unique(np.array(names), return_inverse=True)
        times = rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=samples)
        weights *= times[:, places]
    return weights


def interval_over_parents(
    statistic: Callable[[np.ndarray], np.ndarray], parents: Sequence[tuple[str | None, str | None]], seed: int
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of cases over their parents.

    Args:
        statistic: Weights of the cases [samples, cases] → its value in each sample [samples]; NaN where it has none.
        parents: Parents as for `parents_weights`.
        seed: Seed of the samples.

    Returns:
        Both ends; NaN where all cases have one template, or one reference: nothing is then known of others.
    """
    nothing = math.nan, math.nan
    if any(len({pair[side] or number for number, pair in enumerate(parents)}) < 2 for side in range(2)):
        return nothing
    weights = parents_weights(parents, seed)
    found = statistic(weights[weights.sum(axis=1) > 0])
    found = found[~np.isnan(found)]
    return percentile_interval(found) if len(found) else nothing
