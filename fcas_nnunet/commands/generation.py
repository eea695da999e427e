"""Making the cases of a synthetic data set in worker processes, and what is checked before."""

from __future__ import annotations

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

from fcas_nnunet.commands.devices import resolve_device, supports_bf16
from fcas_nnunet.config import FCaSConfig, MaskConfig, SamplingConfig
from fcas_nnunet.generator.checkpoint import Generator, GeneratorRecord, case_sha256, load_generator
from fcas_nnunet.generator.production import CasePlan, made_otherwise, make_case
from fcas_nnunet.integration.manifest import Manifest
from fcas_nnunet.integration.raw_dataset import RawDataset, case_is_written, write_case
from fcas_nnunet.integration.volumes import read_volume

logger = logging.getLogger(__name__)

CACHED_CASES = 8


@dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    Attributes:
        source: folder of the labelled data set.
        model: folder of the generator.
        output: folder of the synthetic data set.
        sampling: of the reverse diffusion.
        masks: ranges of new masks.
        bounds_ml: source label id → believable volumes of new masks.
        label_map: source label id → written label id.
        device_name: where to run.
        shared: what every manifest record repeats.
    """

    source: Path
    model: Path
    output: Path
    sampling: SamplingConfig
    masks: MaskConfig
    bounds_ml: Mapping[int, tuple[float, float]]
    label_map: Mapping[int, int]
    device_name: str
    shared: Mapping[str, Any]


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
        config = replace(generator.record.config, sampling=job.sampling, masks=job.masks)
        self.generator = Generator(replace(generator.record, config=config), generator.autoencoder, generator.tcdm)
        self.load_case = lru_cache(CACHED_CASES)(RawDataset.open(job.source).load_case)

    def make(self, plan: CasePlan) -> dict[str, Any]:
        case, record = make_case(self.generator, plan, self.load_case, self.device, self.precision, self.job.bounds_ml)
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
    records = manifest.read()
    strangers = made_otherwise(records, plans, job.shared)
    if strangers:
        raise ValueError(
            f"{job.output}: its cases must have been made with the same generator, seed, masks and labels, got others: "
            f"{', '.join(strangers[:5])}. Choose another -o, or delete the folder."
        )
    planned = {plan.case_id for plan in plans}
    return {case_id for case_id in records.keys() & planned if case_is_written(job.output, case_id)}


def templates_of(record: GeneratorRecord, source: RawDataset) -> list[str]:
    """Cases that may guide the drawing: those the generator was trained on."""
    return [case_id for case_id in source.case_ids if case_id in record.cases] or source.case_ids


def check_model(record: GeneratorRecord, source: RawDataset, asked: FCaSConfig | None, folder: Path) -> None:
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


def report_overlaps(record: GeneratorRecord, source: RawDataset) -> None:
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
