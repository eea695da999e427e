"""Count pieces and tunnels of a binary volume, and absorb small pieces."""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np
from scipy import ndimage
from skimage.measure import euler_number

from fcas_nnunet.geometry import Box, grown, triple
from fcas_nnunet.labels.morphology import dilate_box3

_SPECK_PART = 0.005  # share of a class's volume


def label_components(array: np.ndarray, connectivity: Literal[6, 26] = 26) -> tuple[np.ndarray, int]:
    """Number the pieces of equal, non-zero value.

    Returns:
        Piece numbers from 1, [D, H, W], 0 where the array is 0; and how many there are.
    """
    # cc3d 4.1.1 sizes its table of pieces too small for slender arrays; a rim of zeros keeps it right
    pieces, count = cc3d.connected_components(np.pad(array, 1), connectivity=connectivity, return_N=True)
    return pieces[1:-1, 1:-1, 1:-1], count


def bounding_box(binary: np.ndarray) -> Box | None:
    """The smallest box around an object; None where there is none."""
    boxes = ndimage.find_objects(binary.view(np.uint8))
    return triple(boxes[0]) if boxes else None


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

    Such pieces remain where sampling or the border cuts a corner off, or where another class occupies a joint. The
    `num_components` largest pieces stay.
    """
    box = bounding_box(labels == label)
    if box is None:
        return
    part = labels[grown(box)]
    pieces, _ = label_components(part == label)
    sizes = np.bincount(pieces.ravel())
    boxes = ndimage.find_objects(pieces)
    for piece in 1 + np.argsort(-sizes[1:], kind="stable")[num_components:]:
        if sizes[piece] <= _SPECK_PART * sizes[1:].sum():
            around = grown(boxes[piece - 1])
            speck, near = pieces[around] == piece, part[around]
            near[speck] = np.bincount(near[dilate_box3(speck) & (near != label)]).argmax()
