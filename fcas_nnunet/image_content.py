"""Hash a scan's content, to recognise the same scan in two files."""

from __future__ import annotations

import hashlib
import math

import nibabel
import numpy as np

_DECIMALS = 3  # of values that span 1 or more; rounding by a header's slope and intercept changes later ones
_MOST_DECIMALS = 40  # float32 holds no more


def image_sha256(image: np.ndarray, affine: np.ndarray) -> str:
    """Hash a scan's voxel values, turned to the patient's axes.

    Equal values give the same hash, whatever the data type, the header's scaling, the file format, the order and
    direction of the axes, the position, and the labels. A cropped, resampled or windowed copy gives another hash.

    Args:
        image: [D, H, W], scaling applied.
        affine: [4, 4], array index → position in mm; says which patient axis each array axis follows.
    """
    upright = nibabel.orientations.apply_orientation(image, nibabel.orientations.io_orientation(affine)).T  # (z, y, x)
    values = np.ascontiguousarray(upright, dtype=np.float32)
    values = _rounded(values) + np.float32(0)  # -0 => 0
    digest = hashlib.sha256(str(values.shape).encode())
    digest.update(values.tobytes())
    return digest.hexdigest()


def _rounded(values: np.ndarray) -> np.ndarray:
    """Values to three decimals, or to as many more as values that span less than 1 need, float32."""
    span = float(np.ptp(values.astype(np.float64))) if values.size else 0.0
    if span == 0 or span >= 1:
        return np.round(values, _DECIMALS)
    decimals = min(_DECIMALS - math.floor(math.log10(span)), _MOST_DECIMALS)
    return np.round(values.astype(np.float64), decimals).astype(np.float32)
