"""Resample label maps; thin structures keep their pieces and tunnels on a coarser grid.

The nearest label skips voxels on a coarser grid, and so tears vessels that are few voxels wide. Here a thin structure
is grown anew among the coarse voxels that it passes through, by simple points alone, in the order in which it leaves
one voxel of each of its pieces: so pieces neither part, meet nor vanish, and where two branches would fuse a gap of a
voxel stays. Then it is thinned, by simple points again, to the coarse voxels that it fills most, as many as its volume.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.labels.components import absorb_specks, bounding_box, count_tunnels, label_components
from fcas_nnunet.labels.homotopy import HomotopicObject
from fcas_nnunet.labels.morphology import dilate_box3, voxel_graph

_LEVEL_VOXELS = 2.0  # growth goes along the structure in steps of this
_TINY = 1e-9  # voxels; edges closer than this count as one


@dataclass(frozen=True)
class ThinStructure:
    """A structure of a label map that must stay whole.

    Attributes:
        label: Id of its label.
        voxels: All its voxels, int [N, 3].
        piece: Number of the piece that each voxel belongs to, [N].
        neighbours: Pairs of voxels that touch, int [E, 2].
        tunnels: Number of its tunnels (β1).
    """

    label: int
    voxels: np.ndarray
    piece: np.ndarray
    neighbours: np.ndarray
    tunnels: int


def thin_structures(labels: np.ndarray, thin: Collection[int]) -> list[ThinStructure]:
    """Describe the structures of the ids `thin` that a label map [D, H, W] contains."""
    found = []
    for label in sorted(thin):
        binary = labels == label
        box = bounding_box(binary)
        if box is None:
            continue
        voxels = np.argwhere(binary)
        neighbours, graph = voxel_graph(voxels)
        piece = sparse.csgraph.connected_components(graph, directed=False)[1]
        found.append(ThinStructure(label, voxels, piece, neighbours, count_tunnels(binary[box])))
    return found


def resample_labels(labels: np.ndarray, shape: Sequence[int], thin: Collection[int] = ()) -> np.ndarray:
    """A label map, uint8 of a given shape, on another grid of the same extent: the nearest label.

    Structures of the ids `thin` keep their pieces and tunnels, and win where labels meet.
    """
    skips = any(new < old for new, old in zip(shape, labels.shape, strict=True))
    return reduce_labels(labels, shape, thin_structures(labels, thin) if skips else [])


def labels_on_grid(labels: np.ndarray, affine: np.ndarray, shape: Sequence[int], target: np.ndarray) -> np.ndarray:
    """The nearest label in the middle of each voxel of any other grid; 0 outside the label map.

    Args:
        labels: [D, H, W].
        affine: Its grid, [4, 4], array index → position in mm.
        shape: Voxels along (D, H, W) of the other grid.
        target: The other grid, [4, 4].

    Returns:
        The labels' data type.
    """
    matrix, shift = index_transform(target, affine)
    return ndimage.affine_transform(labels, matrix, shift, tuple(shape), order=0, mode="grid-constant", prefilter=False)


def index_transform(affine: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix [3, 3] and shift [3] that lead from array indices of the first grid to those of the second."""
    transform = np.linalg.inv(other) @ affine
    return transform[:3, :3], transform[:3, 3]


def reduce_labels(labels: np.ndarray, shape: Sequence[int], structures: Sequence[ThinStructure]) -> np.ndarray:
    """As `resample_labels`, for a label map whose thin structures are already known."""
    reduced = nearest_labels(labels, shape)
    if reduced.shape == labels.shape:
        return reduced
    if any(new < old for new, old in zip(shape, labels.shape, strict=True)):
        _absorb_torn_specks(labels, reduced, {structure.label for structure in structures})
    taken = np.zeros(reduced.shape, dtype=bool)
    for structure in structures:
        torn = reduced == structure.label
        if torn.any() and not torn.all():  # voxels that it does not get back go to the nearest label
            nearest = ndimage.distance_transform_edt(torn, return_distances=False, return_indices=True)
            reduced[torn] = reduced[tuple(nearest[:, torn])]
        first, whole = _reduced(structure, np.array(labels.shape), np.array(shape), taken)
        box = tuple(slice(a, a + n) for a, n in zip(first, whole.shape, strict=True))
        reduced[box][whole] = structure.label
        taken[box] |= whole
    return reduced


def nearest_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The label in the middle of each voxel of a grid of the same extent, uint8 of that shape."""
    middles = [((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(labels.shape, shape, strict=True)]
    return labels[np.ix_(*middles)].astype(np.uint8)


def _absorb_torn_specks(labels: np.ndarray, reduced: np.ndarray, whole: Collection[int]) -> None:
    """Rid the other labels of specks that sampling has torn off them, in place."""
    pieces, count = label_components(reduced)
    label_of_piece = np.zeros(count + 1, dtype=np.uint8)
    label_of_piece[pieces.ravel()] = reduced.ravel()
    counts = np.bincount(label_of_piece[1:], minlength=NUM_CODES)
    torn = [int(label) for label in np.flatnonzero(counts > 1) if label not in whole]
    boxes = ndimage.find_objects(labels) if torn else []
    for label in torn:
        before = label_components(labels[boxes[label - 1]] == label)[1]
        if before < counts[label]:
            absorb_specks(reduced, label, before)


def shares(size: int, parts: int) -> np.ndarray:
    """Weights [parts, size], float32, that average `size` voxels into `parts` equal stretches; rows sum to 1."""
    edges = np.arange(parts + 1) * (size / parts)
    lower, upper = np.arange(size), np.arange(size) + 1
    overlap = np.minimum(edges[1:, None], upper) - np.maximum(edges[:-1, None], lower)
    return (np.clip(overlap, 0, None) * (parts / size)).astype(np.float32)


def _reduced(
    structure: ThinStructure, size: np.ndarray, new_size: np.ndarray, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A structure on the coarser grid, where voxels may be taken: first voxel of a box, int [3], and bool of it."""
    step = new_size / size
    corner = np.maximum(np.floor(structure.voxels.min(axis=0) * step).astype(int) - 2, 0)
    end = np.minimum(np.ceil((structure.voxels.max(axis=0) + 1) * step).astype(int) + 2, new_size)
    free = ~taken[tuple(slice(a, b) for a, b in zip(corner, end, strict=True))]
    filled = _filled_part(structure, size, new_size, corner, end)
    roots, starts = _roots(structure, np.floor((structure.voxels + 0.5) * step).astype(int) - corner, free)
    if not starts:  # no room at all
        return corner, roots
    when = _arrival(structure, starts, step, corner, free.shape)
    domain = (np.isfinite(when) | roots) & free
    when[~np.isfinite(when)] = 0

    reduced = HomotopicObject(roots)
    reduced.grow_in_order(domain, when, _LEVEL_VOXELS)
    for _ in range(structure.tunnels - count_tunnels(reduced.binary)):
        if not (reduced.close_loop(domain, when) or reduced.close_loop(dilate_box3(domain) & free, when)):
            break
        reduced.grow(domain)
    fullest = np.argsort(-filled, axis=None, kind="stable")[: round(float(filled.sum()))]
    keep = np.zeros(filled.shape, dtype=bool)
    keep.flat[fullest] = True
    reduced.shrink(keep)
    return corner, reduced.binary


def _filled_part(
    structure: ThinStructure, size: np.ndarray, new_size: np.ndarray, corner: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """Share of each coarse voxel of the box between `corner` and `end` that the structure fills, float32."""
    low, high = structure.voxels.min(axis=0), structure.voxels.max(axis=0) + 1
    part = np.zeros(high - low, dtype=np.float32)
    part[tuple((structure.voxels - low).T)] = 1
    for axis in range(3):
        weights = shares(size[axis], new_size[axis])[corner[axis] : end[axis], low[axis] : high[axis]]
        part = np.moveaxis(np.tensordot(weights, part, axes=(1, axis)), 0, axis)
    return part


def _roots(structure: ThinStructure, places: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """A coarse voxel for each piece, none touching another's: bool of the box, and a voxel number of each piece.

    Small pieces choose first. A coarse voxel that no other piece enters is best, then the one that most
    of the piece lies in; a piece that is hemmed in takes a voxel beside it, and one without room is left out.
    """
    flat = np.ravel_multi_index(tuple(places.T), free.shape)
    all_pieces = np.bincount(flat, minlength=free.size)
    roots, open_ = np.zeros(free.shape, dtype=bool), free.copy()
    starts = []
    for piece in np.argsort(np.bincount(structure.piece), kind="stable"):
        members = np.flatnonzero(structure.piece == piece)
        cells, first, count = np.unique(flat[members], return_index=True, return_counts=True)
        best = cells[np.lexsort((-count, all_pieces[cells] - count))]
        candidates = best[open_.flat[best]]
        if not len(candidates):
            beside = np.zeros(free.shape, dtype=bool)
            beside.flat[cells] = True
            candidates = np.flatnonzero(dilate_box3(beside) & open_)
        if not len(candidates):
            continue
        chosen = np.unravel_index(candidates[0], free.shape)
        roots[chosen] = True
        open_[tuple(slice(max(i - 1, 0), i + 2) for i in chosen)] = False
        starts.append(int(members[first[cells == candidates[0]][0] if candidates[0] in cells else 0]))
    return roots, starts


def _arrival(
    structure: ThinStructure, starts: list[int], step: np.ndarray, corner: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Time at which growth from a voxel of each piece enters each coarse voxel, in coarse voxels; inf if never."""
    first, second = structure.neighbours.T
    lengths = np.linalg.norm((structure.voxels[first] - structure.voxels[second]) * step, axis=1)
    count = len(structure.voxels)
    graph = sparse.coo_matrix((lengths, (first, second)), shape=(count, count)).tocsr()
    order = sparse.csgraph.dijkstra(graph, directed=False, indices=starts, min_only=True)
    entered = np.floor(structure.voxels * step + _TINY).astype(int) - corner
    left = np.ceil((structure.voxels + 1) * step - _TINY).astype(int) - 1 - corner
    when = np.full(shape, np.inf)
    for offset in np.ndindex(*((left - entered).max(axis=0) + 1)):
        np.minimum.at(when, tuple(np.minimum(entered + offset, left).T), order)
    return when
