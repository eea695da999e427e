"""Changing a binary object voxel by voxel without changing its topology: simple points, thinning, ordered growth.

A voxel is simple if adding or removing it changes neither the object's pieces, tunnels nor cavities; its 26 neighbours
decide that. However simple voxels are added and removed, β0, β1 and β2 (object by 26, background by 6 neighbours) stay.

Source: Bertrand and Malandain, "A new characterization of three-dimensional simple points", 1994. Voxels of equal
parity along all axes are never neighbours, so all simple ones among them may be changed at once (eight subfields).
"""

from __future__ import annotations

import numpy as np

from fcas_nnunet.labels.components import label_components

_OFFSETS = np.array(list(np.ndindex(3, 3, 3))) - 1
_AROUND = np.arange(27) != 13  # all but the middle
_STEPS = np.abs(_OFFSETS).sum(axis=1)
_FACES = _STEPS == 1
_NEAR_18 = (_STEPS == 1) | (_STEPS == 2)
_BETWEEN = np.abs(_OFFSETS[:, None] - _OFFSETS[None])
_ADJACENT_26 = ((_BETWEEN.max(axis=-1) == 1) & _AROUND & _AROUND[:, None]).astype(np.float32)
_ADJACENT_6 = ((_BETWEEN.sum(axis=-1) == 1) & _NEAR_18 & _NEAR_18[:, None]).astype(np.float32)


class HomotopicObject:
    """A binary object, bool [D, H, W], that is changed by simple points alone; outside counts as empty."""

    def __init__(self, binary: np.ndarray) -> None:
        self._padded = np.pad(binary, 2)  # candidates may lie on the rim of 1, whose neighbours must exist
        self._flat = self._padded.reshape(-1)
        self._strides = np.array([self._padded.shape[1] * self._padded.shape[2], self._padded.shape[2], 1])
        self._around = _OFFSETS @ self._strides

    @property
    def binary(self) -> np.ndarray:
        """The object as it is now, bool [D, H, W]."""
        return self._padded[2:-2, 2:-2, 2:-2]

    def grow(self, domain: np.ndarray) -> None:
        """Add simple voxels of `domain`, bool [D, H, W], nearest first, until none is left.

        Where two parts of the object would meet and close a loop that was not there, a gap of a voxel stays.
        """
        allowed = np.pad(domain, 2).reshape(-1)
        self._spread(np.flatnonzero(allowed & ~self._flat), allowed)

    def grow_in_order(self, domain: np.ndarray, when: np.ndarray, step: float) -> None:
        """Grow, but take a voxel only when its time has come, so that a branch grows from its own stem.

        Args:
            domain: Where the object may grow, bool [D, H, W].
            when: Time of each voxel of the domain, from 0, [D, H, W].
            step: Length of a step of time; voxels of one step are taken together.
        """
        where = np.flatnonzero(np.pad(domain, 2))
        level = (np.pad(when, 2).reshape(-1)[where] // step).astype(np.int64)
        allowed = np.zeros(self._flat.shape, dtype=bool)
        order = np.argsort(level, kind="stable")
        for group in np.split(where[order], np.flatnonzero(np.diff(level[order])) + 1):
            allowed[group] = True
            self._spread(group[~self._flat[group]], allowed)

    def close_loop(self, domain: np.ndarray, when: np.ndarray) -> bool:
        """Add one voxel of the domain that joins two parts of one piece, and so makes one tunnel.

        Args:
            domain: Voxels that may be added, bool [D, H, W].
            when: Times of growth [D, H, W]; voxels whose two parts were reached at the most similar times are tried
                first, since the two ways round a loop meet there.

        Returns:
            True if there was such a voxel.
        """
        outside = np.flatnonzero(np.pad(domain, 2).reshape(-1) & ~self._flat)
        neighbours = outside[:, None] + self._around
        several = self._flat[neighbours].sum(axis=1) >= 2
        outside, neighbours = outside[several], neighbours[several]
        time = np.pad(when, 2).reshape(-1)[neighbours]
        inside = self._flat[neighbours]
        last = np.where(inside, time, -np.inf).max(axis=1, initial=0)
        spread = last - np.where(inside, time, np.inf).min(axis=1, initial=np.inf)
        has_one_background = _has_one_background(inside)
        pieces = np.pad(label_components(self.binary)[0], 2).reshape(-1)
        for index in np.argsort(spread, kind="stable"):
            around = inside[index].reshape(3, 3, 3)
            touched = np.unique(pieces[neighbours[index]])
            if label_components(around)[1] == 2 and (touched > 0).sum() == 1 and has_one_background[index]:
                self._flat[outside[index]] = True
                return True
        return False

    def shrink(self, keep: np.ndarray, *, keep_ends: bool = True) -> None:
        """Remove simple voxels outside `keep`, bool [D, H, W], layer by layer, until none is left.

        With `keep_ends`, voxels with a single neighbour stay, so that branches keep their length.
        """
        free = ~np.pad(keep, 2).reshape(-1)
        while True:
            inside = np.flatnonzero(self._flat & free)
            faces = self._around[_FACES]
            border = inside[~self._flat[inside[:, None] + faces].all(axis=1)]
            removed = sum(len(self._flip(border, keep_ends=keep_ends, face=face)) for face in faces)
            if not removed:
                return

    def trim(self, distance: np.ndarray, count: int) -> None:
        """Remove up to `count` simple voxels, but no end of a branch: the largest `distance` first."""
        distance = np.pad(distance, 2).reshape(-1)
        while count > 0:
            inside = np.flatnonzero(self._flat)
            neighbourhood = self._flat[inside[:, None] + self._around]
            free = inside[is_simple(neighbourhood) & (neighbourhood[:, _AROUND].sum(axis=1) > 1)]
            chosen = free[np.argsort(-distance[free], kind="stable")[:count]]
            removed = len(self._flip(chosen, keep_ends=True))
            if not removed:
                return
            count -= removed

    def _spread(self, candidates: np.ndarray, allowed: np.ndarray) -> None:
        """Add the candidates that are simple, then allowed voxels around them, until none is left; flat indices."""
        while len(candidates):
            front = self._flip(candidates, keep_ends=False)
            reached = (front[:, None] + self._around).ravel()
            candidates = np.unique(reached[allowed[reached] & ~self._flat[reached]])

    def _flip(self, candidates: np.ndarray, *, keep_ends: bool, face: int | None = None) -> np.ndarray:
        """Change those of the candidates (flat indices) that are simple, subfield by subfield, and return them.

        With `face`, only candidates whose neighbour at this flat step is empty when their turn comes.
        """
        parity = sum(((candidates // stride) % size % 2) << axis for axis, (stride, size) in enumerate(
            zip(self._strides, self._padded.shape, strict=True)))  # fmt: skip
        changed = []
        for subfield in range(8):
            voxels = candidates[parity == subfield]
            if face is not None:
                voxels = voxels[self._flat[voxels] & ~self._flat[voxels + face]]
            if not len(voxels):
                continue
            neighbourhood = self._flat[voxels[:, None] + self._around]
            chosen = is_simple(neighbourhood)
            if keep_ends:
                chosen &= neighbourhood[:, _AROUND].sum(axis=1) > 1
            self._flat[voxels[chosen]] ^= True
            changed.append(voxels[chosen])
        return np.concatenate(changed) if changed else candidates[:0]


def is_simple(neighbourhood: np.ndarray) -> np.ndarray:
    """True where the middle voxel of a neighbourhood can be added or removed without a change of topology.

    Args:
        neighbourhood: Blocks of 3 x 3 x 3 voxels in C order, bool [N, 27]; the middle one does not matter.

    Returns:
        bool [N].
    """
    codes = neighbourhood[:, _AROUND] @ (1 << np.arange(26))
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)  # far fewer patterns than voxels
    pattern = neighbourhood[first]
    obj = pattern & _AROUND
    simple: np.ndarray = _is_one_piece(obj, obj, _ADJACENT_26) & _has_one_background(pattern)
    return simple[inverse]


def skeleton(binary: np.ndarray) -> np.ndarray:
    """Thin an object, bool [D, H, W], to curves, and surfaces around cavities; topology and branches' ends stay."""
    thinned = HomotopicObject(binary)
    thinned.shrink(np.zeros(binary.shape, dtype=bool))
    return thinned.binary


def _has_one_background(neighbourhood: np.ndarray) -> np.ndarray:
    """True where the empty face neighbours of the middle voxel are connected, bool [N]; neighbourhoods [N, 27]."""
    empty = ~neighbourhood & _NEAR_18
    return _is_one_piece(empty, empty & _FACES, _ADJACENT_6)


def _is_one_piece(members: np.ndarray, targets: np.ndarray, adjacency: np.ndarray) -> np.ndarray:
    """True where targets exist and paths through members connect them all, bool [N]; all arguments [N, 27]."""
    reached = np.zeros(members.shape, dtype=bool)
    rows = np.flatnonzero(targets.any(axis=1))
    reached[rows, targets[rows].argmax(axis=1)] = True
    while True:
        grown = reached | ((reached.astype(np.float32) @ adjacency > 0) & members)
        if (grown == reached).all():
            break
        reached = grown
    missed = (targets & ~reached).any(axis=1)
    return np.asarray(targets.any(axis=1) & ~missed)
