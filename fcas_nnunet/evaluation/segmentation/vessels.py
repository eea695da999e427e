"""Measure how well a segmentation preserves a vessel tree: its centreline (clDice), its pieces and its loops."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from fcas_nnunet.labels.components import bounding_box, count_pieces_and_tunnels, label_components


@dataclass(frozen=True)
class TopologyErrors:
    """Differences of Betti numbers, |prediction − reference|; NaN where both masks are empty."""

    pieces: float  # difference of β0, pieces (26-connected)
    tunnels: float  # difference of β1, loops and handles


def centreline_dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """clDice: the share of each mask's skeleton that lies in the other mask, as a harmonic mean.

    Args:
        reference: bool [D, H, W], Q.
        prediction: bool [D, H, W], P.

    Returns:
        In [0, 1]; NaN where both are empty, 0 where one is.

    Source: Shit et al., CVPR 2021, arXiv 2003.07311.
    """
    if not reference.any() and not prediction.any():
        return math.nan
    if not reference.any() or not prediction.any():
        return 0.0
    precision = reference[skeleton(prediction)].mean()
    sensitivity = prediction[skeleton(reference)].mean()
    total = precision + sensitivity
    return float(2 * precision * sensitivity / total) if total else 0.0


def skeleton(mask: np.ndarray) -> np.ndarray:
    """Find the centrelines of a mask, in every one of its pieces.

    scikit-image leaves nothing of straight tubes of even width (its issue #3757). Such pieces are grown by one voxel
    along D, H and W, which makes their width odd, and the line that is then found within the piece is taken; where
    even that leaves nothing, the voxel in its middle is.

    Args:
        mask: bool [D, H, W].

    Returns:
        bool [D, H, W].
    """
    box = bounding_box(mask)
    lines = np.zeros_like(mask)
    if box is None:
        return lines
    inside = mask[box]
    lines[box] = _thinned(inside)
    pieces, count = label_components(inside)
    kept = np.zeros(count + 1, dtype=bool)
    kept[pieces[lines[box]]] = True
    boxes = ndimage.find_objects(pieces)
    for number in np.flatnonzero(~kept[1:]) + 1:
        part = boxes[number - 1]
        lines[box][part] |= _line_of_lost_piece(pieces[part] == number)
    return lines


def topology_errors(reference: np.ndarray, prediction: np.ndarray) -> TopologyErrors:
    """Errors of the numbers of pieces and tunnels of bool masks [D, H, W]."""
    if not reference.any() and not prediction.any():
        return TopologyErrors(math.nan, math.nan)
    (q_pieces, q_tunnels), (p_pieces, p_tunnels) = (betti_numbers(mask) for mask in (reference, prediction))
    return TopologyErrors(abs(p_pieces - q_pieces), abs(p_tunnels - q_tunnels))


def betti_numbers(mask: np.ndarray) -> tuple[int, int]:
    """β0 and β1 of a bool mask [D, H, W], foreground by 26 and background by 6 neighbours."""
    box = bounding_box(mask)
    return (0, 0) if box is None else count_pieces_and_tunnels(np.ascontiguousarray(mask[box]))


def _thinned(mask: np.ndarray) -> np.ndarray:
    return np.asarray(skeletonize(np.pad(mask, 1)), dtype=bool)[1:-1, 1:-1, 1:-1]


def _line_of_lost_piece(piece: np.ndarray) -> np.ndarray:
    padded = np.pad(piece, 2)
    grown = ndimage.binary_dilation(padded, np.ones((2, 2, 2), dtype=bool), origin=-1)
    line = (_thinned(grown) & padded)[2:-2, 2:-2, 2:-2]
    if not line.any():
        voxels = np.argwhere(piece)
        middle = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
        line[tuple(middle)] = True
    return line
