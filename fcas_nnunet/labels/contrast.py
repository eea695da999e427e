"""Means of a scan's structures, and the error of a synthetic scan beyond their differences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def structure_means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mean of the values of every structure, float64 [highest code + 1]; 0 for codes that do not occur."""
    flat = codes.ravel().astype(np.int64)
    counts = np.bincount(flat)
    return np.bincount(flat, weights=values.ravel().astype(np.float64)) / np.maximum(counts, 1)


def means_by_code(values: Iterable[np.ndarray], codes: Iterable[np.ndarray]) -> dict[int, float]:
    """Code (uint8) → mean of its voxels in several volumes, or in the planes of one, which takes little memory."""
    sums, counts = np.zeros(256), np.zeros(256)
    for part, of_part in zip(values, codes, strict=True):
        sums += np.bincount(of_part.ravel(), part.ravel(), minlength=256)
        counts += np.bincount(of_part.ravel(), minlength=256)
    return {int(code): float(sums[code] / counts[code]) for code in np.flatnonzero(counts)}


def matched_error(synthetic: np.ndarray, real: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """|synthetic − real| after every structure's mean difference is taken out: what contrast does not explain.

    Args:
        synthetic: Standard units [C, D, H, W].
        real: Standard units [C, D, H, W] on the same grid.
        codes: Structure of every voxel, whole numbers from 0; the background, and each surrounding structure where
            they are labelled, count as structures.

    Returns:
        float32 [D, H, W] in standard units, the mean over the channels.
    """
    total = np.zeros(codes.shape)
    for ours, theirs in zip(synthetic, real, strict=True):
        difference = ours.astype(np.float64) - theirs.astype(np.float64)
        total += np.abs(difference - structure_means(difference, codes)[codes])
    return (total / len(synthetic)).astype(np.float32)
