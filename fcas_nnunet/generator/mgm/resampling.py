"""Volumes through a deformation: the sampling coordinates plane by plane, nearest for labels, cubic splines for images.

Everything is elementwise arithmetic in a fixed order, so a CPU gives the same bytes with any number of threads; a GPU
may round a coordinate otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.ndimage import map_coordinates, spline_filter

from fcas_nnunet.config.masks import Padding
from fcas_nnunet.generator.mgm.deformation import Deformation, Triple, spline_weights

Region = tuple[slice, slice, slice]

_SLAB_VOXELS = 2**18  # a slab's coordinates stay in the processor's cache
_SPLINE_RIM = 12  # voxels around a volume after which its spline no longer feels the end, as in scipy
AIR_HU = -1000.0


def deform_labels(
    labels: np.ndarray,
    deformation: Deformation,
    spacing_mm: Triple,
    *,
    region: Region | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Labels through the deformation by nearest sampling, nothing closed or repaired: for surroundings.

    Args:
        labels: [D, H, W], an integer type.
        deformation: the record; its padding says what lies outside the volume (CONSTANT gives 0).
        spacing_mm: voxel size along (D, H, W).
        region: the part of the output that is wanted; None = all.
        device: where to compute.

    Returns:
        The labels' type, the region's shape.
    """
    region = region or _whole(labels.shape)
    if deformation.is_identity:
        return labels[region].copy()
    d, h, w = labels.shape
    flat = torch.from_numpy(np.ascontiguousarray(labels)).to(device).reshape(-1)
    output = torch.empty([s.stop - s.start for s in region], dtype=flat.dtype, device=device)
    for slab, coordinates in _coordinate_slabs(deformation, labels.shape, spacing_mm, region, device):
        nearest = [c.round_() for c in coordinates]
        outside = _outside(nearest, labels.shape) if deformation.padding is Padding.CONSTANT else None
        i, j, k = (index.clamp_(0, size - 1).to(torch.int64) for index, size in zip(nearest, labels.shape, strict=True))
        values = flat[((i * h + j) * w + k)]
        output[slab] = values if outside is None else values.masked_fill_(outside, 0)
    return output.cpu().numpy()


def deform_image(
    image: np.ndarray, deformation: Deformation, spacing_mm: Triple, fill_value: float = AIR_HU
) -> np.ndarray:
    """An image through the same field as its mask, by cubic splines: linear interpolation would blur thin vessels away.

    Args:
        image: [D, H, W].
        deformation: the record; with padding BORDER the outermost voxels are repeated.
        spacing_mm: voxel size along (D, H, W).
        fill_value: what lies outside the volume with padding CONSTANT.

    Returns:
        float32 [D, H, W].
    """
    source = np.ascontiguousarray(image, dtype=np.float32)
    if deformation.is_identity:
        return source.copy()
    coefficients = spline_filter(np.pad(source, _SPLINE_RIM, mode="edge"), order=3, output=np.float32)
    output = np.empty(image.shape, dtype=np.float32)
    for slab, coordinates in _coordinate_slabs(deformation, image.shape, spacing_mm, _whole(image.shape), "cpu"):
        positions = np.stack([c.numpy() for c in coordinates]) + np.float32(_SPLINE_RIM)
        output[slab] = map_coordinates(coefficients, positions, order=3, mode="nearest", prefilter=False)
        if deformation.padding is Padding.CONSTANT:
            output[slab][_outside([c.round_() for c in coordinates], image.shape).numpy()] = fill_value
    return output


def sampling_coordinates(
    deformation: Deformation, shape: tuple[int, int, int], spacing_mm: Triple, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Where each output voxel is sampled, as indices of the source: float32 [3, D, H, W]."""
    slabs = _coordinate_slabs(deformation, shape, spacing_mm, _whole(shape), device)
    return torch.cat([torch.stack(coordinates) for _, coordinates in slabs], dim=1)


def _coordinate_slabs(
    deformation: Deformation,
    shape: tuple[int, ...],
    spacing_mm: Triple,
    region: Region,
    device: torch.device | str,
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
        _taps(axis * s, n, deformation, device)
        for axis, s, n in zip(axes, spacing_mm, deformation.lattice_shape, strict=True)
    )
    elastic = deformation.max_displacement_mm > 0
    spline_d = _expand(torch.tensor(control, dtype=torch.float32, device=device), along_d, dim=1)
    planes = max(1, _SLAB_VOXELS // (len(axes[1]) * len(axes[2])))
    for start in range(0, len(axes[0]), planes):
        slab = slice(start, min(start + planes, len(axes[0])))
        if elastic:
            spline = _expand(spline_d[:, slab], along_h, dim=2)
        coordinates = []
        for i in range(3):
            plane = columns[i, 0] * axes[0][slab, None] + columns[i, 1] * axes[1] + offset[i]
            row = columns[i, 2] * axes[2]
            value = torch.tensor(plane, dtype=torch.float32, device=device)[..., None] + torch.tensor(
                row, dtype=torch.float32, device=device
            )
            coordinates.append(value.add_(_expand(spline[i], along_w, dim=2)) if elastic else value)
        yield slab, coordinates


def _taps(
    position_mm: np.ndarray, num_control: int, deformation: Deformation, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The four control points over each position of one axis, and their weights: int64 [4, N], float32 [4, N]."""
    cell = position_mm / deformation.control_spacing_mm
    first = np.floor(cell)
    control = np.clip(first.astype(int) + np.arange(4)[:, None], 0, num_control - 1)
    weights = torch.tensor(spline_weights(cell - first), dtype=torch.float32, device=device)
    return torch.tensor(control, device=device), weights


def _expand(values: torch.Tensor, taps: tuple[torch.Tensor, torch.Tensor], dim: int) -> torch.Tensor:
    """Evaluate the spline along one axis: control points there become positions."""
    shape = [-1 if axis == dim else 1 for axis in range(values.dim())]
    terms = (values.index_select(dim, k) * w.reshape(shape) for k, w in zip(*taps, strict=True))
    total = next(terms)
    for term in terms:
        total = total.add_(term)
    return total


def _outside(nearest: list[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    d, h, w = ((index < 0) | (index > size - 1) for index, size in zip(nearest, shape, strict=True))
    return d | h | w


def _whole(shape: tuple[int, ...]) -> Region:
    d, h, w = shape
    return slice(0, d), slice(0, h), slice(0, w)
