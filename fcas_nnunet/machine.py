"""Find what this process may use and was told: cores, memory, disk, its folder, environment variables; and its end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

from fcas_nnunet.faults import InputError, MissingFileError

_MEMINFO = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")
_MOST = 10**9  # no launcher counts further


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def number_in(environment: Mapping[str, str], name: str, default: int, *, least: int = 0, most: int = _MOST) -> int:
    """Read a whole number from `least` to `most` in an environment variable; `default` if it is not set.

    Raises:
        InputError: If the variable holds anything else.
    """
    text = environment.get(name)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise InputError(
            f"{name}: the environment variable must be a whole number from {least} to {most}, got {text!r}. "
            "Unset it, or have its launcher set it."
        )
    return number


def check_working_directory() -> None:
    """Check that the folder that this process was started in exists, since relative paths are looked up in it.

    Raises:
        MissingFileError: If the folder was removed.
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise MissingFileError(
            "working directory: must exist, got one that was removed. Change into another."
        ) from error


def available_bytes(meminfo: Path = _MEMINFO, container: Path = _CONTAINER) -> float | None:
    """Return the free memory in bytes, within a container's limit; None if it is unknown.

    Outside Linux, where there is no `meminfo`, all of the machine's memory counts as free.
    """
    found = [free for free in (_free_in_machine(meminfo), _free_in_container(container)) if free is not None]
    return min(found, default=None)


def free_disk_bytes(folder: Path) -> int:
    """Return the free space on the disk of a folder that need not exist."""
    return shutil.disk_usage(next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())).free


def end_with_parent() -> None:
    """End this process of a pool when its parent is killed, which it may not notice by itself; done by a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


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
