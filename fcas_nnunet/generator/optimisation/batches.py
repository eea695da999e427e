"""Share items among processes and micro-batches, and read batches ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from fcas_nnunet.config.generator import OptimisationConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.seeds import derive_seed

_KEPT_ORDERS = 8
#: Micro-batches that are read while one is computed, at least.
READ_AHEAD = 2

BatchT = TypeVar("BatchT", bound="Batch")
BatchT_co = TypeVar("BatchT_co", bound="Batch", covariant=True)
Request = TypeVar("Request")
ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Batch:
    """Tensors of some items, by default along the first axis; fields are tensors or batches."""

    def map(self: BatchT, change: Callable[[torch.Tensor], torch.Tensor]) -> BatchT:
        """The batch with every tensor changed."""
        parts = [getattr(self, part.name) for part in fields(self)]
        return type(self)(*(part.map(change) if isinstance(part, Batch) else change(part) for part in parts))

    def to(self: BatchT, device: torch.device) -> BatchT:
        """The batch on a device; pinned memory is copied without waiting for it."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class Items(Protocol[BatchT_co]):
    """An endless numbered sequence of training items, in epochs.

    An item depends on its number alone, not on the process, the time or the other items of its batch.
    """

    def __len__(self) -> int:
        """Items of an epoch."""

    def batch(self, numbers: Sequence[int]) -> BatchT_co:
        """The items of these numbers, on the CPU."""


@dataclass(frozen=True)
class Shares:
    """Shares of a step's items: those of each process, and of its micro-batches.

    Attributes:
        batch_size: Items of a step, over all processes.
        micro_batch_size: Items computed at once.
        process: Number of this process.
        num_processes: Processes of the run.
    """

    batch_size: int
    micro_batch_size: int
    process: int
    num_processes: int

    @classmethod
    def of(cls, config: OptimisationConfig, accelerator: Accelerator, what: str) -> Shares:
        """The shares of this process; `what` names the trained part in messages.

        Raises:
            InputError: If the batch cannot be shared out evenly.
        """
        world, batch_size = accelerator.num_processes, config.batch_size
        if batch_size % world:
            raise InputError(
                f"{what}: batch_size must be a multiple of the number of processes ({world}), got {batch_size}. It "
                f"counts the items of all processes: set it to {-(-batch_size // world) * world}, or start fewer."
            )
        share = batch_size // world
        micro = min(config.micro_batch_size or share, share)
        if share % micro:
            raise InputError(
                f"{what}: batch_size must be a multiple of processes · micro_batch_size ({world} · {micro}), got "
                f"{batch_size}. Choose a micro_batch_size that divides {share}, the items of one process."
            )
        return cls(batch_size, micro, accelerator.process_index, world)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step in each process."""
        return self.batch_size // (self.num_processes * self.micro_batch_size)

    def micro_batches(self, step: int) -> list[range]:
        """Numbers of this process's items in a step, micro-batch by micro-batch."""
        share = self.batch_size // self.num_processes
        first = step * self.batch_size + self.process * share
        micro = self.micro_batch_size
        return [range(start, start + micro) for start in range(first, first + share, micro)]

    def held_out(self, count: int) -> list[range]:
        """Numbers of this process's validation items, of `count` in all; the last batch may be smaller."""
        first, end = (count * (self.process + i) // self.num_processes for i in (0, 1))
        micro = self.micro_batch_size
        return [range(start, min(start + micro, end)) for start in range(first, end, micro)]


def local_share(items: Sequence[ItemT], accelerator: Accelerator, what: str, unit: str) -> tqdm[ItemT]:
    """This process's share of some items, every n-th of n processes, with a progress bar in the main process."""
    share = items[accelerator.process_index :: accelerator.num_processes]
    return tqdm(share, desc=what, unit=unit, disable=not accelerator.is_main_process)


def in_threads(
    work: Callable[[ItemT], object],
    items: Sequence[ItemT],
    threads: int,
    accelerator: Accelerator,
    what: str,
    unit: str,
) -> None:
    """Do the work for this process's share of some items, several at once, with a progress bar in the main process."""
    if threads == 1:
        for item in local_share(items, accelerator, what, unit):
            work(item)
        return
    share = items[accelerator.process_index :: accelerator.num_processes]
    pool = ThreadPoolExecutor(threads, thread_name_prefix=what)
    try:
        finished = pool.map(work, share)
        for _ in tqdm(finished, total=len(share), desc=what, unit=unit, disable=not accelerator.is_main_process):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def read_ahead(
    read: Callable[[Request], BatchT], requests: Iterable[Request], readers: int = 1
) -> Generator[BatchT, None, None]:
    """Read a batch for each request while others are computed, in separate threads; in order. Close it at the end."""
    pool, ahead = ThreadPoolExecutor(readers, thread_name_prefix="read-ahead"), max(READ_AHEAD, readers)
    pending: deque[Future[BatchT]] = deque()
    try:
        for request in requests:
            pending.append(pool.submit(read, request))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_turn(number: int, count: int, *seed: int | str) -> int:
    """An entry of an endless sequence of permutations of 0 … count − 1; each permutation's seed extends `seed`."""
    turn, place = divmod(number, count)
    return int(_permutation(derive_seed(*seed, turn), count)[place])


@lru_cache(_KEPT_ORDERS)
def _permutation(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(count)
