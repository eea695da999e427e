"""How many worker processes the memory carries."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.integration.dataset.volumes import read_grid
from fcas_nnunet.machine import available_bytes

logger = logging.getLogger(__name__)

#: What a worker takes before it has read anything: Python, numpy and torch.
WORKER_BYTES = 0.5e9
#: Part of the free memory that workers may take together.
USED_SHARE = 0.8
_LOOKED_AT = 3  # the largest files tell the largest volume


@dataclass(frozen=True)
class MemoryNeed:
    """What one case takes: so many bytes for each voxel of its volume, at the peak."""

    volumes: tuple[Path, ...]
    bytes_per_voxel: float

    @classmethod
    def of(cls, volumes: Iterable[Path], bytes_per_voxel: float) -> MemoryNeed:
        """The need of the largest of these files' cases."""
        return cls(tuple(volumes), bytes_per_voxel)

    def num_bytes(self) -> float:
        """Of the largest case, its process included."""
        return WORKER_BYTES + self.bytes_per_voxel * self.largest_voxels()

    def largest_voxels(self) -> int:
        """Of the largest case, by the headers of the largest files."""
        there = [path for path in self.volumes if path.is_file()]
        largest = sorted(there, key=lambda path: path.stat().st_size)[-_LOOKED_AT:]
        return max((_num_voxels(path) for path in largest), default=0)


def workers_carried(workers: int, need: MemoryNeed) -> int:
    """As many of the wanted processes as the free memory carries, at least one; says so where they are fewer."""
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
    except RuntimeError:  # whoever reads it whole says what is wrong with it
        return 0
    return math.prod(shape)
