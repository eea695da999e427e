"""Judge whether a structure was drawn: a network's Dice in synthetic scans, compared with its Dice in real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fcas_nnunet.evaluation.statistics.comparison import percentile_interval, resampled_means
from fcas_nnunet.evaluation.statistics.means import Summary, summarise
from fcas_nnunet.labels.anatomy import GivenRoles, Role, roles_of

#: Shares of the Dice in real scans: from the first on drawn, below the second not drawn, poorly drawn in between.
DRAWN_RATIO, NOT_DRAWN_RATIO = 0.9, 0.5
#: Dice in real scans that is assumed where nobody measured it: about that of a good nnU-Net on CTA.
ASSUMED_DICE, ASSUMED_THIN_DICE = 0.88, 0.75
#: A network with a lower Dice of a structure in real scans cannot judge synthetic ones.
LEAST_REAL_DICE = 0.3


class Verdict(StrEnum):
    """Verdict on a structure over all judged scans. UNDECIDED: too little is known of it, here or in real scans."""

    DRAWN = "drawn"
    POORLY_DRAWN = "poorly drawn"
    NOT_DRAWN = "not drawn"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Fidelity:
    """Judgement of one structure.

    Attributes:
        verdict: Verdict by the ratio.
        dice: Dice over the synthetic cases that have a score.
        real_dice: Mean Dice over real cases, or the assumed one.
        measured: Whether `real_dice` was measured.
        ratio: Mean Dice in synthetic scans / real_dice; NaN where either is missing.
        ratio_interval: 95 % percentile bootstrap over the cases of both sides; over the synthetic ones alone where
            the real Dice is assumed.
        cases_not_drawn: Numbers of the synthetic cases whose Dice is below `NOT_DRAWN_RATIO` of `real_dice`.
    """

    verdict: Verdict
    dice: Summary
    real_dice: float
    measured: bool
    ratio: float
    ratio_interval: tuple[float, float]
    cases_not_drawn: tuple[int, ...]


def judge_structure(
    name: str,
    synthetic: Sequence[float],
    real: Sequence[float] | None,
    *,
    flattered: bool = False,
    seed: int = 0,
    roles: GivenRoles | None = None,
) -> Fidelity:
    """Judge a structure by the Dice of the network's segmentation and the mask.

    Args:
        name: Name of the label; thin structures are expected to score lower where nothing was measured.
        synthetic: Dice per synthetic case, NaN where it has none.
        real: The same network's Dice per real case; None = not measured.
        flattered: The network has learnt from the scans that the synthetic ones were made from, but not from the real
            ones. The ratio is then too high, and no structure is called drawn.
        seed: Seed of the bootstrap.
        roles: Label name → roles that a user has given it.
    """
    dice = summarise(synthetic)
    assumed = ASSUMED_THIN_DICE if Role.THIN in roles_of(name, roles) else ASSUMED_DICE
    real_dice = assumed if real is None else summarise(real).mean
    able = real_dice >= LEAST_REAL_DICE  # not so for NaN either
    ratio = dice.mean / real_dice if able else math.nan
    limit = NOT_DRAWN_RATIO * real_dice
    return Fidelity(
        verdict=_verdict(ratio, flattered),
        dice=dice,
        real_dice=real_dice,
        measured=real is not None,
        ratio=ratio,
        ratio_interval=_interval(synthetic, real if real is not None else [assumed], seed) if able else (ratio, ratio),
        cases_not_drawn=tuple(number for number, score in enumerate(synthetic) if able and score < limit),
    )


def _verdict(ratio: float, flattered: bool) -> Verdict:
    if math.isnan(ratio):
        return Verdict.UNDECIDED
    if ratio >= DRAWN_RATIO:
        return Verdict.UNDECIDED if flattered else Verdict.DRAWN
    return Verdict.POORLY_DRAWN if ratio >= NOT_DRAWN_RATIO else Verdict.NOT_DRAWN


def _interval(synthetic: Sequence[float], real: Sequence[float], seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the ratio of two means."""
    sides = [np.array([score for score in side if not math.isnan(score)]) for side in (synthetic, real)]
    if not all(len(side) for side in sides):
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    above, below = (resampled_means(side, rng) for side in sides)
    return percentile_interval(above / np.maximum(below, 1e-6))
