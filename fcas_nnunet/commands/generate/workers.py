"""Make the cases of a synthetic data set in worker processes, also while other runs work on the same set."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fcas_nnunet.case import Case
from fcas_nnunet.commands.generate.measurements import KEPT_PER_RUN, Measurement, append_measurement
from fcas_nnunet.commands.masks.settings import narrowing
from fcas_nnunet.commands.runtime.costs import drawings_on_card
from fcas_nnunet.commands.runtime.devices import device_label, resolve_device
from fcas_nnunet.commands.runtime.memory import MemoryNeed, workers_carried
from fcas_nnunet.commands.runtime.pool import as_finished
from fcas_nnunet.commands.runtime.shares import Share, local_size
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import ConfidenceConfig, FCaSConfig, MaskConfig, SamplingConfig
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.config.sources import PaintConfig, WarpConfig
from fcas_nnunet.generator.checkpoint import load_generator
from fcas_nnunet.generator.generate import CaseMaker, Drawer, Variety
from fcas_nnunet.generator.optimisation.precision import drawing_precision
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.substitutes import make_with_substitutes
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.library import CaseLibrary
from fcas_nnunet.integration.dataset.locks import Workplace
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.ownership import COMMAND, GENERATE, nothing_left, refuse_foreign_cases
from fcas_nnunet.integration.dataset.raw_dataset import reopen_dataset, training_cases, write_case
from fcas_nnunet.integration.dataset.synthetic_cases import (
    CONTENTS,
    case_bytes,
    case_contents,
    case_is_written,
    label_path,
    remove_leftovers,
    written_cases,
)
from fcas_nnunet.labels.anatomy import GivenRoles
from fcas_nnunet.labels.matching import id_table
from fcas_nnunet.machine import available_cores

logger = logging.getLogger(__name__)

CACHED_CASES, CACHED_BYTES = 8, 1e9
#: Bytes per voxel: of a cached case (image, mask, surroundings, tissues), and of a case that is made on a CPU; with one
#: channel, and more for each further one.
CASE_BYTES, BYTES_PER_VOXEL = 7.0, 120.0
CHANNEL_CASE_BYTES, CHANNEL_BYTES_PER_VOXEL = 4.0, 40.0
POLL_S = 2.0  # interval at which a run that waits for another's cases checks them

#: Folder of the registrations of pairs, for all processes that work on a set, until it is finished.
REGISTRATIONS = Path(WORK_FOLDER) / "registrations"
_CASE_ID = re.compile(r"fcas_\d{5,}")

Numbered = tuple[int, CasePlan]  # number of a case in the plan, by which it is locked, and its plan


@dataclass(frozen=True)
class Job:
    """Settings of every worker."""

    cases: CaseLibrary
    model: Path | None  # folder of the generator; None where no scan is drawn
    output: Path  # folder of the synthetic data set
    sampling: SamplingConfig
    confidence: ConfidenceConfig
    masks: MaskConfig
    warp: WarpConfig
    paint: PaintConfig
    bounds_ml: Mapping[int, tuple[float, float]]  # source label id → believable volumes of new masks
    label_map: Mapping[int, int]  # source label id → written label id
    ignore_id: int | None  # written id of voxels that a reference ignores
    roles: GivenRoles  # roles that a user gave the source's labels
    device_name: str
    shared: Mapping[str, Any]  # entries of every manifest record
    of_scan: Mapping[ScanSource, Mapping[str, Any]]  # further entries of every record of a source
    variety: Variety | None = None  # what scans take on of other labelled scans
    #: Case id → record from which the case is made again.
    replayed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def num_channels(self) -> int:
        """Channels of every scan."""
        return self.cases.source.num_channels

    def has(self, case_id: str) -> bool:
        """Whether a case's files are there."""
        return case_is_written(self.output, case_id, self.num_channels)


def processes_for(device: torch.device, requested: int | None, cases: CaseLibrary) -> int:
    """Return the number of parallel processes: the requested one, else one on a GPU, or one per core of this process.

    On a CPU, the default is limited to the number of largest references that fit into memory.
    """
    if requested or device.type == "cuda":
        return requested or 1
    return workers_carried(max(1, available_cores() // local_size(os.environ)), _need(cases))


def processes_on_gpu(device_name: str, config: FCaSConfig, cases: CaseLibrary) -> int | None:
    """Return the number of processes that keep a GPU busy, None on a CPU: as many as card, cores and memory carry.

    A card draws one case while the masks of others are made, and others are written. `config` is the generator's.
    """
    device = resolve_device(device_name)
    if device.type != "cuda":
        return None
    beside, need = local_size(os.environ), _need(cases)
    need = replace(need, bytes_per_voxel=need.bytes_per_voxel * beside)  # the machine's memory is for all its GPUs
    return workers_carried(max(1, min(drawings_on_card(config, device), available_cores() // beside)), need)


def kept_cases(cases: CaseLibrary) -> int:
    """Return the number of cases that a process caches."""
    per_voxel = CASE_BYTES + CHANNEL_CASE_BYTES * (cases.source.num_channels - 1)
    return max(1, min(CACHED_CASES, int(CACHED_BYTES / (1 + _need(cases).largest_voxels() * per_voxel))))


def _need(cases: CaseLibrary) -> MemoryNeed:
    per_voxel = BYTES_PER_VOXEL + CHANNEL_BYTES_PER_VOXEL * (cases.source.num_channels - 1)
    return MemoryNeed.of(map(cases.mask_path, cases.references), per_voxel)


def cost_settings(sampling: SamplingConfig, confidence: ConfidenceConfig) -> dict[str, Any]:
    """Return the settings that affect time and disk space per drawn voxel."""
    return to_dict(sampling) | {"confidence": to_dict(confidence)}


def finished_cases(output: Path, num_channels: int) -> set[str]:
    """Return the ids of the complete cases: files and record."""
    return written_cases(output, num_channels) & Manifest(output).read().keys()


def generate(plans: Sequence[CasePlan], share: Share, job: Job, num_processes: int | None) -> int:
    """Make this share of the plan.

    Any number of processes may run this at the same time, on the same share or on different ones: no case is made by
    two of them at once. Waits for cases of this share that other processes are making, and makes them if these die.

    Args:
        plans: All cases of the data set.
        share: The share of this process.
        job: Settings of the workers.
        num_processes: Number of worker processes; None means the number from `processes_for`.

    Returns:
        Number of cases of the plan that are not complete yet.
    """
    is_new = not job.output.exists()
    with Workplace(job.output) as workplace, nothing_left(workplace, job.output, is_new):
        refuse_foreign_cases(job.output, GENERATE)  # again: training may have taken days
        Manifest(job.output).begin()
        done = finished_cases(job.output, job.num_channels)
        if any(plan.case_id not in done for plan in plans):
            reopen_dataset(job.output)
        numbered = share.of(list(enumerate(plans)))
        missing = [(number, plan) for number, plan in numbered if plan.case_id not in done]
        _reopen(missing, job, workplace)
        if len(missing) < len(numbered) and missing:
            logger.info(f"{len(numbered) - len(missing)} of {len(numbered)} cases are already present")
        _make_all(missing, len(numbered), job, num_processes, workplace)
        done = finished_cases(job.output, job.num_channels)
        return sum(plan.case_id not in done for plan in plans)


def finish(
    plans: Sequence[CasePlan], share: Share, output: Path, describe: Callable[[int], None], num_channels: int
) -> bool:
    """Finish the data set in a folder whose planned cases are all present, and remove leftovers of other runs.

    If it is killed at any moment, calling it again gives the same bytes. `describe` writes dataset.json, given the
    number of training cases, which includes real ones in the folder.

    Returns:
        True if the data set is finished; False if other processes are still at work there, which will finish it.
    """
    workplace = Workplace(output)
    with workplace.alone() as alone:
        if not alone or (share.count > 1 and not workplace.has_locks):
            return False
        complete = finished_cases(output, num_channels)
        assert complete.issuperset(plan.case_id for plan in plans), "cases vanished"
        remove_leftovers(output, complete, _CASE_ID, num_channels)
        Manifest(output).finalise(complete)
        shutil.rmtree(output / REGISTRATIONS, ignore_errors=True)
        describe(len(training_cases(output)))
        workplace.remove()
    return True


def _make_all(
    missing: Sequence[Numbered], num_mine: int, job: Job, num_processes: int | None, workplace: Workplace
) -> None:
    """Make cases in worker processes until each is present, made by them or by another run."""
    processes = processes_for(resolve_device(job.device_name), num_processes, job.cases)
    measured = 0
    with tqdm(total=num_mine, initial=num_mine - len(missing), desc="generating", unit="case") as bar:
        while missing:
            taken = []
            work = as_finished(_make, missing, processes, initializer=_start_worker, initargs=(job, processes))
            with closing(work) as outcomes:
                for item, is_there, measurement in outcomes:
                    if not is_there:
                        taken.append(item)
                        continue
                    bar.update()
                    if measurement is not None and job.model is not None and measured < KEPT_PER_RUN:
                        append_measurement(job.model, measurement)
                        measured += 1
            missing = _wait_for(sorted(taken, key=lambda item: item[0]), job, workplace, bar)


def _wait_for(left: list[Numbered], job: Job, workplace: Workplace, bar: tqdm) -> list[Numbered]:
    """Wait until other runs have made their cases. Returns the cases left if one released a case unfinished."""
    if left:
        logger.info(f"{len(left)} cases are being made by another run: waiting for them")
    while left:
        unfinished = [(number, plan) for number, plan in left if not job.has(plan.case_id)]
        bar.update(len(left) - len(unfinished))
        left = unfinished
        for number, plan in left:
            with workplace.claim(number) as free:
                if free and not job.has(plan.case_id):
                    return left
        if left:
            time.sleep(POLL_S)
    return left


def _reopen(missing: Sequence[Numbered], job: Job, workplace: Workplace) -> None:
    """Remove the labels of complete cases that have no record, because their manifest was lost."""
    written = [(number, plan) for number, plan in missing if job.has(plan.case_id)]
    records = Manifest(job.output).read() if written else {}  # after listing the cases, so that it has their records
    for number, plan in written:
        with workplace.claim(number) as claimed:
            if claimed and plan.case_id not in records:
                label_path(job.output, plan.case_id).unlink(missing_ok=True)


class _Worker:
    """State of a worker process: the maker of its cases, its locks in the folder and its journal."""

    def __init__(self, job: Job, processes: int) -> None:
        self.job = job
        self.device = resolve_device(job.device_name)
        self.circumstances, self.settings = (
            (device_label(self.device), processes),
            cost_settings(job.sampling, job.confidence),
        )
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        self.maker = CaseMaker(
            job.cases.source.labels, job.roles, job.cases.load_case, job.masks, job.warp, job.paint, self._drawer(),
            kept_cases(job.cases), job.output / REGISTRATIONS, job.variety,
        )  # fmt: skip
        self.workplace = Workplace(job.output)  # released at the end of the process
        self.journal = Manifest(job.output).new_journal()
        self.is_first = True

    def _drawer(self) -> Drawer | None:
        if self.job.model is None:
            return None
        generator = load_generator(self.job.model, self.device)
        config = replace(generator.record.config, sampling=self.job.sampling, confidence=self.job.confidence)
        roles = {name: tuple(given) for name, given in self.job.roles.items()}
        generator = replace(generator, record=replace(generator.record, config=config, roles=roles))
        return Drawer(generator, self.device, drawing_precision(self.device))

    def make(self, number: int, plan: CasePlan) -> tuple[bool, Measurement | None]:
        """Make a case unless it exists; returns whether it exists now, and the measurement of making it."""
        with self.workplace.claim(number) as claimed:
            if not claimed:
                return False, None
            if self.job.has(plan.case_id):
                return True, None
            start = time.monotonic()
            voxels = self._write(plan)
            seconds = round(time.monotonic() - start, 3)
        num_bytes = case_bytes(self.job.output, plan.case_id, self.job.num_channels)
        first, self.is_first = self.is_first, False
        return True, Measurement(*self.circumstances, plan.kind, self.settings, voxels, seconds, num_bytes, first)

    def _made(self, plan: CasePlan) -> tuple[Case, dict[str, Any]]:
        """Make a case by its plan, or from the next reference if no mask can be made from the planned one."""
        made: list[Case] = []

        def make(plan: CasePlan) -> dict[str, Any]:
            case, record = self.maker.make(plan, self.job.bounds_ml)
            made.append(case)
            return record

        record = make_with_substitutes(plan, self.job.cases.references, make, narrowing(self.job.masks))
        return made[-1], record

    def _write(self, plan: CasePlan) -> int:
        """Make and write a case; returns its number of voxels."""
        replayed = self.job.replayed.get(plan.case_id)
        if replayed is None:
            case, record = self._made(plan)
        else:
            case, record = self.maker.remake(replayed)
        mask = id_table(self.job.label_map)[case.mask]
        if case.ignored is not None:
            assert self.job.ignore_id is not None, "a reference's data set has the label"
            mask = np.where(case.ignored, np.uint16(self.job.ignore_id), mask)
        written = replace(case, mask=mask)
        line = {
            **record,
            **self.job.shared,
            **self.job.of_scan[plan.scan],
            COMMAND: GENERATE,
            CONTENTS: case_contents(written),
        }
        write_case(self.job.output, written, before_label=lambda: self.journal.append(line))
        return case.mask.size


_arguments: tuple[Job, int] | None = None
_worker: _Worker | None = None


def _start_worker(job: Job, processes: int) -> None:
    global _arguments
    torch.set_num_threads(1)  # the same arithmetic whatever the number of processes
    _arguments = job, processes


def _make(item: Numbered) -> tuple[Numbered, bool, Measurement | None]:
    global _worker
    assert _arguments is not None, "the pool's initializer ran"
    if _worker is None:  # here, where an error reaches the user
        _worker = _Worker(*_arguments)
    return item, *_worker.make(*item)
