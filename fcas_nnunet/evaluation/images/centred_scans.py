"""Resample scans onto one coarse grid centred on the heart, so that they can be compared voxel by voxel.

Axes are first turned to the patient's (D towards the head, H to the back, W to the left), so that data sets stored in
other orientations compare; oblique scans are not rotated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.evaluation.segmentation.diversity import GRID_MM, GRID_VOXELS, centred_mask, heart_centre
from fcas_nnunet.faults import InputError
from fcas_nnunet.labels.contrast import means_by_code, structure_means
from fcas_nnunet.orientation import Orientation

MARGIN_MM = 10.0


@dataclass(frozen=True)
class CentredScan:
    """A scan reduced for comparison: two volumes [96, 96, 96] of 2 mm about the heart's centroid.

    Attributes:
        image: Standard units clipped to the intensity range, float16; NaN outside the scan.
        texture: The image minus its structure's mean, float16; NaN outside the structures, and in their outermost voxel
            layer, whose values follow from where the outline runs.
        near: Bool; the heart and `MARGIN_MM` around it, within the scan.
        means: Label id → mean of the structure.
    """

    image: np.ndarray
    texture: np.ndarray
    near: np.ndarray
    means: Mapping[int, float]


def centre_scan(
    image: np.ndarray, mask: np.ndarray, affine: np.ndarray, intensity_range: IntensityRange
) -> CentredScan:
    """Reduce a scan for comparison.

    Args:
        image: Standard units [D, H, W].
        mask: Label ids on the same grid; the heart is all that is labelled.
        affine: [4, 4], array index (d, h, w, 1) → LPS position in mm.
        intensity_range: One range for all scans that are compared.

    Raises:
        InputError: when the shapes differ, a voxel of the scan is not finite, or the mask is empty.
    """
    _refuse_unfit(image, mask)
    orientation = Orientation.of(affine)
    labels = centred_mask(orientation.turn(mask), orientation.spacing_mm(affine))
    grey = centred_image(image, mask, affine, intensity_range)
    away_mm = ndimage.distance_transform_edt(labels == 0, sampling=GRID_MM)
    return CentredScan(
        image=grey.astype(np.float16),
        texture=_texture(grey, labels).astype(np.float16),
        near=(away_mm <= MARGIN_MM) & ~np.isnan(grey),
        means=_structure_means(image, mask, intensity_range),
    )


def centred_image(
    image: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    intensity_range: IntensityRange,
    voxels: int = GRID_VOXELS,
    step_mm: float = GRID_MM,
) -> np.ndarray:
    """Resample a scan about the centroid of its mask onto a cube along the patient's axes.

    Linear interpolation; where the step is larger than the scan's voxels the triangle is as wide as two steps, which
    keeps finer detail from folding over (antialiasing).

    Args:
        image: Standard units [D, H, W].
        mask: Label ids on the same grid.
        affine: [4, 4], array index → LPS mm.
        intensity_range: Range that the scan is clipped to first.
        voxels: Number of voxels along each edge of the cube.
        step_mm: Edge of a voxel.

    Returns:
        float32 [voxels, voxels, voxels] in standard units, NaN outside the scan.
    """
    orientation = Orientation.of(affine)
    turned, centre = orientation.turn(image), heart_centre(orientation.turn(mask))
    weights = [
        _axis_weights(size, spacing, middle, voxels, step_mm)
        for size, spacing, middle in zip(turned.shape, orientation.spacing_mm(affine), centre, strict=True)
    ]
    used = tuple(_used_part(matrix) for matrix in weights)
    volume = np.clip(turned[used], intensity_range.low, intensity_range.high).astype(np.float32)
    inside_d, inside_h, inside_w = (np.flatnonzero(matrix.any(axis=1)) for matrix in weights)
    for axis, (matrix, part) in enumerate(zip(weights, used, strict=True)):
        volume = np.moveaxis(np.tensordot(matrix[:, part], volume, axes=(1, axis)), 0, axis)
    inside = np.ix_(inside_d, inside_h, inside_w)
    cube = np.full(volume.shape, np.nan, dtype=np.float32)
    cube[inside] = volume[inside]
    return cube


def _axis_weights(size: int, spacing_mm: float, centre: float, voxels: int, step_mm: float) -> np.ndarray:
    """Share of each of `size` voxels in each of the grid's `voxels`, float32 [voxels, size]; rows of zeros outside."""
    offsets_mm = (np.arange(voxels) - (voxels - 1) / 2) * step_mm
    position = centre + offsets_mm / spacing_mm
    reach = max(1.0, step_mm / spacing_mm)
    weights = np.maximum(0.0, 1 - np.abs(np.arange(size) - position[:, None]) / reach)
    weights[(position < -0.5) | (position > size - 0.5)] = 0
    return (weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)).astype(np.float32)


def _used_part(weights: np.ndarray) -> slice:
    used = np.flatnonzero(weights.any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)


def _structure_means(image: np.ndarray, mask: np.ndarray, intensity_range: IntensityRange) -> dict[int, float]:
    """Mean of every label on the scan's own grid, so that thin vessels do not fade into what is around them."""
    planes = (np.clip(plane, intensity_range.low, intensity_range.high) for plane in image)
    return {label: mean for label, mean in means_by_code(planes, mask).items() if label}


def _texture(grey: np.ndarray, labels: np.ndarray) -> np.ndarray:
    inner = (ndimage.minimum_filter(labels, 3) == ndimage.maximum_filter(labels, 3)) & (labels > 0) & ~np.isnan(grey)
    texture = np.full(grey.shape, np.nan)
    texture[inner] = grey[inner] - structure_means(grey[inner], labels[inner])[labels[inner]]
    return texture


def _refuse_unfit(image: np.ndarray, mask: np.ndarray) -> None:
    if image.shape != mask.shape:
        raise InputError(f"mask: shape must be the scan's {image.shape}, got {mask.shape}. Run fcas_doctor -d on it.")
    wrong = int(np.count_nonzero(~np.isfinite(image))) if image.dtype.kind == "f" else 0
    if wrong:
        raise InputError(f"scan: voxels must be finite, got {wrong} of {image.size} NaN or infinite. Repair it.")
