"""Turn a volume's axes to the directions of the body, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from fcas_nnunet.case import spacing_of
from fcas_nnunet.geometry import Triple, triple

Number = TypeVar("Number", int, float)

#: Letter → row of an LPS affine, and the sign of its direction.
_DIRECTIONS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}

#: D towards the head, H to the back, W to the patient's left: as most scans are stored.
SPL = "SPL"
#: D towards the head, H to the front, W to the patient's right: as MAISI's networks know scans.
SAR = "SAR"


@dataclass(frozen=True)
class Orientation:
    """Order and flips of axes that turn a stored volume to requested directions; voxels are never resampled.

    Attributes:
        axes: Stored array axis along each axis of the turned volume.
        flips: Whether that stored axis runs the other way.
        tilt_degrees: Largest angle between an axis and the direction of the body that it is named after.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flips: tuple[bool, bool, bool] = (False, False, False)
    tilt_degrees: float = 0.0

    @classmethod
    def of(cls, affine: np.ndarray, towards: str = SPL) -> Orientation:
        """The turn that brings each axis nearest to a direction of the body; oblique volumes stay oblique.

        Args:
            affine: [4, 4], array index (d, h, w, 1) → LPS position in mm.
            towards: Requested directions of D, H and W: L or R, P or A, S or I, each axis of the body once.
        """
        rows, signs = zip(*(_DIRECTIONS[letter] for letter in towards), strict=True)
        cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        along = cosines[list(rows)] * np.array(signs)[:, None]
        _, axes = linear_sum_assignment(-np.abs(along))
        chosen = along[np.arange(3), axes]
        tilt = math.degrees(math.acos(min(1.0, float(np.abs(chosen).min()))))
        return cls(triple(map(int, axes)), triple(bool(cosine < 0) for cosine in chosen), tilt)

    @staticmethod
    def affine(spacing_mm: Sequence[float], along: str = SPL) -> np.ndarray:
        """The affine [4, 4] of a volume whose axes run along these directions of the body."""
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, (letter, step) in enumerate(zip(along, spacing_mm, strict=True)):
            row, sign = _DIRECTIONS[letter]
            affine[row, axis] = sign * step
        return affine

    def turn(self, array: np.ndarray) -> np.ndarray:
        """A stored volume [D, H, W], turned; a view."""
        return array.transpose(self.axes)[self._steps()]

    def turn_back(self, array: np.ndarray) -> np.ndarray:
        """A turned volume as it is stored; a view."""
        return array[self._steps()].transpose(np.argsort(self.axes).tolist())

    def reorder(self, values: Sequence[Number]) -> Triple[Number]:
        """One value per stored axis (voxels, mm) in the order of the turned axes."""
        return triple(values[axis] for axis in self.axes)

    def spacing_mm(self, affine: np.ndarray) -> Triple[float]:
        """Voxel size along the turned axes of a volume that is stored with this affine."""
        return self.reorder(spacing_of(affine))

    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
