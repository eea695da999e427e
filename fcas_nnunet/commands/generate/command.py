"""fcas_generate: write a synthetic nnU-Net data set with confidence maps."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcas_nnunet.commands.cli import Parser, command, make_parser, processes
from fcas_nnunet.commands.generate.sampling_settings import (
    add_sampling_arguments,
    check_drawing,
    confidence_config,
    resolved_confidence,
    sampling_config,
)
from fcas_nnunet.commands.masks.settings import (
    add_mask_arguments,
    add_plan_arguments,
    check_count,
    given_volumes,
    mask_config,
    refuse_hopeless_ranges,
)
from fcas_nnunet.commands.runtime.label_table import (
    WrittenLabels,
    open_target,
    said_roles,
    say_roles,
    settled_roles,
    written_labels,
)
from fcas_nnunet.commands.runtime.leaks import (
    drawing_parents,
    generator_parents,
    refuse_leaking_parents,
    training_parents,
)
from fcas_nnunet.commands.runtime.resolution import warn_of_thin_structures
from fcas_nnunet.commands.runtime.shares import Share, share_of
from fcas_nnunet.commands.train import add_generator_arguments, generator_config, model_folder, pretrained_files, train
from fcas_nnunet.config.confidence import FLAT_CONFIDENCE_STD
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig, FCaSConfig, MaskConfig, SamplingConfig
from fcas_nnunet.config.options import Precision, Solver
from fcas_nnunet.evaluation.report.checks import Level, check_expected_error
from fcas_nnunet.integration.dataset.folders import new_dataset_folder, resolve_dataset
from fcas_nnunet.integration.dataset.library import CaseLibrary, check_library, make_library
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.ownership import GENERATE, refuse_foreign_cases
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_dataset_json
from fcas_nnunet.integration.preprocessing.splits import training_fold
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, Parent, merged, to_json
from fcas_nnunet.labels.anatomy import GivenRoles, label_roles
from fcas_nnunet.labels.matching import Unmatched

if TYPE_CHECKING:
    from fcas_nnunet.commands.generate.workers import Job
    from fcas_nnunet.generator.checkpoint import GeneratorRecord
    from fcas_nnunet.generator.plan import CasePlan

logger = logging.getLogger(__name__)

REPLAY = "--replay"

EXAMPLE = """
fcas_generate -d 901 -o 902 -n 40
fcas_generate -d 901 --fold 0 -n 400       # fold 0's validation cases stay unseen: fine-tune fold 0 on it
fcas_generate -d Dataset901_Heart -n 400 --masks both --seed 1
fcas_generate -d 901 -o 903 --for 900      # labels under the ids and names of data set 900
fcas_generate -d 901 -o 904 --references 905 --templates 906:case_a,case_b   # masks and templates of other cases
fcas_generate --replay 902 -o 907 fcas_00007      # that case again, from its line in 902's manifest
fcas_generate -d 901 -o 902 -n 10000 --part 2/4   # the second of four workers, here or on another machine
torchrun --nproc_per_node 4 -m fcas_nnunet.commands.generate.command -d 901 -o 902 -n 10000   # four GPUs
"""


def build_parser() -> Parser:
    """The arguments of fcas_generate."""
    parser = make_parser(
        "fcas_generate",
        "Write a synthetic nnU-Net data set with voxel-wise confidence. Trains the generator first when there is none. "
        "Interrupted, the same command resumes.",
        EXAMPLE,
    )
    parser.add_argument(
        REPLAY, metavar="MANIFEST",
        help=f"make cases again from their manifest lines, without -d and the rest: see fcas_generate {REPLAY} --help",
    )  # fmt: skip
    parser.add_argument("-d", metavar="ID", required=True, help="labelled data set: an id or DatasetXXX_Name")
    parser.add_argument(
        "-o", metavar="ID",
        help="data set to write (default: the one begun for -d, named after it + FCaS; else the next free id)",
    )  # fmt: skip
    parser.add_argument("--for", dest="real", metavar="ID", help="write labels under this data set's ids and names")
    parser.add_argument(
        "--unmatched", type=Unmatched, choices=list(Unmatched), default=Unmatched.REFUSE,
        help="where --for has labels that no label of -d stands for: refuse; ignore: write what they may be part of as "
        "nnU-Net's ignore label; background: pretrain as if they were not there (default: refuse)",
    )  # fmt: skip
    parser.idle("--unmatched", without="--for")
    parser.add_argument(
        "--references", nargs="+", metavar="ID[:CASE,...]",
        help="draw the masks of these cases, not -d's: data sets, single cases of them, or a text file with one such "
        "entry a line; labels are matched by structure",
    )  # fmt: skip
    parser.add_argument(
        "--templates", nargs="+", metavar="ID[:CASE,...]",
        help="guide the drawing by these cases, named likewise (default: those that the generator was trained on)",
    )  # fmt: skip
    add_plan_arguments(parser, 40, "synthetic cases")
    add_generator_arguments(parser)
    parser.add_argument(
        "-np", type=processes, default=None, metavar="P",
        help="processes, one CPU thread each (default: one per core; 1 on a GPU). The result does not depend on it",
    )  # fmt: skip
    parser.add_argument(
        "--part", metavar="K/N",
        help="make the K-th of N parts of the set (default: as torchrun, srun or a SLURM array say, else all of it). "
        "The parts can run at the same time or one after the other; the last to end finishes the data set",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and what disk and time it needs, and stop"
    )
    parser.add_argument("--ignore_disk", action="store_true", help="start though the disk may not hold all cases")
    add_sampling_arguments(parser)
    add_mask_arguments(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_generate."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if any(word.split("=")[0] == REPLAY for word in arguments):
        import_module("fcas_nnunet.commands.generate.replay").run(arguments)  # not before: --help stays quick
        return
    request = _requested(build_parser().parse_args(arguments))

    from fcas_nnunet.commands.generate.checks import check_output, report_changes
    from fcas_nnunet.commands.generate.dry_run import look_ahead
    from fcas_nnunet.commands.generate.workers import cost_settings, generate
    from fcas_nnunet.generator.checkpoint import generator_exists

    args, share, library = request.args, request.share, request.library
    record = _read_record(request) if generator_exists(request.model) else None
    trained, source, labels = record.config if record else request.config, request.source, request.source.labels
    roles = settled_roles(source, (request.config if request.config.roles else trained).roles)
    say_roles(source.name, labels, roles)
    volumes = given_volumes(library)
    warn_of_thin_structures(source, request.config.grid, record)
    plan = _plan(request, record, volumes)
    refuse_leaking_parents(plan.parents, source, args.fold, request.tested())
    _say_what_does_nothing(args, record, plan.sampling)
    masks = mask_config(args, trained.masks)
    of_ids = label_roles(labels, roles)
    refuse_hopeless_ranges(masks, plan.cases, library.references, library.load_mask, labels, of_ids)
    settings = cost_settings(plan.sampling, plan.confidence)
    outlook = look_ahead(plan.cases, share, plan.library, request.output, request.model, settings, args.device, args.np)
    if args.dry_run:
        if record is not None:
            check_output(plan.cases, _job(request, record, plan, volumes, roles, masks))
        print(outlook.describe(trained=record is not None))
        return
    if not args.ignore_disk:
        outlook.check_disk()
    if record is None:
        record = _trained(request)
        plan = _plan(request, record, volumes)
    job = _job(request, record, plan, volumes, roles, masks)
    check_output(plan.cases, job)
    report_changes(record, source)
    if share.count > 1:
        logger.info(f"{share}: {len(share.of(plan.cases))} of {len(plan.cases)} cases")
    left = generate(plan.cases, share, job, args.np)
    if left:
        left_over = f"{left} of {len(plan.cases)} cases are left to other parts"
        print(f"{share}: done. {left_over}; the last to end finishes {request.output}")
        return
    _finish(request, plan, roles)


@dataclass(frozen=True)
class _Request:
    """What the command line names, opened and checked; `library` holds templates as before there is a generator."""

    args: argparse.Namespace
    share: Share
    config: FCaSConfig
    source: RawDataset
    real: RawDataset | None
    output: Path
    model: Path
    written: WrittenLabels
    library: CaseLibrary

    def tested(self) -> list[RawDataset]:
        """Data sets besides the source whose test scans nothing may learn from."""
        return [*([self.real] if self.real else []), *self.library.others.values()]


@dataclass(frozen=True)
class _Plan:
    """The cases to make, the real cases behind them, and the settings that they are drawn with."""

    library: CaseLibrary
    cases: list[CasePlan]
    parents: list[Parent]
    sampling: SamplingConfig
    confidence: ConfidenceConfig


def _requested(args: argparse.Namespace) -> _Request:
    """Open what the command line names; a ValueError says what does not fit, or must not be written into."""
    check_count(args.n)
    share = share_of(args.part, os.environ)
    config = generator_config(args)
    confidence_config(config.confidence, args)  # names what is wrong with the flags
    source = training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)
    real = open_target(args.real) if args.real else None
    output = new_dataset_folder(args.o, default_name=_default_name(source, args.fold), by="-o")
    if output in (source.folder, real and real.folder):
        raise ValueError(
            f"-o: must be another data set than -d and --for, got {output.name}. "
            "Give another id, or none for a free one."
        )
    refuse_foreign_cases(output, GENERATE)
    model = model_folder(source, config, args.fold)
    written = written_labels(source, real, args.unmatched)
    settled_roles(source, config.roles)  # names what is wrong with them
    library = make_library(source, args.references, args.templates, source.case_ids)
    if output.name in library.others:
        raise ValueError(
            f"-o: must be another data set than --references and --templates, got {output.name}. Give another id."
        )
    check_library(library, draws_surroundings=config.tcdm.pairs.reference_surroundings)
    return _Request(args, share, config, source, real, output, model, written, library)


def _default_name(source: RawDataset, fold: int | None) -> str:
    """What the synthetic data set is called where -o gives no name: HeartFCaS, HeartFCaSFold0."""
    return f"{source.name.split('_', 1)[1]}FCaS" + ("" if fold is None else f"Fold{fold}")


def _read_record(request: _Request) -> GeneratorRecord:
    """The record of the generator, which must be of this data set, and of the requested settings and weights."""
    from fcas_nnunet.commands.generate.checks import check_model
    from fcas_nnunet.generator.checkpoint import load_record

    args = request.args
    record = load_record(request.model)
    config = request.config if args.config or args.preset else None
    files = pretrained_files(args).identity() if args.autoencoder or args.denoiser or args.controlnet else None
    check_model(record, request.source, args.fold, config, files, request.model)
    if config is not None:
        record = replace(record, config=replace(record.config, confidence=config.confidence))
    return record


def _trained(request: _Request) -> GeneratorRecord:
    """Train the generator; returns its record."""
    config, source, share = request.config, request.source, request.share
    if share.count > 1:
        raise ValueError(
            f"{request.model}: must hold a trained generator before the work is split, got none for {share}. "
            f"Train it first: fcas_train -d {source.name}, with the same --preset or --config and --fold."
        )
    logger.info(f"no generator of preset {config.preset} for {source.name} yet: training one")
    train(source, config, request.args)
    return _read_record(request)


def _plan(request: _Request, record: GeneratorRecord | None, volumes: Mapping[str, Mapping[int, float]]) -> _Plan:
    """Plan all cases; before there is a generator, as for one that is trained on all cases."""
    from fcas_nnunet.commands.generate.checks import report_lacking_templates, templates_of
    from fcas_nnunet.generator.plan import plan_cases

    args, library, source = request.args, request.library, request.source
    if record is not None and args.templates is None:
        library = replace(library, templates=templates_of(record, source))
    labels_of = {name: [label for label, ml in of_case.items() if ml > 0] for name, of_case in volumes.items()}
    cases = plan_cases(args.n, library.references, library.templates, args.masks, args.seed, labels_of)
    report_lacking_templates(cases, labels_of, source.labels, record)
    learnt = training_parents(source) if record is None else generator_parents(request.model, source, record)
    return _Plan(library, cases, merged([*learnt, *drawing_parents(library)]), *_drawing_settings(request, record))


def _drawing_settings(request: _Request, record: GeneratorRecord | None) -> tuple[SamplingConfig, ConfidenceConfig]:
    """Settings of the reverse diffusion and of the confidence, filled in for the generator that is or will be there."""
    from fcas_nnunet.generator.checkpoint import load_calibration

    args, config = request.args, record.config if record else request.config
    sampling = sampling_config(config.sampling, args)
    if record is not None or args.denoiser is None:  # which has settings of its own, read when it is loaded
        check_drawing(config if record is None else replace(config, tcdm=record.tcdm), sampling, args)
    confidence = confidence_config(config.confidence, args)
    if record is None:
        return sampling, confidence.for_generator(config.calibration is not None)
    filled = sampling.for_model(record.tcdm.prediction_type)
    return sampling, resolved_confidence(confidence, load_calibration(request.model), filled, config.preset)


def _say_what_does_nothing(args: argparse.Namespace, record: GeneratorRecord | None, sampling: SamplingConfig) -> None:
    """Options that are no error, since the same command, or one that a report prints, goes on with them."""
    if record is not None and args.precision != Precision.AUTO:
        logger.info("--precision: does nothing, since the generator is trained already")
    if args.steps is not None and sampling.solver == Solver.DDPM:
        logger.info("--steps: does nothing, since ddpm takes every timestep of the training")


def _job(
    request: _Request, record: GeneratorRecord, plan: _Plan, volumes: Mapping[str, Mapping[int, float]],
    roles: GivenRoles, masks: MaskConfig,
) -> Job:  # fmt: skip
    """What the workers need to know."""
    from fcas_nnunet.commands.generate.workers import Job
    from fcas_nnunet.generator.checkpoint import weights_sha256
    from fcas_nnunet.generator.data.grid import GEOMETRY
    from fcas_nnunet.generator.mgm.quality import volume_bounds_ml

    args, library, label_map = request.args, plan.library, request.written.label_map
    return Job(
        cases=library, model=request.model, output=request.output, sampling=plan.sampling, confidence=plan.confidence,
        masks=masks, bounds_ml=volume_bounds_ml([volumes[name] for name in library.references]), label_map=label_map,
        roles=roles, device_name=args.device,
        shared={
            "source": library.source.name, "for": resolve_dataset(args.real).name if args.real else None,
            "fold": args.fold, "references": _listed(library.named_references),
            "templates": _listed(library.named_templates), "run_seed": args.seed, "mask_config": to_dict(masks),
            "sampling": to_dict(plan.sampling.for_model(record.tcdm.prediction_type)),
            "confidence": to_dict(plan.confidence), "preset": record.config.preset, "geometry": GEOMETRY,
            "weights_sha256": weights_sha256(request.model, plan.confidence),
            "label_map": {str(key): value for key, value in label_map.items()},
            "roles": said_roles(roles), "versions": versions(),
        },
    )  # fmt: skip


def _listed(entries: tuple[str, ...] | None) -> list[str] | None:
    return None if entries is None else list(entries)


def _finish(request: _Request, plan: _Plan, roles: GivenRoles) -> None:
    """Make a data set of the cases, which are all there, and report."""
    from fcas_nnunet.commands.generate.workers import finish

    real, source = request.real, request.source

    def describe(num_cases: int) -> None:
        write_dataset_json(
            request.output, request.written.labels, num_cases, roles=roles if real is None else real.roles,
            description=f"Synthetic, made by fcas_generate from {source.name}; confidenceTr holds the confidence maps.",
            more={PARENTS_KEY: to_json(plan.parents)},
        )  # fmt: skip

    if finish(plan.cases, request.share, request.output, describe):
        _report(request.output, plan.cases, request.args.real or source.name)
    else:
        unfinished = f"The last run at work in {request.output} finishes it; if none is, start again"
        print(f"all {len(plan.cases)} cases are there. {unfinished}")


def _report(output: Path, plans: Sequence[CasePlan], real: str) -> None:
    records = Manifest(output).read()
    made = [records[plan.case_id] for plan in plans]
    means = [record["mean_confidence_in_structures"] for record in made]
    spread = float(np.mean([record["std_confidence_in_structures"] for record in made]))
    redrawn = sum(len(record["mgm"].get("rejections", [])) for record in made)
    print(f"done: {len(plans)} cases in {output}")
    print(
        f"confidence inside structures {np.mean(means):.3f} ± {np.std(means):.3f} over cases, "
        f"± {spread:.3f} over voxels; {redrawn} masks redrawn"
    )
    for check in check_expected_error({plan.case_id: records[plan.case_id] for plan in plans}):
        fine = check.level == Level.OK
        print(f"{check.title}: {check.value}" if fine else f"warning: {check.title}: {check.value}. {check.advice}")
    if spread < FLAT_CONFIDENCE_STD:
        print(
            f"warning: over voxels it hardly varies ({spread:.3f}): CAL will weigh all of them alike. "
            "Look at fcas_report, or take another --confidence."
        )
    print(f"next: fcas_prepare -d {output.name} --for {real}")


if __name__ == "__main__":
    main()
