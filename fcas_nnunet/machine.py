"""Find the CPU cores and the memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes(meminfo: Path = _MEMINFO, container: Path = _CONTAINER) -> float | None:
    """Return the free memory in bytes, within a container's limit; None if it is unknown.

    Outside Linux, where there is no `meminfo`, all of the machine's memory counts as free.
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
        entries = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    if limit == "max":
        return None
    return max(0.0, float(int(limit) - used + int(entries.get("inactive_file", 0))))  # files can be dropped from memory
