"""Does the confidence know where the drawn scan is wrong? Held-out patients' masks drawn, against their real scans."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.commands.generate.sampling_settings import resolved_confidence
from fcas_nnunet.commands.runtime.case_files import run_cases
from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.commands.runtime.leaks import generator_parents
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.commands.train import generator_config, model_folder
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig
from fcas_nnunet.config.options import ConfidenceEstimator
from fcas_nnunet.evaluation.confidence.controls import (
    BOUNDARY,
    CLASS_PRIOR,
    DEPARTURE,
    GRADIENT,
    class_prior,
    control_maps,
)
from fcas_nnunet.evaluation.confidence.error_maps import mean_matched_error, mean_raw_error
from fcas_nnunet.evaluation.confidence.judging import (
    CaseEvaluation,
    ErrorKind,
    Region,
    evaluate_case,
    summarise_cases,
    verdict,
)
from fcas_nnunet.evaluation.confidence.picture import PicturedCase, write_confidence_picture
from fcas_nnunet.evaluation.results import CONFIDENCE, header
from fcas_nnunet.generator.checkpoint import (
    Generator,
    GeneratorRecord,
    is_trained,
    kept_calibration,
    load_generator,
    read_record,
    weights_sha256,
)
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.generate import Drawing, draw_image
from fcas_nnunet.generator.optimisation.precision import drawing_precision
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.folds import read_splits, training_fold
from fcas_nnunet.integration.provenance.parents import Parent, leaks
from fcas_nnunet.labels.contrast import matched_error
from fcas_nnunet.listing import listed
from fcas_nnunet.seeds import derive_seed

logger = logging.getLogger(__name__)

BYTES_PER_VOXEL = 120.0  # a dozen float32 maps on the scan's grid, and as much in passing
JUDGED, EXPECTED, SPREAD = "confidence", "expected error", "SSV spread"
ENSEMBLE, RANDOM_WEIGHTS = "spread of {} seeds", "random weights, its own scan"
#: Controls whose knowledge is taken out of confidence and error before what is left of their correlation is given.
KNOWN = (BOUNDARY, GRADIENT, DEPARTURE, CLASS_PRIOR)


@dataclass(frozen=True)
class Anatomy:
    """A held-out patient.

    Attributes:
        case_id: whose mask is drawn.
        renderings: all real scans of this mask, the case's own among them.
    """

    case_id: str
    renderings: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """One drawing."""

    model: Path
    source: Path
    held_out: Path
    anatomy: Anatomy
    template: str
    seed: int
    confidence: ConfidenceConfig
    prior: Mapping[int, float] | None
    num_ensemble: int
    random_weights: bool
    device_name: str


@dataclass(frozen=True)
class _Evaluated:
    case: CaseEvaluation
    picture: PicturedCase


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """What `fcas_evaluate confidence` does before it prints."""
    source = training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)
    config = generator_config(args)
    model = model_folder(source, config, args.fold)
    if not is_trained(model):
        which = f"--config {args.config}" if args.config else f"--preset {config.preset}"
        fold = "" if args.fold is None else f" --fold {args.fold}"
        raise FileNotFoundError(
            f"{model}: a trained generator must be there, got none. Train it: fcas_train -d {args.d} {which}{fold}."
        )
    record = read_record(model)
    known = generator_parents(model, source, record)
    held_out, chosen = _held_out(args, source)
    anatomies = held_out_anatomies(held_out, chosen, record, known)
    learnt = record.cases.keys() - set(record.validation_cases)
    templates = [case_id for case_id in source.case_ids if case_id in learnt]
    asked = config.confidence if args.config or args.preset else record.config.confidence
    sampling = record.config.sampling.for_model(record.tcdm.prediction_type)
    confidence = resolved_confidence(
        asked.chosen(args.confidence), kept_calibration(model), sampling, record.config.preset
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
            jobs[f"{anatomy.case_id}, {draw}"] = _Job(
                held_out=held_out.folder, anatomy=anatomy, template=template, seed=seed, prior=prior,
                num_ensemble=args.ensemble, random_weights=not args.no_random_weights, **shared,
            )  # fmt: skip
    need = MemoryNeed.of(map(held_out.mask_path, held_out.case_ids), BYTES_PER_VOXEL)
    evaluated = run_cases(_evaluate, jobs, workers=workers, description="drawing held-out cases", need=need)
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
        jobs[f"{case_id}, {number}"] = _Job(
            held_out=source.folder, anatomy=Anatomy(case_id, (case_id,)), template=template,
            seed=derive_seed(seed, "class prior", number), prior=None, num_ensemble=0, random_weights=False, **shared,
        )  # fmt: skip
    need = MemoryNeed.of(map(source.mask_path, source.case_ids), BYTES_PER_VOXEL)
    found = run_cases(_training_error, jobs, workers=workers, description="drawing training cases", need=need)
    return class_prior([error for error, _ in found.values()], [codes for _, codes in found.values()])


def _training_error(job: _Job) -> tuple[np.ndarray, np.ndarray]:
    case, codes = _case(job)
    assert case.image is not None, "real cases have scans"
    generator = _generator(job)
    drawing = _draw(generator, case, job, job.seed)
    return matched_error(drawing.image, _clipped(case.image, generator), codes), codes


def _evaluate(job: _Job) -> _Evaluated:
    """Draw a case, and score every map of it."""
    generator = _generator(job)
    case, codes = _case(job)
    reals = [_clipped(scan, generator) for scan in _renderings(job, case)]
    drawing = _draw(generator, case, job, job.seed)
    errors = _errors(drawing, reals, codes)
    maps = {JUDGED: drawing.confidence, SPREAD: -_spread(drawing)}
    if drawing.expected_error_hu is not None:
        maps[EXPECTED] = -drawing.expected_error_hu
    maps |= control_maps(drawing.confidence, drawing.image, case.mask, codes, case.spacing_mm, job.prior, job.seed)
    if job.num_ensemble > 1:
        others = [_draw(generator, case, job, derive_seed(job.seed, "ensemble", n)).image
                  for n in range(1, job.num_ensemble)]  # fmt: skip
        maps[ENSEMBLE.format(job.num_ensemble)] = -np.std([drawing.image, *others], axis=0, ddof=1)
    known = [name for name in KNOWN if name in maps]
    result = evaluate_case(maps, errors, case.mask, JUDGED, known, job.seed)
    if job.random_weights:
        _add_random_weights(result, generator, case, codes, reals, job)
    picture = PicturedCase.of(
        job.anatomy.case_id, drawing.image, reals[0], errors[ErrorKind.MATCHED], drawing.confidence, case.mask,
        case.spacing_mm,
    )  # fmt: skip
    return _Evaluated(result, picture)


def _errors(drawing: Drawing, reals: Sequence[np.ndarray], codes: np.ndarray) -> dict[ErrorKind, np.ndarray]:
    """Of a drawing against all renderings of its anatomy."""
    return {
        ErrorKind.RAW: mean_raw_error(drawing.image, reals),
        ErrorKind.MATCHED: mean_matched_error(drawing.image, reals, codes),
    }


def _add_random_weights(
    result: CaseEvaluation, generator: Generator, case: Case, codes: np.ndarray, reals: list[np.ndarray], job: _Job
) -> None:
    """The control that nothing was learnt: SSV of a denoiser with random weights against the error of its own scan."""
    drawing = _draw(_untrained(generator, job.seed), case, job, job.seed)
    errors = _errors(drawing, reals, codes)
    own = evaluate_case({SPREAD: -_spread(drawing)}, errors, case.mask, SPREAD, [], job.seed)
    for kind, by_region in own.scores.items():
        for region, maps in by_region.items():
            result.scores[kind][region][RANDOM_WEIGHTS] = maps[SPREAD]


def _untrained(generator: Generator, seed: int) -> Generator:
    from fcas_nnunet.generator.tcdm.network import TCDM

    torch.manual_seed(seed % 2**63)
    tcdm = TCDM(generator.record.tcdm, generator.record.working_spacing_mm)
    for parameter in tcdm.parameters():  # layers that begin at zero, too
        torch.nn.init.normal_(parameter, std=0.05)
    device = next(generator.tcdm.parameters()).device
    return replace(generator, tcdm=tcdm.requires_grad_(False).eval().to(device))


def _draw(generator: Generator, case: Case, job: _Job, seed: int) -> Drawing:
    device = resolve_device(job.device_name)
    precision = drawing_precision(device)
    template = _template(job.source, job.template)
    reference = replace(case, image=None)
    return draw_image(generator, reference, template, seed, device, precision, with_spread=True)


@lru_cache(1)
def _template(source: Path, case_id: str) -> Case:
    """Kept for a case's other drawings: its ensemble, and the one with random weights."""
    return RawDataset.open(source).load_case(case_id)


def _spread(drawing: Drawing) -> np.ndarray:
    assert drawing.spread_hu is not None, "it was asked for"
    return drawing.spread_hu


@lru_cache(1)
def _loaded(model: Path, device_name: str) -> Generator:
    if resolve_device(device_name).type == "cpu":
        torch.set_num_threads(1)  # the same arithmetic whatever the number of processes
    return load_generator(model, resolve_device(device_name))


def _generator(job: _Job) -> Generator:
    generator = _loaded(job.model, job.device_name)
    config = replace(generator.record.config, confidence=job.confidence)
    return replace(generator, record=replace(generator.record, config=config))


def _case(job: _Job) -> tuple[Case, np.ndarray]:
    """The case and its structures, surroundings included."""
    dataset = RawDataset.open(job.held_out)
    case = dataset.load_case(job.anatomy.case_id)
    return case, label_codes(case, max(dataset.labels.values()))[1]


def _renderings(job: _Job, case: Case) -> list[np.ndarray]:
    """All real scans of the anatomy.

    Raises:
        ValueError: when one has another mask.
    """
    dataset = RawDataset.open(job.held_out)
    scans = []
    for case_id in job.anatomy.renderings:
        other = dataset.load_case(case_id)
        if not np.array_equal(other.mask, case.mask):
            raise ValueError(
                f"{case_id}: mask must be that of {case.case_id}, the same patient's by the manifest, got another. "
                "Take one of them out with --cases."
            )
        assert other.image is not None, "real cases have scans"
        scans.append(other.image)
    return scans


def _clipped(image: np.ndarray, generator: Generator) -> np.ndarray:
    """The scan within the generator's range of HU."""
    return np.clip(image, *generator.record.config.grid.intensity_range_hu).astype(np.float32)


def _best_and_worst(evaluated: Mapping[str, _Evaluated]) -> list[PicturedCase]:
    """The cases whose confidence knows most and least of the error inside the structures."""
    ranked = sorted(evaluated.items(), key=lambda item: _own(item[1].case, "ause"))
    chosen = [ranked[0], ranked[-1]] if len(ranked) > 1 else ranked
    return [
        replace(found.picture, title=f"{place}: {name}   AUSE {_own(found.case, 'ause'):.2f}")
        for (name, found), place in zip(chosen, ("best", "worst"), strict=False)
    ]


def _own(case: CaseEvaluation, measure: str) -> float:
    return float(getattr(case.scores[ErrorKind.MATCHED][Region.STRUCTURES][JUDGED], measure))


def _case_entry(case: CaseEvaluation, job: _Job) -> dict[str, Any]:
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
