"""Does the confidence know where the drawn scan is wrong? Held-out patients' masks drawn, against their real scans."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fcas_nnunet.commands.evaluate.drawings import (
    BYTES_PER_VOXEL,
    EXPECTED,
    JUDGED,
    KNOWN,
    SPREAD,
    Anatomy,
    DrawingJob,
    Evaluated,
    evaluate_drawing,
    training_error,
)
from fcas_nnunet.commands.generate.sampling_settings import resolved_confidence
from fcas_nnunet.commands.runtime.case_files import run_cases
from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.commands.runtime.leaks import generator_parents
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.commands.train import generator_config, model_folder
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.options import ConfidenceEstimator
from fcas_nnunet.evaluation.confidence.judging import CaseEvaluation, ErrorKind, Region, summarise_cases, verdict
from fcas_nnunet.evaluation.confidence.picture import PicturedCase, write_confidence_picture
from fcas_nnunet.evaluation.results import CONFIDENCE, header
from fcas_nnunet.generator.checkpoint import (
    GeneratorRecord,
    generator_exists,
    load_calibration,
    load_record,
    weights_sha256,
)
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import read_splits, training_fold
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import Parent, leaks
from fcas_nnunet.labels.contrast import means_by_code
from fcas_nnunet.listing import listed
from fcas_nnunet.seeds import derive_seed


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """What `fcas_evaluate confidence` does before it prints."""
    source = training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)
    config = generator_config(args)
    model = model_folder(source, config, args.fold)
    if not generator_exists(model):
        which = f"--config {args.config}" if args.config else f"--preset {config.preset}"
        fold = "" if args.fold is None else f" --fold {args.fold}"
        raise FileNotFoundError(
            f"{model}: a trained generator must be there, got none. Train it: fcas_train -d {args.d} {which}{fold}."
        )
    record = load_record(model)
    known = generator_parents(model, source, record)
    held_out, chosen = _held_out(args, source)
    anatomies = held_out_anatomies(held_out, chosen, record, known)
    learnt = record.cases.keys() - set(record.validation_cases)
    templates = [case_id for case_id in source.case_ids if case_id in learnt]
    requested = config.confidence if args.config or args.preset else record.config.confidence
    sampling = record.config.sampling.for_model(record.tcdm.prediction_type)
    confidence = resolved_confidence(
        requested.chosen(args.confidence), load_calibration(model), sampling, record.config.preset
    )
    device = resolve_device(args.device)
    workers = 1 if device.type == "cuda" else workers
    shared = {"model": model, "source": source.folder, "confidence": confidence, "device_name": args.device}
    prior = _training_errors(source, templates, args.prior_cases, shared, workers, args.seed)
    jobs = {}
    for anatomy in anatomies:
        for draw in range(args.draws):
            seed = derive_seed(args.seed, "evaluate confidence", anatomy.case_id, draw)
            template = templates[int(np.random.default_rng(seed).integers(len(templates)))]
            jobs[f"{anatomy.case_id}, {draw}"] = DrawingJob(
                held_out=held_out.folder, anatomy=anatomy, template=template, seed=seed, prior=prior,
                num_ensemble=args.ensemble, random_weights=not args.no_random_weights, **shared,
            )  # fmt: skip
    need = MemoryNeed.of(map(held_out.mask_path, held_out.case_ids), BYTES_PER_VOXEL)
    evaluated = run_cases(evaluate_drawing, jobs, workers=workers, description="drawing held-out cases", need=need)
    cases = {name: found.case for name, found in evaluated.items()}
    summary = summarise_cases(list(cases.values()), [jobs[n].anatomy.case_id for n in cases], JUDGED, EXPECTED)
    own = {EXPECTED} if confidence.estimator == ConfidenceEstimator.ERROR_MODEL else {EXPECTED, SPREAD}
    controls = [name for name in summary["better_by"] if name not in own]
    if args.picture:
        write_confidence_picture(args.picture, _best_and_worst(evaluated))
    return {
        **header(CONFIDENCE),
        "source": source.name,
        "held_out": held_out.name,
        "settings": {
            "confidence": to_dict(confidence),
            "sampling": to_dict(sampling),
            "draws": args.draws,
            "seed": args.seed,
            "weights_sha256": weights_sha256(model, confidence),
        },
        "summary": summary,
        "verdict": verdict(summary, JUDGED, controls),
        "cases": {name: _case_entry(case, jobs[name]) for name, case in cases.items()},
        "versions": versions(),
    }


def _held_out(args: argparse.Namespace, source: RawDataset) -> tuple[RawDataset, list[str]]:
    """The data set whose patients are drawn, and their cases: those that were named, all of --held_out, or the fold's.

    Raises:
        ValueError: when nothing says which patients the generator has not seen.
    """
    if args.held_out:
        other = RawDataset.open(resolve_dataset(args.held_out, by="--held_out"))
        return other, list(dict.fromkeys(args.cases or other.case_ids))
    whole = RawDataset.open(source.folder)
    chosen = args.cases or ([] if args.fold is None else read_splits(whole)[args.fold]["val"])
    if not chosen:
        raise ValueError(
            f"{source.name}: cases must be given that its generator has not seen, got none. Name a data set of other "
            "patients with --held_out, or train the generator on a fold: with --fold K, its validation cases are drawn."
        )
    return whole, list(dict.fromkeys(chosen))


def held_out_anatomies(
    held_out: RawDataset, chosen: Sequence[str], record: GeneratorRecord, known: Sequence[Parent]
) -> list[Anatomy]:
    """The patients to draw; scans that the manifest calls one patient's count as renderings of one anatomy.

    Args:
        held_out: where the cases are.
        chosen: their ids.
        record: of the generator.
        known: cases that the generator was trained, validated or calibrated on.

    Raises:
        ValueError: for ids that are not there, cases that the generator knows by id or content, or labels that it does
            not know.
    """
    missing = [case_id for case_id in chosen if case_id not in held_out.case_ids]
    if missing:
        raise ValueError(f"{held_out.name}: cases must be its own, got {', '.join(missing)}. Name others with --cases.")
    if held_out.labels != record.labels or held_out.surroundings != record.surroundings:
        raise ValueError(
            f"{held_out.name}: labels and surroundings must be those of the generator, got others. Map them first."
        )
    leaking = leaks(known, held_out.name, training_contents(held_out, chosen))
    if leaking:
        raise ValueError(
            f"{held_out.name}: cases must be unknown to the generator, got {listed(leaking)}. "
            "Name others with --cases or --held_out."
        )
    records = Manifest(held_out.folder).read()
    patients: dict[str, list[str]] = {}
    for case_id in chosen:
        patients.setdefault(str(records.get(case_id, {}).get("patient", case_id)), []).append(case_id)
    return [Anatomy(scans[0], tuple(scans)) for scans in patients.values()]


def _training_errors(
    source: RawDataset, templates: Sequence[str], count: int, shared: Mapping[str, Any], workers: int, seed: int
) -> dict[int, float] | None:
    """Mean error of every structure over some drawings of training cases: the class prior."""
    if not count:
        return None
    jobs = {}
    for number in range(count):
        case_id = templates[number % len(templates)]
        template = templates[(number + 1) % len(templates)]
        jobs[f"{case_id}, {number}"] = DrawingJob(
            held_out=source.folder, anatomy=Anatomy(case_id, (case_id,)), template=template,
            seed=derive_seed(seed, "class prior", number), prior=None, num_ensemble=0, random_weights=False, **shared,
        )  # fmt: skip
    need = MemoryNeed.of(map(source.mask_path, source.case_ids), BYTES_PER_VOXEL)
    found = run_cases(training_error, jobs, workers=workers, description="drawing training cases", need=need)
    return means_by_code(*zip(*found.values(), strict=True))


def _best_and_worst(evaluated: Mapping[str, Evaluated]) -> list[PicturedCase]:
    """The cases whose confidence knows most and least of the error inside the structures."""
    ranked = sorted(evaluated.items(), key=lambda item: _own(item[1].case, "ause"))
    chosen = [ranked[0], ranked[-1]] if len(ranked) > 1 else ranked
    return [
        replace(found.picture, title=f"{place}: {name}   AUSE {_own(found.case, 'ause'):.2f}")
        for (name, found), place in zip(chosen, ("best", "worst"), strict=False)
    ]


def _own(case: CaseEvaluation, measure: str) -> float:
    return float(getattr(case.scores[ErrorKind.MATCHED][Region.STRUCTURES][JUDGED], measure))


def _case_entry(case: CaseEvaluation, job: DrawingJob) -> dict[str, Any]:
    return {
        "case_id": job.anatomy.case_id,
        "renderings": list(job.anatomy.renderings),
        "template": job.template,
        "mean_confidence": case.mean_confidence,
        "std_confidence": case.std_confidence,
        "mean_error_hu": case.mean_error_hu,
        "partial_spearman": case.partial_spearman,
        "scores": {
            kind: {region: {name: vars(scores) for name, scores in maps.items()} for region, maps in regions.items()}
            for kind, regions in case.scores.items()
        },
    }


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a report's printed table, a row per map, against the matched error."""
    matched = report["summary"]["scores"][ErrorKind.MATCHED]
    raw = report["summary"]["scores"][ErrorKind.RAW]
    header = ["map", *(f"{measure} {region}" for region in matched for measure in ("AUSE", "ρ")), "AUSE raw", "ρ raw"]
    rows = []
    for name in matched[Region.STRUCTURES]:
        entries = [matched[region][name] for region in matched] + [raw[Region.STRUCTURES][name]]
        rows.append([name, *(f"{entry[m]['mean']:.3f}" for entry in entries for m in ("ause", "spearman"))])
    return header, rows


def _expected_and_found(reliability: Mapping[str, Any]) -> list[str]:
    if reliability["expected"] is None:
        return []
    expected, found = (", ".join(f"{value:.0f}" for value in reliability[key]) for key in ("expected", "error"))
    return [f"tenths of the structures' voxels, from the least confident: expected {expected} HU, found {found} HU"]


_CSV_HEADER = ["drawing", "error", "region", "map", "ause", "spearman"]
#: Columns of --csv, as a regular expression.
CSV_COLUMNS = ",".join(_CSV_HEADER)


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv, a row per drawing, error, region and map."""
    rows = [
        [name, kind, region, map_name, scores["ause"], scores["spearman"]]
        for name, case in report["cases"].items()
        for kind, regions in case["scores"].items()
        for region, maps in regions.items()
        for map_name, scores in maps.items()
    ]
    return _CSV_HEADER, rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    summary = report["summary"]
    partial = summary["partial_spearman"][Region.STRUCTURES]["mean"]
    return [
        "AUSE: 0 = the error's own order, 0.5 = a random one; ρ: rank correlation of doubt and error; both against the "
        "error after matching contrast, but the last two columns",
        f"confidence inside structures {summary['mean_confidence']['mean']:.3f}, spread "
        f"{summary['std_confidence']['mean']:.3f}; mean error {summary['mean_error_hu']['mean']:.0f} HU",
        f"ρ inside structures without what {', '.join(KNOWN)} know: {partial:.3f}",
        *_expected_and_found(summary["reliability"]),
        *report["verdict"],
    ]
