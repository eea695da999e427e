"""FID of two sets of scans over slices in three planes, by the recipe of MAISI's evaluation.

Source: compute_fid_2-5d_ct.py of MAISI (Guo et al., WACV 2025, arXiv 2409.11169), with the settings of its example.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, Compose, Orientation, ScaleIntensityRange, Spacing, SpatialPad

from fcas_nnunet.evaluation.images.frechet import Moments, frechet_distance_of_moments
from fcas_nnunet.evaluation.images.slice_extractor import SliceExtractor
from fcas_nnunet.faults import InputError

SPACING_MM = 1.0
SIZE = 512  # voxels along each axis
MIDDLE_SHARE = 0.4
LIMIT = 1000.0
MEAN = (0.406, 0.456, 0.485)  # ImageNet's, in the order B, G, R
#: Plane → the axis of [X, Y, Z] that its slices follow.
PLANES = {"xy": 2, "yz": 0, "zx": 1}
RECIPE = (
    "RAS, 1 mm linear, padded with -1000 HU and cropped about the centre, clipped to ±1000 HU, the middle 40 % of the "
    "slices but those of padding alone, min-max over a scan's slices of a plane, three equal channels minus ImageNet's "
    "means"
)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Fid25d:
    """FID of two sets."""

    fid: float  # mean of the planes
    planes: dict[str, float]  # xy, yz, zx → FID over all their slices
    real_slices: int  # number of slices of all scans, in the plane that has fewest
    synthetic_slices: int


def plane_features(
    image: np.ndarray, affine: np.ndarray, extractor: SliceExtractor, size: int = SIZE
) -> dict[str, np.ndarray]:
    """Extract features of a scan's slices.

    Args:
        image: HU [D, H, W].
        affine: [4, 4], (d, h, w, 1) → LPS mm.
        extractor: Network that extracts the features.
        size: Number of voxels of 1 mm along each axis, to which the scan is padded or cropped.

    Returns:
        xy, yz, zx → float32 [slices, channels].
    """
    volume = prepared_volume(image, affine, size)
    return {plane: extractor.features(prepared_slices(volume, axis)).numpy() for plane, axis in PLANES.items()}


def fid_2p5d(real: Iterable[dict[str, np.ndarray]], synthetic: Iterable[dict[str, np.ndarray]]) -> Fid25d:
    """Compute the FID of two sets of scans.

    Args:
        real: `plane_features` of each real scan; taken one by one.
        synthetic: `plane_features` of each synthetic scan, by the same extractor.

    Raises:
        InputError: when a set is empty, or its features do not compare.
    """
    sets = [_moments(scans, name) for scans, name in ((real, "real"), (synthetic, "synthetic"))]
    planes = {plane: frechet_distance_of_moments(sets[0][plane], sets[1][plane]) for plane in PLANES}
    fewest = [min(moments.count for moments in of_planes.values()) for of_planes in sets]
    return Fid25d(float(np.mean(list(planes.values()))), planes, *fewest)


def prepared_volume(image: np.ndarray, affine: np.ndarray, size: int) -> torch.Tensor:
    """HU → RAS, 1 mm, `size`³, clipped: float32 [X, Y, Z] in HU."""
    ras_affine = _LPS_TO_RAS @ affine[:, [2, 1, 0, 3]]  # affine of [W, H, D]
    volume = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(image.T, dtype=np.float32))[None], affine=torch.from_numpy(ras_affine)
    )
    steps: Any = Compose(
        [
            Orientation("RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacing((SPACING_MM,) * 3, mode="bilinear"),
            SpatialPad((size,) * 3, mode="constant", value=-LIMIT),
            CenterSpatialCrop((size,) * 3),
            ScaleIntensityRange(-LIMIT, LIMIT, -LIMIT, LIMIT, clip=True),
        ]
    )
    return steps(volume).as_tensor()[0].float()


def prepared_slices(volume: torch.Tensor, axis: int) -> torch.Tensor:
    """HU [X, Y, Z] → the middle slices along an axis, as the extractor requires them, float32 [N, 3, ·, ·].

    A heart's scan is often shorter than the middle of the padded volume. What lies beyond it is the same in every scan,
    real or drawn, and would make any two sets look alike; it is left out.
    """
    length = volume.shape[axis]
    start, stop = int((1 - MIDDLE_SHARE) / 2 * length), int((1 + MIDDLE_SHARE) / 2 * length)
    slices = volume.movedim(axis, 0)[start:stop]
    low, high = slices.min(), slices.max()
    scaled = (slices - low) / (high - low + 1e-10)
    shown = scaled[slices.amax(dim=(1, 2)) > slices.amin(dim=(1, 2))]
    return torch.stack([(shown if len(shown) else scaled) - mean for mean in MEAN], dim=1)


def _moments(scans: Iterable[dict[str, np.ndarray]], name: str) -> dict[str, Moments]:
    """Mean and covariance of each plane's features over all scans, of which one is in memory at a time."""
    found = {plane: Moments() for plane in PLANES}
    for features in scans:
        for plane, moments in found.items():
            moments.add(features[plane])
    if not all(moments.count for moments in found.values()):
        raise InputError(f"FID: the {name} set must have at least one scan, got none. Name a folder that has.")
    return found
