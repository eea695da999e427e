"""Two results of `fcas_evaluate segmentations` for the same references, label by label."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcas_nnunet.evaluation.results import COMPARISON, SEGMENTATIONS, header, read_result
from fcas_nnunet.evaluation.segmentation.overlap import FURTHER_MEASURES
from fcas_nnunet.evaluation.statistics.comparison import BOOTSTRAP_SAMPLES, CONFIDENCE_LEVEL, compare
from fcas_nnunet.integration.dataset.manifest import versions

RDICE = "rdice"
#: Settings that a measure depends on, beyond the labels and what an empty mask counts.
_DECISIVE = {RDICE: ("rdice_structuring_element",), "surface_dice": ("surface_dice_tolerance_mm",)}
#: Of a label that reference and prediction lack, where the other prediction has it.
_PERFECT = {"dice": 1.0, RDICE: 1.0, "surface_dice": 1.0, "centreline_dice": 1.0}
_NO_ERROR = 0.0
#: Measures by which a miss may look better than a poor segmentation.
_LENIENT = ("pieces_error", "tunnels_error")


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """What `fcas_evaluate compare` does before it prints."""
    return compare_results(args.a, args.b, args.measure)


def compare_results(first: Path, second: Path, measure: str) -> dict[str, Any]:
    """Compare two results, second minus first.

    Args:
        first: JSON written by `fcas_evaluate segmentations -o`.
        second: the same for the other result.
        measure: a score of a label: `dice`, `rdice.<radius>`, `hd95_mm`, …

    Returns:
        The report as docs/evaluation.md describes it.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is no such result, references, labels or settings differ, or the measure is unknown.
    """
    paths = (first, second)
    results = [read_result(path, [SEGMENTATIONS]) for path in paths]
    faults = [fault for path, result in zip(paths, results, strict=True) for fault in _unknown(measure, result, path)]
    faults = faults or _differences(paths, results, measure)
    if faults:
        raise ValueError("\n".join(faults))
    labels = results[0]["settings"]["labels"]
    cases = sorted(results[0]["cases"])
    entries = [{label: [result["cases"][case][label] for case in cases] for label in labels} for result in results]
    scores = [{label: [_score(entry, measure) for entry in own[label]] for label in labels} for own in entries]
    for label in labels:
        _count_absence(entries[0][label], scores[0][label], scores[1][label], measure)
    compared = compare(scores[0], scores[1])
    return {
        **header(COMPARISON),
        "first": str(first),
        "second": str(second),
        "settings": {
            "measure": measure,
            **_relevant(results[0], measure),
            "bootstrap_samples": BOOTSTRAP_SAMPLES,
            "confidence_level": CONFIDENCE_LEVEL,
            "test": "Wilcoxon signed-rank, two-sided; Holm over labels",
        },
        "labels": {
            label: {**vars(result), **_absences(entries[0][label], entries[1][label])}
            for label, result in compared.items()
        },
        "versions": versions(),
    }


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table, a row per label."""
    header = ["label", "first", "second", "difference", "95 % interval", "p", "p (Holm)", "cases", "missed"]
    rows = []
    for label, entry in report["labels"].items():
        low, high = entry["interval"]
        numbers = [entry["first_mean"], entry["second_mean"]]
        rows.append(
            [
                label, *(f"{value:.4f}" for value in numbers), f"{entry['difference']:+.4f}",
                f"{low:+.4f} … {high:+.4f}",
                f"{entry['p_value']:.2g}", f"{entry['holm_p_value']:.2g}", str(entry["count"]),
                f"{entry['first_missed']}, {entry['second_missed']}",
            ]
        )  # fmt: skip
    return header, rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    settings = report["settings"]
    lines = [f"empty masks: {settings['empty_masks']}"]
    unequal = [name for name, e in report["labels"].items() if e["first_missed"] != e["second_missed"]]
    if settings["measure"] in _LENIENT and unequal:
        lines.append(
            f"one result misses {', '.join(unequal)} more often: by {settings['measure']} a miss may count less than "
            "a poor segmentation. Read dice or hd95_mm beside it"
        )
    return lines


_PLAIN = ("first_mean", "second_mean", "difference")
_FURTHER = ("p_value", "holm_p_value", "count", "first_missed", "second_missed")
_CSV_HEADER = ["label", *_PLAIN, "low", "high", *_FURTHER]
#: Columns of --csv, as a regular expression.
CSV_COLUMNS = ",".join(_CSV_HEADER)


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv, a row per label."""
    rows = [
        [label, *(e[key] for key in _PLAIN), *e["interval"], *(e[key] for key in _FURTHER)]
        for label, e in report["labels"].items()
    ]
    return _CSV_HEADER, rows


def _unknown(measure: str, result: Mapping[str, Any], path: Path) -> list[str]:
    """Why a result does not have a measure; nothing where it does."""
    settings = result["settings"]
    known = ["dice", *(f"{RDICE}.{radius}" for radius in settings["rdice_radii_voxels"])]
    known += [] if settings["overlap_only"] else FURTHER_MEASURES
    if measure in known:
        return []
    remedy = " Score without --overlap_only." if measure in FURTHER_MEASURES else ""
    return [f"--measure: must be one of {', '.join(known)} of {path}, got {measure}.{remedy}"]


def _relevant(result: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """The settings that the numbers of a measure depend on."""
    settings = result["settings"]
    return {key: settings[key] for key in ("labels", "empty_masks", *_DECISIVE.get(measure.split(".")[0], ()))}


def _differences(paths: Sequence[Path], results: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    """What keeps two results from being compared, a sentence each."""
    names, remedy = f"{paths[0]}, {paths[1]}", "Score both against the same references with the same settings."
    first, second = (_relevant(result, measure) for result in results)
    faults = [
        f"{names}: {key} must be the same, got {first[key]} and {second[key]}. {remedy}"
        for key in first
        if first[key] != second[key]
    ]
    hashes = [result["references_sha256"] for result in results]
    alone = sorted(hashes[0].keys() ^ hashes[1].keys())
    if alone:
        faults.append(f"{names}: cases must be the same, got {', '.join(alone)} in one only. {remedy}")
    other = sorted(case for case in hashes[0].keys() & hashes[1].keys() if hashes[0][case] != hashes[1][case])
    if other:
        faults.append(f"{names}: references must be the same, got others for {', '.join(other)}. {remedy}")
    return faults


def _score(entry: Mapping[str, Any], measure: str) -> float:
    value: Any = entry
    for key in measure.split("."):
        value = value[key]
    return math.nan if value is None else float(value)


def _count_absence(entries: Sequence[Mapping[str, Any]], first: list[float], second: list[float], measure: str) -> None:
    """Where the reference lacks a label, leaving it out is right: perfect beside another result that invents it."""
    perfect = _PERFECT.get(measure.split(".")[0], _NO_ERROR)
    for number, entry in enumerate(entries):
        if entry["reference_voxels"] == 0 and math.isnan(first[number]) != math.isnan(second[number]):
            right = first if math.isnan(first[number]) else second
            right[number] = perfect


def _absences(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """In how many cases either result lacks a label altogether that the reference has."""
    return {
        name: sum(entry["reference_voxels"] > 0 and entry["prediction_voxels"] == 0 for entry in entries)
        for name, entries in (("first_missed", first), ("second_missed", second))
    }
