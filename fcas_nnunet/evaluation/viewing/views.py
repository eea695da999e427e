"""Volumes as a reader sees them: upright, cut to the heart, of even voxels, 8 bits, in one picture per volume.

The page cuts all three planes out of one small volume, so that slices scroll without gaps. All volumes of a bag share
one grid; what is lost by it and by the compression is lost for every method alike.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from skimage.transform import resize

from fcas_nnunet.case import spacing_of
from fcas_nnunet.orientation import Orientation

#: HU that become 0 and 255, in steps of 5.9 HU; the page's windows lie within.
LOW_HU, HIGH_HU = -500.0, 1000.0
#: Of WebP; errors of 7 to 10 HU on CT and phantoms at 0.8 mm, less than their noise.
QUALITY = 90
#: What that quality takes on scans without much noise (0.6 to 1.8 measured); base64 adds a third.
BITS_PER_VOXEL = 1.0
#: A phone decodes a picture of this size; below the smaller, arteries cannot be judged.
MOST_VOXELS, LEAST_VOXELS = 12_000_000, 500_000

_MARGIN_MM = 15.0
_BLOCK = 16  # WebP's: tiles that start on a block do not bleed into each other


@dataclass(frozen=True)
class Frame:
    """What of a volume is shown, and on which grid.

    Attributes:
        start: [3], first voxel along superior, posterior and left of the upright volume.
        stop: [3], one past the last.
        shape: voxels shown, along the same axes.
        spacing_mm: of the shown voxels, about the same along all axes.
    """

    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Atlas:
    """A volume as one picture: its slices from below, row by row.

    Attributes:
        data: the file's bytes.
        media_type: `image/webp` or `image/png`.
        columns: slices in a row.
        tile: height and width of a slice's place, multiples of 16.
    """

    data: bytes
    media_type: str
    columns: int
    tile: tuple[int, int]


def upright(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Turn a volume so that its axes run most nearly to superior, posterior and left; voxels stay as they are.

    Args:
        array: [D, H, W].
        affine: [4, 4], index (d, h, w, 1) → LPS mm.

    Returns:
        The volume [S, P, L], a view, and its voxel size in mm along these.
    """
    orientation = Orientation.of(affine)
    return orientation.turn(array), orientation.reorder(spacing_of(affine))


def voxels_per_volume(megabytes: float, num_volumes: int) -> int:
    """How many voxels a volume may have for a page of a size, if it compresses well.

    Args:
        megabytes: of the page.
        num_volumes: on it, masks not counted.

    Raises:
        ValueError: if too few are left to judge anything.
    """
    return enough_voxels(int(megabytes * 1e6 * 0.75 * 8 / BITS_PER_VOXEL / num_volumes), num_volumes)


def enough_voxels(voxels: int, num_volumes: int) -> int:
    """A number of voxels a volume, no more than a phone can take.

    Raises:
        ValueError: if it is too low to judge anything.
    """
    if voxels < LEAST_VOXELS:
        raise ValueError(
            f"--megabytes: page must leave {LEAST_VOXELS} voxels for each of its {num_volumes} volumes, got {voxels}. "
            "Allow more, or take fewer references (-n)."
        )
    return min(voxels, MOST_VOXELS)


def frame_of(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float], voxels: int, mask: np.ndarray | None = None
) -> Frame:
    """Choose what is shown: the mask and 15 mm around it, no finer than the scan and in so many voxels at most.

    Args:
        shape: of the upright volume.
        spacing_mm: its voxel size.
        voxels: how many may be shown.
        mask: upright as well; without one, or with an empty one, all is shown.
    """
    start, stop = np.zeros(3, dtype=int), np.array(shape)
    if mask is not None and mask.any():
        for axis in range(3):
            inside = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            margin = math.ceil(_MARGIN_MM / spacing_mm[axis])
            start[axis] = max(inside[0] - margin, 0)
            stop[axis] = min(inside[-1] + 1 + margin, shape[axis])
    extent_mm = (stop - start) * np.array(spacing_mm)
    wanted_mm = max(min(spacing_mm), float(np.prod(extent_mm) / voxels) ** (1 / 3))
    shown = np.maximum(np.floor(extent_mm / wanted_mm + 1e-6).astype(int), 1)
    a, b, c = (int(n) for n in shown)
    s, p, left = (float(mm) for mm in extent_mm / shown)
    return Frame(tuple(start.tolist()), tuple(stop.tolist()), (a, b, c), (s, p, left))


def shown_image(image: np.ndarray, frame: Frame) -> np.ndarray:
    """An upright scan on the frame's grid.

    Args:
        image: [S, P, L] in HU.
        frame: where to cut and what grid to take; smoothed before it gets coarser, linear between voxels.

    Returns:
        [frame.shape] uint8, `LOW_HU` → 0, `HIGH_HU` → 255.
    """
    resized = resize(_cut(image, frame).astype(np.float32), frame.shape, order=1, anti_aliasing=True)
    return np.rint(np.clip((resized - LOW_HU) / (HIGH_HU - LOW_HU), 0, 1) * 255).astype(np.uint8)


def shown_mask(mask: np.ndarray, frame: Frame) -> np.ndarray:
    """An upright label map on the frame's grid, uint8: the nearest voxel's label."""
    cut = _cut(mask, frame)
    nearest = [
        np.minimum(((np.arange(n) + 0.5) * size / n).astype(int), size - 1)
        for n, size in zip(frame.shape, cut.shape, strict=True)
    ]
    return cut[np.ix_(*nearest)].astype(np.uint8)


def atlas_of(volume: np.ndarray, *, lossless: bool = False) -> Atlas:
    """Lay a volume's slices out in one picture, without any metadata.

    Args:
        volume: [S, P, L] uint8.
        lossless: PNG, for label maps; otherwise WebP.
    """
    count, height, width = volume.shape
    tile = (-(-height // _BLOCK) * _BLOCK, -(-width // _BLOCK) * _BLOCK)
    columns = min(count, max(1, round(math.sqrt(count * tile[0] / tile[1]))))
    rows = -(-count // columns)
    padded = np.pad(
        volume, [(0, 0), (0, tile[0] - height), (0, tile[1] - width)], mode="constant" if lossless else "edge"
    )
    blank = np.zeros((rows * columns - count, *tile), dtype=np.uint8)
    grid = np.concatenate([padded, blank]).reshape(rows, columns, *tile)
    picture = Image.fromarray(grid.transpose(0, 2, 1, 3).reshape(rows * tile[0], columns * tile[1]))
    stream = io.BytesIO()
    if lossless:
        picture.save(stream, "PNG", optimize=True)
    else:
        picture.save(stream, "WEBP", quality=QUALITY, method=4)
    return Atlas(stream.getvalue(), "image/png" if lossless else "image/webp", columns, tile)


def _cut(volume: np.ndarray, frame: Frame) -> np.ndarray:
    return volume[tuple(slice(a, b) for a, b in zip(frame.start, frame.stop, strict=True))]
