"""Judge confidence maps: draw held-out patients' masks, and compare the drawings with the real scans."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fcas_nnunet.commands.evaluate import drawings
from fcas_nnunet.commands.evaluate.drawings import EXPECTED, JUDGED, KNOWN, SPREAD, DrawingJob
from fcas_nnunet.commands.generate.sampling_settings import resolved_confidence
from fcas_nnunet.commands.runtime.case_files import run_cases
from fcas_nnunet.commands.runtime.channels import generator_channel_faults, showing
from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.commands.runtime.leaks import generator_parents
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.commands.runtime.presets import generator_config
from fcas_nnunet.commands.train import model_folder
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.options import ConfidenceEstimator
from fcas_nnunet.evaluation.confidence.judging import CaseEvaluation, ErrorKind, Region, summarise_cases, verdict
from fcas_nnunet.evaluation.confidence.picture import PicturedCase, write_confidence_picture
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import read_splits, training_fold
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import Parent, leaks
from fcas_nnunet.intensities import unit_name
from fcas_nnunet.labels.contrast import means_by_code
from fcas_nnunet.listing import listed
from fcas_nnunet.seeds import derive_seed

Result = TypeVar("Result")


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Draw held-out patients' masks, and judge every map against the error.

    Raises:
        MissingFileError: when there is no trained generator.
        InputError: when cases are not held out, or do not have the generator's labels.
    """
    source = training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)
    config = generator_config(args, source)
    model = model_folder(source, config, args.fold)
    if args.picture:
        source = showing(source, args.channel)
    record = _record(args, config, model)
    held_out, chosen = _held_out(args, source)
    if faults := generator_channel_faults(model, record, held_out):
        raise InputError("\n".join(faults))
    patients = held_out_patients(held_out, chosen, record, generator_parents(model, source, record))
    learnt = record.cases.keys() - set(record.validation_cases)
    templates = [case_id for case_id in source.case_ids if case_id in learnt]
    requested = config.confidence if args.config or args.preset else record.config.confidence
    sampling = record.config.sampling.for_model(record.tcdm.prediction_type)
    confidence = resolved_confidence(
        requested.chosen(args.confidence), checkpoint.load_calibration(model), sampling, record.config.preset
    )
    workers = 1 if resolve_device(args.device).type == "cuda" else workers
    job = partial(DrawingJob, model, source.folder, confidence=confidence, device_name=args.device)
    weights = checkpoint.weights_sha256(model, confidence)
    drawn_from = [weights, to_dict(record), _files(source, templates), _files(held_out, chosen)]
    prior = _training_errors(source, templates, args.prior_cases, job, workers, args.seed, drawn_from)
    jobs = {}
    for renderings in patients:
        for draw in range(args.draws):
            seed = derive_seed(args.seed, "evaluate confidence", renderings[0], draw)
            template = templates[int(np.random.default_rng(seed).integers(len(templates)))]
            jobs[f"{renderings[0]}, {draw}"] = job(
                held_out.folder, renderings, template, seed, prior=prior, num_ensemble=args.ensemble,
                random_weights=not args.no_random_weights, shown=source.shown,
            )  # fmt: skip
    drawn = _run(drawings.evaluate_drawing, jobs, held_out, "drawing held-out cases", workers, drawn_from)
    cases = {name: case for name, (case, _) in drawn.items()}
    summary = summarise_cases(list(cases.values()), [jobs[n].renderings[0] for n in cases], JUDGED, EXPECTED)
    own = {EXPECTED} if confidence.estimator == ConfidenceEstimator.ERROR_MODEL else {EXPECTED, SPREAD}
    unit = unit_name(*source.channel_names.values())
    if args.picture:
        write_confidence_picture(args.picture, _best_and_worst(drawn), unit)
    return {
        "source": source.name,
        "held_out": held_out.name,
        "settings": {
            "unit": unit,
            "confidence": to_dict(confidence),
            "sampling": to_dict(sampling),
            "draws": args.draws,
            "seed": args.seed,
            "weights_sha256": weights,
        },
        "summary": summary,
        "verdict": verdict(summary, JUDGED, [name for name in summary["better_by"] if name not in own]),
        "cases": {name: _case_entry(case, jobs[name]) for name, case in cases.items()},
    }


def _record(args: argparse.Namespace, config: FCaSConfig, model: Path) -> checkpoint.GeneratorRecord:
    """Load the record of the generator, which must be there."""
    if not checkpoint.generator_exists(model):
        which = f"--config {args.config}" if args.config else f"--preset {config.preset}"
        fold = "" if args.fold is None else f" --fold {args.fold}"
        raise MissingFileError(
            f"{model}: a trained generator must be there, got none. Train it: fcas_train -d {args.d} {which}{fold}."
        )
    return checkpoint.load_record(model)


def _held_out(args: argparse.Namespace, source: RawDataset) -> tuple[RawDataset, list[str]]:
    """Find the data set whose patients are drawn, and the cases: those named, all of --held_out, or the fold's."""
    if args.held_out:
        other = RawDataset.open(resolve_dataset(args.held_out, by="--held_out"))
        return other, list(dict.fromkeys(args.cases or other.case_ids))
    whole = RawDataset.open(source.folder)
    chosen = args.cases or ([] if args.fold is None else read_splits(whole)[args.fold]["val"])
    if not chosen:
        raise InputError(
            f"{source.name}: cases must be given that its generator has not seen, got none. Name a data set of other "
            "patients with --held_out, or train the generator on a fold: with --fold K, its validation cases are drawn."
        )
    return whole, list(dict.fromkeys(chosen))


def held_out_patients(
    held_out: RawDataset, chosen: Sequence[str], record: checkpoint.GeneratorRecord, known: Sequence[Parent]
) -> list[list[str]]:
    """List the ids of each patient's scans; the manifest says which are of one patient, and so of one mask.

    Args:
        held_out: Data set of the cases.
        chosen: Ids of the cases.
        record: Record of the generator.
        known: Cases that the generator was trained, validated or calibrated on.

    Raises:
        InputError: for ids that are not there, cases that the generator knows by id or content, or labels that it does
            not know.
    """
    missing = [case_id for case_id in chosen if case_id not in held_out.case_ids]
    if missing:
        raise InputError(f"{held_out.name}: cases must be its own, got {listed(missing)}. Name others with --cases.")
    if held_out.labels != record.labels or held_out.surroundings != record.surroundings:
        raise InputError(
            f"{held_out.name}: labels and surroundings must be those of the generator, got others. Map them first."
        )
    leaking = leaks(known, held_out.name, training_contents(held_out, chosen))
    if leaking:
        raise InputError(
            f"{held_out.name}: cases must be unknown to the generator, got {listed(leaking)}. "
            "Name others with --cases or --held_out."
        )
    records = Manifest(held_out.folder).read()
    patients: dict[str, list[str]] = {}
    for case_id in chosen:
        patients.setdefault(str(records.get(case_id, {}).get("patient", case_id)), []).append(case_id)
    return list(patients.values())


def _files(dataset: RawDataset, case_ids: Sequence[str]) -> list[Path]:
    return [path for case_id in case_ids for path in dataset.files_of(case_id)]


def _training_errors(
    source: RawDataset,
    templates: Sequence[str],
    count: int,
    job: Callable[..., DrawingJob],
    workers: int,
    seed: int,
    drawn_from: Sequence[Any],
) -> dict[int, float] | None:
    """Mean error of every structure over some drawings of training cases: the class prior."""
    if not count:
        return None
    jobs = {}
    for number in range(count):
        case_id, template = (templates[n % len(templates)] for n in (number, number + 1))
        jobs[f"{case_id}, {number}"] = job(source.folder, [case_id], template, derive_seed(seed, "class prior", number))
    found = _run(drawings.training_error, jobs, source, "drawing training cases", workers, drawn_from)
    return means_by_code(*zip(*found.values(), strict=True))


def _run(
    work: Callable[[DrawingJob], Result],
    jobs: Mapping[str, DrawingJob],
    dataset: RawDataset,
    description: str,
    workers: int,
    drawn_from: Sequence[Any],
) -> dict[str, Result]:
    per_voxel = drawings.BYTES_PER_VOXEL + drawings.CHANNEL_BYTES_PER_VOXEL * (dataset.num_channels - 1)
    need = MemoryNeed.of(map(dataset.mask_path, dataset.case_ids), per_voxel)
    return run_cases(work, jobs, workers=workers, description=description, need=need, depends_on=drawn_from)


def _best_and_worst(drawn: Mapping[str, tuple[CaseEvaluation, PicturedCase]]) -> list[PicturedCase]:
    """The cases whose confidence finds the error inside the structures best and worst."""
    inside = {name: case.scores[ErrorKind.MATCHED][Region.STRUCTURES] for name, (case, _) in drawn.items()}
    ause = {name: scores[JUDGED].ause for name, scores in inside.items()}
    ranked = sorted(ause, key=lambda name: ause[name])
    chosen = dict.fromkeys([ranked[0], ranked[-1]])
    return [
        replace(drawn[name][1], title=f"{place}: {name}   AUSE {ause[name]:.2f}")
        for name, place in zip(chosen, ("best", "worst"), strict=False)
    ]


def _case_entry(case: CaseEvaluation, job: DrawingJob) -> dict[str, Any]:
    measures = ("mean_confidence", "std_confidence", "mean_error", "partial_spearman")
    return {
        "case_id": job.renderings[0],
        "renderings": list(job.renderings),
        "template": job.template,
        **{name: getattr(case, name) for name in measures},
        "scores": asdict(case)["scores"],
    }


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a row per map."""
    matched = report["summary"]["scores"][ErrorKind.MATCHED]
    raw = report["summary"]["scores"][ErrorKind.RAW]
    header = ["map", *(f"{measure} {region}" for region in matched for measure in ("AUSE", "ρ")), "AUSE raw", "ρ raw"]
    rows = []
    for name in matched[Region.STRUCTURES]:
        entries = [matched[region][name] for region in matched] + [raw[Region.STRUCTURES][name]]
        rows.append([name, *(f"{entry[m]['mean']:.3f}" for entry in entries for m in ("ause", "spearman"))])
    return header, rows


_CSV_HEADER = ["drawing", "error", "region", "map", "ause", "spearman"]
CSV_COLUMNS = ",".join(_CSV_HEADER)


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv: a row per case, kind of error, region and map."""
    rows = [
        [name, kind, region, map_name, scores["ause"], scores["spearman"]]
        for name, case in report["cases"].items()
        for kind, regions in case["scores"].items()
        for region, maps in regions.items()
        for map_name, scores in maps.items()
    ]
    return _CSV_HEADER, rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """Lines below the printed table."""
    summary, unit = report["summary"], report["settings"]["unit"]
    partial_rho = summary["partial_spearman"][Region.STRUCTURES]["mean"]
    lines = [
        "AUSE: 0 = the error's own order, 0.5 = a random one; ρ: rank correlation of doubt and error; both against the "
        "error after matching contrast, but the last two columns",
        f"confidence inside structures {summary['mean_confidence']['mean']:.3f}, spread "
        f"{summary['std_confidence']['mean']:.3f}; mean error {summary['mean_error']['mean']:.0f} {unit}",
        f"ρ inside structures without what {', '.join(KNOWN)} know: {partial_rho:.3f}",
    ]
    reliability = summary["reliability"]
    if reliability["expected"] is not None:
        expected, found = (", ".join(f"{value:.0f}" for value in reliability[key]) for key in ("expected", "error"))
        lines.append(
            f"tenths of the structures' voxels, from the least confident: expected {expected} {unit}, found {found} "
            f"{unit}"
        )
    return lines + report["verdict"]
