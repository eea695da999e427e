"""Score a folder of segmentations against a folder of references: overlap, surfaces and topology per label and case."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.case import spacing_of
from fcas_nnunet.commands.runtime.case_files import case_files, grid_faults, run_cases
from fcas_nnunet.commands.runtime.label_table import say_roles
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.evaluation.segmentation import overlap
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.integration.dataset.description import read_roles
from fcas_nnunet.integration.dataset.volumes import read_label_map
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.anatomy import IGNORE, GivenRoles
from fcas_nnunet.labels.matching import id_table
from fcas_nnunet.labels.regions import Entries, ids_of
from fcas_nnunet.listing import MOST_NAMES, listed

BYTES_PER_VOXEL = 26.0  # measured: 0.42 GB at 256³


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Score a folder of predictions.

    Raises:
        MissingFileError: if a folder is missing, or no file names the labels.
        InputError: see `read_labels` and `evaluate_segmentations`.
    """
    missing = [f"{by} {folder}: folder must exist, got none. Fix the path."
               for by, folder in (("-r", args.r), ("-p", args.p)) if not folder.is_dir()]  # fmt: skip
    if missing:
        raise MissingFileError("\n".join(missing))
    places = [args.labels] if args.labels else [args.p / "dataset.json", args.r.parent / "dataset.json"]
    description = next((place for place in places if place.is_file()), None)
    if description is None:
        raise MissingFileError(
            f"{' or '.join(map(str, places))}: the labels' names must be there, got no file. Name it: --labels FILE."
        )
    (labels, ignore_id), roles = read_labels(description), read_roles(description)
    say_roles(str(args.r), labels, roles)
    return evaluate_segmentations(
        args.r, args.p, labels, radii=sorted(set(args.radii)), tolerance_mm=args.tolerance_mm,
        overlap_only=args.overlap_only, workers=workers, roles=roles, ignore_id=ignore_id,
    )  # fmt: skip


def read_labels(description: Path) -> tuple[Entries, int | None]:
    """Read label name → id, or ids of a region, from a `dataset.json`; and the id of its ignore label, if it has one.

    Raises:
        MissingFileError: if there is none.
        InputError: if it is broken.
    """
    labels = read_json(description, "Mend it.").get("labels")
    if not isinstance(labels, dict):
        raise InputError(f"{description}: labels must be a JSON object of names and ids, got {labels!r}. Mend it.")
    wrong = [
        name
        for name, entry in labels.items()
        if not _is_id(entry)
        and (name == IGNORE or not isinstance(entry, list) or not entry or not all(map(_is_id, entry)))
    ]
    scored = {name: entry for name, entry in labels.items() if name != IGNORE}
    if wrong or not any(i for entry in scored.values() for i in ids_of(entry)):
        raise InputError(
            f"{description}: labels must be whole numbers from 0, or lists of such (regions), got "
            f"{wrong or 'background only'}. Mend it."
        )
    return scored, labels.get(IGNORE)


def _is_id(value: Any) -> bool:
    return type(value) is int and value >= 0


def evaluate_segmentations(
    references: Path,
    predictions: Path,
    labels: Entries,
    *,
    radii: Sequence[int],
    workers: int,
    tolerance_mm: float = overlap.TOLERANCE_MM,
    overlap_only: bool = False,
    roles: GivenRoles | None = None,
    reference_ids: Mapping[int, int] | None = None,
    prediction_ids: Mapping[int, int] | None = None,
    reference_files: Mapping[str, Path] | None = None,
    ignore_id: int | None = None,
) -> dict[str, Any]:
    """Score every reference's prediction.

    Args:
        references: Folder of label maps.
        predictions: Folder of label maps with the same case ids.
        labels: Name → id, or ids of a region, which is scored as one; with or without background.
        radii: Radii of RDice's dilation, in voxels.
        workers: Largest number of processes.
        tolerance_mm: Tolerance of the surface Dice.
        overlap_only: Compute Dice and RDice alone.
        roles: Label name → roles that a user has given it.
        reference_ids: Id in the references' files → id in `labels`, or 0; None where they are the same.
        prediction_ids: The same for the predictions' files.
        reference_files: Case id → label map; None takes those in `references`.
        ignore_id: Id in the references' files of voxels that are not scored: they count as background in both.

    Raises:
        MissingFileError: if a folder is missing.
        InputError: if a prediction is missing, on another grid, or has values beside the labels; every fault listed.
    """
    reference_files, prediction_files = reference_files or case_files(references), case_files(predictions)
    pairs = _pairs(reference_files, prediction_files, predictions)
    scoring = partial(overlap.score_case, labels=labels, radii=radii, tolerance_mm=tolerance_mm, roles=roles)
    found = run_cases(
        partial(_score, scoring, overlap_only, reference_ids, prediction_ids, ignore_id), pairs, workers=workers,
        description="segmentations", need=MemoryNeed.of(reference_files.values(), BYTES_PER_VOXEL),
    )  # fmt: skip
    return {
        "references": str(references),
        "predictions": str(predictions),
        "settings": {
            "labels": {name: label for name, label in labels.items() if label},
            **({} if ignore_id is None else {"ignored": ignore_id}),
            "rdice_radii_voxels": list(radii),
            "rdice_structuring_element": "ball",
            "surface_dice_tolerance_mm": tolerance_mm,
            "overlap_only": overlap_only,
            "vessels": overlap.vessel_names(labels, roles),
            "empty_masks": overlap.EMPTY_MASK_POLICY,
        },
        "references_sha256": {case_id: sha256 for case_id, (_, sha256) in found.items()},
        "summary": _summary(overlap.summarise_labels([scores for scores, _ in found.values()]), radii),
        "cases": {case_id: _case_entry(case) for case_id, (case, _) in found.items()},
        "ignored_predictions": sorted(set(prediction_files) - set(reference_files)),
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
        raise InputError("\n".join(faults))
    return pairs


def _score(
    scoring: Callable[..., dict[str, overlap.LabelScores]],
    overlap_only: bool,
    reference_ids: Mapping[int, int] | None,
    prediction_ids: Mapping[int, int] | None,
    ignore_id: int | None,
    pair: tuple[Path, Path],
) -> tuple[dict[str, overlap.LabelScores], str]:
    """Score every label; return a hash of the reference beside the scores."""
    reference, prediction = map(read_label_map, pair)
    if ignore_id is not None:
        scored = reference.array != ignore_id
        reference, prediction = (replace(volume, array=volume.array * scored) for volume in (reference, prediction))
    masks = (
        translate_labels(reference.array, reference_ids, "reference"),
        translate_labels(prediction.array, prediction_ids, "prediction"),
    )
    scores = scoring(*masks, spacing_mm=None if overlap_only else spacing_of(reference.affine))
    return scores, _reference_sha256(masks[0], reference.affine)


def _reference_sha256(labels: np.ndarray, affine: np.ndarray) -> str:
    """Hash a reference's label ids and where they lie, whatever the file's type."""
    place = np.round(affine, 3) + 0.0  # no negative zeros
    digest = hashlib.sha256(f"{labels.shape} {place.tolist()}".encode())
    digest.update(np.ascontiguousarray(labels, dtype=np.int32).tobytes())
    return digest.hexdigest()


def translate_labels(
    labels: np.ndarray,
    becomes: Mapping[int, int] | None,
    name: object,
    remedy: str = "Export it again, or fix dataset.json.",
) -> np.ndarray:
    """Translate a label map to other ids; return it unchanged where none are given.

    Raises:
        InputError: when it has ids that `becomes` does not name.
    """
    if becomes is None:
        return labels
    values = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
    unknown = [value for value in values.tolist() if value and value not in becomes]
    if unknown:
        raise InputError(
            f"{name}: values must be label ids [{listed(sorted({0, *becomes}))}], got [{listed(unknown)}] as well. "
            f"{remedy}"
        )
    return id_table(becomes)[labels if labels.dtype == np.uint8 else labels.astype(np.intp)]


def _case_entry(case: Mapping[str, overlap.LabelScores]) -> dict[str, dict[str, Any]]:
    return {name: {**vars(scores), "rdice": _by_name(scores.rdice)} for name, scores in case.items()}


def _by_name(of_radii: Mapping[int, Any]) -> dict[str, Any]:
    return {str(radius): value for radius, value in of_radii.items()}


def _summary(labels: Mapping[str, overlap.LabelSummary], radii: Sequence[int]) -> dict[str, Any]:
    """Summarise every label's scores over all cases, and the mean of these means, as nnU-Net's `foreground_mean`."""
    entries = {}
    for name, summary in labels.items():
        entry = asdict(summary)
        further = entry.pop("further")
        entries[name] = {**entry, "rdice": _by_name(entry["rdice"]), **further}

    def mean(summaries: Iterable[Mapping[str, float]]) -> float:
        return summarise([summary["mean"] for summary in summaries]).mean

    means = {m: mean(entry[m] for entry in entries.values()) for m in ("dice", *overlap.FURTHER_MEASURES)}
    rdice = {str(r): mean(entry["rdice"][str(r)] for entry in entries.values()) for r in radii}
    return {"labels": entries, "foreground_mean": {**means, "rdice": rdice}}


#: Where a label may be absent, in the order of the columns.
_EMPTY = ("only_prediction", "only_reference", "both")
#: Further measures: field → column, factor, decimals.
_COLUMNS = {
    "hd95_mm": ("HD95 mm", 1, 2),
    "surface_dice": ("surface %", 100, 2),
    "centreline_dice": ("clDice %", 100, 2),
    "pieces_error": ("β0 error", 1, 1),
    "tunnels_error": ("β1 error", 1, 1),
}


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a row per label, and one for their mean."""
    radii = report["settings"]["rdice_radii_voxels"]
    columns = {} if report["settings"]["overlap_only"] else _COLUMNS
    header = ["label", "Dice %", *(f"RDice {radius} %" for radius in radii)]
    header += [*(f"{title} (n)" for title, _, _ in columns.values()), "cases", "missed", "false", "no score"]
    rows = []
    for name, entry in report["summary"]["labels"].items():
        measures = [entry["dice"], *(entry["rdice"][str(radius)] for radius in radii)]
        counts = [entry["dice"]["count"], *(entry[f"{which}_empty"] for which in _EMPTY)]
        cells = [_mean_and_spread(m["mean"], m["std"]) for m in measures]
        cells += [f"{_number(entry[m]['mean'], *how)} ({entry[m]['count']})" for m, (_, *how) in columns.items()]
        rows.append([name, *cells, *map(str, counts)])
    mean = report["summary"]["foreground_mean"]
    cells = [f"{100 * value:.2f}" for value in (mean["dice"], *(mean["rdice"][str(radius)] for radius in radii))]
    cells += [_number(mean[measure], *how) for measure, (_, *how) in columns.items()]
    rows.append(["mean of labels", *cells, "", "", "", ""])
    return header, rows


def _mean_and_spread(mean: float, std: float) -> str:
    """In %; a label that one case has has no spread, and one that none has no mean."""
    return _number(mean, 100, 2) if math.isnan(std) else f"{100 * mean:.2f} ± {100 * std:.2f}"


def _number(value: float, factor: int, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{factor * value:.{decimals}f}"


def notes(report: Mapping[str, Any]) -> list[str]:
    """Lines below the printed table."""
    ignored = len(report["ignored_predictions"])
    notes = [f"empty masks: {report['settings']['empty_masks']}"]
    regions = [name for name, entry in report["settings"]["labels"].items() if isinstance(entry, list)]
    notes += [f"regions are scored whole, as nnU-Net does: {listed(regions, MOST_NAMES)}"] if regions else []
    if "ignored" in report["settings"]:
        notes.append("voxels that the reference ignores count as background in both, also for surfaces and pieces")
    return notes + ([f"{ignored} predictions without a reference ignored"] if ignored else [])


CSV_COLUMNS = (
    rf"case_id,label,dice(,rdice_\d+)+,reference_voxels,prediction_voxels,{','.join(overlap.FURTHER_MEASURES)}"
)


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv: a row per case and label."""
    radii = [str(radius) for radius in report["settings"]["rdice_radii_voxels"]]
    plain = ["reference_voxels", "prediction_voxels", *overlap.FURTHER_MEASURES]
    rows = [
        [case_id, name, scores["dice"], *(scores["rdice"][r] for r in radii), *(scores[key] for key in plain)]
        for case_id, case in report["cases"].items()
        for name, scores in case.items()
    ]
    return ["case_id", "label", "dice", *(f"rdice_{radius}" for radius in radii), *plain], rows
