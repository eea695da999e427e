"""Draw a deformation as a small record, and evaluate its field; `resampling` applies it.

Coordinates are physical: position of voxel (d, h, w) = its index times the spacing, in mm from the first voxel's
centre, so one record means the same movement on every grid of the same volume.

A heart's point p moves by the affine part first, then by the elastic part (paper Eq. 5: T_nr after T_a):

    z = center + translation + A (p - center),  A = rotation · shear · scale
    y + u(y) = z,                               u a cubic B-spline over control displacements

Sampling needs the inverse, from the output's y to the source's p, which has a closed form: u is evaluated at y.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.masks import MAX_INJECTIVE_FRACTION, MaskConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.geometry import Triple, triple

_ELASTIC_SEED_BITS = 48  # exact in JSON readers that know doubles only
_INVERSION_RELAXATION = 0.8  # converges where the plain fixed point overshoots (stretch beyond 2)
_INVERSION_TOLERANCE_MM = 1e-3
_INVERSION_MAX_ITERATIONS = 100
_DIFFERENCE_MM = 0.5


@dataclass(frozen=True)
class Deformation:
    """One movement of a heart. Triples follow the array's axes (D, H, W).

    Attributes:
        rotation_deg: Rotation about the axes D, H, W in degrees.
        scale: Factors along D, H, W; above 1 the heart grows.
        shear: Shear in mm per mm of the pairs (D, H), (D, W), (H, W).
        translation_mm: Shift of the heart's centre.
        center_mm: Point that rotation, scale and shear leave in place.
        control_spacing_mm: Distance of the B-spline's control points.
        lattice_shape: Number of control points; the second of each axis lies on the first voxel.
        max_displacement_mm: Bound per axis of the control displacements, uniform within it; 0 = no elastic part.
        elastic_seed: Seed of the control displacements.
    """

    rotation_deg: Triple[float]
    scale: Triple[float]
    shear: Triple[float]
    translation_mm: Triple[float]
    center_mm: Triple[float]
    control_spacing_mm: float
    lattice_shape: tuple[int, int, int]
    max_displacement_mm: float
    elastic_seed: int

    def __post_init__(self) -> None:
        bound_mm = MAX_INJECTIVE_FRACTION * self.control_spacing_mm
        if not 0 <= self.max_displacement_mm <= bound_mm + 1e-9:
            raise InputError(
                f"Deformation: max_displacement_mm must lie in [0, {bound_mm:.3f}] for control points "
                f"{self.control_spacing_mm} mm apart, got {self.max_displacement_mm}. More could fold the mask."
            )
        if min(self.scale) <= 0:
            raise InputError(f"Deformation: scale must be above 0, got {self.scale}.")

    @property
    def is_identity(self) -> bool:
        """True if the deformation leaves every point in place."""
        moves = any((*self.rotation_deg, *self.shear, *self.translation_mm, self.max_displacement_mm))
        return not moves and set(self.scale) == {1.0}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, for the manifest."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Deformation:
        """The deformation that `to_dict` wrote.

        Raises:
            InputError: If entries are missing or unknown.
        """
        record = {name: value for name, value in record.items() if (name, value) != ("padding", "border")}  # removed
        names = {field.name for field in dataclasses.fields(cls)}
        if set(record) != names:
            raise InputError(
                f"deformation record: entries must be {sorted(names)}, "
                f"got {sorted(set(record) - names)} too many and {sorted(names - set(record))} too few."
            )
        values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in record.items()}
        return cls(**values)

    def matrix(self) -> np.ndarray:
        """A, float64 [3, 3]: rotation · shear · scale."""
        shear = np.eye(3)
        shear[0, 1], shear[0, 2], shear[1, 2] = self.shear
        return _rotation(self.rotation_deg) @ shear @ np.diag(self.scale)

    def control_displacements_mm(self) -> np.ndarray:
        """The B-spline's coefficients, float64 [3, *lattice_shape], made from the seed alike on every machine."""
        count = 3 * int(np.prod(self.lattice_shape))
        unit = 2.0 * uniform_numbers(self.elastic_seed, count) - 1.0
        return self.max_displacement_mm * unit.reshape(3, *self.lattice_shape)


#: Leaves every point of any volume where it is.
IDENTITY = Deformation((0.0,) * 3, (1.0,) * 3, (0.0,) * 3, (0.0,) * 3, (0.0,) * 3, 1.0, (4, 4, 4), 0.0, 0)


def draw_deformation(
    config: MaskConfig,
    shape: tuple[int, int, int],
    spacing_mm: Triple[float],
    seed: int,
    *,
    center_mm: Triple[float] | None = None,
    strength: float = 1.0,
) -> Deformation:
    """Draw a deformation from the ranges of `config`.

    Args:
        config: Ranges of the draw.
        shape: Voxels along (D, H, W).
        spacing_mm: Voxel size along (D, H, W).
        seed: Seed of the draw.
        center_mm: Centre of the heart (`mask_center_mm`); None = the volume's middle.
        strength: Factor on all ranges; 0 = identity.

    Returns:
        The deformation; `deform_labels`, `deform_image` and `masks.deform_mask` apply it.
    """
    if center_mm is None:
        center_mm = triple(map(float, (np.array(shape) - 1) / 2 * spacing_mm))
    unit = iter(uniform_numbers(seed, 13))

    def drawn(low: float, high: float) -> Triple[float]:
        return triple(low + (high - low) * next(unit) for _ in range(3))

    extent_mm = (np.array(shape) - 1) * spacing_mm
    return Deformation(
        rotation_deg=drawn(-strength * config.rotation_deg, strength * config.rotation_deg),
        scale=drawn(*(1 + strength * (bound - 1) for bound in config.scale_range)),
        shear=drawn(*(strength * bound for bound in config.shear_range)),
        translation_mm=drawn(-strength * config.translation_mm, strength * config.translation_mm),
        center_mm=center_mm,
        control_spacing_mm=float(config.control_spacing_mm),
        lattice_shape=triple(int(cells) + 4 for cells in extent_mm / config.control_spacing_mm),
        max_displacement_mm=strength * config.max_displacement_fraction * config.control_spacing_mm,
        elastic_seed=int(next(unit) * 2**_ELASTIC_SEED_BITS),
    )


def mask_center_mm(mask: np.ndarray, spacing_mm: Triple[float]) -> Triple[float]:
    """Centroid of the foreground in mm from the first voxel's centre; the volume's middle for an empty mask."""
    foreground = mask > 0
    profiles = [foreground.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    total = int(profiles[0].sum())
    if total == 0:
        return triple(map(float, (np.array(mask.shape) - 1) / 2 * spacing_mm))
    return triple(float(np.arange(len(p)) @ p / total * step) for p, step in zip(profiles, spacing_mm, strict=True))


def elastic_displacement_mm(deformation: Deformation, points_mm: np.ndarray) -> np.ndarray:
    """u in mm, float64 [N, 3], at points of the output in mm, float64 [N, 3]."""
    lattice_index = points_mm.T / deformation.control_spacing_mm + 1.0
    control = deformation.control_displacements_mm()
    # without its prefilter, map_coordinates is the sum of cubic B-splines over given coefficients
    return np.stack(
        [ndimage.map_coordinates(c, lattice_index, order=3, prefilter=False, mode="nearest") for c in control], axis=-1
    )


def source_points_mm(deformation: Deformation, points_mm: np.ndarray) -> np.ndarray:
    """Map points of the output to the source: [N, 3] mm → [N, 3] mm."""
    center = np.array(deformation.center_mm)
    moved = points_mm + elastic_displacement_mm(deformation, points_mm)
    return center + _apply(np.linalg.inv(deformation.matrix()), moved - center - deformation.translation_mm)


def output_points_mm(deformation: Deformation, points_mm: np.ndarray) -> np.ndarray:
    """Map points of the source to the output: [N, 3] mm → [N, 3] mm, by a fixed point y = z - u(y)."""
    center = np.array(deformation.center_mm)
    affine_only = center + deformation.translation_mm + _apply(deformation.matrix(), points_mm - center)
    if deformation.max_displacement_mm == 0 or len(points_mm) == 0:
        return affine_only
    output = affine_only - elastic_displacement_mm(deformation, affine_only)
    for _ in range(_INVERSION_MAX_ITERATIONS):
        residual = affine_only - output - elastic_displacement_mm(deformation, output)
        output += _INVERSION_RELAXATION * residual
        if np.abs(residual).max() < _INVERSION_TOLERANCE_MM:
            break
    return output


def local_volume_ratio(deformation: Deformation, points_mm: np.ndarray) -> np.ndarray:
    """Volume of a small piece of the heart after the deformation over its volume before, at points of the source.

    It is det A / det(I + ∂u/∂y), [N], at the output position of each of the points [N, 3].
    """
    output = output_points_mm(deformation, points_mm)
    gradient = np.empty((len(points_mm), 3, 3))
    for axis, step in enumerate(_DIFFERENCE_MM * np.eye(3)):
        ahead, behind = (elastic_displacement_mm(deformation, output + sign * step) for sign in (1, -1))
        gradient[:, :, axis] = (ahead - behind) / (2 * _DIFFERENCE_MM)
    return float(np.prod(deformation.scale)) / np.linalg.det(np.eye(3) + gradient)


def elastic_jacobian_range(deformation: Deformation, points_per_cell: int = 8) -> tuple[float, float]:
    """Smallest and largest det(I + ∂u/∂y) over the lattice's inner cells; above 0, the field folds nowhere."""
    control = deformation.control_displacements_mm()
    cells = [n - 3 for n in deformation.lattice_shape]
    positions = [np.linspace(0, n, points_per_cell * n + 1) for n in cells]
    gradient = np.empty((3, 3, *map(len, positions)))
    for axis in range(3):
        field = control
        for along, (position, n) in enumerate(zip(positions, cells, strict=True)):
            matrix = _spline_matrix(position, n + 3, derivative=along == axis)
            field = np.moveaxis(np.tensordot(matrix, field, axes=(1, along + 1)), 0, along + 1)
        gradient[:, axis] = field / deformation.control_spacing_mm
    gradient[range(3), range(3)] += 1.0
    first, second, third = gradient
    determinant = np.einsum("i...,i...", first, np.cross(second, third, axis=0))
    return float(determinant.min()), float(determinant.max())


def spline_weights(position: np.ndarray, *, derivative: bool = False) -> np.ndarray:
    """The four cubic B-splines that cover a point, [4, N], for its position in [0, 1] within a cell."""
    t = position
    if derivative:
        return np.stack([-((1 - t) ** 2) / 2, (3 * t**2 - 4 * t) / 2, (-3 * t**2 + 2 * t + 1) / 2, t**2 / 2])
    return np.stack([(1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6])


def _spline_matrix(cell_position: np.ndarray, num_control: int, *, derivative: bool) -> np.ndarray:
    """[N, num_control]: row n holds the weights of the control points at a position counted in cells."""
    first = np.minimum(cell_position.astype(int), num_control - 4)
    matrix = np.zeros((len(cell_position), num_control))
    rows = np.arange(len(cell_position))
    for tap, weight in enumerate(spline_weights(cell_position - first, derivative=derivative)):
        matrix[rows, first + tap] = weight
    return matrix


def uniform_numbers(seed: int, count: int) -> np.ndarray:
    """Draw `count` numbers in [0, 1) from raw bits, the only stream that numpy promises never to change."""
    raw = np.random.PCG64(seed).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _rotation(degrees: Triple[float]) -> np.ndarray:
    """Rotation about D, then H, then W."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """matrix · v for each row v of [N, 3]; sums in a fixed order, which a threaded BLAS does not promise."""
    return sum(vectors[:, axis, None] * matrix[:, axis] for axis in range(3))
