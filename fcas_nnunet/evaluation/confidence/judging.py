"""Judge every map of a drawn case by the error of its image: by region, over cases, with its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from fcas_nnunet.config.confidence import FLAT_CONFIDENCE_STD
from fcas_nnunet.evaluation.confidence.error_maps import wall_shell
from fcas_nnunet.evaluation.confidence.sparsification import (
    ause,
    partial_spearman,
    reliability,
    sampled_voxels,
    spearman,
)
from fcas_nnunet.evaluation.statistics.comparison import CONFIDENCE_LEVEL
from fcas_nnunet.evaluation.statistics.means import summarise

#: Voxels of a case's region that enter its scores, and those that enter the scores over all cases.
CASE_VOXELS, POOLED_VOXELS = 200_000, 20_000


class Region(StrEnum):
    """Region in which a map is judged."""

    VOLUME = "volume"
    STRUCTURES = "structures"
    SHELL = "shell"


class ErrorKind(StrEnum):
    """Error that a map is judged against: |synthetic − real|, or the same after every structure's mean is matched."""

    RAW = "raw"
    MATCHED = "matched"


@dataclass(frozen=True)
class MapScores:
    """Scores of a map in a region of a case."""

    ause: float  # 0 for the error's own order, 0.5 for a random one, 1 for the reverse
    spearman: float  # rank correlation of doubt and error


@dataclass(frozen=True)
class CaseEvaluation:
    """Scores of one drawn case, and the samples that it contributes to scores over all cases.

    Attributes:
        scores: Error kind → region → map → scores; a region without voxels is left out.
        partial_spearman: Region → partial rank correlation of the judged map with the matched error, without what the
            controls know.
        mean_confidence: Mean confidence inside the structures.
        std_confidence: Standard deviation over the same voxels.
        mean_error: Mean matched error inside the structures.
        pooled_maps: Map → float32 [N], a sample of the structures' voxels.
        pooled_error: float32 [N], the matched error of the same voxels.
    """

    scores: dict[str, dict[str, dict[str, MapScores]]]
    partial_spearman: dict[str, float]
    mean_confidence: float
    std_confidence: float
    mean_error: float
    pooled_maps: dict[str, np.ndarray]
    pooled_error: np.ndarray


def regions(mask: np.ndarray) -> dict[Region, np.ndarray]:
    """The whole volume, the labelled structures, and a shell around their walls; bool [D, H, W] each."""
    return {
        Region.VOLUME: np.ones(mask.shape, dtype=bool),
        Region.STRUCTURES: mask > 0,
        Region.SHELL: wall_shell(mask, 2),
    }


def evaluate_case(
    maps: Mapping[str, np.ndarray],
    errors: Mapping[ErrorKind, np.ndarray],
    mask: np.ndarray,
    judged: str,
    known: Sequence[str],
    seed: int = 0,
    ignored: np.ndarray | None = None,
) -> CaseEvaluation:
    """Score every map of a drawn case.

    Args:
        maps: Name → confidence [D, H, W]; higher is more certain.
        errors: Kind → standard units [D, H, W].
        mask: Label ids [D, H, W].
        judged: Name of the map whose partial correlation, mean and spread are taken.
        known: Names of the controls whose knowledge is taken out.
        seed: Seed of the sample of voxels.
        ignored: True where nothing is judged, since no one has labelled the voxel; bool [D, H, W] or None.
    """
    scores: dict[str, dict[str, dict[str, MapScores]]] = {kind: {} for kind in errors}
    partial = {}
    for region, voxels_of in regions(mask).items():
        where = voxels_of if ignored is None else voxels_of & ~ignored
        if not where.any():
            continue
        voxels = sampled_voxels(where, seed, CASE_VOXELS)
        seen = {name: values.ravel()[voxels] for name, values in maps.items()}
        for kind, error in errors.items():
            wrong = error.ravel()[voxels]
            scores[kind][region] = {
                name: MapScores(ause(values, wrong), spearman(values, wrong)) for name, values in seen.items()
            }
        wrong = errors[ErrorKind.MATCHED].ravel()[voxels]
        partial[str(region)] = partial_spearman(seen[judged], wrong, {name: seen[name] for name in known})
    inside = mask > 0
    pooled = sampled_voxels(inside, seed, POOLED_VOXELS)
    return CaseEvaluation(
        scores=scores,
        partial_spearman=partial,
        mean_confidence=float(maps[judged][inside].mean()),
        std_confidence=float(maps[judged][inside].std()),
        mean_error=float(errors[ErrorKind.MATCHED][inside].mean()),
        pooled_maps={name: values.ravel()[pooled].astype(np.float32) for name, values in maps.items()},
        pooled_error=errors[ErrorKind.MATCHED].ravel()[pooled].astype(np.float32),
    )


def summarise_cases(
    cases: Sequence[CaseEvaluation], patients: Sequence[str], judged: str, expecting: str | None = None
) -> dict[str, Any]:
    """Summarise over patients: each map's mean scores, its scores over pooled voxels, and the judged map's reliability.

    Several drawings of one patient count as one: means are of patients' means, and so are their spread and their
    number. Pooled, a value has to mean the same in every case; within a case the order alone counts.

    Args:
        cases: Evaluations with the same maps.
        patients: Patient of each case.
        judged: Name of the map that stands for the confidence.
        expecting: Name of the map that is minus the expected error in standard units, where there is one.

    Returns:
        JSON-able but for NaN.
    """
    first = cases[0]

    def over_patients(values: Mapping[int, float]) -> dict[str, Any]:
        return vars(summarise(list(_patients_means(values, patients).values())))

    error = np.concatenate([case.pooled_error for case in cases])
    pooled = {name: np.concatenate([case.pooled_maps[name] for case in cases]) for name in first.pooled_maps}
    return {
        "scores": {
            kind: {
                region: {
                    name: {
                        measure: over_patients(
                            {n: getattr(maps[name], measure) for n, maps in _of_region(cases, kind, region).items()}
                        )
                        for measure in ("ause", "spearman")
                    }
                    for name in maps
                }
                for region, maps in by_region.items()
            }
            for kind, by_region in first.scores.items()
        },
        "pooled": {
            name: {"ause": ause(values, error), "spearman": spearman(values, error)} for name, values in pooled.items()
        },
        "better_by": _better_by(cases, patients, judged),
        "partial_spearman": {
            region: over_patients(
                {n: c.partial_spearman[region] for n, c in enumerate(cases) if region in c.partial_spearman}
            )
            for region in first.partial_spearman
        },
        "reliability": asdict(reliability(pooled[judged], error, -pooled[expecting] if expecting in pooled else None)),
        **{
            name: over_patients({n: getattr(case, name) for n, case in enumerate(cases)})
            for name in ("mean_confidence", "std_confidence", "mean_error")
        },
    }


def _of_region(cases: Sequence[CaseEvaluation], kind: str, region: str) -> dict[int, dict[str, MapScores]]:
    """Number of a case → its maps, of the cases that have such a region."""
    return {n: case.scores[kind][region] for n, case in enumerate(cases) if region in case.scores[kind]}


def _patients_means(values: Mapping[int, float], patients: Sequence[str]) -> dict[str, float]:
    """Patient → mean over his cases' values, without NaN."""
    own: dict[str, list[float]] = {}
    for number, value in values.items():
        own.setdefault(patients[number], []).append(value)
    return {patient: summarise(found).mean for patient, found in own.items()}


def _better_by(cases: Sequence[CaseEvaluation], patients: Sequence[str], judged: str) -> dict[str, Any]:
    """By how much the judged map's AUSE lies below each other map's inside the structures, patient by patient."""
    found = _of_region(cases, ErrorKind.MATCHED, Region.STRUCTURES)
    others = [name for name in next(iter(found.values()), {}) if name != judged]
    result = {}
    for name in others:
        values = {n: maps[name].ause - maps[judged].ause for n, maps in found.items()}
        differences = [v for v in _patients_means(values, patients).values() if not math.isnan(v)]
        result[name] = {
            "difference": summarise(differences).mean,
            "interval": _t_interval(differences),
            "patients": len(differences),
        }
    return result


def _t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by Student's t; NaN for fewer than two values."""
    summary = summarise(values)
    if summary.count < 2:
        return math.nan, math.nan
    half = float(student_t.ppf(0.5 + CONFIDENCE_LEVEL / 2, summary.count - 1)) * summary.std / math.sqrt(summary.count)
    return summary.mean - half, summary.mean + half


def verdict(summary: Mapping[str, Any], judged: str, controls: Sequence[str]) -> list[str]:
    """Say in sentences which controls are beaten, and whether CAL can see the map at all.

    A control is beaten when the interval of the difference over patients leaves out zero.

    Args:
        summary: Result of `summarise_cases`.
        judged: Name of the map that stands for the confidence.
        controls: Names of the maps it has to beat inside the structures.
    """
    found: dict[str, list[str]] = {"better than": [], "not to be told from": [], "worse than": []}
    for name in controls:
        low, high = summary["better_by"][name]["interval"]
        found["better than" if low > 0 else "worse than" if high < 0 else "not to be told from"].append(name)
    count = max((summary["better_by"][name]["patients"] for name in controls), default=0)
    parts = [f"{how} {', '.join(names)}" for how, names in found.items() if names]
    lines = [f"inside structures, over {count} patients, {judged} is {'; '.join(parts)}"] if parts else []
    spread = summary["std_confidence"]["mean"]
    if not math.isnan(spread) and spread < FLAT_CONFIDENCE_STD:
        lines.append(
            f"confidence inside structures hardly varies (standard deviation {spread:.3f}): CAL will weigh all voxels "
            "alike"
        )
    return lines
