"""Run fcas_generate: plan the cases, train the generator if there is none, make the cases."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fcas_nnunet.commands.generate.checks import check_model, check_output, report_changes, report_lacking_templates
from fcas_nnunet.commands.generate.command import Request
from fcas_nnunet.commands.generate.dry_run import Outlook
from fcas_nnunet.commands.generate.measurements import check_disk
from fcas_nnunet.commands.generate.redraw import (
    discard_outdated,
    note_changes,
    planned_number,
    read_changes,
    redraws,
)
from fcas_nnunet.commands.generate.sampling_settings import (
    check_drawing,
    confidence_config,
    resolved_confidence,
    sampling_config,
)
from fcas_nnunet.commands.generate.sources import shares_record
from fcas_nnunet.commands.generate.varied import traits_of, variety_record
from fcas_nnunet.commands.generate.workers import Job, cost_settings, finish, generate, processes_on_gpu
from fcas_nnunet.commands.masks.settings import given_volumes, mask_config, refuse_hopeless_ranges
from fcas_nnunet.commands.runtime.costs import refuse_small_card, training_forecast
from fcas_nnunet.commands.runtime.label_table import roles_to_json, say_roles, settled_roles
from fcas_nnunet.commands.runtime.leaks import (
    drawing_parents,
    generator_parents,
    refuse_leaking_parents,
    training_parents,
)
from fcas_nnunet.commands.runtime.resolution import say_grid, turned_grids
from fcas_nnunet.commands.train import pretrained_files, train
from fcas_nnunet.config.confidence import FLAT_CONFIDENCE_STD
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig, MaskConfig, SamplingConfig
from fcas_nnunet.config.options import SEGMENTER, Precision, ScanSource, Solver
from fcas_nnunet.config.sources import PaintConfig, VarietyConfig, WarpConfig
from fcas_nnunet.evaluation.report.checks import Level, check_expected_error
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.checkpoint import (
    GeneratorRecord,
    generator_exists,
    load_calibration,
    load_record,
    weights_sha256,
)
from fcas_nnunet.generator.data.grid import GEOMETRY
from fcas_nnunet.generator.generate import Variety
from fcas_nnunet.generator.mgm.quality import volume_bounds_ml
from fcas_nnunet.generator.plan import CasePlan, Changes, plan_cases
from fcas_nnunet.generator.sources.registration import REGISTRATION
from fcas_nnunet.integration.dataset.description import NAMES
from fcas_nnunet.integration.dataset.library import CaseLibrary
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_dataset_json
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, Parent, from_json, merged, to_json
from fcas_nnunet.intensities import unit_name
from fcas_nnunet.labels.anatomy import GivenRoles, label_roles
from fcas_nnunet.labels.regions import single_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Plan:
    """The cases to make, the real cases behind them, and the settings that they are made with."""

    library: CaseLibrary
    cases: list[CasePlan]
    parents: list[Parent]
    roles: GivenRoles
    masks: MaskConfig
    sampling: SamplingConfig
    confidence: ConfidenceConfig
    warp: WarpConfig
    paint: PaintConfig
    variety: VarietyConfig
    changes: Changes

    @property
    def varies(self) -> bool:
        """Whether some scans take on traits of others."""
        return self.variety.any and any(case.scan != ScanSource.PAINTED for case in self.cases)


def run(request: Request) -> None:
    """Run a checked command line of fcas_generate."""
    args, share, source, library = request.args, request.share, request.source, request.library
    record = _read_record(request) if request.draws and generator_exists(request.model) else None
    volumes = given_volumes(library)
    if request.draws:
        say_grid(source, request.config, record)
        refuse_small_card(record.config if record else request.config, args.device, trains=record is None)
    plan = _plan(request, record, volumes)
    say_roles(source.name, source.labels, plan.roles)
    tested = [dataset for dataset in (request.real, *library.others.values()) if dataset is not None]
    refuse_leaking_parents(plan.parents, source, args.fold, tested)
    if args.network:
        _check_judges(request, plan)
    # These are no errors: the same command, or one that a report prints, resumes with them.
    if record is not None and args.precision != Precision.AUTO:
        logger.info("--precision: does nothing, since the generator is trained already")
    if args.num_inference_steps is not None and plan.sampling.solver == Solver.DDPM:
        logger.info("--steps: does nothing, since ddpm takes every timestep of the training")
    of_ids = label_roles(source.labels, plan.roles)
    changed = [case for case in plan.cases if case.scan != ScanSource.WARPED]
    refuse_hopeless_ranges(plan.masks, changed, library.references, library.load_mask, source.labels, of_ids)
    if plan.masks.has_local_changes and len(changed) < len(plan.cases):
        logger.info("masks of warped scans have no local changes: there is no field to warp the scan by")
    settings = cost_settings(plan.sampling, plan.confidence)
    model = request.model if request.draws else None
    config = record.config if record else request.config
    processes = args.np or processes_on_gpu(_device(request), config, plan.library)
    outlook = Outlook(plan.cases, share, plan.library, request.output, model, settings, _device(request), processes)
    if args.dry_run or (record is None and request.draws):  # before hours of training, without the generator's settings
        check_output(plan.cases, _job(request, record, plan, volumes, makes=False))
    if args.dry_run:
        print(outlook.describe(None if record is not None or not request.draws else _forecast(request)))
        return
    if not args.ignore_disk:
        check_disk(request.output, outlook.num_bytes, len(outlook.missing))
    if record is None and request.draws:
        record = _trained(request)
        plan = _plan(request, record, volumes)
    job = _job(request, record, plan, volumes)
    check_output(plan.cases, job)
    discard_outdated(request.output, plan.cases, job.num_channels)
    if record is not None:
        report_changes(record, source)
    if share.count > 1:
        logger.info(f"{share}: {len(share.of(plan.cases))} of {len(plan.cases)} cases")
    left = generate(plan.cases, share, job, processes)
    if left:
        left_over = f"{left} of {len(plan.cases)} cases are left to other parts"
        print(f"{share}: done. {left_over}; the last to end finishes {request.output}")
    else:
        _finish(request, plan)


def _check_judges(request: Request, plan: _Plan) -> None:
    """Check that the network of `--network` can judge the planned cases."""
    from fcas_nnunet.commands.confidence.judges import check_planned  # nnU-Net's imports take seconds

    of_all = {"source": request.source.name, "fold": request.args.fold}
    records = {case.case_id: {**of_all, **case.to_record()} for case in plan.cases}
    labels = single_ids(request.labels.entries, request.labels.more.get(NAMES))
    check_planned(request.args, records, plan.parents, request.source, labels, request.output.name)


def _read_record(request: Request) -> GeneratorRecord:
    """Load the record of the generator, after checking its data set, settings and weights."""
    args = request.args
    record = load_record(request.model)
    config = request.config if args.config or args.preset else None
    files = pretrained_files(args).identity() if args.autoencoder or args.denoiser or args.controlnet else None
    check_model(record, request.source, args.fold, config, files, request.model)
    if config is not None:
        own = {name: getattr(config, name) for name in ("confidence", "warp", "paint", "variety")}
        record = replace(record, config=replace(record.config, **own))
    return record


def _forecast(request: Request) -> str:
    """Say what the training of the generator will take."""
    source = request.source
    return training_forecast(request.config, turned_grids(source), source.num_channels, request.args.device)


def _trained(request: Request) -> GeneratorRecord:
    """Train the generator; returns its record."""
    config, source, share = request.config, request.source, request.share
    if share.count > 1:
        raise InputError(
            f"{request.model}: must hold a trained generator before the work is split, got none for {share}. "
            f"Train it first: fcas_train -d {source.name}, with the same --preset or --config and --fold."
        )
    logger.info(f"no generator of preset {config.preset} for {source.name} yet: training one")
    logger.info(_forecast(request))
    train(source, config, request.args)
    return _read_record(request)


def _plan(request: Request, record: GeneratorRecord | None, volumes: Mapping[str, Mapping[int, float]]) -> _Plan:
    """Plan all cases; without a generator, as for one that is trained on all cases."""
    args, library, source = request.args, request.library, request.source
    if record is not None and args.templates is None:  # those that it was trained on
        learnt_from = [case_id for case_id in source.case_ids if case_id in record.cases]
        library = replace(library, templates=learnt_from or source.case_ids)
    labels_of = {name: [label for label, ml in of_case.items() if ml > 0] for name, of_case in volumes.items()}
    changes = read_changes(request.output, library.references)
    cases = plan_cases(
        planned_number(args, changes, request.output), library.references, library.templates, args.masks, args.seed,
        labels_of, request.shares, changes,
    )  # fmt: skip
    report_lacking_templates(cases, labels_of, source.labels, record, _unit(request))
    if record is not None:
        learnt = generator_parents(request.model, source, record)
    else:
        learnt = training_parents(source) if request.draws else from_json(source.dataset_json) or []
    trained = record.config if record else request.config
    return _Plan(
        library, cases, merged([*learnt, *drawing_parents(library)]),
        settled_roles(source, request.config.roles or trained.roles), mask_config(args, trained.masks),
        *_drawing_settings(request, record), trained.warp, trained.paint,
        trained.variety, changes,
    )  # fmt: skip


def _drawing_settings(request: Request, record: GeneratorRecord | None) -> tuple[SamplingConfig, ConfidenceConfig]:
    """Complete the settings of the reverse diffusion and the confidence for the present or future generator."""
    args, config = request.args, record.config if record else request.config
    sampling = sampling_config(config.sampling, args)
    if record is not None or args.denoiser is None:  # which has settings of its own, read when it is loaded
        check_drawing(config if record is None else replace(config, tcdm=record.tcdm), sampling, args)
    confidence = confidence_config(config.confidence, args)
    if record is None:
        return sampling, confidence.for_generator(config.calibration is not None)
    filled = sampling.for_model(record.tcdm.prediction_type)
    return sampling, resolved_confidence(confidence, load_calibration(request.model), filled, config.preset)


def _device(request: Request) -> str:
    """Return the device to run on: only drawing gains from a GPU."""
    return request.args.device if request.draws else "cpu"


def _job(
    request: Request,
    record: GeneratorRecord | None,
    plan: _Plan,
    volumes: Mapping[str, Mapping[int, float]],
    makes: bool = True,
) -> Job:
    """Collect the settings of the workers; `makes`: they will make cases."""
    args, library, real = request.args, plan.library, request.real
    of_scan: dict[ScanSource, dict[str, Any]] = {
        ScanSource.WARPED: {"warp": to_dict(plan.warp)}, ScanSource.PAINTED: {"paint": to_dict(plan.paint)},
        ScanSource.REGISTERED: {"warp": to_dict(plan.warp), "registration": REGISTRATION},
    }  # fmt: skip
    if record is not None:
        of_scan[ScanSource.DRAWN] = {
            "sampling": to_dict(plan.sampling.for_model(record.tcdm.prediction_type)),
            "confidence": to_dict(plan.confidence), "geometry": GEOMETRY,
            "weights_sha256": weights_sha256(request.model, plan.confidence),
            **({"registration": REGISTRATION} if record.tcdm.registers else {}),
        }  # fmt: skip
    named = {"references": library.named_references, "templates": library.named_templates}
    return Job(
        cases=library, model=request.model if record is not None else None, output=request.output,
        sampling=plan.sampling, confidence=plan.confidence, masks=plan.masks, warp=plan.warp, paint=plan.paint,
        bounds_ml=volume_bounds_ml([volumes[name] for name in library.references]),
        label_map=request.labels.becomes, ignore_id=request.labels.ignore_id,
        roles=plan.roles, device_name=_device(request), of_scan=of_scan, variety=_variety(plan) if makes else None,
        shared={
            "source": library.source.name, "for": real.name if real else None, "fold": args.fold,
            **{key: entries and list(entries) for key, entries in named.items()},
            "run_seed": args.seed, "mask_config": to_dict(plan.masks), **shares_record(request.shares),
            "preset": (record.config if record else request.config).preset,
            "label_map": request.labels.to_record(), **(variety_record(plan.variety) if plan.varies else {}),
            "roles": roles_to_json(plan.roles), "versions": versions(),
        },
    )  # fmt: skip


def _variety(plan: _Plan) -> Variety | None:
    """The traits that scans take on of others."""
    if not plan.varies:
        return None
    return Variety(plan.variety, traits_of(plan.library))


def _finish(request: Request, plan: _Plan) -> None:
    """Finish the data set, whose cases are all present, and report."""
    real, name = request.real, request.source.name
    describe = partial(
        write_dataset_json, request.output, request.labels.entries, channel_names=request.source.channel_names,
        roles=plan.roles if real is None else real.roles,
        description=f"Synthetic, made by fcas_generate from {name}; confidenceTr holds the confidence maps.",
        more={**request.labels.more, PARENTS_KEY: to_json(plan.parents)},
    )  # fmt: skip
    if not finish(plan.cases, request.share, request.output, describe, request.source.num_channels):
        unfinished = f"The last run at work in {request.output} finishes it; if none is, start again"
        print(f"all {len(plan.cases)} cases are there. {unfinished}")
        return
    records = Manifest(request.output).read()
    if redraws(request.args) and any(case.case_id not in records for case in plan.cases):
        run(request)  # another run has begun to make some of them again
        return
    made = {case.case_id: records[case.case_id] for case in plan.cases}
    means = [record["mean_confidence_in_structures"] for record in made.values()]
    spread = float(np.mean([record["std_confidence_in_structures"] for record in made.values()]))
    scans = Counter(str(case.scan) for case in plan.cases)
    redrawn = sum(len(record["mgm"].get("rejections", [])) for record in made.values())
    kinds = ", ".join(f"{count} {scan}" for scan, count in sorted(scans.items()))
    print(f"done: {len(made)} cases ({kinds}) in {request.output}")
    print(
        f"confidence inside structures {np.mean(means):.3f} ± {np.std(means):.3f} over cases, "
        f"± {spread:.3f} over voxels; {redrawn} masks redrawn"
    )
    for check in check_expected_error(made, _unit(request)):
        fine = check.level == Level.OK
        print(f"{check.title}: {check.value}" if fine else f"warning: {check.title}: {check.value}. {check.advice}")
    if request.draws and spread < FLAT_CONFIDENCE_STD:
        print(
            f"warning: over voxels it hardly varies ({spread:.3f}): CAL will weight all of them alike. "
            "Look at fcas_report, or take another --confidence."
        )
    if request.args.network:
        from fcas_nnunet.commands.confidence.run import judge

        print(judge(RawDataset.open(request.output), request.args))
        if redraws(request.args) and note_changes(request.args, request.output, plan.cases, plan.changes):
            run(request)
            return
    elif 0 < (judged := sum(SEGMENTER in record for record in made.values())) < len(made):
        print(f"warning: {len(made) - judged} cases are not judged as the others are: run fcas_confidence again")
    print(f"next: fcas_prepare -d {request.output.name} --for {request.args.real or name}")


def _unit(request: Request) -> str:
    """The unit of numbers that concern all channels."""
    return unit_name(*request.source.channel_names.values())
