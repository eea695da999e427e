"""Prepare volumes for a reader: on a grid of even voxels, in 8 bits.

The page cuts all three planes out of one small volume, so that slices scroll without gaps. All volumes of a bag share
one grid; what it and the compression lose is lost for every method alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from skimage.transform import resize

from fcas_nnunet.evaluation.viewing.atlas import GreyScale
from fcas_nnunet.faults import InputError
from fcas_nnunet.intensities import CT_UNIT

#: Grey values in steps of 5.9 units; the page's windows lie within.
GREYS = GreyScale(knots=(-500.0, 1000.0), values=(0.0, 255.0))
#: Of CT: name, level and width.
CT_WINDOWS = (("Cardiac CTA", 200, 800), ("Vessels", 350, 1000), ("Soft tissue", 50, 400))
#: WebP quality; its errors are 7 to 10 units on CT and phantoms at 0.8 mm, less than their noise.
QUALITY = 90
#: Size at that quality of scans without much noise (0.6 to 1.8 measured); base64 adds a third.
BITS_PER_VOXEL = 1.0
#: A phone decodes a picture of this size; below the smaller, arteries cannot be judged.
MOST_VOXELS, LEAST_VOXELS = 12_000_000, 500_000
MARGIN_MM = 15.0


def voxels_per_volume(megabytes: float, num_volumes: int) -> int:
    """Compute how many voxels each volume but the masks may have for a page of a size, if it compresses well.

    Raises:
        InputError: as `enough_voxels`.
    """
    return enough_voxels(int(megabytes * 1e6 * 0.75 * 8 / BITS_PER_VOXEL / num_volumes), num_volumes)


def enough_voxels(voxels: int, num_volumes: int) -> int:
    """Limit the voxels of a volume to what a phone can decode.

    Raises:
        InputError: if it is too low to judge anything.
    """
    if voxels < LEAST_VOXELS:
        raise InputError(
            f"--megabytes: page must leave {LEAST_VOXELS} voxels for each of its {num_volumes} volumes, got {voxels}. "
            "Allow more, or take fewer references (-n)."
        )
    return min(voxels, MOST_VOXELS)


def windows_for(shown: Sequence[tuple[float, float]], unit: str) -> list[dict[str, Any]]:
    """The windows to choose from, the first at first: of CT those of its tissues, else one for all bags.

    Args:
        shown: Low and high of each bag's own window.
        unit: Name of the images' unit (`unit_name`).
    """
    low, high = np.median(shown, axis=0).tolist()
    one = ("Scan", round((low + high) / 2), round(high - low))
    windows = CT_WINDOWS if unit == CT_UNIT else (one,)
    return [{"name": name, "level": level, "width": width} for name, level, width in windows]


def shown_image(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample a scan of standard units [Z, Y, X] to another shape, coded by `GREYS`; smoothed where coarser."""
    return GREYS.codes(resize(image.astype(np.float32), shape, order=1, anti_aliasing=True))
