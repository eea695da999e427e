"""fcas_masks: make new masks from those of a data set, without training, and measure their variety."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcas_nnunet.case import Case, spacing_of
from fcas_nnunet.commands.cli import command, fold_number, make_parser, processes
from fcas_nnunet.commands.masks.settings import (
    add_mask_arguments,
    mask_config,
    narrowing,
    refuse_hopeless_ranges,
    with_progress,
)
from fcas_nnunet.commands.runtime.case_files import run_cases
from fcas_nnunet.commands.runtime.label_table import roles_to_json, say_roles, settled_roles
from fcas_nnunet.commands.runtime.pool import write_missing
from fcas_nnunet.config.files import load_config, to_dict
from fcas_nnunet.config.generator import FCaSConfig, MaskConfig
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.ownership import COMMAND, MASKS, sole_writer
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import FILE_ENDING, read_label_map, write_labels
from fcas_nnunet.integration.preprocessing.splits import training_fold
from fcas_nnunet.labels.anatomy import GivenRoles, LabelRoles, label_roles
from fcas_nnunet.machine import available_cores

if TYPE_CHECKING:
    from fcas_nnunet.evaluation.segmentation.diversity import MaskSample
    from fcas_nnunet.generator.mgm.recipe import SourceMask
    from fcas_nnunet.generator.plan import CasePlan

_EXAMPLE = """
fcas_masks -d 901 -n 100 -o new_masks
fcas_masks -d 901 -n 100 -o sick_masks --chamber_mm -3 3 --wall_mm -2 2 --stenosis 0.3 0.7 --seed 1
"""
DIVERSITY_FILE, SHEET_FILE = "diversity.json", "contact_sheet.png"

_CACHED_SOURCES = 4


@dataclass(frozen=True)
class _Job:
    """Settings of every worker."""

    source: Path
    references: Sequence[str]
    output: Path
    config: MaskConfig
    roles: LabelRoles
    bounds_ml: Mapping[int, tuple[float, float]]
    ignore_id: int | None
    shared: Mapping[str, Any]


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_masks."""
    parser = make_parser(
        "fcas_masks",
        "Write new masks made from a data set's own: deformed, every vessel whole, each checked against its source; "
        "with a measure of their variety (diversity.json) and a picture (contact_sheet.png). They are the masks that "
        "fcas_generate draws for the same -d, --seed and settings. Interrupted, the same command resumes.",
        _EXAMPLE,
    )
    parser.add_argument("-d", required=True, metavar="ID", help="labelled data set: an id or DatasetXXX_Name")
    parser.add_argument("-o", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--fold", type=fold_number, metavar="K", help="use this fold's training cases alone (default: all)"
    )
    add_mask_arguments(parser, 100, "masks")
    parser.add_argument("--config", type=Path, metavar="YAML", help="take the ranges from a generator's configuration")
    parser.add_argument(
        "-np", type=processes, metavar="P", help="processes (default: one per core); the masks do not change"
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run fcas_masks."""
    args = build_parser().parse_args(argv)
    base = load_config(FCaSConfig, args.config) if args.config else None
    config = mask_config(args, base.masks if base else MaskConfig())
    source = training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)
    given_roles = settled_roles(source, base.roles if base else None)
    say_roles(source.name, source.labels, given_roles)
    check_dataset(source, min_cases=1)
    with sole_writer(args.o, MASKS):
        _write_masks(args, config, source, given_roles)


def _write_masks(args: argparse.Namespace, config: MaskConfig, source: RawDataset, given_roles: GivenRoles) -> None:
    """Make the missing masks, and measure all."""
    from fcas_nnunet.generator.mgm.quality import volume_bounds_ml
    from fcas_nnunet.generator.plan import plan_cases
    from fcas_nnunet.generator.substitutes import refuse_made_otherwise

    roles = label_roles(source.labels, given_roles)
    labels = {name: label_id for name, label_id in source.labels.items() if label_id}
    given = _given_samples(source, labels)
    volumes = [dict(zip(labels.values(), sample.volumes_ml, strict=True)) for sample in given.values()]
    shared = {"source": source.name, "fold": args.fold, "mask_config": to_dict(config),
              "roles": roles_to_json(given_roles), "versions": versions()}  # fmt: skip
    job = _Job(
        source.folder, source.case_ids, args.o, config, roles, volume_bounds_ml(volumes), source.ignore_id, shared
    )
    plans = plan_cases(args.n, source.case_ids, source.case_ids, args.masks, args.seed)
    refuse_hopeless_ranges(config, plans, source.case_ids, source.load_mask, source.labels, roles)
    records = Manifest(args.o).read()
    rule = "its masks must have been made from the same data set with the same seed and settings"
    refuse_made_otherwise(records, plans, shared, f"{args.o}: {rule}")
    missing = [plan for plan in plans if plan.case_id not in records or not _path(args.o, plan.case_id).is_file()]
    processes = args.np or available_cores()
    write_missing(args.o, partial(_make, job), missing, len(plans), processes, "masks")
    _report(args.o, [plan.case_id for plan in plans], labels, given, roles.thin, args.seed, processes)


def _given_samples(source: RawDataset, labels: Mapping[str, int]) -> dict[str, MaskSample]:
    """Case id → sample of the data set's own mask."""
    from fcas_nnunet.evaluation.segmentation.diversity import sample_mask

    cases = ((case_id, source.load_mask(case_id)) for case_id in with_progress(source.case_ids))
    return {case_id: sample_mask(case.mask, case.spacing_mm, tuple(labels.values())) for case_id, case in cases}


def _make(job: _Job, plan: CasePlan) -> dict[str, Any]:
    """Write one mask; returns its manifest record."""
    from fcas_nnunet.generator.generate import moved_ignored, reference_mask
    from fcas_nnunet.generator.substitutes import make_with_substitutes

    def make(plan: CasePlan) -> dict[str, Any]:
        case, source = _source(job.source, plan.reference, job.roles)
        mask, record = reference_mask(plan, case, job.config, job.roles, job.bounds_ml, source)
        ignored = moved_ignored(case, record)
        if ignored is not None:
            assert job.ignore_id is not None, "the data set has the label"
            mask = np.where(ignored, np.uint16(job.ignore_id), mask)
        write_labels(_path(job.output, plan.case_id), mask, case.affine)
        return {**plan.to_record(), "mgm": record, **job.shared, COMMAND: MASKS}

    return make_with_substitutes(plan, job.references, make, narrowing(job.config))


@lru_cache(_CACHED_SOURCES)
def _source(folder: Path, case_id: str, roles: LabelRoles) -> tuple[Case, SourceMask]:
    """Load a given mask and its properties."""
    import torch

    from fcas_nnunet.generator.mgm.recipe import SourceMask

    torch.set_num_threads(1)  # one thread a process; the masks do not depend on it
    case = RawDataset.open(folder).load_mask(case_id)
    return case, SourceMask(case.mask, case.spacing_mm, roles)


def _path(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}{FILE_ENDING}"


def _report(
    folder: Path,
    case_ids: Sequence[str],
    labels: Mapping[str, int],
    given: Mapping[str, MaskSample],
    thin: frozenset[int],
    seed: int,
    num_processes: int,
) -> None:
    """Measure the variety, write it and the contact sheet, and print a table."""
    from fcas_nnunet.commands.masks.contact_sheet import write_contact_sheet
    from fcas_nnunet.evaluation.segmentation.diversity import measure_diversity
    from fcas_nnunet.evaluation.table import format_table

    records = Manifest(folder).read()
    jobs = {case_id: (_path(folder, case_id), records[case_id]["reference"]) for case_id in case_ids}
    sample = partial(_sample, tuple(labels.values()))
    generated = run_cases(sample, jobs, workers=num_processes, description="measuring")
    report = measure_diversity(list(generated.values()), given, labels, seed)
    rejected = [reason for case_id in case_ids for reason in records[case_id]["mgm"].get("rejections", [])]
    share = round(len(rejected) / (len(rejected) + len(case_ids)), 4)
    report["rejected"] = {"count": len(rejected), "share": share, "reasons": rejected}
    atomic_write_json(folder / DIVERSITY_FILE, report)
    write_contact_sheet(given, generated, labels, thin, folder / SHEET_FILE)
    columns = ("dice_between", "dice_to_source", "dice_between_given", "volume_ml", "volume_ml_given")
    rows = [[name, *(_cell(values[column]) for column in columns)] for name, values in report["labels"].items()]
    header = ["", "Dice between", "to source", "between given", "volume mL", "given mL"]
    print(f"{len(case_ids)} masks in {folder}; {len(rejected)} draws rejected ({100 * share:.1f} %)")
    print("hearts compared centre on centre, mean ± standard deviation")
    print(format_table(header, rows))


def _sample(label_ids: Sequence[int], job: tuple[Path, str]) -> MaskSample:
    """Load the sample of a written mask for comparison; the job is its file and the id of its source."""
    from fcas_nnunet.evaluation.segmentation.diversity import sample_mask

    path, source = job
    volume = read_label_map(path)
    mask = np.where(np.isin(volume.array, label_ids), volume.array, 0).astype(np.uint8)  # without what is ignored
    return sample_mask(mask, spacing_of(volume.affine), label_ids, source)


def _cell(summary: Mapping[str, float | None]) -> str:
    mean, std = summary["mean"], summary["std"]
    if mean is None:
        return "–"
    return f"{mean:.2f}" + ("" if std is None else f" ± {std:.2f}")


if __name__ == "__main__":
    main()
