"""What a mask is made of, class by class, and whether a deformed mask is still made of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import euler_number

from fcas_nnunet.generator.mask_config import MaskConfig
from fcas_nnunet.generator.morphology import close_box2, label_components

Box = tuple[slice, slice, slice]

FACES = ("first D", "last D", "first H", "last H", "first W", "last W")


@dataclass(frozen=True)
class ClassTopology:
    """One class of a mask.

    Attributes:
        num_voxels: its volume.
        components: β0, pieces that touch by a face, an edge or a corner (26-connectivity).
        tunnels: β1, loops and handles wider than a voxel; None where it was not asked for.
        touched_faces: the volume's faces it reaches.
    """

    num_voxels: int
    components: int
    tunnels: int | None
    touched_faces: frozenset[str]


def describe_mask(mask: np.ndarray, thin_ids: Collection[int] = ()) -> dict[int, ClassTopology]:
    """Describe each class of a mask.

    Args:
        mask: label ids, uint8 [D, H, W].
        thin_ids: classes whose tunnels are counted too.

    Returns:
        label id → its topology; absent classes and the background have no entry.
    """
    boxes = class_boxes(mask)
    if not boxes:
        return {}
    heart = union_box(boxes.values())
    inside = np.ascontiguousarray(mask[heart])
    pieces, num_pieces = label_components(inside)
    label_of_piece = np.zeros(num_pieces + 1, dtype=mask.dtype)
    label_of_piece[pieces.ravel()] = inside.ravel()
    components = np.bincount(label_of_piece[1:], minlength=256)
    volumes = np.bincount(inside.ravel(), minlength=256)
    return {
        label: ClassTopology(
            num_voxels=int(volumes[label]),
            components=int(components[label]),
            tunnels=count_tunnels(close_box2(mask[box] == label)) if label in thin_ids else None,
            touched_faces=_touched_faces(box, mask.shape),
        )
        for label, box in boxes.items()
    }


def topology_faults(
    source: dict[int, ClassTopology], candidate: dict[int, ClassTopology], config: MaskConfig
) -> list[str]:
    """What a deformed mask lost or gained against its source.

    Args:
        source: `describe_mask` of the source.
        candidate: `describe_mask` of the deformed mask.
        config: bounds of the volume and of the tunnels.

    Returns:
        One sentence per fault; empty when the mask is good.
    """
    faults = []
    low, high = config.volume_ratio_range
    for label, before in source.items():
        after = candidate.get(label)
        if after is None:
            faults.append(f"class {label} vanished")
            continue
        if after.components != before.components:
            faults.append(f"class {label} has {after.components} components, its source {before.components}")
        if before.tunnels is not None and after.tunnels is not None:
            if abs(after.tunnels - before.tunnels) > config.max_tunnel_change:
                faults.append(f"class {label} has {after.tunnels} tunnels, its source {before.tunnels}")
        cut = sorted(after.touched_faces - before.touched_faces)
        if cut:
            faults.append(f"class {label} is newly cut by the border at {', '.join(cut)}")
        ratio = after.num_voxels / before.num_voxels
        if not low <= ratio <= high:
            faults.append(f"class {label} has {ratio:.2f} of its source's volume, outside [{low}, {high}]")
    faults += [f"class {label} is not in the source" for label in sorted(candidate.keys() - source.keys())]
    return faults


def class_boxes(mask: np.ndarray) -> dict[int, Box]:
    """Bounding box of each label but the background."""
    return {label: box for label, box in enumerate(ndimage.find_objects(mask), start=1) if box is not None}


def union_box(boxes: Iterable[Box]) -> Box:
    """The smallest box around all boxes."""
    d, h, w = (slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))
    return d, h, w


def count_tunnels(binary: np.ndarray) -> int:
    """β1 = β0 + β2 - χ, foreground by 26 and background by 6 neighbours; β2 counts closed cavities."""
    padded = np.pad(binary, 1)
    _, components = label_components(padded)
    _, num_background = label_components(~padded, connectivity=6)
    return int(components + (num_background - 1) - euler_number(padded, connectivity=3))


def _touched_faces(box: Box, shape: tuple[int, ...]) -> frozenset[str]:
    reaches = [end for s, size in zip(box, shape, strict=True) for end in (s.start == 0, s.stop == size)]
    return frozenset(face for face, touched in zip(FACES, reaches, strict=True) if touched)
