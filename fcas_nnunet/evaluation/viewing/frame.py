"""Turn a volume upright and crop it to the heart, as a page shows it.

Volumes are [Z, Y, X] here: z from the feet to the head, y from front to back, x from the patient's right to the left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fcas_nnunet.geometry import Triple, triple
from fcas_nnunet.orientation import Orientation

MARGIN_MM = 12.0


@dataclass(frozen=True)
class Frame:
    """Place of the shown crop in its file."""

    orientation: Orientation  # turns of the file's axes until they run along z, y and x
    starts: Triple[int]  # first voxel of the crop along (Z, Y, X), counted after turning
    sizes: Triple[int]  # voxels of the crop along (Z, Y, X)
    full: Triple[int]  # voxels of the whole file along (Z, Y, X)
    spacing_mm: Triple[float]  # voxel size of the file along (Z, Y, X)

    @property
    def extent_mm(self) -> Triple[float]:
        """Edges of the crop along (Z, Y, X)."""
        return triple(n * s for n, s in zip(self.sizes, self.spacing_mm, strict=True))

    def upright(self, volume: np.ndarray) -> np.ndarray:
        """The crop of a volume of the file [D, H, W], turned: a view [Z, Y, X]."""
        box = tuple(slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True))
        return self.orientation.turn(volume)[box]

    def reduced_shape(self, longest: int) -> Triple[int]:
        """Voxels along (Z, Y, X) when the longest side has at most `longest`; an axis is never refined."""
        voxel_mm = max(self.extent_mm) / longest
        sides = zip(self.sizes, self.spacing_mm, strict=True)
        return triple(min(n, max(1, round(n * s / max(voxel_mm, s)))) for n, s in sides)

    def even_shape(self, voxels: int) -> Triple[int]:
        """At most `voxels` voxels along (Z, Y, X), of about one edge along all axes, no finer than the finest axis."""
        edge_mm = max(min(self.spacing_mm), (math.prod(self.extent_mm) / voxels) ** (1 / 3))
        return triple(max(1, math.floor(mm / edge_mm + 1e-6)) for mm in self.extent_mm)

    def spacing_at(self, shape: Triple[int]) -> Triple[float]:
        """Edges in mm of the voxels along (Z, Y, X) when the crop is shown in this shape."""
        return triple(mm / n for mm, n in zip(self.extent_mm, shape, strict=True))


def frame_of(mask: np.ndarray, affine: np.ndarray, margin_mm: float = MARGIN_MM) -> Frame:
    """Find the crop around the labelled voxels (the whole volume where none is), turned upright.

    Args:
        mask: Label ids [D, H, W].
        affine: [4, 4], array index (d, h, w, 1) → LPS mm.
        margin_mm: Margin on each side of the labelled voxels.
    """
    orientation = Orientation.of(affine)
    spacing_mm, upright = orientation.spacing_mm(affine), orientation.turn(mask)
    box = []
    for axis, size in enumerate(upright.shape):
        shown = np.flatnonzero(upright.any(axis=tuple({0, 1, 2} - {axis})))
        margin = math.ceil(margin_mm / spacing_mm[axis])
        first, last = (int(shown[0]), int(shown[-1])) if shown.size else (0, size - 1)
        start = max(0, first - margin)
        box.append((start, min(size, last + 1 + margin) - start, size))
    starts, sizes, full = zip(*box, strict=True)
    return Frame(orientation, starts, sizes, full, spacing_mm)
