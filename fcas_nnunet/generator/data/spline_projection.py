"""Resample images to another voxel size: the nearest cubic spline of the new grid, axis by axis.

A volume stands for the cubic spline through its voxels. On another grid it becomes the spline of that grid with the
least squared difference. Frequencies beyond a coarser grid are removed and do not fold over; those within it stay, so
that a thin vessel keeps its contrast there and back, which an average or a Gaussian before sampling would reduce.

Everything is linear, so each axis is one matrix. Grids cover the same extent; ends are mirrored at half a voxel.

Source: Muñoz, Blu and Unser, "Least-squares image resizing using finite differences", 2001.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import BSpline

_DEGREE = 3
_KEPT_MATRICES = 32
_BLOCK = 64  # rows of a matrix to multiply at once: each block uses some columns only
_NOTHING = 1e-9  # smaller weights change no float32 sum
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(_DEGREE + 1)  # exact for products of two cubics


def project(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Project an image onto another grid of the same extent.

    Args:
        volume: Image, float32 [D, H, W]; computed in float32 on its device, also under autocast.
        shape: Voxels along (D, H, W) of the result.

    Returns:
        float32. Next to sharp edges it overshoots by some percent of the step.
    """
    return _along_axes(volume, shape, spline_matrix)


def blend(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """As `project`, but by weighted means, so that a map never leaves its range.

    The weights are linear between voxels, and over a triangle of two new voxels where these are larger.
    """
    highest = volume.max()
    return highest - _along_axes(highest - volume, shape, triangle_matrix).clamp_min(0)  # a map of one value keeps it


@lru_cache(_KEPT_MATRICES)
def spline_matrix(size: int, new_size: int) -> np.ndarray:
    """The projection along one axis, float64 [new_size, size]; its rows sum to 1."""
    knots = np.union1d((np.arange(size) + 0.5) / size, (np.arange(new_size) + 0.5) / new_size)
    knots = np.concatenate([[0.0], knots, [1.0]])  # the extent
    length = np.diff(knots)[:, None]
    points = (knots[:-1, None] + length * (_POINTS + 1) / 2).ravel()
    weights = (length * _WEIGHTS / 2).ravel()[:, None]
    old, new = _basis(points * size - 0.5, size), _basis(points * new_size - 0.5, new_size)
    coefficients = np.linalg.solve(new.T @ (weights * new), new.T @ (weights * old))  # old spline => new spline
    return _basis(np.arange(new_size), new_size) @ coefficients @ np.linalg.inv(_basis(np.arange(size), size))


@lru_cache(_KEPT_MATRICES)
def triangle_matrix(size: int, new_size: int) -> np.ndarray:
    """Linear interpolation along one axis, widened where voxels become larger; float64 [new_size, size]."""
    step = size / new_size
    position = (np.arange(new_size) + 0.5) * step - 0.5
    weights = np.zeros((new_size, size))
    reach = max(1.0, step)
    for index in range(-int(np.ceil(reach)), size + int(np.ceil(reach))):  # the end voxels extend beyond the volume
        weights[:, min(max(index, 0), size - 1)] += np.maximum(0.0, 1 - np.abs(index - position) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def _basis(positions: np.ndarray, size: int) -> np.ndarray:
    """Values of an axis' B-splines, [P, size], at positions in voxels; the mirrored ones are folded in."""
    reach = (_DEGREE + 1) // 2
    knots = np.arange(-2 * reach, size + 2 * reach + 1)
    values = BSpline.design_matrix(np.asarray(positions, dtype=float), knots, _DEGREE).toarray()
    mirrored = np.arange(-reach, size + reach + 1) % (2 * size)
    mirrored = np.minimum(mirrored, 2 * size - 1 - mirrored)
    folded = np.zeros((len(positions), size))
    np.add.at(folded.T, mirrored, values.T)
    return folded


def _along_axes(
    volume: torch.Tensor, shape: Sequence[int], matrix_of: Callable[[int, int], np.ndarray]
) -> torch.Tensor:
    """Multiply each axis by its matrix; those that shrink most come first."""
    order = sorted(range(3), key=lambda axis: shape[axis] / volume.shape[axis])
    with torch.autocast(volume.device.type, enabled=False):
        for axis in order:
            size = volume.shape[axis]
            if size == shape[axis]:
                continue
            matrix = matrix_of(size, shape[axis])
            blocks = [matrix[start : start + _BLOCK] for start in range(0, shape[axis], _BLOCK)]
            volume = torch.cat([_times(block, volume, axis) for block in blocks], dim=axis)
    return volume


def _times(matrix: np.ndarray, volume: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply an axis by some rows of a matrix, without columns of zero weight."""
    columns = np.flatnonzero((np.abs(matrix) > _NOTHING).any(axis=0))
    first, count = int(columns[0]), int(columns[-1] - columns[0]) + 1
    weights = torch.tensor(matrix[:, first : first + count], dtype=torch.float32).to(volume.device)
    part = volume.narrow(axis, first, count)
    if axis == 0:
        return (weights @ part.reshape(count, -1)).view(-1, *volume.shape[1:])
    return weights @ part if axis == 1 else part @ weights.T
