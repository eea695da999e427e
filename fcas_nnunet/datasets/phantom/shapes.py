"""Implicit shapes: signed distance functions in mm, negative inside, from which the phantom is built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Protocol

import numpy as np

#: Lower and upper corner of an axis-aligned box, each [3] mm.
Bounds = tuple[np.ndarray, np.ndarray]


class Shape(Protocol):
    """A solid in space."""

    @property
    def bounds(self) -> Bounds:
        """A box that holds the solid."""
        ...

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Signed distance to the surface from [3, ...] mm: [...] mm, exact near the surface, a bound elsewhere."""
        ...


class Unbounded:
    """Base of the shapes that reach beyond every box."""

    bounds: Bounds = (np.full(3, -np.inf), np.full(3, np.inf))


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid."""

    center: np.ndarray  # [3] mm
    semi_axes: np.ndarray  # [3] mm
    axes: np.ndarray  # [3, 3], the unit vectors of the semi-axes as rows

    @property
    def bounds(self) -> Bounds:
        reach = np.linalg.norm(self.axes * self.semi_axes[:, None], axis=0)
        return self.center - reach, self.center + reach

    def __call__(self, points: np.ndarray) -> np.ndarray:
        rows = self.axes / self.semi_axes[:, None]
        local = np.stack([dot(row, points) - points.dtype.type(row @ self.center) for row in rows])
        level = np.sqrt((local**2).sum(axis=0))
        local /= _column(self.semi_axes, local)
        gradient = np.sqrt((local**2).sum(axis=0))
        return level * (level - 1) / np.maximum(gradient, 1e-6)


@dataclass(frozen=True)
class Tube:
    """Round cones along a polyline: a vessel with a changing radius."""

    path: np.ndarray  # [n, 3] mm, n ≥ 2
    radii: np.ndarray  # [n] mm

    @property
    def bounds(self) -> Bounds:
        radius = self.radii.max()
        return self.path.min(axis=0) - radius, self.path.max(axis=0) + radius

    def __call__(self, points: np.ndarray) -> np.ndarray:
        distance = np.full(points.shape[1:], np.inf, points.dtype)
        for (start, end), (r_start, r_end) in zip(pairwise(self.path), pairwise(self.radii), strict=True):
            axis = (end - start).astype(points.dtype)
            offset = points - _column(start, points)
            along = dot(axis, offset) / points.dtype.type(max(float(axis @ axis), 1e-9))
            along = np.clip(along, 0, 1)
            offset -= along * _column(axis, points)
            np.minimum(distance, np.sqrt((offset**2).sum(axis=0)) - (r_start + (r_end - r_start) * along), out=distance)
        return distance


@dataclass(frozen=True)
class HalfSpace(Unbounded):
    """All space behind a plane."""

    point: np.ndarray  # [3] mm, on the plane
    normal: np.ndarray  # [3], unit vector that points out of the solid

    def __call__(self, points: np.ndarray) -> np.ndarray:
        normal = self.normal.astype(points.dtype)
        return dot(normal, points) - points.dtype.type(self.normal @ self.point)


@dataclass(frozen=True)
class Union:
    """Any of the solids, with a fillet of about `fillet_mm` where they meet."""

    solids: Sequence[Shape]
    fillet_mm: float = 0.0

    @property
    def bounds(self) -> Bounds:
        lows, highs = zip(*(solid.bounds for solid in self.solids), strict=True)
        return np.min(lows, axis=0) - self.fillet_mm / 4, np.max(highs, axis=0) + self.fillet_mm / 4

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return smooth_minimum((solid(points) for solid in self.solids), self.fillet_mm)


@dataclass(frozen=True)
class Intersection:
    """All of the solids, with edges rounded by about `fillet_mm`."""

    solids: Sequence[Shape]
    fillet_mm: float = 0.0

    @property
    def bounds(self) -> Bounds:
        lows, highs = zip(*(solid.bounds for solid in self.solids), strict=True)
        return np.max(lows, axis=0), np.min(highs, axis=0)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return -smooth_minimum((-solid(points) for solid in self.solids), self.fillet_mm)


@dataclass(frozen=True)
class Offset:
    """A solid grown by `by_mm` on all sides (shrunk when negative): a cavity with its wall."""

    solid: Shape
    by_mm: float

    @property
    def bounds(self) -> Bounds:
        low, high = self.solid.bounds
        return low - self.by_mm, high + self.by_mm

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.solid(points) - points.dtype.type(self.by_mm)


def smooth_minimum(distances: Iterable[np.ndarray], width: float) -> np.ndarray:
    """Polynomial smooth minimum; the plain one for width 0."""

    def of_two(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        blend = np.clip(0.5 + 0.5 * (right - left) / width, 0, 1)
        return right + (left - right) * blend - width * blend * (1 - blend)

    return reduce(of_two if width > 0 else np.minimum, distances)


def dot(vector: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[3] · [3, ...] in the points' dtype, without BLAS: its threads would change the last bits."""
    x, y, z = vector.astype(points.dtype)
    return x * points[0] + y * points[1] + z * points[2]


def _column(vector: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A [3] vector shaped to broadcast against [3, ...] points, in their dtype."""
    return vector.astype(points.dtype).reshape(3, *[1] * (points.ndim - 1))
