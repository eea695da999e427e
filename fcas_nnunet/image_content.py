"""Hash a scan's content, to recognise the same scan in two files."""

from __future__ import annotations

import hashlib

import nibabel
import numpy as np

_DECIMALS = 3  # decimals of a stored value; rounding by a header's slope and intercept changes later ones


def image_sha256(image: np.ndarray, affine: np.ndarray) -> str:
    """Hash a scan's voxel values, turned to the patient's axes.

    Equal values give the same hash, whatever the data type, the header's scaling, the file format, the order and
    direction of the axes, the position, and the labels. A cropped, resampled or windowed copy gives another hash.

    Args:
        image: [D, H, W], scaling applied.
        affine: [4, 4], array index → position in mm; says which patient axis each array axis follows.
    """
    upright = nibabel.orientations.apply_orientation(image, nibabel.orientations.io_orientation(affine)).T  # (z, y, x)
    values = np.round(np.ascontiguousarray(upright, dtype=np.float32), _DECIMALS) + np.float32(0)  # -0 => 0
    digest = hashlib.sha256(str(values.shape).encode())
    digest.update(values.tobytes())
    return digest.hexdigest()
