"""Measure the variety of a set of masks: overlap with one another and with their sources, and spread of volumes.

Hearts are compared centre on centre on one coarse grid, so that neither a shift nor the voxel size counts as variety.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.evaluation.segmentation.overlap import confusion_matrix
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.faults import InputError

GRID_MM = 2.0
GRID_VOXELS = 96  # 19 cm: any heart
MAX_PAIRS = 500


@dataclass(frozen=True)
class MaskSample:
    """A mask reduced for comparison."""

    volumes_ml: tuple[float, ...]  # volume of each label, in the order of the labels
    centred: np.ndarray  # `centred_mask`, uint8 [96, 96, 96]
    source: str | None = None  # the given mask it was made from; None for a given mask itself


def sample_mask(
    mask: np.ndarray, spacing_mm: Sequence[float], label_ids: Sequence[int], source: str | None = None
) -> MaskSample:
    """Reduce a mask for comparison.

    Args:
        mask: Label ids, uint8 [D, H, W].
        spacing_mm: Voxel size along (D, H, W).
        label_ids: Ids of the labels but the background.
        source: Id of the given mask it was made from.

    Raises:
        InputError: when it is empty.
    """
    counts = np.bincount(mask.ravel(), minlength=NUM_CODES)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    volumes = tuple(float(counts[label]) * voxel_ml for label in label_ids)
    return MaskSample(volumes, centred_mask(mask, spacing_mm), source)


def centred_mask(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Resample the heart about its centroid to 96³ voxels of 2 mm: uint8, nearest voxels, 0 outside the volume.

    Raises:
        InputError: when the mask is empty.
    """
    offsets_mm = (np.arange(GRID_VOXELS) - (GRID_VOXELS - 1) / 2) * GRID_MM
    index, inside = [], []
    for centre, step, size in zip(heart_centre(mask), spacing_mm, mask.shape, strict=True):
        nearest = np.rint(centre + offsets_mm / step).astype(int)
        inside.append((nearest >= 0) & (nearest < size))
        index.append(np.clip(nearest, 0, size - 1))
    d, h, w = inside
    within = d[:, None, None] & h[:, None] & w
    return np.where(within, mask[np.ix_(*index)], 0).astype(np.uint8)


def heart_centre(mask: np.ndarray) -> tuple[float, ...]:
    """Centroid of all that is labelled, in voxels along (D, H, W).

    Raises:
        InputError: when the mask is empty.
    """
    foreground = mask > 0
    profiles = [foreground.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    if not profiles[0].any():
        raise InputError("mask: at least one voxel must be labelled to be compared, got none. Leave it out.")
    return tuple(float(np.arange(len(profile)) @ profile / profile.sum()) for profile in profiles)


def dice_per_label(first: np.ndarray, second: np.ndarray, label_ids: Sequence[int]) -> list[float]:
    """Dice of each label; NaN where both masks lack it."""
    confusion = confusion_matrix(first, second, max(label_ids) + 1)
    sizes = confusion.sum(axis=0) + confusion.sum(axis=1)
    return [2 * confusion[i, i] / sizes[i] if sizes[i] else float("nan") for i in label_ids]


def measure_diversity(
    generated: Sequence[MaskSample], given: Mapping[str, MaskSample], labels: Mapping[str, int], seed: int = 0
) -> dict[str, Any]:
    """Compare the variety of generated masks with that of the masks they were made from.

    Args:
        generated: Masks with their sources.
        given: Id → mask of the data set.
        labels: Name → id, without the background.
        seed: Seed that picks the pairs where there are more than 500.

    Returns:
        JSON-able: for every label the mean and spread of Dice between generated masks, to their source and between
        given masks, of the volumes in mL of both sets, and the part of the given set's volume spread that the generated
        set has (null where fewer than two masks are given).
    """
    ids = list(labels.values())
    shapes = [sample.centred for sample in generated]
    between = _pairwise(shapes, ids, seed)
    to_source = [dice_per_label(s.centred, given[s.source].centred, ids) for s in generated if s.source is not None]
    between_given = _pairwise([sample.centred for sample in given.values()], ids, seed)
    report = {}
    for column, name in enumerate(labels):
        volumes = _summary([sample.volumes_ml[column] for sample in generated])
        volumes_given = _summary([sample.volumes_ml[column] for sample in given.values()])
        spreads = [v["std"] / v["mean"] if v["mean"] and v["std"] is not None else None
                   for v in (volumes, volumes_given)]  # fmt: skip
        report[name] = {
            "dice_between": _summary([row[column] for row in between]),
            "dice_to_source": _summary([row[column] for row in to_source]),
            "dice_between_given": _summary([row[column] for row in between_given]),
            "volume_ml": volumes,
            "volume_ml_given": volumes_given,
            "spread_of_given": spreads[0] / spreads[1] if spreads[0] is not None and spreads[1] else None,
        }
    return {"num_generated": len(generated), "num_given": len(given), "pairs": len(between), "labels": report}


def _pairwise(masks: Sequence[np.ndarray], label_ids: Sequence[int], seed: int) -> list[list[float]]:
    pairs = list(combinations(range(len(masks)), 2))
    if len(pairs) > MAX_PAIRS:
        picks = np.random.default_rng(seed).choice(len(pairs), MAX_PAIRS, replace=False)
        pairs = [pairs[pick] for pick in sorted(picks.tolist())]
    return [dice_per_label(masks[i], masks[j], label_ids) for i, j in pairs]


def _summary(values: Sequence[float]) -> dict[str, float | None]:
    summary = summarise(values)
    return {name: None if np.isnan(value) else round(value, 4) for name, value in
            (("mean", summary.mean), ("std", summary.std))}  # fmt: skip
