"""Draw pictures of a case: a strip of three planes to click on, and nine panels for readers without JavaScript."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fcas_nnunet.evaluation.viewing.colours import confidence_colours, window_of
from fcas_nnunet.evaluation.viewing.frame import Frame, frame_of
from fcas_nnunet.intensities import CT_UNIT

_STRIP_PIXELS, _STILL_PIXELS = 180, 220
_MASK_OPACITY = 0.5


@dataclass(frozen=True)
class Pictures:
    """Pictures of one case, as addresses that hold them."""

    strip: str  # axial, coronal and sagittal slice through the middle of the heart with the mask over it
    still: str  # the same three planes as image, with mask, and as confidence; two rows for a case without confidence


def case_pictures(
    image: np.ndarray,
    mask: np.ndarray,
    confidence: np.ndarray | None,
    affine: np.ndarray,
    colours: Mapping[int, str],
    unit: str = CT_UNIT,
) -> Pictures:
    """Draw a case's middle slices; the patient's right is on the left, the front or the head on top.

    Args:
        image: Standard units [D, H, W].
        mask: Label ids, the same grid.
        confidence: Confidence in [0, 1], the same grid, or None.
        affine: [4, 4], array index (d, h, w, 1) → LPS mm.
        colours: Label id → "#rrggbb".
        unit: Name of the image's unit (`unit_name`), which decides the window.
    """
    frame = frame_of(mask, affine)
    upright = frame.upright(mask)
    centre = middle(upright)
    labels = planes_of(upright, centre)
    heart = frame.upright(image)
    window = window_of(heart, unit)
    greys = [_windowed(plane, *window) for plane in planes_of(heart, centre)]
    painted = [_painted(grey, label, colours) for grey, label in zip(greys, labels, strict=True)]
    rows = [greys, painted]
    if confidence is not None:
        table = np.array([_rgb(colour) for colour in confidence_colours(256)], dtype=np.uint8)
        trust = planes_of(frame.upright(confidence), centre)
        rows.append([table[np.rint(255 * np.clip(plane, 0, 1)).astype(int)] for plane in trust])
    extents = _extents_mm(frame)
    return Pictures(
        strip=_webp(_row(painted, extents, _STRIP_PIXELS)),
        still=_webp(np.concatenate([_row(row, extents, _STILL_PIXELS) for row in rows])),
    )


def middle(mask: np.ndarray) -> list[int]:
    """Find the voxel [z, y, x] in the middle of what is labelled; of the volume where nothing is."""
    centre = []
    for axis in range(3):
        profile = np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis}))
        total = profile.sum()
        centre.append(round(float(np.arange(len(profile)) @ profile / total)) if total else mask.shape[axis] // 2)
    return centre


def planes_of(volume: np.ndarray, centre: Sequence[int]) -> list[np.ndarray]:
    """Cut the axial [Y, X], coronal [Z, X] and sagittal [Z, Y], the head on top."""
    z, y, x = centre
    return [np.asarray(volume[z]), np.asarray(volume[::-1, y]), np.asarray(volume[::-1, :, x])]


def _extents_mm(frame: Frame) -> list[tuple[float, float]]:
    """Height and width of the three planes."""
    z, y, x = frame.extent_mm
    return [(y, x), (z, x), (z, y)]


def _windowed(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    grey = np.rint(255 * np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _painted(grey: np.ndarray, labels: np.ndarray, colours: Mapping[int, str]) -> np.ndarray:
    table = np.zeros((256, 3), dtype=np.float32)
    for label, colour in colours.items():
        table[label] = _rgb(colour)
    share = np.where(labels > 0, _MASK_OPACITY, 0.0)[..., None]
    return np.rint(grey * (1 - share) + table[labels] * share).astype(np.uint8)


def _row(planes: Sequence[np.ndarray], extents: Sequence[tuple[float, float]], pixels: int) -> np.ndarray:
    """Planes side by side at one scale, each in the middle of a black square."""
    longest = max(max(extent) for extent in extents)
    squares = []
    for plane, (height_mm, width_mm) in zip(planes, extents, strict=True):
        height, width = (max(1, round(pixels * mm / longest)) for mm in (height_mm, width_mm))
        drawn = np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
        square = np.zeros((pixels, pixels, 3), dtype=np.uint8)
        top, left = (pixels - height) // 2, (pixels - width) // 2
        square[top : top + height, left : left + width] = drawn
        squares.append(square)
    return np.concatenate(squares, axis=1)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def _webp(picture: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=78, method=4)
    return f"data:image/webp;base64,{b64encode(stream.getvalue()).decode('ascii')}"
