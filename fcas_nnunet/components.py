"""Pieces and tunnels of a binary volume: what topology is counted by, wherever masks are made or judged."""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np
from skimage.measure import euler_number


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
