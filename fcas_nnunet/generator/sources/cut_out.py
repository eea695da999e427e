"""The surroundings that were cut out of real scans, and hold exactly 0: synthetic scans have them, too.

nnU-Net crops scans to what is not 0, and takes mean and deviation from there where little is left. A synthetic scan
without the zeros of the real ones would be cropped and normalised otherwise than they are.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt

#: Fewer zeros are values like others: that of water in CT, say.
_SMALLEST_PART = 0.01


def cut_out(image: np.ndarray) -> np.ndarray | None:
    """Find what was cut out of a scan.

    Args:
        image: [C, D, H, W] in its own values.

    Returns:
        True where a channel holds 0 and nothing but zeros lies between there and the border, as in nnU-Net's cropping,
        bool [C, D, H, W]; None where no channel has as much as 1 % of it.
    """
    parts = np.zeros(image.shape, bool)
    for part, channel in zip(parts, image, strict=True):
        zeros = channel == 0
        if zeros.mean() >= _SMALLEST_PART:
            outside = ~binary_fill_holes(~zeros)
            part[:] = outside if outside.mean() >= _SMALLEST_PART else False
    return parts if parts.any() else None


def filled(image: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    """Continue a scan [C, D, H, W] into what was cut out of it, by the nearest values: no edge to ring or to blur."""
    if outside is None:
        return image
    whole = image.copy()
    for channel, part in zip(whole, outside, strict=True):
        if part.any() and not part.all():
            nearest = distance_transform_edt(part, return_distances=False, return_indices=True)
            channel[part] = channel[tuple(axis[part] for axis in nearest)]
    return whole
