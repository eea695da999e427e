"""How many worker processes the memory carries."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.integration.volumes import read_grid

logger = logging.getLogger(__name__)

#: What a worker takes before it has read anything: Python, numpy and torch.
WORKER_BYTES = 0.5e9
#: Part of the free memory that workers may take together.
USED_SHARE = 0.8
_LOOKED_AT = 3  # the largest files tell the largest volume

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryNeed:
    """What one case takes.

    Attributes:
        volumes: files of the cases.
        bytes_per_voxel: at the peak, of a volume.
    """

    volumes: tuple[Path, ...]
    bytes_per_voxel: float

    @classmethod
    def of(cls, volumes: Iterable[Path], bytes_per_voxel: float) -> MemoryNeed:
        """Of the cases that these files belong to."""
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


def available_bytes(meminfo: Path = _MEMINFO, container: Path = _CONTAINER) -> float | None:
    """Memory that is free, within a container's limit where there is one; None where it cannot be told.

    Args:
        meminfo: Linux' list of what memory is used for; elsewhere all of the machine's memory counts.
        container: folder of the control group's files.
    """
    found = [free for free in (_free_in_machine(meminfo), _free_in_container(container)) if free is not None]
    return min(found, default=None)


def _free_in_machine(meminfo: Path) -> float | None:
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _free_in_container(folder: Path) -> float | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        kept = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    return max(0.0, float(int(limit) - used + int(kept.get("inactive_file", 0))))  # files can be dropped from memory


def _num_voxels(path: Path) -> int:
    try:
        shape, _ = read_grid(path)
    except RuntimeError:  # whoever reads it whole says what is wrong with it
        return 0
    return math.prod(shape)
