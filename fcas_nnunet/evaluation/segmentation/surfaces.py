"""Distances between the surfaces of two masks: HD95 and the normalised surface Dice, as MONAI defines them.

A surface is the voxels of a mask that have a face neighbour outside it; the volume's end counts as outside. DeepMind's
surface-distance weighs surface elements between voxels instead, and gives somewhat other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import edt
import numpy as np

from fcas_nnunet.labels.components import bounding_box

HAUSDORFF_PERCENTILE = 95.0


def surface_distances(
    first: np.ndarray, second: np.ndarray, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the distances from every surface voxel of either mask to the nearest of the other.

    Args:
        first: bool [D, H, W].
        second: bool [D, H, W].
        spacing_mm: Voxel size along (D, H, W).

    Returns:
        Distances in mm from the first's surface, and from the second's; both empty where either mask is.
    """
    box = bounding_box(first | second)
    if box is None or not first[box].any() or not second[box].any():
        return np.empty(0), np.empty(0)
    surfaces = [_surface(mask[box]) for mask in (first, second)]
    to_first, to_second = (
        edt.edt(np.ascontiguousarray(~surface), anisotropy=tuple(float(s) for s in spacing_mm)) for surface in surfaces
    )
    return to_second[surfaces[0]].astype(np.float64), to_first[surfaces[1]].astype(np.float64)


def hausdorff_95_mm(distances: tuple[np.ndarray, np.ndarray]) -> float:
    """The larger of both directions' 95th percentiles of `surface_distances`; NaN where a mask is empty."""
    if not all(len(d) for d in distances):
        return math.nan
    return float(max(np.percentile(d, HAUSDORFF_PERCENTILE) for d in distances))


def surface_dice(distances: tuple[np.ndarray, np.ndarray], tolerance_mm: float) -> float:
    """Share of both surfaces' voxels that `surface_distances` finds within a tolerance; NaN where a mask is empty.

    Source: Nikolov et al., arXiv 1809.04430.
    """
    if not all(len(d) for d in distances):
        return math.nan
    within = sum(np.count_nonzero(d <= tolerance_mm) for d in distances)
    return within / sum(len(d) for d in distances)


def _surface(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1, 1:-1].copy()
    for axis in range(3):
        for start in (0, 2):
            shifted = [slice(1, -1)] * 3
            shifted[axis] = slice(start, start + mask.shape[axis])
            inner &= padded[tuple(shifted)]
    return mask & ~inner
