"""Store a volume as one picture for a page: 8 bits a voxel, slices side by side. `pages/viewer.js` reads it back."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

_BLOCK = 16  # WebP's: tiles that start on a block do not bleed into each other


@dataclass(frozen=True)
class GreyScale:
    """Standard units ↔ grey value of a page, linear between knots."""

    knots: tuple[float, ...]  # standard units, increasing; what lies beyond the ends is clipped
    values: tuple[float, ...]  # grey values at the knots, from 0 to 255

    def codes(self, image: np.ndarray) -> np.ndarray:
        """Standard units → uint8."""
        return np.rint(np.interp(image, self.knots, self.values)).astype(np.uint8)


@dataclass(frozen=True)
class Atlas:
    """A volume as one picture: its slices from below, row by row."""

    data: bytes  # the file's bytes
    media_type: str  # `image/webp` or `image/png`
    columns: int  # slices in a row
    tile: tuple[int, int]  # height and width of a slice's place, multiples of 16

    @property
    def layout(self) -> dict[str, Any]:
        """Layout that the pages' script needs to read it."""
        return {"type": self.media_type, "columns": self.columns, "tile": self.tile}

    @property
    def base64(self) -> str:
        """The file as text."""
        return b64encode(self.data).decode("ascii")


def atlas_of(volume: np.ndarray, quality: int = 0) -> Atlas:
    """Lay a volume's slices out in one picture, without any metadata.

    Args:
        volume: [Z, Y, X] uint8.
        quality: Quality of WebP; 0 = PNG, without loss.
    """
    count, height, width = volume.shape
    tile = (-(-height // _BLOCK) * _BLOCK, -(-width // _BLOCK) * _BLOCK)
    columns = min(count, max(1, round(math.sqrt(count * tile[0] / tile[1]))))
    rows = -(-count // columns)
    margins = [(0, 0), (0, tile[0] - height), (0, tile[1] - width)]
    padded = np.pad(volume, margins, mode="edge" if quality else "constant")
    blank = np.zeros((rows * columns - count, *tile), dtype=np.uint8)
    grid = np.concatenate([padded, blank]).reshape(rows, columns, *tile)
    picture = Image.fromarray(grid.swapaxes(1, 2).reshape(rows * tile[0], columns * tile[1]))
    stream = io.BytesIO()
    if quality:
        picture.save(stream, "WEBP", quality=quality, method=4)
    else:
        picture.save(stream, "PNG", optimize=True)
    return Atlas(stream.getvalue(), "image/webp" if quality else "image/png", columns, tile)
