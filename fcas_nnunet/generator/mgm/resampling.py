"""Resample volumes by a deformation, slab by slab: nearest sampling for labels, cubic splines for images.

Everything is elementwise arithmetic in a fixed order, so any number of threads gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

import numpy as np
import torch
from scipy.ndimage import map_coordinates, spline_filter

from fcas_nnunet.generator.mgm.deformation import Deformation, spline_weights
from fcas_nnunet.geometry import Box, Triple, triple

_SLAB_VOXELS = 2**18  # a slab's coordinates stay in the processor's cache
_SPLINE_RIM = 12  # voxels around a volume after which its spline no longer feels the end, as in scipy


def deform_labels(
    labels: np.ndarray, deformation: Deformation, spacing_mm: Triple[float], *, region: Box | None = None
) -> np.ndarray:
    """Deform labels by nearest sampling, without closing or repair: for surroundings.

    Args:
        labels: Labels [D, H, W] of an integer type.
        deformation: Deformation to apply; outside the volume the outermost voxels are repeated.
        spacing_mm: Voxel size along (D, H, W).
        region: Part of the output to compute; None = all.

    Returns:
        Labels of the same type, in the region's shape.
    """
    region = region or whole_box(labels.shape)
    if deformation.is_identity:
        return labels[region].copy()
    _, h, w = labels.shape
    flat = torch.from_numpy(np.ascontiguousarray(labels)).reshape(-1)
    output = torch.empty([s.stop - s.start for s in region], dtype=flat.dtype)
    for slab, coordinates in coordinate_slabs(deformation, spacing_mm, region):
        nearest = [c.round_() for c in coordinates]
        i, j, k = (index.clamp_(0, size - 1).to(torch.int64) for index, size in zip(nearest, labels.shape, strict=True))
        output[slab] = flat[((i * h + j) * w + k)]
    return output.numpy()


def deform_image(image: np.ndarray, deformation: Deformation, spacing_mm: Triple[float]) -> np.ndarray:
    """Deform an image [C, D, H, W] by the field of its mask, float32; outside, the outermost voxels are repeated.

    Cubic splines are used, since linear interpolation would blur thin vessels away.
    """
    return deform_scan(image, deformation, spacing_mm)[0]


def deform_scan(
    image: np.ndarray, deformation: Deformation, spacing_mm: Triple[float]
) -> tuple[np.ndarray, np.ndarray]:
    """As `deform_image`, and where the image comes from.

    Returns:
        The image, float32 [C, D, H, W]; and whether a voxel comes from within the volume, bool [D, H, W].
    """
    source = np.ascontiguousarray(image, dtype=np.float32)
    shape = triple(image.shape[1:])
    inside = np.ones(shape, dtype=bool)
    if deformation.is_identity:
        return source.copy(), inside
    splines = spline_coefficients(source)
    output = np.empty(image.shape, dtype=np.float32)
    for slab, coordinates in coordinate_slabs(deformation, spacing_mm, whole_box(shape)):
        positions = np.stack([c.numpy() for c in coordinates])
        inside[slab] = is_inside(positions, shape)
        output[:, slab] = spline_values(splines, positions)
    return output, inside


def spline_coefficients(image: np.ndarray) -> list[np.ndarray]:
    """Cubic splines through the voxels of each channel of an image [C, D, H, W], for `spline_values`."""
    return [spline_filter(np.pad(channel, _SPLINE_RIM, mode="edge"), order=3, output=np.float32) for channel in image]


def spline_values(splines: Sequence[np.ndarray], indices: np.ndarray) -> np.ndarray:
    """Values of splines at indices [3, ...] of the volume, float32 [C, ...]; beyond it, its outermost voxels repeat."""
    positions = indices + np.float32(_SPLINE_RIM)
    return np.stack(
        [map_coordinates(spline, positions, order=3, mode="nearest", prefilter=False) for spline in splines]
    )


def within_volume(shape: Triple[int], deformation: Deformation, spacing_mm: Triple[float]) -> np.ndarray:
    """Whether each voxel comes from within the volume of this shape, bool [D, H, W]: as `deform_scan` says."""
    inside = np.ones(shape, dtype=bool)
    if not deformation.is_identity:
        for slab, coordinates in coordinate_slabs(deformation, spacing_mm, whole_box(shape)):
            inside[slab] = is_inside([c.numpy() for c in coordinates], shape)
    return inside


def is_inside(indices: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Whether indices, three arrays of one shape, lie on voxels of a volume; bool of that shape."""
    along = [(index > -0.5) & (index < size - 0.5) for index, size in zip(indices, shape, strict=True)]
    return along[0] & along[1] & along[2]


def coordinate_slabs(
    deformation: Deformation, spacing_mm: Triple[float], region: Box
) -> Iterator[tuple[slice, list[torch.Tensor]]]:
    """Source indices of the region, slab by slab along D: (slab within the region, three float32 [d, h, w])."""
    step = np.array(spacing_mm)
    back = np.linalg.inv(deformation.matrix()) / step[:, None]  # mm in the output → indices of the source
    center = np.array(deformation.center_mm)
    offset = center / step - back @ (center + deformation.translation_mm)
    columns = back * step  # the affine part per index of the output
    axes = [np.arange(s.start, s.stop) for s in region]

    # the affine part is linear, so the control displacements go through it once instead of every voxel
    control = np.einsum("ij,jdhw->idhw", back, deformation.control_displacements_mm())
    along_d, along_h, along_w = (
        _taps(axis * s, n, deformation) for axis, s, n in zip(axes, spacing_mm, deformation.lattice_shape, strict=True)
    )
    elastic = deformation.max_displacement_mm > 0
    spline_d = _expand(torch.tensor(control, dtype=torch.float32), along_d, dim=1)
    planes = max(1, _SLAB_VOXELS // (len(axes[1]) * len(axes[2])))
    for start in range(0, len(axes[0]), planes):
        slab = slice(start, min(start + planes, len(axes[0])))
        if elastic:
            spline = _expand(spline_d[:, slab], along_h, dim=2)
        coordinates = []
        for i in range(3):
            plane = columns[i, 0] * axes[0][slab, None] + columns[i, 1] * axes[1] + offset[i]
            row = columns[i, 2] * axes[2]
            value = torch.tensor(plane, dtype=torch.float32)[..., None] + torch.tensor(row, dtype=torch.float32)
            coordinates.append(value.add_(_expand(spline[i], along_w, dim=2)) if elastic else value)
        yield slab, coordinates


def _taps(position_mm: np.ndarray, num_control: int, deformation: Deformation) -> tuple[torch.Tensor, torch.Tensor]:
    """The four control points over each position of one axis, and their weights: int64 [4, N], float32 [4, N]."""
    cell = position_mm / deformation.control_spacing_mm
    first = np.floor(cell)
    control = np.clip(first.astype(int) + np.arange(4)[:, None], 0, num_control - 1)
    weights = torch.tensor(spline_weights(cell - first), dtype=torch.float32)
    return torch.tensor(control), weights


def _expand(values: torch.Tensor, taps: tuple[torch.Tensor, torch.Tensor], dim: int) -> torch.Tensor:
    """Evaluate the spline along one axis: control points there become positions."""
    shape = [-1 if axis == dim else 1 for axis in range(values.dim())]
    terms = (values.index_select(dim, k) * w.reshape(shape) for k, w in zip(*taps, strict=True))
    return reduce(torch.Tensor.add_, terms)


def whole_box(shape: tuple[int, ...]) -> Box:
    """The box of all voxels of a volume."""
    return triple(slice(0, size) for size in shape)
