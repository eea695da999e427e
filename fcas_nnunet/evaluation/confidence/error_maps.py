"""Error maps of a synthetic scan: its difference from real scans of the same anatomy, voxel by voxel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt

from fcas_nnunet.labels.contrast import matched_error
from fcas_nnunet.labels.morphology import label_changes

#: Half the thickness of the shell around the walls of structures.
SHELL_VOXELS = 1
_CUBE = np.ones((3, 3, 3), dtype=bool)


def raw_error(synthetic: np.ndarray, real: np.ndarray) -> np.ndarray:
    """|synthetic − real| in standard units, the mean over the channels, [C, D, H, W] => float32 [D, H, W]."""
    return np.abs(synthetic.astype(np.float32) - real.astype(np.float32)).mean(axis=0)


def mean_matched_error(synthetic: np.ndarray, renderings: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """Mean of `matched_error` over several real scans of one anatomy: the noise of a single one averages out."""
    return _mean((matched_error(synthetic, real, codes) for real in renderings), len(renderings))


def mean_raw_error(synthetic: np.ndarray, renderings: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of `raw_error` over several real scans of one anatomy."""
    return _mean((raw_error(synthetic, real) for real in renderings), len(renderings))


def _mean(errors: Iterable[np.ndarray], count: int) -> np.ndarray:
    """Mean of error maps, float32, holding two of them however many there are."""
    return reduce(np.add, errors) / count


def wall_shell(mask: np.ndarray, thickness_voxels: int = SHELL_VOXELS) -> np.ndarray:
    """Mark where structures end: voxels within `thickness_voxels` of a face between two labels, bool [D, H, W]."""
    changes = label_changes(mask)
    return binary_dilation(changes, _CUBE, iterations=thickness_voxels - 1) if thickness_voxels > 1 else changes


def boundary_distance(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance in mm to the nearest voxel at which labels change, float32 [D, H, W]; 0 at such a voxel."""
    changes = label_changes(mask)
    if not changes.any():
        return np.zeros(mask.shape, dtype=np.float32)
    return distance_transform_edt(~changes, sampling=spacing_mm).astype(np.float32)
