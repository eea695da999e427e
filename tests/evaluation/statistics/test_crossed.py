"""Crossed samples of seeds and cases: intervals cover as often as they say, also where a mean over cases would not."""

import math

import numpy as np
import pytest
from scipy import stats

from fcas_nnunet.evaluation.statistics.crossed import crossed_mean

SEEDS, CASES, TRIALS = 3, 30, 1500


def drawn(
    rng: np.random.Generator, seed_std: float, case_std: float, rest_std: float, mean: float, seeds: int = SEEDS
) -> np.ndarray:
    of_seeds, of_cases = rng.normal(0, seed_std, (seeds, 1)), rng.normal(0, case_std, CASES)
    return mean + of_seeds + of_cases + rng.normal(0, rest_std, (seeds, CASES))


@pytest.mark.parametrize(
    ("stds", "seeds", "lowest", "highest"),
    [((1.0, 2.0, 2.0), 3, 0.93, 1.0), ((0.0, 2.0, 2.0), 3, 0.94, 1.0), ((0.0, 0.0, 2.0), 3, 0.94, 1.0),
     ((1.0, 0.0, 1.0), 3, 0.93, 0.98), ((1.0, 2.0, 2.0), 10, 0.93, 0.98)],
)  # fmt: skip
def test_intervals_cover_the_mean(stds: tuple[float, float, float], seeds: int, lowest: float, highest: float) -> None:
    rng = np.random.default_rng(0)
    found = [crossed_mean(drawn(rng, *stds, mean=1.5, seeds=seeds)) for _ in range(TRIALS)]
    covered = np.mean([result.interval[0] <= 1.5 <= result.interval[1] for result in found])
    assert lowest <= covered <= highest


def test_seeds_that_agree_by_chance_are_few_nonetheless() -> None:
    rest = np.random.default_rng(4).normal(0, 1.0, (SEEDS, CASES))
    rest -= rest.mean(axis=0) + rest.mean(axis=1, keepdims=True) - rest.mean()
    result = crossed_mean(2.0 + rest)
    assert result.seed_std == 0
    variance = (rest**2).sum() / ((SEEDS - 1) * (CASES - 1)) / (SEEDS * CASES)
    reach = stats.t.ppf(0.975, SEEDS - 1) * math.sqrt(variance)
    assert result.interval == pytest.approx((2.0 - reach, 2.0 + reach))


def test_a_mean_over_cases_alone_would_not_cover() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(TRIALS):
        of_cases = drawn(rng, 1.0, 2.0, 2.0, mean=0.0).mean(axis=0)
        reach = stats.t.ppf(0.975, CASES - 1) * of_cases.std(ddof=1) / math.sqrt(CASES)
        covered += abs(of_cases.mean()) <= reach
    assert covered / TRIALS < 0.85


def test_parts_of_the_variance_are_told_apart() -> None:
    rng = np.random.default_rng(2)
    table = 0.4 + rng.normal(0, 1.0, (60, 1)) + rng.normal(0, 3.0, 200) + rng.normal(0, 2.0, (60, 200))
    result = crossed_mean(table)
    assert result.mean == pytest.approx(table.mean())
    assert (result.seed_std, result.case_std, result.rest_std) == pytest.approx((1.0, 3.0, 2.0), rel=0.15)
    assert (result.num_seeds, result.num_cases) == (60, 200)


def test_p_value_and_interval_agree_and_detectable_is_found_as_often_as_said() -> None:
    rng = np.random.default_rng(3)
    stds = (0.0, 2.0, 2.0)
    typical = np.median([crossed_mean(drawn(rng, *stds, mean=0.0)).detectable for _ in range(300)])
    found = [crossed_mean(drawn(rng, *stds, mean=float(typical))) for _ in range(TRIALS)]
    for result in found:
        assert (result.p_value < 0.05) == (result.interval[0] > 0 or result.interval[1] < 0)
    assert 0.7 < np.mean([result.p_value < 0.05 for result in found]) < 0.9


def test_a_constant_difference_is_certain() -> None:
    result = crossed_mean(np.full((3, 5), 0.75))
    assert result.interval == pytest.approx((0.75, 0.75))
    assert result.p_value == 0.0


@pytest.mark.parametrize("table", [np.zeros((1, 5)), np.zeros((3, 1)), np.array([[1.0, np.nan], [0.0, 1.0]])])
def test_too_little_is_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"differences: must be finite \[seeds, cases\] of at least 2 × 2"):
        crossed_mean(table)
