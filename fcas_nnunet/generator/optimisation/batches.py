"""Batches of training items: how a step's items fall to processes and micro-batches, and reading them ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator

from fcas_nnunet.config.generator import OptimisationConfig

_KEPT_ORDERS = 8

#: Micro-batches that are read while one is computed.
READ_AHEAD = 2

BatchT = TypeVar("BatchT", bound="Batch")
BatchT_co = TypeVar("BatchT_co", bound="Batch", covariant=True)
Request = TypeVar("Request")


@dataclass(frozen=True)
class Batch:
    """Tensors of some items, first axis the items unless said otherwise; fields are tensors or batches again."""

    def to(self: BatchT, device: torch.device) -> BatchT:
        """The same on a device; pinned memory is copied while the host goes on."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self: BatchT) -> BatchT:
        """The same in pinned memory, from which a GPU copies by itself."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self: BatchT, change: Callable[[torch.Tensor], torch.Tensor]) -> BatchT:
        parts = [getattr(self, part.name) for part in fields(self)]
        return type(self)(*(part._map(change) if isinstance(part, Batch) else change(part) for part in parts))


class Items(Protocol[BatchT_co]):
    """An endless numbered sequence of training items, in epochs.

    An item depends on nothing but its number: whoever reads it, whenever, with whichever others, gets the same.
    """

    def __len__(self) -> int:
        """Items of an epoch."""

    def batch(self, numbers: Sequence[int]) -> BatchT_co:
        """The items of these numbers, on the CPU."""


@dataclass(frozen=True)
class Shares:
    """How the items of a step fall to processes, and to the micro-batches of each.

    Attributes:
        batch_size: items of a step, over all processes.
        micro_batch_size: items computed at once.
        process: number of this process.
        num_processes: of the run.
    """

    batch_size: int
    micro_batch_size: int
    process: int
    num_processes: int

    @classmethod
    def of(cls, config: OptimisationConfig, accelerator: Accelerator, what: str) -> Shares:
        """The shares of this process.

        Args:
            config: batch size and micro-batch size.
            accelerator: says which process of how many this is.
            what: is trained, for the message.

        Raises:
            ValueError: when the batch cannot be shared out evenly.
        """
        world, batch_size = accelerator.num_processes, config.batch_size
        if batch_size % world:
            raise ValueError(
                f"{what}: batch_size must be a multiple of the number of processes ({world}), got {batch_size}. It "
                f"counts the items of all processes: set it to {-(-batch_size // world) * world}, or start fewer."
            )
        share = batch_size // world
        micro = min(config.micro_batch_size or share, share)
        if share % micro:
            raise ValueError(
                f"{what}: batch_size must be a multiple of processes · micro_batch_size ({world} · {micro}), got "
                f"{batch_size}. Choose a micro_batch_size that divides {share}, the items of one process."
            )
        return cls(batch_size, micro, accelerator.process_index, world)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step in each process."""
        return self.batch_size // (self.num_processes * self.micro_batch_size)

    def micro_batches(self, step: int) -> list[range]:
        """Numbers of the items that fall to this process in a step, micro-batch by micro-batch."""
        share = self.batch_size // self.num_processes
        first = step * self.batch_size + self.process * share
        micro = self.micro_batch_size
        return [range(start, start + micro) for start in range(first, first + share, micro)]

    def held_out(self, count: int) -> list[range]:
        """Numbers of the validation items that fall to this process, of `count`; the last batch may be smaller."""
        first, end = (count * (self.process + i) // self.num_processes for i in (0, 1))
        micro = self.micro_batch_size
        return [range(start, min(start + micro, end)) for start in range(first, end, micro)]


class ReadAhead(Generic[Request, BatchT]):
    """Reads batches in a thread of its own while others are computed, and hands them on in order.

    Args:
        read: one batch.
        requests: what it is called with, in turn.
    """

    def __init__(self, read: Callable[[Request], BatchT], requests: Iterable[Request]) -> None:
        self._read = read
        self._requests = iter(requests)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._pending: deque[Future[BatchT]] = deque()

    def __enter__(self) -> ReadAhead[Request, BatchT]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[BatchT]:
        return self

    def __next__(self) -> BatchT:
        while len(self._pending) <= READ_AHEAD:
            try:
                request = next(self._requests)
            except StopIteration:
                break
            self._pending.append(self._pool.submit(self._read, request))
        if not self._pending:
            raise StopIteration
        return self._pending.popleft().result()


@lru_cache(_KEPT_ORDERS)
def permutation(seed: int, count: int) -> np.ndarray:
    """A permutation of 0 … count − 1; kept, since an epoch's is asked for with each of its items."""
    return np.random.default_rng(seed).permutation(count)
