"""Determine the share of a plan that this process makes, from the command line or from its launcher."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fcas_nnunet.faults import InputError
from fcas_nnunet.machine import number_in

Item = TypeVar("Item")

_MOST_PARTS = 1_000_000
_PART = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Share:
    """One worker's share of a plan: every `count`-th case, from number `index` on.

    Attributes:
        index: Number of the share, from 0; users see it from 1, as `--part` counts.
        count: Number of shares.
        origin: What set the share, for messages; empty if there is one share.
    """

    index: int = 0
    count: int = 1
    origin: str = ""

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this share; the shares of a list are disjoint and together all of it."""
        return items[self.index :: self.count]

    def __str__(self) -> str:
        return f"part {self.index + 1} of {self.count} ({self.origin})"


def share_of(part: str | None, environment: Mapping[str, str]) -> Share:
    """Return the share of this process.

    `part`, K/N with K from 1 to N, decides alone. Else the tasks of a SLURM array split the plan, and within each the
    processes of torchrun (RANK of WORLD_SIZE) or, without it, the tasks of a job step (srun).

    Raises:
        InputError: If `part` is malformed, a process is none of its launcher's, or the array's numbers have gaps.
    """
    if part is not None:
        return _named(part)
    rank, size, origins = 0, 1, []
    if {"RANK", "WORLD_SIZE"} <= environment.keys():
        size = number_in(environment, "WORLD_SIZE", 1, least=1)
        rank = number_in(environment, "RANK", 0, most=size - 1)
        origins = ["torchrun"] if size > 1 else []
    elif _step_tasks(environment) > 1:
        size = _step_tasks(environment)
        rank = number_in(environment, "SLURM_PROCID", 0, most=size - 1)
        origins = ["srun"]
    place, tasks = _array_place(environment)
    if tasks > 1:
        origins.insert(0, "SLURM array")
    return Share(place * size + rank, tasks * size, " and ".join(origins))


def local_rank(environment: Mapping[str, str]) -> int:
    """Return the number of this process among those of its machine, which selects its GPU."""
    if "RANK" in environment:
        return number_in(environment, "LOCAL_RANK", 0)
    return number_in(environment, "SLURM_LOCALID", 0) if _step_tasks(environment) > 1 else 0


def local_size(environment: Mapping[str, str]) -> int:
    """Return the number of torchrun's processes that share this machine's cores; SLURM binds each task to its own."""
    return number_in(environment, "LOCAL_WORLD_SIZE", 1, least=1) if "RANK" in environment else 1


def _named(part: str) -> Share:
    match = _PART.fullmatch(part)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count <= _MOST_PARTS:
        raise InputError(
            f"--part: must be K/N with K from 1 to N, got {part}. The second of four workers takes --part 2/4."
        )
    return Share(number - 1, count, "--part")


def _step_tasks(environment: Mapping[str, str]) -> int:
    """Return the number of tasks that srun started; SLURM_NTASKS also counts those of a batch script, run once."""
    return number_in(environment, "SLURM_STEP_NUM_TASKS", 1, least=1) if "SLURM_PROCID" in environment else 1


def _array_place(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the place of this task in its SLURM array, from 0, and the array's size; (0, 1) outside an array."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
    if any(name not in environment for name in names):
        return 0, 1
    number, count, lowest, highest = (number_in(environment, name, 0) for name in names)
    step = number_in(environment, "SLURM_ARRAY_TASK_STEP", 1, least=1)
    if (highest - lowest) // step + 1 != count or not lowest <= number <= highest:
        raise InputError(
            f"SLURM array: its numbers must be evenly spaced to tell a task's part, got {count} from {lowest} to "
            f"{highest}, of which this is {number}. Give --part K/N."
        )
    return (number - lowest) // step, count
