"""Measure how well a confidence map finds the errors of an image: sparsification, rank correlation, reliability.

Sources: Ilg et al., ECCV 2018 (sparsification and its error, AUSE); Spearman 1904; Kendall 1942 (partial correlation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from fcas_nnunet.faults import InputError

#: Voxels that ranks are taken over; of more, a random sample.
MAX_VOXELS = 1_000_000
RELIABILITY_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Mean error by confidence, in bins of equally many voxels, from the lowest confidence."""

    confidence: list[float]  # mean confidence of each bin
    error: list[float]  # mean absolute error of each bin
    count: list[int]  # voxels of each bin
    expected: list[float] | None = None  # mean error that was expected of each bin; None where the map expects none


def sparsification_curve(confidence: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the share of the total error that is left while voxels are dropped from the least confident on.

    Voxels of one confidence are dropped in a random order: the curve is straight between levels.

    Args:
        confidence: Confidence of some voxels, any shape.
        error: Absolute errors of the same voxels, the same shape.

    Returns:
        Share of voxels dropped, from 0 to 1, and share of the error left, from 1 to 0; a point per level of confidence.

    Raises:
        InputError: for arrays of other shapes, without voxels, or with values that are not finite.
    """
    confidence, error = _checked(confidence, error)
    total = float(error.sum(dtype=np.float64))
    order = np.argsort(confidence, kind="stable")
    levels = confidence[order]
    last_of_level = np.flatnonzero(np.append(levels[1:] != levels[:-1], True))
    dropped = (last_of_level + 1) / len(levels)
    gone = np.cumsum(error[order], dtype=np.float64)[last_of_level] / total if total > 0 else dropped
    return np.concatenate([[0.0], dropped]), np.concatenate([[1.0], 1 - gone])


def ause(confidence: np.ndarray, error: np.ndarray) -> float:
    """Area under the sparsification error: 0 for the error's own order, 0.5 for a random one, 1 for the reverse order.

    (A − A_oracle) / (1 − 2 A_oracle) with A the area under `sparsification_curve`; NaN where all errors are alike, so
    that no order is better than another.
    """
    area = _area(*sparsification_curve(confidence, error))
    oracle = _area(*sparsification_curve(-np.asarray(error, dtype=np.float64), error))
    return (area - oracle) / (1 - 2 * oracle) if oracle < 0.5 - 1e-12 else float("nan")


def spearman(confidence: np.ndarray, error: np.ndarray) -> float:
    """Rank correlation of doubt (−confidence) and error: 1 where the order is the error's own; 0 for a constant map."""
    confidence, error = _checked(confidence, error)
    return _correlation(rankdata(-confidence), rankdata(error))


def partial_spearman(confidence: np.ndarray, error: np.ndarray, controls: Mapping[str, np.ndarray]) -> float:
    """Rank correlation of doubt and error after the control maps are taken out of both.

    Ranks of doubt and error are regressed on the ranks of the control maps at the same voxels, and the residuals are
    correlated.
    """
    confidence, error = _checked(confidence, error)
    others = [rankdata(np.asarray(control, dtype=np.float64).ravel()) for control in controls.values()]
    design = np.stack([np.ones(len(error)), *others], axis=1)
    ranks = np.stack([rankdata(-confidence), rankdata(error)], axis=1)
    residuals = ranks - design @ np.linalg.lstsq(design, ranks, rcond=None)[0]
    if residuals[:, 0].std() < 1e-9 * ranks[:, 0].std():  # nothing but the controls
        return 0.0
    return _correlation(residuals[:, 0], residuals[:, 1])


def reliability(
    confidence: np.ndarray, error: np.ndarray, expected: np.ndarray | None = None, bins: int = RELIABILITY_BINS
) -> Reliability:
    """Mean error by confidence, in bins of equally many voxels; `expected` are the absolute errors promised there."""
    confidence, error = _checked(confidence, error)
    parts = np.array_split(np.argsort(confidence, kind="stable"), min(bins, len(error)))
    return Reliability(
        confidence=[float(confidence[part].mean()) for part in parts],
        error=[float(error[part].mean()) for part in parts],
        count=[len(part) for part in parts],
        expected=None if expected is None else [float(expected[part].mean()) for part in parts],
    )


def sampled_voxels(where: np.ndarray, seed: int, largest: int = MAX_VOXELS) -> np.ndarray:
    """Return flat indices of a region's voxels; where there are more than `largest`, a random sample of that size.

    Args:
        where: Region, bool of any shape.
        seed: Seed of the sample.
        largest: Largest number of voxels in the sample.
    """
    found = np.flatnonzero(where)
    if len(found) <= largest:
        return found
    return np.sort(np.random.default_rng(seed).choice(found, largest, replace=False))


def _area(dropped: np.ndarray, left: np.ndarray) -> float:
    return float(np.sum((left[1:] + left[:-1]) / 2 * np.diff(dropped)))


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else 0.0


def _checked(confidence: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence = np.asarray(confidence, dtype=np.float64).ravel()
    error = np.asarray(error, dtype=np.float64).ravel()
    if confidence.shape != error.shape or not len(error):
        raise InputError(
            f"confidence: must have a value for every error, got {len(confidence)} for {len(error)}. "
            "Compare on one grid."
        )
    if not (np.isfinite(confidence).all() and np.isfinite(error).all()):
        raise InputError("confidence and error: must be finite, got NaN or infinite values. Mend the map.")
    return confidence, error
