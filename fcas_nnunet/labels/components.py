"""Pieces and tunnels of a binary volume: what topology is counted by, wherever masks are made or judged."""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np
from scipy import ndimage
from skimage.measure import euler_number

from fcas_nnunet.labels.morphology import dilate_box3

_SPECK_PART = 0.005  # of a class's volume


def label_components(array: np.ndarray, connectivity: Literal[6, 26] = 26) -> tuple[np.ndarray, int]:
    """Number the pieces of equal, non-zero value.

    cc3d sizes its table of pieces too small for slender arrays ("maximum length exception" for four lone voxels in a
    row, version 4.1.1); a rim of zeros keeps it right.

    Args:
        array: bool or label ids, [D, H, W].
        connectivity: 26 (faces, edges and corners) or 6 (faces).

    Returns:
        Piece numbers from 1, 0 where the array is 0, its shape; and how many there are.
    """
    pieces, count = cc3d.connected_components(np.pad(array, 1), connectivity=connectivity, return_N=True)
    return pieces[1:-1, 1:-1, 1:-1], count


def count_tunnels(binary: np.ndarray) -> int:
    """β1, the number of loops and handles; see `count_pieces_and_tunnels`."""
    return count_pieces_and_tunnels(binary)[1]


def count_pieces_and_tunnels(binary: np.ndarray) -> tuple[int, int]:
    """β0, and β1 = β0 + β2 - χ, foreground by 26 and background by 6 neighbours; β2 counts closed cavities."""
    padded = np.pad(binary, 1)
    _, components = label_components(padded)
    _, num_background = label_components(~padded, connectivity=6)
    tunnels = components + (num_background - 1) - euler_number(padded, connectivity=3)
    return int(components), int(tunnels)


def absorb_specks(labels: np.ndarray, label: int, num_components: int) -> None:
    """Give a class's tiny surplus pieces to what surrounds them most, in place.

    They are left where sampling or the border cuts a corner off, or where another class holds the place of a joint.

    Args:
        labels: ids, uint8 [D, H, W].
        label: the class.
        num_components: how many pieces it is to have; the largest stay.
    """
    d, h, w = next(iter(ndimage.find_objects((labels == label).view(np.uint8))), None) or (slice(0, 0),) * 3
    part = labels[max(d.start - 1, 0) : d.stop + 1, max(h.start - 1, 0) : h.stop + 1, max(w.start - 1, 0) : w.stop + 1]
    pieces, _ = label_components(part == label)
    sizes = np.bincount(pieces.ravel())
    surplus = 1 + np.argsort(-sizes[1:], kind="stable")[num_components:]
    for piece in surplus:
        if sizes[piece] > _SPECK_PART * sizes[1:].sum():
            continue
        voxels = np.argwhere(pieces == piece)
        around = tuple(slice(max(a - 1, 0), b + 2) for a, b in zip(voxels.min(axis=0), voxels.max(axis=0), strict=True))
        rim = dilate_box3(pieces[around] == piece) & (part[around] != label)
        part[tuple(voxels.T)] = np.bincount(part[around][rim]).argmax()
