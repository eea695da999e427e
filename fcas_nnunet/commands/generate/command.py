"""fcas_generate: write a synthetic nnU-Net data set with confidence maps."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
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
from fcas_nnunet.commands.runtime.shares import share_of
from fcas_nnunet.commands.train import add_generator_arguments, generator_config, model_folder, pretrained_files, train
from fcas_nnunet.config.confidence import FLAT_CONFIDENCE_STD
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig, FCaSConfig, MaskConfig, PreviewConfig, SamplingConfig
from fcas_nnunet.config.options import Precision, SnapshotDecoder, Solver
from fcas_nnunet.evaluation.report.checks import Level, check_expected_error
from fcas_nnunet.integration.dataset.folders import new_dataset_folder, resolve_dataset
from fcas_nnunet.integration.dataset.library import CaseLibrary, check_library, make_library
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.ownership import GENERATE, refuse_foreign_cases
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_dataset_json
from fcas_nnunet.integration.provenance.folds import training_fold
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, Parent, merged, to_json
from fcas_nnunet.labels.anatomy import GivenRoles, label_roles
from fcas_nnunet.labels.matching import Unmatched

if TYPE_CHECKING:
    from fcas_nnunet.commands.generate.workers import Job
    from fcas_nnunet.generator.checkpoint import GeneratorRecord
    from fcas_nnunet.generator.generate import CasePlan

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
        "Interrupted, the same command goes on.",
        EXAMPLE,
    )
    parser.add_argument(
        REPLAY, metavar="MANIFEST",
        help=f"make cases again from their manifest lines, without -d and the rest: see fcas_generate {REPLAY} --help",
    )  # fmt: skip
    parser.add_argument("-d", metavar="ID", required=True, help="labelled data set: an id or DatasetXXX_Name")
    parser.add_argument(
        "-o",
        metavar="ID",
        help="data set to write (default: the one begun for -d, named after it + FCaS; else the next free id)",
    )
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
    args = build_parser().parse_args(arguments)
    check_count(args.n)
    share = share_of(args.part, os.environ)
    config = generator_config(args)
    if confidence_config(config.confidence, args).decoder == SnapshotDecoder.PREVIEW and config.preview is None:
        config = replace(config, preview=PreviewConfig())  # a generator that is trained now gets one
    source, real, output = _data_sets(args)
    model = model_folder(source, config, args.fold)
    written = written_labels(source, real, args.unmatched)
    settled_roles(source, config.roles)  # names what is wrong with them
    library = make_library(source, args.references, args.templates, source.case_ids)
    if output.name in library.others:
        raise ValueError(
            f"-o: must be another data set than --references and --templates, got {output.name}. Give another id."
        )
    check_library(library, draws_surroundings=config.tcdm.pairs.reference_surroundings)

    from fcas_nnunet.commands.generate.checks import check_output, report_changes
    from fcas_nnunet.commands.generate.dry_run import look_ahead
    from fcas_nnunet.commands.generate.workers import cost_settings, finish, generate
    from fcas_nnunet.generator.checkpoint import is_trained

    # Plan
    record = _read_record(model, source, config, args) if is_trained(model) else None
    roles = settled_roles(source, (record.config if record and not config.roles else config).roles)
    say_roles(source.name, source.labels, roles)
    volumes = given_volumes(library)
    warn_of_thin_structures(source, config.grid, record)
    library, plans = _plans(args, library, record, volumes)
    parents = _parents(library, record, model)
    refuse_leaking_parents(parents, source, args.fold, _tested(args, library))
    trained_config = record.config if record else config
    drawing = _drawing_settings(trained_config, record, model, args)
    _say_what_does_nothing(args, record, drawing[0])
    masks = mask_config(args, trained_config.masks)
    refuse_hopeless_ranges(
        masks, plans, library.references, library.load_mask, source.labels, label_roles(source.labels, roles)
    )
    settings = cost_settings(*drawing)
    outlook = look_ahead(plans, share, library, output, model, settings, args.device, args.np)
    if args.dry_run:
        if record is not None:
            check_output(plans, _job(args, record, library, volumes, written, roles, masks, model, output, *drawing))
        print(outlook.describe(trained=record is not None))
        return
    if not args.ignore_disk:
        outlook.check_disk()

    # Generator
    if record is None:
        if share.count > 1:
            raise ValueError(
                f"{model}: must hold a trained generator before the work is split, got none for {share}. "
                f"Train it first: fcas_train -d {source.name}, with the same --preset or --config and --fold."
            )
        logger.info(f"no generator of preset {config.preset} for {source.name} yet: training one")
        train(source, config, args)
        record = _read_record(model, source, config, args)
        library, plans = _plans(args, library, record, volumes)
        parents = _parents(library, record, model)
        drawing = _drawing_settings(record.config, record, model, args)

    # Cases
    job = _job(args, record, library, volumes, written, roles, masks, model, output, *drawing)
    check_output(plans, job)
    report_changes(record, source)
    if share.count > 1:
        logger.info(f"{share}: {len(share.of(plans))} of {len(plans)} cases")
    left = generate(plans, share, job, args.np)
    if left:
        print(f"{share}: done. {left} of {len(plans)} cases are left to other parts; the last to end finishes {output}")
        return

    # Data set
    def describe(num_cases: int) -> None:
        write_dataset_json(
            output, written.labels, num_cases, roles=roles if real is None else real.roles,
            description=f"Synthetic, made by fcas_generate from {source.name}; confidenceTr holds the confidence maps.",
            more={PARENTS_KEY: to_json(parents)},
        )  # fmt: skip

    if finish(plans, share, output, describe):
        _report(output, plans, args.real or source.name)
    else:
        print(
            f"all {len(plans)} cases are there. The last run at work in {output} finishes it; if none is, start again"
        )


def _data_sets(args: argparse.Namespace) -> tuple[RawDataset, RawDataset | None, Path]:
    """The labelled data set, that of --for, and the folder to write into.

    Raises:
        ValueError: when the folder holds a data set that is read or was not made by this command.
    """
    source = training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)
    real = open_target(args.real) if args.real else None
    output = new_dataset_folder(args.o, default_name=_default_name(source, args.fold), by="-o")
    if output in (source.folder, real and real.folder):
        raise ValueError(
            f"-o: must be another data set than -d and --for, got {output.name}. "
            "Give another id, or none for a free one."
        )
    refuse_foreign_cases(output, GENERATE)
    return source, real, output


def _default_name(source: RawDataset, fold: int | None) -> str:
    """What the synthetic data set is called where -o gives no name: HeartFCaS, HeartFCaSFold0."""
    return f"{source.name.split('_', 1)[1]}FCaS" + ("" if fold is None else f"Fold{fold}")


def _read_record(model: Path, source: RawDataset, config: FCaSConfig, args: argparse.Namespace) -> GeneratorRecord:
    """The record of the generator, which must be of this data set, and of the settings and weights asked for."""
    from fcas_nnunet.commands.generate.checks import check_model, check_preview
    from fcas_nnunet.generator.checkpoint import read_record

    record = read_record(model)
    asked = config if args.config or args.preset else None
    files = pretrained_files(args).identity() if args.autoencoder or args.denoiser or args.controlnet else None
    check_model(record, source, args.fold, asked, files, model)
    if asked is not None:
        record = replace(record, config=replace(record.config, confidence=asked.confidence))
    check_preview(confidence_config(record.config.confidence, args), model)
    return record


def _plans(
    args: argparse.Namespace,
    library: CaseLibrary,
    record: GeneratorRecord | None,
    volumes: dict[str, dict[int, float]],
) -> tuple[CaseLibrary, list[CasePlan]]:
    """All cases, and what they are made from; before there is a generator, of one that is trained on all cases."""
    from fcas_nnunet.commands.generate.checks import report_lacking_templates, templates_of
    from fcas_nnunet.generator.generate import plan_cases

    if record is not None and args.templates is None:
        library = replace(library, templates=templates_of(record, library.source))
    labels_of = {name: [label for label, ml in of_case.items() if ml > 0] for name, of_case in volumes.items()}
    plans = plan_cases(args.n, library.references, library.templates, args.masks, args.seed, labels_of)
    report_lacking_templates(plans, labels_of, library.source.labels, record)
    return library, plans


def _parents(library: CaseLibrary, record: GeneratorRecord | None, model: Path) -> list[Parent]:
    """Every real case that the set is made from; before there is a generator, of one that is trained on all cases."""
    source = library.source
    learnt = training_parents(source) if record is None else generator_parents(model, source, record)
    return merged([*learnt, *drawing_parents(library)])


def _tested(args: argparse.Namespace, library: CaseLibrary) -> list[RawDataset]:
    """Data sets besides the source whose test scans nothing may learn from."""
    real = [open_target(args.real)] if args.real else []
    return [*real, *library.others.values()]


def _drawing_settings(
    config: FCaSConfig, record: GeneratorRecord | None, model: Path, args: argparse.Namespace
) -> tuple[SamplingConfig, ConfidenceConfig]:
    """Settings of the reverse diffusion and of the confidence, filled in for the generator that is or will be there."""
    from fcas_nnunet.generator.checkpoint import kept_calibration

    sampling = sampling_config(config.sampling, args)
    if record is not None or args.denoiser is None:  # which has settings of its own, read when it is loaded
        check_drawing(config if record is None else replace(config, tcdm=record.tcdm), sampling, args)
    confidence = confidence_config(config.confidence, args)
    if record is None:
        return sampling, confidence.for_generator(config.calibration is not None)
    filled = sampling.for_model(record.tcdm.prediction_type)
    return sampling, resolved_confidence(confidence, kept_calibration(model), filled, record.config.preset)


def _say_what_does_nothing(args: argparse.Namespace, record: GeneratorRecord | None, sampling: SamplingConfig) -> None:
    """Options that are no error, since the same command, or one that a report prints, goes on with them."""
    if record is not None and args.precision != Precision.AUTO:
        logger.info("--precision: does nothing, since the generator is trained already")
    if args.steps is not None and sampling.solver == Solver.DDPM:
        logger.info("--steps: does nothing, since ddpm takes every timestep of the training")


def _job(
    args: argparse.Namespace,
    record: GeneratorRecord,
    library: CaseLibrary,
    volumes: dict[str, dict[int, float]],
    written: WrittenLabels,
    roles: GivenRoles,
    masks: MaskConfig,
    model: Path,
    output: Path,
    sampling: SamplingConfig,
    confidence: ConfidenceConfig,
) -> Job:
    """What the workers need to know."""
    from fcas_nnunet.commands.generate.workers import Job
    from fcas_nnunet.generator.checkpoint import weights_sha256
    from fcas_nnunet.generator.data.grid import GEOMETRY
    from fcas_nnunet.generator.mgm.quality import volume_bounds_ml

    return Job(
        cases=library, model=model, output=output, sampling=sampling, confidence=confidence, masks=masks,
        bounds_ml=volume_bounds_ml([volumes[name] for name in library.references]), label_map=written.label_map,
        roles=roles,
        device_name=args.device,
        shared={
            "source": library.source.name, "for": resolve_dataset(args.real).name if args.real else None,
            "fold": args.fold, "references": _listed(library.named_references),
            "templates": _listed(library.named_templates), "run_seed": args.seed, "mask_config": to_dict(masks),
            "sampling": to_dict(sampling.for_model(record.tcdm.prediction_type)),
            "confidence": to_dict(confidence), "preset": record.config.preset, "geometry": GEOMETRY,
            "weights_sha256": weights_sha256(model, confidence),
            "label_map": {str(key): value for key, value in written.label_map.items()},
            "roles": said_roles(roles), "versions": versions(),
        },
    )  # fmt: skip


def _listed(entries: tuple[str, ...] | None) -> list[str] | None:
    return None if entries is None else list(entries)


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
