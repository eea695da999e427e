"""Random fields in physical space: the same on every grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from fcas_nnunet.datasets.phantom.shapes import Unbounded, dot

_LATTICE = 24


@dataclass(frozen=True)
class NoiseField:
    """Trilinear noise of mean 0 and standard deviation about 1, periodic beyond 24 cells."""

    lattice: np.ndarray  # [24, 24, 24] float32
    cell_mm: float  # distance of lattice points

    @classmethod
    def draw(cls, rng: np.random.Generator, cell_mm: float) -> NoiseField:
        """Draw a new field with features of about `cell_mm`."""
        # trilinear interpolation of white noise keeps (2/3)³ of the variance on average
        return cls(rng.standard_normal((_LATTICE,) * 3, dtype=np.float32) * 1.84, cell_mm)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The field at [3, ...] mm."""
        return map_coordinates(self.lattice, points / points.dtype.type(self.cell_mm), order=1, mode="grid-wrap")


@dataclass(frozen=True)
class NoiseSolid(Unbounded):
    """Shape of the places where a noise field exceeds a threshold: strands and islands."""

    field: NoiseField
    threshold: float  # in standard deviations

    def __call__(self, points: np.ndarray) -> np.ndarray:
        # the field's slope is about 1 / cell
        return (self.threshold - self.field(points)) * points.dtype.type(self.field.cell_mm / 1.5)


@dataclass(frozen=True)
class Warp:
    """A smooth displacement, a sum of plane waves: no two hearts are the same ellipsoids."""

    wave_vectors: np.ndarray  # [n, 3] rad/mm
    phases: np.ndarray  # [n] rad
    amplitudes_mm: np.ndarray  # [n, 3]

    @classmethod
    def draw(cls, rng: np.random.Generator, num_waves: int = 7, amplitude_mm: float = 1.3) -> Warp:
        """Draw a new displacement with wavelengths of 45–110 mm, far from folding."""
        directions = rng.standard_normal((num_waves, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        wavelengths = rng.uniform(45, 110, num_waves)
        # longer waves may be stronger without steepening the displacement
        amplitudes = rng.standard_normal((num_waves, 3)) * amplitude_mm * (wavelengths / 80)[:, None]
        return cls(
            2 * np.pi * directions / wavelengths[:, None],
            rng.uniform(0, 2 * np.pi, num_waves),
            np.clip(amplitudes, -2 * amplitude_mm, 2 * amplitude_mm),
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Positions in the patient → positions in the undeformed anatomy, [3, ...] mm."""
        warped = points.copy()
        for wave_vector, phase, amplitude in zip(self.wave_vectors, self.phases, self.amplitudes_mm, strict=True):
            wave = np.sin(dot(wave_vector, points) + points.dtype.type(phase))
            for axis in range(3):
                warped[axis] += points.dtype.type(amplitude[axis]) * wave
        return warped

    def inverse(self, points: np.ndarray, iterations: int = 12) -> np.ndarray:
        """Positions in the undeformed anatomy → in the patient, by fixed-point iteration."""
        found = points.copy()
        for _ in range(iterations):
            found += points - self(found)
        return found
