"""Compare two results of `fcas_evaluate segmentations` for the same references, label by label."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcas_nnunet.evaluation.results import SEGMENTATIONS, read_result
from fcas_nnunet.evaluation.segmentation.overlap import FURTHER_MEASURES
from fcas_nnunet.evaluation.statistics.comparison import BOOTSTRAP_SAMPLES, CONFIDENCE_LEVEL, compare
from fcas_nnunet.faults import InputError
from fcas_nnunet.listing import listed

RDICE = "rdice"
#: Settings that a measure depends on, besides the labels and the policy for empty masks.
_DECISIVE = {RDICE: ("rdice_structuring_element",), "surface_dice": ("surface_dice_tolerance_mm",)}
#: Scores of a label that reference and prediction lack, where the other prediction has it.
_PERFECT = {"dice": 1.0, RDICE: 1.0, "surface_dice": 1.0, "centreline_dice": 1.0}  # others are errors: 0
#: Measures by which a miss may look better than a poor segmentation.
_LENIENT = ("pieces_error", "tunnels_error")


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Compare two results by a measure (`dice`, `rdice.<radius>`, `hd95_mm`, …), second minus first.

    Raises:
        MissingFileError: if a file is missing.
        InputError: if one is no such result, references, labels or settings differ, or the measure is unknown.
    """
    measure, paths = args.measure, (args.a, args.b)
    results = [read_result(path, [SEGMENTATIONS]) for path in paths]
    faults = [fault for path, result in zip(paths, results, strict=True) for fault in _unknown(measure, result, path)]
    if faults := faults or _differences(paths, results, measure):
        raise InputError("\n".join(faults))
    labels, cases = results[0]["settings"]["labels"], sorted(results[0]["cases"])
    pairs = {label: [[result["cases"][case][label] for result in results] for case in cases] for label in labels}
    scores = {label: [_scores(pair, measure) for pair in pairs[label]] for label in labels}
    first, second = ({label: [both[side] for both in scores[label]] for label in labels} for side in range(2))
    return {
        "first": str(args.a),
        "second": str(args.b),
        "settings": {
            "measure": measure,
            **_relevant(results[0], measure),
            "bootstrap_samples": BOOTSTRAP_SAMPLES,
            "confidence_level": CONFIDENCE_LEVEL,
            "test": "Wilcoxon signed-rank, two-sided; Holm over labels",
        },
        "labels": {
            label: {**vars(result), "first_missed": _missed(pairs[label], 0), "second_missed": _missed(pairs[label], 1)}
            for label, result in compare(first, second).items()
        },
    }


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a row per label."""
    header = ["label", "first", "second", "difference", "95 % interval", "p", "p (Holm)", "cases", "missed"]
    rows = []
    for label, entry in report["labels"].items():
        low, high = entry["interval"]
        rows.append([
            label, f"{entry['first_mean']:.4f}", f"{entry['second_mean']:.4f}", f"{entry['difference']:+.4f}",
            f"{low:+.4f} … {high:+.4f}", f"{entry['p_value']:.2g}", f"{entry['holm_p_value']:.2g}",
            str(entry["count"]), f"{entry['first_missed']}, {entry['second_missed']}",
        ])  # fmt: skip
    return header, rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """Lines below the printed table."""
    settings = report["settings"]
    lines = [f"empty masks: {settings['empty_masks']}"]
    unequal = [name for name, e in report["labels"].items() if e["first_missed"] != e["second_missed"]]
    if settings["measure"] in _LENIENT and unequal:
        lines.append(
            f"one result misses {listed(unequal)} more often: by {settings['measure']} a miss may count less than "
            "a poor segmentation. Read dice or hd95_mm beside it"
        )
    return lines


_PLAIN = ("first_mean", "second_mean", "difference")
_FURTHER = ("p_value", "holm_p_value", "count", "first_missed", "second_missed")
_CSV_HEADER = ["label", *_PLAIN, "low", "high", *_FURTHER]
CSV_COLUMNS = ",".join(_CSV_HEADER)


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv: a row per label."""
    rows = [
        [label, *(e[key] for key in _PLAIN), *e["interval"], *(e[key] for key in _FURTHER)]
        for label, e in report["labels"].items()
    ]
    return _CSV_HEADER, rows


def _unknown(measure: str, result: Mapping[str, Any], path: Path) -> list[str]:
    """Say why a result does not have a measure; nothing where it does."""
    settings = result["settings"]
    known = ["dice", *(f"{RDICE}.{radius}" for radius in settings["rdice_radii_voxels"])]
    known += [] if settings["overlap_only"] else FURTHER_MEASURES
    if measure in known:
        return []
    remedy = "Score without --overlap_only." if measure in FURTHER_MEASURES else "Name one of these."
    return [f"--measure: must be one of {', '.join(known)} of {path}, got {measure}. {remedy}"]


def _relevant(result: Mapping[str, Any], measure: str) -> dict[str, Any]:
    """The settings that the numbers of a measure depend on."""
    settings = result["settings"]
    return {key: settings[key] for key in ("labels", "empty_masks", *_DECISIVE.get(measure.split(".")[0], ()))}


def _differences(paths: Sequence[Path], results: Sequence[Mapping[str, Any]], measure: str) -> list[str]:
    """List what keeps two results from being compared, a sentence each."""
    names, remedy = f"{paths[0]}, {paths[1]}", "Score both against the same references with the same settings."
    first, second = (_relevant(result, measure) for result in results)
    faults = [
        f"{names}: {key} must be the same, got {_beside(first[key], second[key])} and "
        f"{_beside(second[key], first[key])}. {remedy}"
        for key in first
        if first[key] != second[key]
    ]
    ours, theirs = (result["references_sha256"] for result in results)
    if alone := sorted(ours.keys() ^ theirs.keys()):
        faults.append(f"{names}: cases must be the same, got {listed(alone)} in one only. {remedy}")
    if other := sorted(case for case in ours.keys() & theirs.keys() if ours[case] != theirs[case]):
        faults.append(f"{names}: references must be the same, got others for {listed(other)}. {remedy}")
    return faults


def _beside(value: Any, other: Any) -> str:
    """A setting in short: of labels those that the other side lacks or means otherwise."""
    if not isinstance(value, dict) or not isinstance(other, dict):
        return str(value)
    return listed(f"{name} {entry}" for name, entry in value.items() if other.get(name) != entry) or "none besides"


def _scores(pair: Sequence[Mapping[str, Any]], measure: str) -> list[float]:
    """A case's scores of a label in both results.

    Where the reference lacks the label, leaving it out is right: perfect beside another result that invents it.
    """
    name, _, radius = measure.partition(".")
    found = [entry[name][radius] if radius else entry[name] for entry in pair]
    scores = [math.nan if score is None else float(score) for score in found]
    if pair[0]["reference_voxels"] == 0 and found.count(None) == 1:
        scores = [_PERFECT.get(name, 0.0) if math.isnan(score) else score for score in scores]
    return scores


def _missed(pairs: Sequence[Sequence[Mapping[str, Any]]], side: int) -> int:
    """Count the cases in which a result lacks a label altogether that the reference has."""
    return sum(pair[side]["reference_voxels"] > 0 and pair[side]["prediction_voxels"] == 0 for pair in pairs)
