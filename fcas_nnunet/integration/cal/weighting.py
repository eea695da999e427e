"""Turn confidence into weights of the loss: floor, normalisation, range and ramp, as variables of the environment say.

nnU-Net's trainers take no arguments, so the environment is where users set them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fcas_nnunet.faults import InputError

#: Confidence is mapped from [0, 1] to [floor, 1].
FLOOR_VARIABLE = "FCAS_CONFIDENCE_FLOOR"
PREFIX = "FCAS_CAL_"
NORMALISE_VARIABLE, CLIP_VARIABLE, RAMP_VARIABLE = f"{PREFIX}NORMALISE", f"{PREFIX}CLIP", f"{PREFIX}RAMP"
#: Of `nnUNetTrainerCALMixed`.
SYNTHETIC_VARIABLE, SHARE_VARIABLE = f"{PREFIX}SYNTHETIC", f"{PREFIX}SHARE"
#: All that the trainers read whose names begin with the prefix.
VARIABLES = frozenset({NORMALISE_VARIABLE, CLIP_VARIABLE, RAMP_VARIABLE, SYNTHETIC_VARIABLE, SHARE_VARIABLE})

#: Weights up to this are 0, which interpolation has moved by rounding; the smallest others are far above it.
_ZERO = 1e-5


def read_numbers(
    variable: str, default: tuple[float, ...], rule: str, is_valid: Callable[..., bool]
) -> tuple[float, ...]:
    """Read as many numbers as `default` has, separated by blanks, from a variable of the environment.

    Raises:
        InputError: when they are not numbers, not as many, or not valid; `rule` is a clause for the message.
    """
    value = os.environ.get(variable)
    if value is None:
        return default
    with suppress(ValueError):
        numbers = tuple(map(float, value.split()))
        if len(numbers) == len(default) and is_valid(*numbers):
            return numbers
    raise InputError(f"{variable}: {rule}, got {value}. Set or unset it.")


def refuse_unknown_variables() -> None:
    """Refuse variables that begin as this package's do and are none of them: a misspelt one would have no effect.

    Raises:
        InputError: naming them.
    """
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in VARIABLES)
    if unknown:
        raise InputError(
            f"{', '.join(unknown)}: variables {PREFIX}… must be among {', '.join(sorted(VARIABLES))}, got "
            f"{'others' if len(unknown) > 1 else 'another'}. Correct the name, or unset it."
        )


@dataclass(frozen=True)
class Weighting:
    """How confidence becomes the weight of a voxel, in this order; the defaults leave it as it is."""

    floor: float = 0.0  # weight of confidence 0; confidence is mapped from [0, 1] to [floor, 1]
    normalise: bool = False  # divide by the mean weight, over the data set, of the voxels that have the same label
    low: float = 0.0  # smallest weight, of voxels that have any
    high: float = math.inf  # largest weight
    ramp: float = 0.0  # share of the training over which weights go from 1 to what they are

    @classmethod
    def from_environment(cls) -> Weighting:
        """Read the settings.

        Raises:
            InputError: when a value is malformed.
        """
        (floor,) = read_numbers(FLOOR_VARIABLE, (0.0,), "floor must be in [0, 1)", lambda floor: 0 <= floor < 1)
        (normalise,) = read_numbers(NORMALISE_VARIABLE, (0.0,), "must be 0 or 1", lambda value: value in (0, 1))
        low, high = read_numbers(
            CLIP_VARIABLE, (0.0, math.inf), "range must be two numbers LOW HIGH, LOW in [0, 1] and HIGH at least 1",
            lambda low, high: 0 <= low <= 1 <= high,
        )  # fmt: skip
        (ramp,) = read_numbers(RAMP_VARIABLE, (0.0,), "share of the training must be in [0, 1]", lambda x: 0 <= x <= 1)
        return cls(floor, normalise == 1, low, high, ramp)

    @property
    def is_fixed(self) -> bool:
        """Whether weights differ from confidence, whatever the time of the training."""
        return self != Weighting(ramp=self.ramp)

    def as_variables(self) -> dict[str, str]:
        """Return variable → value, as they are recorded in checkpoints."""
        return {
            FLOOR_VARIABLE: str(self.floor),
            NORMALISE_VARIABLE: str(int(self.normalise)),
            CLIP_VARIABLE: f"{self.low} {self.high}",
            RAMP_VARIABLE: str(self.ramp),
        }

    def ramped(self, weights: Tensor, progress: float) -> Tensor:
        """Return the weights at a time of the training: 1 at its start, and what they are after the ramp.

        Voxels of weight 0 have no label to learn from, so they keep it from the start.

        Args:
            weights: of any shape.
            progress: share of the training that is done, in [0, 1).
        """
        if progress >= self.ramp:
            return weights
        return torch.where(weights > _ZERO, 1 + progress / self.ramp * (weights - 1), weights)


class CaseWeights:
    """Weights of a data set's cases before the ramp.

    Args:
        weighting: the settings.
        means: label → mean weight over the data set of the voxels that have it, its floor applied; empty where weights
            are not divided by it.
    """

    def __init__(self, weighting: Weighting, means: Mapping[int, float]) -> None:
        self.weighting = weighting
        self._means = np.ones(max(means, default=0) + 2, np.float32)  # the last: of labels beyond
        for label, mean in means.items():
            self._means[label] = mean or 1  # a label that weighs nothing anywhere stays so

    def doubt(self, doubt: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return doubt, 1 − weight, of voxels with doubt 1 − confidence; exactly 0 for 0 in a set that has no other.

        Args:
            doubt: float32, of any shape; below 0 for confidence above 1.
            labels: label map of the same shape, −1 for background outside what nnU-Net cropped.
        """
        settings = self.weighting
        weights = 1 - np.where(doubt > 0, np.float32(1 - settings.floor) * doubt, doubt)
        weights = weights / self._means.take(labels, mode="clip")
        return 1 - np.where(weights > 0, np.clip(weights, np.float32(settings.low), np.float32(settings.high)), weights)
