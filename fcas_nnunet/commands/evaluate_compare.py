"""Two results of `fcas_evaluate segmentations` for the same references, label by label."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.evaluate_segmentations import SCHEMA as SEGMENTATIONS_SCHEMA
from fcas_nnunet.evaluation.comparison import BOOTSTRAP_SAMPLES, CONFIDENCE_LEVEL, compare
from fcas_nnunet.integration.manifest import versions

SCHEMA = "fcas-nnunet/comparison"
SCHEMA_VERSION = 1


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
        ValueError: if one is no such result, cases or labels differ, or the measure is unknown.
    """
    results = [read_result(path) for path in (first, second)]
    cases = [set(result["cases"]) for result in results]
    labels = [set(result["settings"]["labels"]) for result in results]
    faults = [
        f"{first}, {second}: {what} must be the same, got {', '.join(sorted(one ^ other))} in one only. "
        "Score both against the same references."
        for what, (one, other) in (("cases", cases), ("labels", labels))
        if one != other
    ]
    if faults:
        raise ValueError("\n".join(faults))
    scores = [
        {
            label: [_score(result["cases"][case][label], measure, path) for case in sorted(cases[0])]
            for label in results[0]["settings"]["labels"]
        }
        for result, path in zip(results, (first, second), strict=True)
    ]
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "first": str(first),
        "second": str(second),
        "settings": {
            "measure": measure,
            "bootstrap_samples": BOOTSTRAP_SAMPLES,
            "confidence_level": CONFIDENCE_LEVEL,
            "test": "Wilcoxon signed-rank, two-sided; Holm over labels",
        },
        "labels": {label: vars(result) for label, result in compare(scores[0], scores[1]).items()},
        "versions": versions(),
    }


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table, a row per label."""
    header = ["label", "first", "second", "difference", "95 % interval", "p", "p (Holm)", "cases"]
    rows = []
    for label, entry in report["labels"].items():
        low, high = entry["interval"]
        numbers = [entry["first_mean"], entry["second_mean"]]
        rows.append(
            [
                label, *(f"{value:.4f}" for value in numbers), f"{entry['difference']:+.4f}",
                f"{low:+.4f} … {high:+.4f}",
                f"{entry['p_value']:.2g}", f"{entry['holm_p_value']:.2g}", str(entry["count"]),
            ]
        )  # fmt: skip
    return header, rows


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv, a row per label."""
    header = ["label", "first_mean", "second_mean", "difference", "low", "high", "p_value", "holm_p_value", "count"]
    rows = [
        [label, e["first_mean"], e["second_mean"], e["difference"], *e["interval"], e["p_value"], e["holm_p_value"],
         e["count"]]
        for label, e in report["labels"].items()
    ]  # fmt: skip
    return header, rows


def read_result(path: Path) -> dict[str, Any]:
    """What `fcas_evaluate segmentations -o` has written.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is no such result.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the result must exist, got no file. Make it: fcas_evaluate segmentations -o.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: content must be JSON, got an error: {error}. Score again.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SEGMENTATIONS_SCHEMA:
        raise ValueError(f"{path}: schema must be {SEGMENTATIONS_SCHEMA}, got {schema}. Check the file.")
    return content


def _score(entry: Mapping[str, Any], measure: str, path: Path) -> float:
    value: Any = entry
    for key in measure.split("."):
        if not isinstance(value, dict) or key not in value:
            known = sorted(key for key, item in entry.items() if not isinstance(item, dict))
            known += [f"rdice.{radius}" for radius in entry.get("rdice", {})]
            raise ValueError(f"--measure: must be one of {', '.join(known)} of {path}, got {measure}.")
        value = value[key]
    return math.nan if value is None else float(value)
