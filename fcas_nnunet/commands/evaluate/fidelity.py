"""Judge whether synthetic scans show the structures of their masks, by a trained nnU-Net that segments them."""

from __future__ import annotations

import argparse
import logging
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.evaluate import segmentations
from fcas_nnunet.commands.runtime.case_files import run_cases
from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.evaluation.images import fidelity as judging
from fcas_nnunet.evaluation.images.fidelity import Fidelity, judge_structure
from fcas_nnunet.evaluation.results import SEGMENTATIONS, header, read_result
from fcas_nnunet.evaluation.segmentation.overlap import RDICE_RADII_VOXELS
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import files_sha256
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, open_dataset
from fcas_nnunet.integration.models.prediction import (
    TrainedModel,
    find_model,
    fingerprint,
    outdated_cases,
    predict_cases,
    scan_faults,
)
from fcas_nnunet.integration.provenance.parents import derived_cases, learnt_cases
from fcas_nnunet.labels.matching import compare_labels, match_labels
from fcas_nnunet.listing import MOST_NAMES, listed

PREDICTIONS_FOLDER = "fcas_predictions"
WORST_CASES = 10

_WORST_SHOWN = 5
_REMEDY = "Name another folder with --predictions, or score them with fcas_evaluate segmentations."

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Segment the synthetic scans, score the predictions against the masks, and judge every structure.

    Raises:
        MissingFileError: if the model, its dataset.json or the real scores are missing.
        InputError: if the model cannot segment these scans, or a prediction does not fit its mask; every fault listed.
    """
    synthetic = open_dataset(args.d, by="-d")
    model = find_model(args.m, args.f, args.chk)
    labels = _matching_labels(synthetic, model)
    real = read_result(args.real_scores, [SEGMENTATIONS]) if args.real_scores else None
    if real is not None:
        real_dice(real, labels)  # refuses before the long work
    device = resolve_device(args.device)
    name = f"{synthetic.name}__fold_{'_'.join(model.folds)}__{Path(model.checkpoint).stem}"
    predictions = args.predictions or model.folder / PREDICTIONS_FOLDER / name
    images = {case_id: synthetic.image_paths(case_id) for case_id in synthetic.case_ids}
    hashes = run_cases(files_sha256, images, workers=workers, description="hashes of the scans")
    origins = {case_id: fingerprint(case_id, sha256, model) for case_id, sha256 in hashes.items()}
    outdated = partial(outdated_cases, predictions, origins, model.dataset_json["file_ending"], _REMEDY)
    if outdated():
        with exclusive(predictions):
            todo = outdated()  # again: this run may have waited for another
            logger.info(f"predictions of {model.name} go to {predictions}: {len(todo)} of {len(images)} to be made")
            predict_cases(model, {case_id: images[case_id] for case_id in todo}, origins, predictions, device)
    masks = {case_id: synthetic.mask_path(case_id) for case_id in synthetic.case_ids}
    to_synthetic = match_labels(model.labels, synthetic.labels)
    scores = segmentations.evaluate_segmentations(
        masks[synthetic.case_ids[0]].parent, predictions, labels, radii=RDICE_RADII_VOXELS, workers=workers,
        overlap_only=args.overlap_only, roles=synthetic.roles, prediction_ids=to_synthetic,
        reference_ids={label: label if label in labels.values() else 0 for label in synthetic.labels.values()},
        reference_files=masks, ignore_id=synthetic.ignore_id,
    )  # fmt: skip
    return _report(synthetic, model, labels, real, scores)


def _matching_labels(synthetic: RawDataset, model: TrainedModel) -> dict[str, int]:
    """The synthetic set's labels that the model knows, by structure: name → id in the synthetic set."""
    description = model.folder / "dataset.json"
    segmentations.read_labels(description)  # refuses a broken one
    shared = set(match_labels(model.labels, synthetic.labels).values()) - {0}
    faults = scan_faults(model, synthetic)
    if faults:
        raise InputError("\n".join(faults))
    return {name: label for name, label in synthetic.labels.items() if label in shared}


@dataclass(frozen=True)
class Comparison:
    """Synthetic scans that are judged, and real ones that they are judged by: the network learnt from both or neither.

    Attributes:
        cases: Ids of the synthetic scans.
        real: Ids of the real scans; empty where the Dice in real scans is assumed.
        learnt: Whether the synthetic scans were made from scans that the network has learnt from.
        flattered: Whether the network has learnt from none of the real scans nevertheless, for want of such that were
            scored.
        left_out: Number of synthetic scans that are not judged.
    """

    cases: list[str]
    real: list[str]
    learnt: bool
    flattered: bool
    left_out: int


def comparison(
    cases: Sequence[str], derived: Collection[str], real: Sequence[str], learnt: Collection[str]
) -> Comparison:
    """Choose what is compared.

    Scans made from what the network learnt from are judged by its Dice in those, where that was measured; others by its
    Dice in scans that it has not seen. Of two possible comparisons, that of more synthetic scans is taken.

    Args:
        cases: Ids of the synthetic cases.
        derived: Ids of the synthetic cases that were made from what the network has learnt from.
        real: Ids of the real cases that were scored.
        learnt: Ids of the real cases that the network has learnt from.
    """
    own, others = [i for i in cases if i in derived], [i for i in cases if i not in derived]
    seen, unseen = [i for i in real if i in learnt], [i for i in real if i not in learnt]
    if own and (not others or (seen and len(own) >= len(others))):
        return Comparison(own, seen or unseen, True, not seen, len(others))
    return Comparison(others, unseen, False, False, len(own))


def real_dice(
    real: Mapping[str, Any], labels: Mapping[str, int], case_ids: Collection[str] | None = None
) -> dict[str, list[float]]:
    """Label → Dice per case of a result for real scans, matched by structure; labels that it lacks are left out.

    Args:
        real: Result that `segmentations -o` wrote.
        labels: Labels of the synthetic data set, name → id.
        case_ids: Ids of the result's cases that count; None means all.

    Raises:
        InputError: when it has none of them.
    """
    theirs = real["settings"]["labels"]
    try:
        matches = compare_labels(theirs, labels).names
    except InputError as error:
        raise InputError(
            f"--real_scores: labels must be some of {listed(sorted(labels))}, got {listed(sorted(theirs))}. "
            f"Score the same network's segmentations of real scans. ({error})"
        ) from error
    of_one = [name for name, count in Counter(matches.values()).items() if count == 1]  # parts have no common Dice
    names = {target: source for source, target in matches.items() if target in of_one}
    cases = [case for case_id, case in real["cases"].items() if case_ids is None or case_id in case_ids]
    return {
        name: [math.nan if (dice := case[other]["dice"]) is None else float(dice) for case in cases]
        for name, other in names.items()
    }


def _report(
    synthetic: RawDataset,
    model: TrainedModel,
    labels: Mapping[str, int],
    real: Mapping[str, Any] | None,
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    learnt = learnt_cases(model.folder, model.folds)
    real_cases = list(real["cases"]) if real else []
    seen = {parent.case_id for parent in learnt}
    compared = comparison(list(scores["cases"]), derived_cases(synthetic, learnt), real_cases, seen)
    measured = real_dice(real, labels, compared.real) if real and compared.real else {}
    judged = {}
    for name in labels:
        entries = [scores["cases"][case_id][name] for case_id in compared.cases]
        dice = [entry["dice"] for entry in entries]
        verdict = judge_structure(name, dice, measured.get(name), flattered=compared.flattered, roles=synthetic.roles)
        judged[name] = _label_entry(verdict, entries, compared.cases)
    known = model.labels
    to_synthetic = match_labels(known, synthetic.labels)
    return {
        "synthetic": synthetic.name,
        "model": {"name": model.name, "sha256": model.sha256},
        "settings": {
            "drawn_ratio": judging.DRAWN_RATIO,
            "not_drawn_ratio": judging.NOT_DRAWN_RATIO,
            "least_real_dice": judging.LEAST_REAL_DICE,
            "assumed_dice": {"thin": judging.ASSUMED_THIN_DICE, "other": judging.ASSUMED_DICE},
            "real_cases": len(compared.real),
            "judged_cases": len(compared.cases),
            "left_out_cases": compared.left_out,
            "learnt_from": compared.learnt,
            "flattered": compared.flattered,
        },
        "labels": judged,
        "not_compared": {
            "unknown_to_the_model": [n for n, i in synthetic.labels.items() if i and n not in labels],
            "not_in_the_data_set": [n for n, i in known.items() if i and not to_synthetic[i]],
        },
        "worst_cases": _worst_cases(scores["cases"], Manifest(synthetic.folder).read()),
        "segmentations": {**header(SEGMENTATIONS), **scores, "versions": versions()},
    }


def _label_entry(judged: Fidelity, scores: Sequence[Mapping[str, Any]], case_ids: Sequence[str]) -> dict[str, Any]:
    entry = asdict(judged)
    measured = entry.pop("measured")
    return entry | {
        "real_dice_is": "measured" if measured else "assumed",
        "missed": sum(bool(score["reference_voxels"]) and not score["prediction_voxels"] for score in scores),
        "cases_not_drawn": [case_ids[number] for number in judged.cases_not_drawn],
    }


def _worst_cases(
    cases: Mapping[str, Mapping[str, Any]], records: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Cases by their mean Dice, the worst first, with their worst structure and what they were drawn from."""
    rows = []
    for case_id, case in cases.items():
        dice = {name: entry["dice"] for name, entry in case.items() if not math.isnan(entry["dice"])}
        if dice:
            worst = min(dice, key=lambda name: dice[name])
            mean = summarise(list(dice.values())).mean
            row = {"case_id": case_id, "mean_dice": mean, "worst_label": worst, "worst_dice": dice[worst]}
            rows.append(row | {key: records.get(case_id, {}).get(key) for key in ("template", "reference")})
    return sorted(rows, key=lambda row: (row["mean_dice"], row["case_id"]))[:WORST_CASES]


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a row per label."""
    header = ["label", "Dice %", "in real scans %", "ratio", "95 % interval"]
    header += ["cases", "missed", "not drawn in", "verdict"]
    rows = []
    for name, entry in report["labels"].items():
        low, high = entry["ratio_interval"]
        rows.append([
            name, f"{100 * entry['dice']['mean']:.2f} ± {100 * entry['dice']['std']:.2f}",
            f"{100 * entry['real_dice']:.2f}{'' if entry['real_dice_is'] == 'measured' else ' (assumed)'}",
            f"{entry['ratio']:.2f}", f"{low:.2f} … {high:.2f}", str(entry["dice"]["count"]), str(entry["missed"]),
            str(len(entry["cases_not_drawn"])), str(entry["verdict"]),
        ])  # fmt: skip
    return header, rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """Lines below the printed table."""
    settings = report["settings"]
    lines = [
        f"segmented by {report['model']['name']}; drawn from {settings['drawn_ratio']:g} of the Dice in real scans on, "
        f"not drawn below {settings['not_drawn_ratio']:g} of it"
    ]
    made_from = "made from scans that this network has learnt from"
    which = made_from if settings["learnt_from"] else f"not {made_from}"
    lines.append(f"judged: {settings['judged_cases']} scans, {which}; {settings['left_out_cases']} others are left out")
    if settings["flattered"]:
        lines.append(
            f"the Dice in real scans is {'of others' if settings['real_cases'] else 'assumed'}, though, and a network "
            "finds more in what it knows: nothing is called drawn. Score it on its training cases (--real_scores)"
        )
    elif not settings["real_cases"]:
        lines.append(
            "the Dice in real scans is assumed, so what was not drawn may be what this network cannot find anywhere: "
            "score it on held-out real scans (--real_scores)"
        )
    else:
        lines.append(f"Dice in real scans over {settings['real_cases']} cases")
    missing = report["not_compared"]["unknown_to_the_model"]
    if missing:
        lines.append(f"not judged, for the model does not know them: {listed(missing, MOST_NAMES)}")
    for row in report["worst_cases"][:_WORST_SHOWN]:
        lines.append(
            f"worst: {row['case_id']}: mean Dice {100 * row['mean_dice']:.2f} %, "
            f"{row['worst_label']} {100 * row['worst_dice']:.2f} %"
        )
    return lines


CSV_COLUMNS = segmentations.CSV_COLUMNS


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv: a row per case and label."""
    return segmentations.csv_rows(report["segmentations"])
