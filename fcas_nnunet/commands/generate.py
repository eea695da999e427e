"""fcas_generate: write a synthetic nnU-Net data set with confidence maps."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcas_nnunet.anatomy import match_labels
from fcas_nnunet.commands.cli import command, make_parser
from fcas_nnunet.commands.mask_settings import add_mask_arguments, given_samples, learnt_bounds, mask_config
from fcas_nnunet.commands.train import add_generator_arguments, generator_config, model_folder, train
from fcas_nnunet.config import ReferenceSource, SamplingConfig, Solver
from fcas_nnunet.config_files import to_dict
from fcas_nnunet.integration.folders import new_dataset_folder, resolve_dataset
from fcas_nnunet.integration.manifest import Manifest, versions
from fcas_nnunet.integration.raw_dataset import RawDataset, write_dataset_json

if TYPE_CHECKING:
    from fcas_nnunet.generator.production import CasePlan

logger = logging.getLogger(__name__)

EXAMPLE = """
fcas_generate -d 901 -o 902 -n 40
fcas_generate -d Dataset901_Heart -n 400 --masks both --seed 1
fcas_generate -d 901 -o 903 --for 900      # labels under the ids and names of data set 900
"""
#: Bytes a voxel takes on disk, at most: int16 image, uint8 labels and confidence, uncompressed.
BYTES_PER_VOXEL = 4


def build_parser() -> argparse.ArgumentParser:
    """The arguments of fcas_generate."""
    parser = make_parser(
        "fcas_generate",
        "Write a synthetic nnU-Net data set with voxel-wise confidence. Trains the generator first when there is none. "
        "Interrupted, the same command goes on.",
        EXAMPLE,
    )
    parser.add_argument("-d", metavar="ID", required=True, help="labelled data set: an id or DatasetXXX_Name")
    parser.add_argument("-o", metavar="ID", help="data set to write (default: the next free id, named after -d + FCaS)")
    parser.add_argument("-n", type=int, default=40, metavar="N", help="number of synthetic cases (default: 40)")
    parser.add_argument("--for", dest="real", metavar="ID", help="write labels under this data set's ids and names")
    parser.add_argument(
        "--masks", type=ReferenceSource, choices=list(ReferenceSource), default=ReferenceSource.MGM,
        help="where the masks come from: the data set's own, deformed ones, or each own once and deformed ones then "
        "(default: mgm)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set (default: 0)")
    add_generator_arguments(parser)
    parser.add_argument("--solver", type=Solver, choices=list(Solver), help="reverse diffusion (default: the preset's)")
    parser.add_argument("--steps", type=int, metavar="K", help="steps of dpmsolver++ (default: the preset's)")
    parser.add_argument(
        "-np", type=int, default=None, metavar="P",
        help="processes, one CPU thread each (default: one per core; 1 on a GPU). The result does not depend on it",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be made and stop")
    add_mask_arguments(parser)
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_generate."""
    args = build_parser().parse_args(argv)
    from fcas_nnunet.commands.generation import Job, check_model, generate, report_overlaps, templates_of
    from fcas_nnunet.generator.checkpoint import is_trained, read_record, weights_sha256
    from fcas_nnunet.generator.production import plan_cases

    if args.n < 1:
        raise ValueError(f"-n: must be at least 1, got {args.n}.")
    config = generator_config(args)
    source = RawDataset.open(resolve_dataset(args.d))
    target_labels = RawDataset.open(resolve_dataset(args.real)).labels if args.real else source.labels
    label_map = match_labels(source.labels, target_labels)
    output = new_dataset_folder(args.o, default_name=f"{source.name.split('_', 1)[1]}FCaS")
    if output == source.folder or (args.real and output == resolve_dataset(args.real)):
        raise ValueError(f"-o: must be another data set than -d and --for, got {output.name}.")
    model = model_folder(source, config)
    source.check(min_cases=2)
    if args.dry_run:
        _print_plan(
            plan_cases(args.n, source.case_ids, source.case_ids, args.masks, args.seed),
            source,
            output,
            model,
            is_trained(model),
        )
        return
    if not is_trained(model):
        logger.info(f"no generator of preset {config.preset} for {source.name} yet: training one")
        train(source, config, args)
    record = read_record(model)
    check_model(record, source, config if args.config or args.preset else None, model)
    report_overlaps(record, source)
    plans = plan_cases(args.n, source.case_ids, templates_of(record, source), args.masks, args.seed)
    masks = mask_config(args, record.config.masks)
    job = Job(
        source=source.folder, model=model, output=output, sampling=_sampling(record.config.sampling, args), masks=masks,
        bounds_ml=learnt_bounds(source, given_samples(source)),
        label_map=label_map, device_name=args.device,
        shared={
            "source": source.name, "mask_config": to_dict(masks), "preset": record.config.preset,
            "weights_sha256": weights_sha256(model),
            "label_map": {str(key): value for key, value in label_map.items()}, "versions": versions(),
        },
    )  # fmt: skip
    generate(plans, job, args.np)
    write_dataset_json(
        output, target_labels, len(Manifest(output).read()),
        description=f"Synthetic, made by fcas_generate from {source.name}; confidenceTr holds the confidence maps.",
    )  # fmt: skip
    Manifest(output).finalise()
    _report(output, plans)


def _sampling(default: SamplingConfig, args: argparse.Namespace) -> SamplingConfig:
    return replace(
        default,
        solver=args.solver or default.solver,
        num_inference_steps=args.steps or default.num_inference_steps,
    )


def _print_plan(plans: Sequence[CasePlan], source: RawDataset, output: Path, model: Path, trained: bool) -> None:
    voxels = sum(int(np.prod(source.load_mask(plan.reference).shape)) for plan in plans)
    print(f"{len(plans)} cases into {output}, at most {voxels * BYTES_PER_VOXEL / 1e9:.2f} GB")
    print(f"generator: {model} ({'trained' if trained else 'would be trained first'})")
    for plan in plans:
        print(f"  {plan.case_id}: mask of {plan.reference} ({plan.masks}), template {plan.template}")


def _report(output: Path, plans: Sequence[CasePlan]) -> None:
    records = Manifest(output).read()
    means = [records[plan.case_id]["mean_confidence_in_structures"] for plan in plans]
    redrawn = sum(len(records[plan.case_id]["mgm"].get("rejections", [])) for plan in plans)
    print(f"done: {len(plans)} cases in {output}")
    print(f"mean confidence inside structures {np.mean(means):.3f} ± {np.std(means):.3f}; {redrawn} masks redrawn")
    print(f"next: fcas_prepare -d {output.name} --for <your labelled data set>")
