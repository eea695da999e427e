"""Turn the probability that a segmenter gives to each voxel's own label into confidence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np

#: Smallest probability whose loss is told apart: half a step of the stored ones.
LEAST_PROBABILITY = 0.5 / 65_535

#: Number of a label's voxels, and the sum of their losses.
LossSum = tuple[int, float]


class Rule(StrEnum):
    """How confidence follows from probability."""

    SOFT = "soft"
    FREEMASK = "freemask"


class Combination(StrEnum):
    """What becomes of the map that the set was generated with."""

    REPLACE = "replace"
    PRODUCT = "product"


@dataclass(frozen=True)
class Weighing:
    """Settings of the maps.

    Attributes:
        rule: `soft`: p to the power `power`. `freemask`: 0 where −log p exceeds `alpha` times the mean over the label's
            voxels in the whole set, else 1. Source: FreeMask, arXiv 2310.15160, section 3.3.
        power: Of the soft rule.
        alpha: Of FreeMask's rule.
        combination: `product` multiplies by the generated map.
        drop_below: Cases whose score is lower get confidence 0 everywhere; None = none.
    """

    rule: Rule = Rule.SOFT
    power: float = 1.0
    alpha: float = 1.25
    combination: Combination = Combination.REPLACE
    drop_below: float | None = None

    def to_record(self) -> dict[str, Any]:
        """Settings that have an effect, as a manifest holds them."""
        idle = "alpha" if self.rule == Rule.SOFT else "power"
        return {key: value for key, value in asdict(self).items() if key != idle}


def losses(probability: np.ndarray) -> np.ndarray:
    """Cross entropy −log p of each voxel's label, float32."""
    return -np.log(np.maximum(probability, np.float32(LEAST_PROBABILITY)))


def loss_sums(probability: np.ndarray, mask: np.ndarray, counted: np.ndarray) -> dict[int, LossSum]:
    """Count and sum the losses of each label over the voxels that count; labels without any are left out."""
    found = losses(probability)
    sums = {}
    for label in np.unique(mask[counted]).tolist():
        where = counted & (mask == label)
        sums[label] = int(np.count_nonzero(where)), float(found[where].sum(dtype=np.float64))
    return sums


def mean_losses(sums: Iterable[Mapping[int, LossSum]]) -> dict[int, float]:
    """Label → mean loss of its voxels over all cases."""
    cases = list(sums)
    means = {}
    for label in sorted({label for case in cases for label in case}):
        parts = [case[label] for case in cases if label in case]
        means[label] = math.fsum(total for _, total in parts) / sum(number for number, _ in parts)
    return means


def confidence_of(
    probability: np.ndarray, mask: np.ndarray, weighing: Weighing, means: Mapping[int, float]
) -> np.ndarray:
    """Apply the rule to a case, before anything is combined or dropped.

    Args:
        probability: Of each voxel's own label, [D, H, W].
        mask: The labels, [D, H, W].
        weighing: The settings.
        means: Result of `mean_losses`; labels that it lacks have confidence 0 by FreeMask's rule.

    Returns:
        float32 [D, H, W] in [0, 1].
    """
    if weighing.rule == Rule.SOFT:
        return probability.astype(np.float32) ** np.float32(weighing.power)
    limit = np.full(mask.shape, -1, np.float32)
    for label, mean in means.items():
        limit[mask == label] = weighing.alpha * mean
    return (losses(probability) <= limit).astype(np.float32)
