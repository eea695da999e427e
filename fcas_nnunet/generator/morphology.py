"""Binary morphology with small boxes, in numpy: separable, a few passes over the array each."""

from __future__ import annotations

import numpy as np


def close_box2(binary: np.ndarray) -> np.ndarray:
    """Close with a box of 2³: a max-pool of kernel 2 and stride 1, then the min-pool that undoes its growth.

    The paper's Eq. 6 names the max-pool alone, which would thicken every class by a voxel and shift it by half a one.

    Args:
        binary: bool [D, H, W]; what lies outside counts as empty for the dilation and as full for the erosion.

    Returns:
        bool [D, H, W], a superset of `binary`.
    """
    grown = binary
    for axis in range(3):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(grown, pad)
        grown = _window(padded, axis, 2, np.logical_or)  # one voxel longer than the input
    for axis in range(3):
        grown = _window(grown, axis, 2, np.logical_and)
    return grown


def open_box3(binary: np.ndarray) -> np.ndarray:
    """Open with a box of 3³: the voxels that some full 3 x 3 x 3 block covers; outside counts as empty."""
    return dilate_box3(erode_box3(binary))


def erode_box3(binary: np.ndarray) -> np.ndarray:
    """Erode with a box of 3³: the centres of full 3 x 3 x 3 blocks; outside counts as empty."""
    shrunk = np.pad(binary, 1)
    for axis in range(3):
        shrunk = _window(shrunk, axis, 3, np.logical_and)
    return shrunk


def dilate_box3(binary: np.ndarray) -> np.ndarray:
    """Dilate with a box of 3³, to all 26 neighbours."""
    grown = np.pad(binary, 1)
    for axis in range(3):
        grown = _window(grown, axis, 3, np.logical_or)
    return grown


def _window(array: np.ndarray, axis: int, size: int, combine: np.ufunc) -> np.ndarray:
    """Combine each run of `size` voxels along an axis; the result is `size` - 1 shorter."""
    length = array.shape[axis] - size + 1
    runs = [array[(slice(None),) * axis + (slice(start, start + length),)] for start in range(size)]
    result = combine(runs[0], runs[1])
    for run in runs[2:]:
        combine(result, run, out=result)
    return result
