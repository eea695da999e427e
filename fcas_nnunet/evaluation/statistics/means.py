"""Mean and spread over cases, with the number of cases behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """A measure over cases."""

    mean: float  # mean of the cases that have a score; NaN when none has
    std: float  # their sample standard deviation (n − 1); NaN for fewer than two
    count: int  # number of cases that have a score


def summarise(scores: Sequence[float]) -> Summary:
    """Mean and spread of scores; NaN means that a case has none."""
    present = [score for score in scores if not math.isnan(score)]
    count = len(present)
    mean = math.fsum(present) / count if count else math.nan
    variance = math.fsum((score - mean) ** 2 for score in present) / (count - 1) if count > 1 else math.nan
    return Summary(mean, math.sqrt(variance), count)
