"""Thick slices: a scan as another acquisition would resolve it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def in_thick_slices(image: np.ndarray, axis: int, thickness: float) -> np.ndarray:
    """Show an image [D, H, W] as slices of so many voxels along an axis would, float32 of the same shape."""
    slices = max(1, round(image.shape[axis] / thickness))
    thick = [slices if a == axis else size for a, size in enumerate(image.shape)]
    volume = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    return F.interpolate(F.interpolate(volume, thick, mode="area"), image.shape, mode="trilinear")[0, 0].numpy()
