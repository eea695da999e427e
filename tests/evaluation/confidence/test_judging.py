"""What drawings say of a confidence map: means over patients, intervals, and the sentences that follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fcas_nnunet.commands.evaluate.drawings import KNOWN
from fcas_nnunet.evaluation.confidence.controls import DEPARTURE, control_maps
from fcas_nnunet.evaluation.confidence.judging import (
    CaseEvaluation,
    ErrorKind,
    MapScores,
    Region,
    evaluate_case,
    summarise_cases,
    verdict,
)


def test_summary_of_known_maps() -> None:
    """Two cases whose error is known: the error's own order, but another scale in each case."""
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 12, 12), dtype=np.uint8)
    mask[2:10, 2:10, 2:10] = 1
    cases = []
    for factor in (1, 10):
        error = rng.exponential(size=mask.shape) * factor
        maps = {"confidence": -error / factor, "known": np.ones(mask.shape), "noise": rng.random(mask.shape)}
        cases.append(
            evaluate_case(maps, {ErrorKind.RAW: error, ErrorKind.MATCHED: error}, mask, "confidence", ["known"])
        )
    summary = summarise_cases(cases, ["p0", "p1"], "confidence")
    own = summary["scores"]["matched"]["structures"]["confidence"]
    assert own["ause"]["mean"] == pytest.approx(0, abs=1e-9)
    assert own["spearman"]["mean"] == pytest.approx(1)
    assert 0.1 < summary["pooled"]["confidence"]["ause"] < 0.4  # pooled, the scales do not agree
    assert summary["partial_spearman"]["structures"]["mean"] == pytest.approx(1)
    assert verdict(summary, "confidence", ["known", "noise"]) == [
        "inside structures, over 2 patients, confidence is better than known, noise"
    ]


def case_of(ause: float, other: float) -> CaseEvaluation:
    """A drawing of which two maps' AUSE are known."""
    maps = {"confidence": MapScores(ause, 0.0), "other": MapScores(other, 0.0)}
    scores = {str(kind): {str(Region.STRUCTURES): maps} for kind in ErrorKind}
    pooled = {name: np.arange(20, dtype=np.float32) for name in maps}
    return CaseEvaluation(scores, {str(Region.STRUCTURES): ause}, ause, 0.2, 50.0, pooled, np.arange(20.0))


def test_drawings_of_one_patient_count_once() -> None:
    cases = [case_of(0.1, 0.3), case_of(0.3, 0.5), case_of(0.4, 0.6)]
    summary = summarise_cases(cases, ["a", "a", "b"], "confidence")
    own = summary["scores"]["matched"]["structures"]["confidence"]["ause"]
    assert own == pytest.approx({"mean": 0.3, "std": 0.2 / math.sqrt(2), "count": 2})  # of 0.2 and 0.4
    assert summary["mean_confidence"] == pytest.approx(own)
    assert summary["partial_spearman"]["structures"] == pytest.approx(own)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        ((0.35, 0.36, 0.34), "over 3 patients, confidence is better than other"),
        ((0.15, 0.16, 0.14), "confidence is worse than other"),
        ((0.26, 0.40, 0.10), "confidence is not to be told from other"),  # a difference of the mean alone is no proof
        ((0.35,), "over 1 patients, confidence is not to be told from other"),
    ],
)
def test_a_control_is_beaten_where_the_interval_says_so(others: tuple[float, ...], sentence: str) -> None:
    summary = summarise_cases([case_of(0.25, other) for other in others], [str(n) for n in range(len(others))],
                              "confidence")  # fmt: skip
    assert verdict(summary, "confidence", ["other"])[0].endswith(sentence)


def test_the_interval_is_students() -> None:
    differences = [0.1, 0.02, 0.05, 0.07]
    cases = [case_of(0.25, 0.25 + difference) for difference in differences]
    found = summarise_cases(cases, list("abcd"), "confidence")["better_by"]["other"]
    wanted = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert found["difference"] == pytest.approx(0.06)
    assert found["interval"] == pytest.approx(tuple(wanted))
    assert found["patients"] == 4


def test_a_flat_map_is_warned_about() -> None:
    mask = np.ones((8, 8, 8), dtype=np.uint8)
    rng = np.random.default_rng(0)
    error, flat = rng.random(mask.shape), 0.98 + 0.01 * rng.random(mask.shape)
    case = evaluate_case({"c": flat}, {ErrorKind.RAW: error, ErrorKind.MATCHED: error}, mask, "c", [])
    assert "CAL will weigh all voxels alike" in verdict(summarise_cases([case], ["p"], "c"), "c", [])[-1]


def test_a_map_that_is_the_departure_from_the_mean_knows_nothing_beside_the_controls() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 12, 12), dtype=np.uint8)
    mask[2:10, 2:10, 2:10] = 1
    image = (300.0 * mask + rng.normal(0, 40, mask.shape)).astype(np.float32)
    maps = control_maps(np.ones(mask.shape, np.float32), image[None], mask, mask, (1, 1, 1), None, 0)
    error = np.abs(maps[DEPARTURE]) + rng.exponential(10, mask.shape)
    errors = {ErrorKind.RAW: error, ErrorKind.MATCHED: error}
    for own, expected in ((maps[DEPARTURE], 0.0), (-error, 1.0)):
        known = [name for name in KNOWN if name in maps]
        case = evaluate_case(maps | {"own": own}, errors, mask, "own", known)
        assert case.partial_spearman["structures"] == pytest.approx(expected, abs=1e-6)
