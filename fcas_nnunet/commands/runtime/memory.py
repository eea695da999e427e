"""Limit the number of worker processes to the free memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.integration.dataset.volumes import read_grid
from fcas_nnunet.machine import available_bytes

logger = logging.getLogger(__name__)

#: Bytes that a worker takes before it has read anything: Python, numpy and torch.
WORKER_BYTES = 0.5e9
#: Part of the free memory that workers may take together.
USED_SHARE = 0.8
_LOOKED_AT = 3  # number of the largest files, among which the largest volume is found


@dataclass(frozen=True)
class MemoryNeed:
    """Peak memory of one case, as bytes for each voxel of its volume."""

    volumes: tuple[Path, ...]
    bytes_per_voxel: float

    @classmethod
    def of(cls, volumes: Iterable[Path], bytes_per_voxel: float) -> MemoryNeed:
        """Return the need of the largest case of these files."""
        return cls(tuple(volumes), bytes_per_voxel)

    def num_bytes(self) -> float:
        """Peak memory of the largest case, its process included."""
        return WORKER_BYTES + self.bytes_per_voxel * self.largest_voxels()

    def largest_voxels(self) -> int:
        """Number of voxels of the largest case, from the headers of the largest files."""
        there = [path for path in self.volumes if path.is_file()]
        largest = sorted(there, key=lambda path: path.stat().st_size)[-_LOOKED_AT:]
        return max((_num_voxels(path) for path in largest), default=0)


def workers_carried(workers: int, need: MemoryNeed) -> int:
    """Return the number of requested processes that fit into the free memory, at least one; logs if they are fewer."""
    free = available_bytes()
    if workers == 1 or free is None:
        return workers
    each = need.num_bytes()
    carried = max(1, min(workers, int(USED_SHARE * free / each)))
    if carried < workers:
        logger.info(
            f"processes: {carried}, not {workers}; each takes about {each / 1e9:.1f} GB, and {free / 1e9:.1f} GB of "
            "memory are free"
        )
    return carried


def _num_voxels(path: Path) -> int:
    try:
        shape, _ = read_grid(path)
    except (FileNotFoundError, ValueError):  # reading the whole file later reports the fault
        return 0
    return math.prod(shape)
