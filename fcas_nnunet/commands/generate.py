"""fcas_generate: write a synthetic nnU-Net data set with confidence maps."""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fcas_nnunet.anatomy import match_labels
from fcas_nnunet.commands.cli import command, make_parser
from fcas_nnunet.commands.train import (
    add_generator_arguments,
    generator_config,
    model_folder,
    resolve_device,
    supports_bf16,
    train,
)
from fcas_nnunet.config import FCaSConfig, ReferenceSource, SamplingConfig, Solver
from fcas_nnunet.generator.checkpoint import (
    Generator,
    GeneratorRecord,
    case_sha256,
    is_trained,
    load_generator,
    read_record,
    weights_sha256,
)
from fcas_nnunet.generator.production import CasePlan, make_case, plan_cases
from fcas_nnunet.integration.folders import new_dataset_folder, resolve_dataset
from fcas_nnunet.integration.manifest import Manifest, versions
from fcas_nnunet.integration.raw_dataset import RawDataset, case_is_written, write_case, write_dataset_json
from fcas_nnunet.integration.volumes import read_volume

logger = logging.getLogger(__name__)

EXAMPLE = """
fcas_generate -d 901 -o 902 -n 40
fcas_generate -d Dataset901_Heart -n 400 --masks both --seed 1
fcas_generate -d 901 -o 903 --for 900      # labels under the ids and names of data set 900
"""
#: Bytes a voxel takes on disk, at most: int16 image, uint8 labels and confidence, uncompressed.
BYTES_PER_VOXEL = 4
CACHED_CASES = 8


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
    return parser


@dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    Attributes:
        source: folder of the labelled data set.
        model: folder of the generator.
        output: folder of the synthetic data set.
        sampling: of the reverse diffusion.
        label_map: source label id → written label id.
        device_name: where to run.
        shared: what every manifest record repeats.
    """

    source: Path
    model: Path
    output: Path
    sampling: SamplingConfig
    label_map: Mapping[int, int]
    device_name: str
    shared: Mapping[str, Any]


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_generate."""
    args = build_parser().parse_args(argv)
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
        _print_plan(plan_cases(args.n, source.case_ids, source.case_ids, args.masks, args.seed), source, output, model)
        return
    if not is_trained(model):
        logger.info(f"no generator of preset {config.preset} for {source.name} yet: training one")
        train(source, config, args)
    record = read_record(model)
    _check_model(record, source, config if args.config or args.preset else None, model)
    _report_overlaps(record, source)
    plans = plan_cases(args.n, source.case_ids, _templates(record, source), args.masks, args.seed)
    job = Job(
        source=source.folder, model=model, output=output, sampling=_sampling(record.config.sampling, args),
        label_map=label_map, device_name=args.device,
        shared={
            "source": source.name, "preset": record.config.preset, "weights_sha256": weights_sha256(model),
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


def generate(plans: Sequence[CasePlan], job: Job, num_processes: int | None) -> None:
    """Make every planned case that is not there yet.

    Args:
        plans: all cases of the set.
        job: what the workers need.
        num_processes: None = one per core, or one on a GPU.

    Raises:
        ValueError: when the output folder holds cases made with other settings.
    """
    manifest = Manifest(job.output)
    done = _finished(plans, job, manifest)
    missing = [plan for plan in plans if plan.case_id not in done]
    if done and missing:
        logger.info(f"{len(done)} of {len(plans)} cases are there already")
    if not missing:
        return
    on_gpu = resolve_device(job.device_name).type == "cuda"
    workers = num_processes or (1 if on_gpu else os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), context, _start_worker, (job,)) as pool:
        futures = [pool.submit(_make, plan) for plan in missing]
        try:
            for future in tqdm(
                as_completed(futures), total=len(plans), initial=len(done), desc="generating", unit="case"
            ):
                manifest.append(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker:
    """A worker process' own: the loaded generator and the last cases it read."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.device = resolve_device(job.device_name)
        self.precision = torch.bfloat16 if supports_bf16(self.device) else torch.float32
        generator = load_generator(job.model, self.device)
        config = replace(generator.record.config, sampling=job.sampling)
        self.generator = Generator(replace(generator.record, config=config), generator.autoencoder, generator.tcdm)
        self.load_case = lru_cache(CACHED_CASES)(RawDataset.open(job.source).load_case)

    def make(self, plan: CasePlan) -> dict[str, Any]:
        case, record = make_case(self.generator, plan, self.load_case, self.device, self.precision)
        lookup = np.zeros(256, dtype=np.uint8)
        for source_id, target_id in self.job.label_map.items():
            lookup[source_id] = target_id
        write_case(self.job.output, replace(case, mask=lookup[case.mask]))
        return {**record, **self.job.shared}


_worker: _Worker | None = None


def _start_worker(job: Job) -> None:
    global _worker
    torch.set_num_threads(1)  # the same arithmetic whatever the number of processes
    _worker = _Worker(job)


def _make(plan: CasePlan) -> dict[str, Any]:
    assert _worker is not None, "the pool's initializer ran"
    return _worker.make(plan)


def _finished(plans: Sequence[CasePlan], job: Job, manifest: Manifest) -> set[str]:
    """Ids of the planned cases that are complete.

    Raises:
        ValueError: when any case of the folder was made otherwise.
    """
    planned = {plan.case_id: plan for plan in plans}
    records = manifest.read()
    strangers = [
        case_id
        for case_id, record in records.items()
        if any(record.get(key) != value for key, value in job.shared.items() if key != "versions")
        or (case_id in planned and CasePlan.from_record(record) != planned[case_id])
    ]
    if strangers:
        raise ValueError(
            f"{job.output}: its cases must have been made with the same generator, seed, masks and labels, got others: "
            f"{', '.join(sorted(strangers)[:5])}. Choose another -o, or delete the folder."
        )
    return {case_id for case_id in records if case_id in planned and case_is_written(job.output, case_id)}


def _templates(record: GeneratorRecord, source: RawDataset) -> list[str]:
    """Cases that may guide the drawing: those the generator was trained on."""
    return [case_id for case_id in source.case_ids if case_id in record.cases] or source.case_ids


def _check_model(record: GeneratorRecord, source: RawDataset, asked: FCaSConfig | None, folder: Path) -> None:
    """See that the generator belongs to the data set and the settings.

    Raises:
        ValueError: when it does not.
    """
    faults = []
    if dict(record.labels) != dict(source.labels):
        faults.append(f"{folder}: the generator's labels must be the data set's, got {record.labels}. Train it anew.")
    if asked is not None and asked != record.config:
        faults.append(
            f"{folder}: holds a generator with another configuration than the one asked for. Delete it to train anew, "
            "or name your configuration's preset differently."
        )
    if faults:
        raise ValueError("\n".join(faults))


def _report_overlaps(record: GeneratorRecord, source: RawDataset) -> None:
    """Name cases whose content changed since training, and held-out cases that training has seen."""
    images = {}
    for case_id in source.case_ids:
        case = source.load_case(case_id)
        if record.cases.get(case_id, "") not in ("", case_sha256(case)):
            logger.warning(f"{case_id}: changed since the generator was trained")
        assert case.image is not None, "training cases have images"
        images[_image_sha256(case.image)] = case_id
    for path in sorted((source.folder / "imagesTs").glob(f"*_0000{source.file_ending}")):
        twin = images.get(_image_sha256(read_volume(path).array))
        if twin is not None:
            logger.warning(f"{path}: is the image of training case {twin}, so the test set leaks")


def _image_sha256(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image, dtype=np.float32).tobytes()).hexdigest()


def _sampling(default: SamplingConfig, args: argparse.Namespace) -> SamplingConfig:
    return replace(
        default,
        solver=args.solver or default.solver,
        num_inference_steps=args.steps or default.num_inference_steps,
    )


def _print_plan(plans: Sequence[CasePlan], source: RawDataset, output: Path, model: Path) -> None:
    voxels = sum(int(np.prod(source.load_mask(plan.reference).shape)) for plan in plans)
    print(f"{len(plans)} cases into {output}, at most {voxels * BYTES_PER_VOXEL / 1e9:.2f} GB")
    print(f"generator: {model} ({'trained' if is_trained(model) else 'would be trained first'})")
    for plan in plans:
        print(f"  {plan.case_id}: mask of {plan.reference} ({plan.masks}), template {plan.template}")


def _report(output: Path, plans: Sequence[CasePlan]) -> None:
    records = Manifest(output).read()
    means = [records[plan.case_id]["mean_confidence_in_structures"] for plan in plans]
    redrawn = sum(len(records[plan.case_id]["mgm"].get("rejections", [])) for plan in plans)
    print(f"done: {len(plans)} cases in {output}")
    print(f"mean confidence inside structures {np.mean(means):.3f} ± {np.std(means):.3f}; {redrawn} masks redrawn")
    print(f"next: fcas_prepare -d {output.name} --for <your labelled data set>")
