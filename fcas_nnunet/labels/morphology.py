"""Binary morphology with small boxes, separable in numpy; contacts of voxels and of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

_NEIGHBOUR_REACH = 1.8  # √3 and a little

Voxels = TypeVar("Voxels")  # a NumPy array or a PyTorch tensor


def voxel_graph(
    voxels: np.ndarray, spacing_mm: Sequence[float] | np.ndarray = (1.0, 1.0, 1.0)
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Find the voxels of a list, int [N, 3], that touch by a face, an edge or a corner.

    Returns:
        Index pairs of touching voxels, int [E, 2]; and their distances in mm as a sparse matrix [N, N], each pair once.
    """
    pairs = cKDTree(voxels).query_pairs(_NEIGHBOUR_REACH, output_type="ndarray")
    lengths = np.linalg.norm((voxels[pairs[:, 0]] - voxels[pairs[:, 1]]) * np.array(spacing_mm), axis=1)
    return pairs, sparse.coo_matrix((lengths, tuple(pairs.T)), shape=(len(voxels), len(voxels))).tocsr()


def label_changes(labels: Voxels) -> Voxels:
    """Voxels with a face neighbour of another label, bool [D, H, W]."""
    array: Any = labels
    changes = array != array
    for axis in range(array.ndim):
        lower, upper = ((slice(None),) * axis + (run,) for run in (slice(None, -1), slice(1, None)))
        differs = array[lower] != array[upper]
        changes[lower] |= differs
        changes[upper] |= differs
    return changes


def close_box2(binary: np.ndarray) -> np.ndarray:
    """Close with a box of 2³: a max-pool of kernel 2 and stride 1, then the min-pool that undoes its growth.

    The paper's Eq. 6 names the max-pool alone, which would thicken every class by a voxel and shift it by half a one.

    The outside counts as empty for the dilation and as full for the erosion.
    """
    grown = binary
    for axis in range(3):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        grown = _window(np.pad(grown, pad), axis, 2, np.logical_or)  # one voxel longer than the input
    for axis in range(3):
        grown = _window(grown, axis, 2, np.logical_and)
    return grown


def erode_box3(binary: np.ndarray) -> np.ndarray:
    """Erode with a box of 3³: the centres of full 3 x 3 x 3 blocks; outside counts as empty."""
    return _combine_box3(binary, np.logical_and)


def dilate_box3(binary: np.ndarray) -> np.ndarray:
    """Dilate with a box of 3³, to all 26 neighbours."""
    return _combine_box3(binary, np.logical_or)


def _combine_box3(binary: np.ndarray, combine: np.ufunc) -> np.ndarray:
    combined = np.pad(binary, 1)
    for axis in range(3):
        combined = _window(combined, axis, 3, combine)
    return combined


def loose_pairs(binary: np.ndarray, offset: tuple[int, int, int]) -> np.ndarray:
    """Voxels whose neighbour at `offset` is set too, with no full 3 x 3 x 3 block that holds them both together.

    The offset is -1, 0 or 1 along each axis; outside counts as empty. True at the pair's first voxel.
    """
    neighbour = np.pad(binary, 1)
    block_centres = np.pad(erode_box3(binary), 1)
    for axis, step in enumerate(offset):
        length = binary.shape[axis]
        neighbour = neighbour[(slice(None),) * axis + (slice(1 + step, 1 + step + length),)]
        reach = slice(max(step, 0), length + 2 + min(step, 0))  # centres within one voxel of both
        block_centres = _window(block_centres[(slice(None),) * axis + (reach,)], axis, 3 - abs(step), np.logical_or)
    return binary & neighbour & ~block_centres


def _window(array: np.ndarray, axis: int, size: int, combine: np.ufunc) -> np.ndarray:
    """Combine each run of `size` voxels along an axis; the result is `size` - 1 shorter."""
    length = array.shape[axis] - size + 1
    runs = [array[(slice(None),) * axis + (slice(start, start + length),)] for start in range(size)]
    result = combine(runs[0], runs[1])
    for run in runs[2:]:
        combine(result, run, out=result)
    return result
