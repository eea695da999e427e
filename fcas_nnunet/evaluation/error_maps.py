"""Where a synthetic scan is wrong: its difference from real scans of the same anatomy, voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt

#: Half the thickness of the shell around the walls of structures.
SHELL_VOXELS = 1
#: Voxels within which thin structures lie whole.
_BALL = np.ones((3, 3, 3), dtype=bool)


def raw_error(synthetic: np.ndarray, real: np.ndarray) -> np.ndarray:
    """|synthetic − real| in HU, float32 [D, H, W]."""
    return np.abs(synthetic.astype(np.float32) - real.astype(np.float32))


def matched_error(synthetic: np.ndarray, real: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """|synthetic − real| after every structure's mean difference is taken out: what contrast does not explain.

    The contrast of a synthetic scan is its template's and no error; what is left is shape, sharpness and texture.

    Args:
        synthetic: HU [D, H, W].
        real: HU on the same grid.
        codes: structure of every voxel, whole numbers from 0; the background, and each surrounding structure where
            they are labelled, count as structures.

    Returns:
        float32 [D, H, W] in HU.
    """
    difference = synthetic.astype(np.float64) - real.astype(np.float64)
    flat = codes.ravel().astype(np.int64)
    counts = np.bincount(flat)
    means = np.bincount(flat, weights=difference.ravel()) / np.maximum(counts, 1)
    return np.abs(difference - means[codes]).astype(np.float32)


def mean_matched_error(synthetic: np.ndarray, renderings: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Mean of `matched_error` over several real scans of one anatomy: the noise of a single one averages out."""
    return np.mean([matched_error(synthetic, real, codes) for real in renderings], axis=0, dtype=np.float32)


def wall_shell(mask: np.ndarray, thickness_voxels: int = SHELL_VOXELS) -> np.ndarray:
    """Where structures end: voxels within `thickness_voxels` of a face between two labels, bool [D, H, W]."""
    changes = label_changes(mask)
    return binary_dilation(changes, _BALL, iterations=thickness_voxels - 1) if thickness_voxels > 1 else changes


def label_changes(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour of another label, bool [D, H, W]."""
    changes = np.zeros(mask.shape, dtype=bool)
    for axis in range(mask.ndim):
        lower = tuple(slice(None, -1) if a == axis else slice(None) for a in range(mask.ndim))
        upper = tuple(slice(1, None) if a == axis else slice(None) for a in range(mask.ndim))
        differs = mask[lower] != mask[upper]
        changes[lower] |= differs
        changes[upper] |= differs
    return changes


def boundary_distance(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance in mm to the nearest voxel at which labels change, float32 [D, H, W]; 0 at such a voxel."""
    changes = label_changes(mask)
    if not changes.any():
        return np.zeros(mask.shape, dtype=np.float32)
    return distance_transform_edt(~changes, sampling=spacing_mm).astype(np.float32)
