"""Compare two ways of training over seeds and cases, both of which are samples: intervals that hold for others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from fcas_nnunet.evaluation.statistics.comparison import CONFIDENCE_LEVEL
from fcas_nnunet.faults import InputError

POWER = 0.8


@dataclass(frozen=True)
class CrossedMean:
    """Mean of differences over seeds and cases, under the two-way random model

    difference = mean + seed + case + rest, each but the mean with a variance of its own.
    """

    mean: float
    interval: tuple[float, float]  # 95 %, by Satterthwaite's degrees of freedom; at least those of the seeds
    p_value: float  # two-sided, of a mean of 0
    detectable: float  # mean that is found with a probability of 80 % at 5 %
    seed_std: float  # standard deviation between seeds, cases aside
    case_std: float  # between cases, seeds aside
    rest_std: float
    num_seeds: int
    num_cases: int


def crossed_mean(differences: np.ndarray) -> CrossedMean:
    """Estimate the mean of differences for other seeds and other cases.

    Args:
        differences: [seeds, cases] without gaps, at least two of each.

    Raises:
        InputError: when there are fewer, or values are not finite.

    Source: analysis of variance of a crossed design with random effects; F. E. Satterthwaite, Biometrics Bulletin 2
    (1946), for the degrees of freedom of the mean's variance.
    """
    table = np.asarray(differences, dtype=float)
    if table.ndim != 2 or min(table.shape) < 2 or not np.isfinite(table).all():
        raise InputError(
            f"differences: must be finite [seeds, cases] of at least 2 × 2, got shape {table.shape} with "
            f"{int(np.count_nonzero(~np.isfinite(table)))} gaps. Run more seeds, or leave the comparison out."
        )
    seeds, cases = table.shape
    mean = table.mean()
    of_seeds, of_cases = table.mean(axis=1), table.mean(axis=0)
    between_seeds = cases * np.var(of_seeds, ddof=1)
    between_cases = seeds * np.var(of_cases, ddof=1)
    rest = table - of_seeds[:, None] - of_cases + mean
    within = float((rest**2).sum() / ((seeds - 1) * (cases - 1)))
    # The variance of the mean is (MS_seed + MS_case − MS_rest) / (seeds · cases); negative components count as 0. Few
    # seeds often seem to agree by chance, so theirs are the degrees of freedom even where their component is 0.
    seed_part, case_part = max(between_seeds - within, 0.0), max(between_cases - within, 0.0)
    variance = (seed_part + case_part + within) / (seeds * cases)
    if variance == 0:
        return CrossedMean(float(mean), (float(mean),) * 2, 1.0 if mean == 0 else 0.0, 0.0, 0.0, 0.0, 0.0, seeds, cases)
    used = [(max(between_seeds, within), seeds - 1)]
    if case_part:
        used += [(between_cases, cases - 1), (-within, (seeds - 1) * (cases - 1))]
    freedom = sum(square for square, _ in used) ** 2 / sum(square**2 / number for square, number in used)
    error = math.sqrt(variance)
    reach = float(stats.t.ppf((1 + CONFIDENCE_LEVEL) / 2, freedom))
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return CrossedMean(
        float(mean), (float(mean - reach * error), float(mean + reach * error)), p_value,
        error * (reach + float(stats.t.ppf(POWER, freedom))),
        math.sqrt(seed_part / cases), math.sqrt(case_part / seeds), math.sqrt(within), seeds, cases,
    )  # fmt: skip
