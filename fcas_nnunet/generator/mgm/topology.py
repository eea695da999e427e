"""Describe a mask class by class: volumes, pieces, tunnels, and contacts with borders and roots."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.geometry import Box, grown, triple
from fcas_nnunet.labels.components import count_tunnels, label_components
from fcas_nnunet.labels.morphology import dilate_box3

_FILLED = 0.99  # of a volume
FACES = ("first D", "last D", "first H", "last H", "first W", "last W")


@dataclass(frozen=True)
class ClassTopology:
    """One class of a mask.

    Attributes:
        num_voxels: Volume in voxels.
        components: Number of pieces by 26-connectivity (β0).
        tunnels: Number of loops and handles (β1); None where they were not counted.
        touched_faces: Faces of the volume that the class reaches.
        touched_roots: Requested labels that the class touches.
    """

    num_voxels: int
    components: int
    tunnels: int | None
    touched_faces: frozenset[str]
    touched_roots: frozenset[int] = frozenset()


def describe_mask(
    mask: np.ndarray, vessel_ids: Collection[int] = (), root_ids: Collection[int] = ()
) -> dict[int, ClassTopology]:
    """Describe each class of a mask of label ids, uint8 [D, H, W]; absent classes and the background have no entry.

    For vessels, tunnels are counted too, and the roots that they touch are listed.
    """
    boxes = class_boxes(mask)
    if not boxes:
        return {}
    heart = union_box(boxes.values())
    inside = np.ascontiguousarray(mask[heart])
    pieces, num_pieces = label_components(inside)
    label_of_piece = np.zeros(num_pieces + 1, dtype=mask.dtype)
    label_of_piece[pieces.ravel()] = inside.ravel()
    components = np.bincount(label_of_piece[1:], minlength=NUM_CODES)
    volumes = np.bincount(inside.ravel(), minlength=NUM_CODES)
    return {
        label: ClassTopology(
            num_voxels=int(volumes[label]),
            components=int(components[label]),
            tunnels=count_tunnels(mask[box] == label) if label in vessel_ids else None,
            touched_faces=_touched_faces(box, mask.shape),
            touched_roots=_touched(mask, label, box, set(root_ids) - {label}) if label in vessel_ids else frozenset(),
        )
        for label, box in boxes.items()
    }


def class_boxes(mask: np.ndarray) -> dict[int, Box]:
    """Bounding box of each label but the background."""
    return {label: box for label, box in enumerate(ndimage.find_objects(mask), start=1) if box is not None}


def fills_volume(mask: np.ndarray) -> bool:
    """Return whether labels leave hardly any background."""
    return bool(np.count_nonzero(mask) > _FILLED * mask.size)


def union_box(boxes: Iterable[Box]) -> Box:
    """The smallest box around all boxes."""
    return triple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _touched_faces(box: Box, shape: tuple[int, ...]) -> frozenset[str]:
    reaches = [end for s, size in zip(box, shape, strict=True) for end in (s.start == 0, s.stop == size)]
    return frozenset(face for face, touched in zip(FACES, reaches, strict=True) if touched)


def _touched(mask: np.ndarray, label: int, box: Box, others: Collection[int]) -> frozenset[int]:
    """The other labels that have a voxel among the 26 neighbours of a label's."""
    part = mask[grown(box)]
    if not np.isin(sorted(others), part).any():
        return frozenset()
    around = part[dilate_box3(part == label)]
    return frozenset(other for other in others if (around == other).any())
