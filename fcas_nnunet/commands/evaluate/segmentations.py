"""A folder of segmentations against a folder of references: overlap, surfaces and topology per label and case."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.case import spacing_of
from fcas_nnunet.commands.runtime.case_files import case_files, grid_faults, run_cases
from fcas_nnunet.commands.runtime.label_table import say_roles
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.evaluation.results import SEGMENTATIONS, header
from fcas_nnunet.evaluation.segmentation.overlap import (
    EMPTY_MASK_POLICY,
    FURTHER_MEASURES,
    TOLERANCE_MM,
    LabelScores,
    LabelSummary,
    score_case,
    summarise_labels,
)
from fcas_nnunet.evaluation.statistics.means import Summary, summarise
from fcas_nnunet.integration.dataset.description import read_roles
from fcas_nnunet.integration.dataset.manifest import versions
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.labels.anatomy import GivenRoles, label_roles
from fcas_nnunet.labels.matching import id_table

BYTES_PER_VOXEL = 26.0  # measured: 0.42 GB at 256³


@dataclass(frozen=True)
class _Scoring:
    """What the scores of every case depend on; ids as in `evaluate_segmentations`."""

    labels: Mapping[str, int]
    radii: Sequence[int]
    tolerance_mm: float
    overlap_only: bool
    roles: GivenRoles
    reference_ids: Mapping[int, int] | None
    prediction_ids: Mapping[int, int] | None

    def settings(self) -> dict[str, Any]:
        """What the result says of it."""
        vessels = label_roles(self.labels, self.roles).vessels
        return {
            "labels": {name: label for name, label in self.labels.items() if label},
            "rdice_radii_voxels": list(self.radii),
            "rdice_structuring_element": "ball",
            "surface_dice_tolerance_mm": self.tolerance_mm,
            "overlap_only": self.overlap_only,
            "vessels": [name for name, label in self.labels.items() if label in vessels],
            "empty_masks": EMPTY_MASK_POLICY,
        }


@dataclass(frozen=True)
class _Scored:
    labels: dict[str, LabelScores]
    reference_sha256: str


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """What `fcas_evaluate segmentations` does before it prints."""
    missing = [f"{by} {folder}: folder must exist, got none. Fix the path."
               for by, folder in (("-r", args.r), ("-p", args.p)) if not folder.is_dir()]  # fmt: skip
    if missing:
        raise FileNotFoundError("\n".join(missing))
    labels = read_labels(args.labels, args.r, args.p)
    roles = read_roles(labels_file(args.labels, args.r, args.p))
    say_roles(str(args.r), labels, roles)
    return evaluate_segmentations(
        args.r, args.p, labels, radii=sorted(set(args.radii)), tolerance_mm=args.tolerance_mm,
        overlap_only=args.overlap_only, workers=workers, roles=roles,
    )  # fmt: skip


def read_labels(dataset_json: Path | None, references: Path, predictions: Path) -> dict[str, int]:
    """Label name → id from a `dataset.json`.

    Args:
        dataset_json: as `labels_file` has it.
        references: likewise.
        predictions: likewise.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is broken, or has regions or an ignore label.
    """
    found = labels_file(dataset_json, references, predictions)
    try:
        labels = json.loads(found.read_text(encoding="utf-8"))["labels"]
        plain = {str(name): label for name, label in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{found}: labels must be a JSON object of names and ids, got '{error}'. Mend it.") from error
    wrong = [name for name, label in plain.items() if type(label) is not int or label < 0 or name == "ignore"]
    if wrong or not any(plain.values()):
        raise ValueError(
            f"{found}: labels must be whole numbers from 0, without regions or an ignore label, "
            f"got {wrong or 'background only'}. Those are not evaluated yet."
        )
    return plain


def labels_file(dataset_json: Path | None, references: Path, predictions: Path) -> Path:
    """The `dataset.json` that names the labels.

    Args:
        dataset_json: the file; None takes the one that nnU-Net leaves beside predictions, else the references' own.
        references: folder of the references.
        predictions: folder of the predictions.

    Raises:
        FileNotFoundError: if there is none.
    """
    places = [dataset_json] if dataset_json else [predictions / "dataset.json", references.parent / "dataset.json"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise FileNotFoundError(
            f"{' or '.join(map(str, places))}: the labels' names must be there, got no file. Name it: --labels FILE."
        )
    return found


def evaluate_segmentations(
    references: Path,
    predictions: Path,
    labels: Mapping[str, int],
    *,
    radii: Sequence[int],
    workers: int,
    tolerance_mm: float = TOLERANCE_MM,
    overlap_only: bool = False,
    roles: GivenRoles | None = None,
    reference_ids: Mapping[int, int] | None = None,
    prediction_ids: Mapping[int, int] | None = None,
    reference_files: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Score every reference's prediction.

    Args:
        references: Folder of label maps.
        predictions: Folder of label maps with the same case ids.
        labels: Name → id, with or without background.
        radii: Radii of RDice's dilation, in voxels.
        workers: Number of processes.
        tolerance_mm: Tolerance of the surface Dice.
        overlap_only: Compute Dice and RDice alone.
        roles: Label name → roles that a user has given it.
        reference_ids: Id in the references' files → id in `labels`, or 0; None where they are the same.
        prediction_ids: The same for the predictions' files.
        reference_files: Case id → label map; None takes those in `references`.

    Returns:
        The report as docs/evaluation.md describes it, JSON-able but for NaN.

    Raises:
        FileNotFoundError: if a folder is missing.
        ValueError: if a prediction is missing, on another grid, or has values beside the labels; every fault listed.
    """
    reference_files, prediction_files = reference_files or case_files(references), case_files(predictions)
    pairs = _pairs(reference_files, prediction_files, predictions)
    scoring = _Scoring(labels, radii, tolerance_mm, overlap_only, roles or {}, reference_ids, prediction_ids)
    need = MemoryNeed.of(reference_files.values(), BYTES_PER_VOXEL)
    found = run_cases(partial(_score, scoring), pairs, workers=workers, description="segmentations", need=need)
    cases = {case_id: scored.labels for case_id, scored in found.items()}
    summaries = summarise_labels(list(cases.values()))
    return {
        **header(SEGMENTATIONS),
        "references": str(references),
        "predictions": str(predictions),
        "settings": scoring.settings(),
        "references_sha256": {case_id: scored.reference_sha256 for case_id, scored in found.items()},
        "summary": {
            "labels": {name: _summary_entry(summary) for name, summary in summaries.items()},
            "foreground_mean": _foreground_mean(summaries, radii),
        },
        "cases": {case_id: {name: _entry(scores) for name, scores in case.items()} for case_id, case in cases.items()},
        "ignored_predictions": sorted(set(prediction_files) - set(reference_files)),
        "versions": versions(),
    }


def _pairs(
    references: Mapping[str, Path], predictions: Mapping[str, Path], folder: Path
) -> dict[str, tuple[Path, Path]]:
    """Case id → reference and prediction, which lie on one grid."""
    pairs = {case_id: (path, predictions[case_id]) for case_id, path in references.items() if case_id in predictions}
    faults = [
        f"{case_id}: prediction must be in {folder}, got none. Predict it, or remove its reference."
        for case_id in references
        if case_id not in pairs
    ]
    faults += [f"{case_id}: {fault}" for case_id, pair in pairs.items() for fault in grid_faults(*pair)]
    if faults:
        raise ValueError("\n".join(faults))
    return pairs


def _score(scoring: _Scoring, pair: tuple[Path, Path]) -> _Scored:
    reference, prediction = map(read_volume, pair)
    spacing_mm = None if scoring.overlap_only else spacing_of(reference.affine)
    masks = (
        _translated(reference.array, scoring.reference_ids, "reference"),
        _translated(prediction.array, scoring.prediction_ids, "prediction"),
    )
    scores = score_case(*masks, scoring.labels, scoring.radii, spacing_mm, scoring.tolerance_mm, scoring.roles)
    return _Scored(scores, _reference_sha256(masks[0], reference.affine))


def _reference_sha256(labels: np.ndarray, affine: np.ndarray) -> str:
    """A hash of what a prediction is held against: label ids and where they lie, whatever the file's type."""
    place = np.round(affine, 3) + 0.0  # no negative zeros
    digest = hashlib.sha256(f"{labels.shape} {place.tolist()}".encode())
    digest.update(np.ascontiguousarray(labels, dtype=np.int32).tobytes())
    return digest.hexdigest()


def _translated(labels: np.ndarray, becomes: Mapping[int, int] | None, name: str) -> np.ndarray:
    if becomes is None:
        return labels
    values = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
    unknown = [value for value in values.tolist() if value and value not in becomes]
    if unknown:
        raise ValueError(
            f"{name}: values must be label ids {sorted({0, *becomes})}, got {unknown[:5]} as well. "
            "Export it again, or fix dataset.json."
        )
    return id_table(becomes)[labels.astype(np.intp)]


def _entry(scores: LabelScores) -> dict[str, Any]:
    return {
        "dice": scores.dice,
        "rdice": {str(radius): value for radius, value in scores.rdice.items()},
        "reference_voxels": scores.reference_voxels,
        "prediction_voxels": scores.prediction_voxels,
        **{measure: getattr(scores, measure) for measure in FURTHER_MEASURES},
    }


def _summary_entry(summary: LabelSummary) -> dict[str, Any]:
    return {
        "dice": vars(summary.dice),
        "rdice": {str(radius): vars(value) for radius, value in summary.rdice.items()},
        **{f"{which}_empty": getattr(summary, f"{which}_empty") for which in ("both", *_EMPTY[:2])},
        **{measure: vars(value) for measure, value in summary.further.items()},
    }


def _foreground_mean(summaries: Mapping[str, LabelSummary], radii: Sequence[int]) -> dict[str, Any]:
    """The mean of the labels' means, as nnU-Net's `foreground_mean`."""
    per_radius = {str(radius): _mean([s.rdice[radius] for s in summaries.values()]) for radius in radii}
    further = {measure: _mean([s.further[measure] for s in summaries.values()]) for measure in FURTHER_MEASURES}
    return {"dice": _mean([s.dice for s in summaries.values()]), "rdice": per_radius, **further}


def _mean(summaries: Sequence[Summary]) -> float:
    return summarise([summary.mean for summary in summaries]).mean


#: Where a label may be absent, in the order of the columns.
_EMPTY = ("only_prediction", "only_reference", "both")
#: Of the further measures: column, factor, decimals.
_COLUMNS = {
    "hd95_mm": ("HD95 mm", 1, 2),
    "surface_dice": ("surface %", 100, 2),
    "centreline_dice": ("clDice %", 100, 2),
    "pieces_error": ("β0 error", 1, 1),
    "tunnels_error": ("β1 error", 1, 1),
}


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a report's printed table, a row per label."""
    radii = report["settings"]["rdice_radii_voxels"]
    columns = {} if report["settings"]["overlap_only"] else _COLUMNS
    header = ["label", "Dice %", *(f"RDice {radius} %" for radius in radii)]
    header += [*(f"{title} (n)" for title, _, _ in columns.values()), "cases", "missed", "false", "no score"]
    rows = []
    for name, entry in report["summary"]["labels"].items():
        measures = [entry["dice"], *(entry["rdice"][str(radius)] for radius in radii)]
        counts = [entry["dice"]["count"], *(entry[f"{which}_empty"] for which in _EMPTY)]
        cells = [f"{100 * m['mean']:.2f} ± {100 * m['std']:.2f}" for m in measures]
        cells += [f"{_number(entry[m]['mean'], *how)} ({entry[m]['count']})" for m, (_, *how) in columns.items()]
        rows.append([name, *cells, *map(str, counts)])
    mean = report["summary"]["foreground_mean"]
    values = [mean["dice"], *(mean["rdice"][str(radius)] for radius in radii)]
    cells = [f"{100 * value:.2f}" for value in values]
    cells += [_number(mean[measure], *how) for measure, (_, *how) in columns.items()]
    rows.append(["mean of labels", *cells, "", "", "", ""])
    return header, rows


def _number(value: float, factor: int, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{factor * value:.{decimals}f}"


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    ignored = len(report["ignored_predictions"])
    notes = [f"empty masks: {report['settings']['empty_masks']}"]
    return notes + ([f"{ignored} predictions without a reference ignored"] if ignored else [])


#: Columns of --csv, as a regular expression.
CSV_COLUMNS = rf"case_id,label,dice(,rdice_\d+)+,reference_voxels,prediction_voxels,{','.join(FURTHER_MEASURES)}"


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv, a row per case and label."""
    radii = [str(radius) for radius in report["settings"]["rdice_radii_voxels"]]
    plain = ["reference_voxels", "prediction_voxels", *FURTHER_MEASURES]
    rows = [
        [case_id, name, scores["dice"], *(scores["rdice"][r] for r in radii), *(scores[key] for key in plain)]
        for case_id, case in report["cases"].items()
        for name, scores in case.items()
    ]
    return ["case_id", "label", "dice", *(f"rdice_{radius}" for radius in radii), *plain], rows
