"""Pack a scan small enough for the report: crop it to the heart, average it down, store it as pictures.

Volumes are [Z, Y, X] here: z from the feet to the head, y from front to back, x from the patient's right to the left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcas_nnunet.evaluation.viewing.atlas import Atlas, GreyScale, atlas_of
from fcas_nnunet.evaluation.viewing.colours import window_of
from fcas_nnunet.evaluation.viewing.frame import Frame, frame_of
from fcas_nnunet.geometry import Triple
from fcas_nnunet.intensities import CT_UNIT
from fcas_nnunet.labels.resampling import ThinStructure, reduce_labels, shares, thin_structures

#: Of CT: fine steps (4.2 units) where hearts and contrast lie.
GREYS = GreyScale(knots=(-1024.0, -200.0, 600.0, 2000.0), values=(0.0, 32.0, 224.0, 255.0))
#: Of other modalities: fine steps (6.2 units) within three standard deviations below the mean and four above.
OTHER_GREYS = GreyScale(knots=(-1024.0, -600.0, 800.0, 2000.0), values=(0.0, 12.0, 236.0, 255.0))
#: (longest side in voxels, WebP quality), finest first; quality 0 = PNG, without loss.
LADDER = ((160, 0), (160, 85), (160, 75), (144, 75), (128, 75), (112, 70), (96, 65), (80, 60), (64, 50), (48, 40))
_PROBED = 8  # step between the slices that predict the size of a volume


@dataclass(frozen=True)
class PackedScan:
    """A scan as the page stores it."""

    frame: Frame  # place of the crop in its file
    window: tuple[float, float]  # low and high of the window to show it in
    shape: Triple[int]  # reduced voxels along (Z, Y, X)
    quality: int  # WebP quality of image and confidence; 0 = without loss
    label_step: int  # the mask's atlas holds id × step
    image: Atlas  # grey values
    mask: Atlas  # stored without loss
    confidence: Atlas | None  # confidence × 255, or nothing

    @property
    def num_bytes(self) -> int:
        """Of the three atlases."""
        return sum(len(atlas.data) for atlas in (self.image, self.mask, self.confidence) if atlas)

    def to_json(self) -> dict[str, Any]:
        """Fields that the page's script reads."""
        return {
            "shape": self.shape, "labelStep": self.label_step, "quality": self.quality,
            "axes": self.frame.orientation.axes, "flips": self.frame.orientation.flips, "starts": self.frame.starts,
            "sizes": self.frame.sizes, "full": self.frame.full, "spacing": self.frame.spacing_mm,
            "tilt": round(self.frame.orientation.tilt_degrees, 1),
            "atlases": {
                name: atlas.layout | {"base64": atlas.base64}
                for name, atlas in (("grey", self.image), ("mask", self.mask), ("confidence", self.confidence)) if atlas
            },
        }  # fmt: skip


def grey_scale(unit: str) -> GreyScale:
    """How the page stores the grey values of scans of a unit."""
    return GREYS if unit == CT_UNIT else OTHER_GREYS


def average_down(volume: np.ndarray, shape: Triple[int]) -> Iterator[np.ndarray]:
    """Average a volume over every reduced voxel, with voxels weighted by the part inside; a slice at a time.

    Args:
        volume: Volume [Z, Y, X], any type.
        shape: Reduced shape, not finer than the volume along any axis.

    Yields:
        Slices [shape[1], shape[2]], float32; the volume's values where the shape is unchanged.
    """
    along_z, along_y, along_x = (shares(n, m) for n, m in zip(volume.shape, shape, strict=True))
    for weights in along_z:
        inside = np.flatnonzero(weights)
        merged = np.zeros(volume.shape[1:], dtype=np.float32)
        for index in inside:
            merged += weights[index] * volume[index].astype(np.float32)
        in_rows = merged if shape[1] == volume.shape[1] else along_y @ merged
        yield in_rows if shape[2] == volume.shape[2] else in_rows @ along_x.T


def pack_scan(
    image: np.ndarray,
    mask: np.ndarray,
    confidence: np.ndarray | None,
    affine: np.ndarray,
    *,
    budget: int,
    thin: Collection[int] = (),
    unit: str = CT_UNIT,
) -> PackedScan:
    """Reduce a scan until its atlases take at most `budget` bytes.

    Args:
        image: Standard units [D, H, W].
        mask: Label ids, the same grid.
        confidence: Confidence in [0, 1], the same grid; None for a real scan.
        affine: [4, 4], array index (d, h, w, 1) → LPS mm.
        budget: Bytes; the coarsest rung of `LADDER` is taken where even that is larger.
        thin: Ids of thin structures.
        unit: Name of the image's unit (`unit_name`), which decides grey values and window.
    """
    greys = grey_scale(unit)
    frame = frame_of(mask, affine)
    image, mask = frame.upright(image), frame.upright(mask)
    confidence = None if confidence is None else frame.upright(confidence)
    structures = thin_structures(mask, thin)
    for rung, (longest, quality) in enumerate(LADDER):
        last = rung == len(LADDER) - 1
        shape = frame.reduced_shape(longest)
        if not last and _too_large(image, greys, shape, quality, budget):
            continue
        packed = _pack(frame, image, greys, mask, confidence, shape, quality, structures, window_of(image, unit))
        if last or packed.num_bytes <= budget:
            return packed
    raise AssertionError("the last rung is always taken")


def _pack(
    frame: Frame, image: np.ndarray, greys: GreyScale, mask: np.ndarray, confidence: np.ndarray | None,
    shape: Triple[int], quality: int, thin: Sequence[ThinStructure], window: tuple[float, float],
) -> PackedScan:  # fmt: skip
    grey = np.stack([greys.codes(part) for part in average_down(image, shape)])
    labels = reduce_labels(mask, shape, thin)
    step = 255 // max(1, int(labels.max(initial=0)))
    trust = None
    if confidence is not None:
        trust = np.stack([np.rint(255 * np.clip(p, 0, 1)).astype(np.uint8) for p in average_down(confidence, shape)])
    return PackedScan(
        frame, window, shape, quality, step, atlas_of(grey, quality), atlas_of(labels * np.uint8(step)),
        None if trust is None else atlas_of(trust, quality),
    )  # fmt: skip


def _too_large(image: np.ndarray, greys: GreyScale, shape: Triple[int], quality: int, budget: int) -> bool:
    """Return whether the image alone exceeds the budget, predicted from some of its slices."""
    if shape[0] < 4 * _PROBED:
        return False
    coarse = image[:: max(1, image.shape[0] // (shape[0] // _PROBED))]
    slices = np.stack([greys.codes(p) for p in average_down(coarse, (min(len(coarse), shape[0]), *shape[1:]))])
    return len(atlas_of(slices, quality).data) * shape[0] / len(slices) > budget
