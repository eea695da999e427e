"""A scan small enough for a page: turned upright, cropped to the heart, averaged down to few voxels, packed as images.

Volumes are [Z, Y, X] here: z from the feet to the head, y from front to back, x from the patient's right to the left.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fcas_nnunet.case import spacing_of
from fcas_nnunet.labels.resampling import ThinStructure, reduce_labels, shares, thin_structures
from fcas_nnunet.orientation import Orientation

#: HU ↔ grey value of the page, linear in between: fine steps (4.2 HU) where hearts and contrast lie.
GREY_HU = (-1024.0, -200.0, 600.0, 2000.0)
GREY_VALUES = (0.0, 32.0, 224.0, 255.0)
MARGIN_MM = 12.0
#: (longest side in voxels, WebP quality), finest first; quality 0 = PNG, without loss.
LADDER = ((160, 0), (160, 85), (160, 75), (144, 75), (128, 75), (112, 70), (96, 65), (80, 60), (64, 50), (48, 40))
_PROBED = 8  # every so manyth slice tells how large a volume becomes


@dataclass(frozen=True)
class Frame:
    """How a volume of the page lies in its file.

    Attributes:
        orientation: how the file is turned until its axes run along z, y and x.
        starts: first voxel of the crop along (Z, Y, X), counted after turning.
        sizes: voxels of the crop along (Z, Y, X).
        full: voxels of the whole file along (Z, Y, X).
        spacing_mm: of the file along (Z, Y, X).
    """

    orientation: Orientation
    starts: tuple[int, int, int]
    sizes: tuple[int, int, int]
    full: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def upright(self, volume: np.ndarray) -> np.ndarray:
        """The crop of a volume of the file [D, H, W], turned: a view [Z, Y, X]."""
        boxes = tuple(slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True))
        return self.orientation.turn(volume)[boxes]

    def reduced_shape(self, longest: int) -> tuple[int, int, int]:
        """Voxels along (Z, Y, X) when the longest side has at most so many; an axis is never refined."""
        voxel_mm = max(n * s for n, s in zip(self.sizes, self.spacing_mm, strict=True)) / longest
        z, y, x = (
            min(n, max(1, round(n * s / max(voxel_mm, s)))) for n, s in zip(self.sizes, self.spacing_mm, strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class PackedScan:
    """A scan as the page holds it.

    Attributes:
        frame: how it lies in its file.
        shape: reduced voxels along (Z, Y, X).
        columns: slices side by side in an atlas.
        quality: WebP quality of image and confidence; 0 = without loss.
        label_step: the mask's atlas holds id × step.
        image: atlas of grey values.
        mask: atlas, PNG.
        confidence: atlas of confidence × 255, or nothing.
    """

    frame: Frame
    shape: tuple[int, int, int]
    columns: int
    quality: int
    label_step: int
    image: bytes
    mask: bytes
    confidence: bytes | None

    @property
    def num_bytes(self) -> int:
        """Of the three atlases."""
        return len(self.image) + len(self.mask) + len(self.confidence or b"")

    def to_json(self) -> dict[str, Any]:
        """What the page's script reads."""
        kind = "image/webp" if self.quality else "image/png"
        return {
            "shape": self.shape, "columns": self.columns, "labelStep": self.label_step, "quality": self.quality,
            "axes": self.frame.orientation.axes, "flips": self.frame.orientation.flips, "starts": self.frame.starts,
            "sizes": self.frame.sizes, "full": self.frame.full, "spacing": self.frame.spacing_mm,
            "tilt": round(self.frame.orientation.tilt_degrees, 1),
            "image": data_uri(self.image, kind),
            "mask": data_uri(self.mask, "image/png"),
            "confidence": data_uri(self.confidence, kind) if self.confidence else None,
        }  # fmt: skip


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def frame_of(mask: np.ndarray, affine: np.ndarray) -> Frame:
    """The crop around the labelled voxels with 12 mm to each side (the whole volume where none is), turned upright.

    Args:
        mask: label ids [D, H, W].
        affine: [4, 4], array index (d, h, w, 1) → LPS mm.
    """
    orientation = Orientation.of(affine)
    spacing_mm = orientation.reorder(spacing_of(affine))
    upright = orientation.turn(mask)
    starts, ends = [], []
    for axis in range(3):
        shown = np.flatnonzero(_any_along(upright, axis))
        margin = math.ceil(MARGIN_MM / spacing_mm[axis])
        first, last = (int(shown[0]), int(shown[-1])) if shown.size else (0, upright.shape[axis] - 1)
        starts.append(max(0, first - margin))
        ends.append(min(upright.shape[axis], last + 1 + margin))
    sizes = _triple(end - start for start, end in zip(starts, ends, strict=True))
    return Frame(orientation, _triple(starts), sizes, _triple(upright.shape), spacing_mm)


def grey_values(image: np.ndarray) -> np.ndarray:
    """HU → uint8 as `GREY_HU` and `GREY_VALUES` say; clipped at the ends."""
    return np.rint(np.interp(image, GREY_HU, GREY_VALUES)).astype(np.uint8)


def average_down(volume: np.ndarray, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Mean of a volume over every reduced voxel, parts of voxels counted as parts; a slice at a time.

    Args:
        volume: [Z, Y, X], any type.
        shape: not finer than the volume along any axis.

    Yields:
        Slices [shape[1], shape[2]], float32; the volume's own values where the shape is its own.
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
) -> PackedScan:
    """Reduce a scan until its atlases take at most so many bytes.

    Args:
        image: HU [D, H, W].
        mask: label ids, the same grid.
        confidence: in [0, 1], the same grid; None for a real scan.
        affine: [4, 4], array index (d, h, w, 1) → LPS mm.
        budget: bytes; the coarsest rung of `LADDER` is taken where even that is larger.
        thin: ids of thin structures.
    """
    frame = frame_of(mask, affine)
    parts = [frame.upright(volume) if volume is not None else None for volume in (image, mask, confidence)]
    assert parts[0] is not None and parts[1] is not None, "image and mask are given"
    structures = thin_structures(parts[1], thin)
    for rung, (longest, quality) in enumerate(LADDER):
        last = rung == len(LADDER) - 1
        shape = frame.reduced_shape(longest)
        if not last and _too_large(parts[0], shape, quality, budget):
            continue
        packed = _pack(frame, parts[0], parts[1], parts[2], shape, quality, structures)
        if last or packed.num_bytes <= budget:
            return packed
    raise AssertionError("the last rung is always taken")


def _pack(
    frame: Frame, image: np.ndarray, mask: np.ndarray, confidence: np.ndarray | None, shape: tuple[int, int, int],
    quality: int, thin: Sequence[ThinStructure],
) -> PackedScan:  # fmt: skip
    greys = np.stack([grey_values(part) for part in average_down(image, shape)])
    labels = reduce_labels(mask, shape, thin)
    step = 255 // max(1, int(labels.max(initial=0)))
    trust = None
    if confidence is not None:
        trust = np.stack([np.rint(255 * np.clip(p, 0, 1)).astype(np.uint8) for p in average_down(confidence, shape)])
    columns = math.ceil(math.sqrt(shape[0]))
    return PackedScan(
        frame, shape, columns, quality, step,
        image=_encoded(_atlas(greys, columns), quality),
        mask=_encoded(_atlas(labels * np.uint8(step), columns), 0),
        confidence=None if trust is None else _encoded(_atlas(trust, columns), quality),
    )  # fmt: skip


def _too_large(image: np.ndarray, shape: tuple[int, int, int], quality: int, budget: int) -> bool:
    """Whether the image alone, as some of its slices tell, is beyond the budget."""
    if shape[0] < 4 * _PROBED:
        return False
    coarse = image[:: max(1, image.shape[0] // (shape[0] // _PROBED))]
    slices = np.stack([grey_values(p) for p in average_down(coarse, (min(len(coarse), shape[0]), *shape[1:]))])
    probe = len(_encoded(_atlas(slices, math.ceil(math.sqrt(len(slices)))), quality))
    return probe * shape[0] / len(slices) > budget


def _any_along(volume: np.ndarray, axis: int) -> np.ndarray:
    others = tuple({0, 1, 2} - {axis})
    return np.any(volume, axis=others)


def _atlas(volume: np.ndarray, columns: int) -> np.ndarray:
    """Slices side by side, row by row; black where there are none left."""
    count, height, width = volume.shape
    rows = math.ceil(count / columns)
    padded = np.zeros((rows * columns, height, width), dtype=np.uint8)
    padded[:count] = volume
    return padded.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def _encoded(picture: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    if quality:
        Image.fromarray(picture).save(stream, "WEBP", quality=quality, method=4)
    else:
        Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _triple(values: Any) -> tuple[int, int, int]:
    first, second, third = values
    return int(first), int(second), int(third)
