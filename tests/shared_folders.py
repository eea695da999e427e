"""What several tests need and one process of a run makes: a folder, made under a lock and copied by the others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def own_copy(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A copy, for this caller alone, of a folder that is made once in a run of all of pytest-xdist's processes.

    Args:
        factory: pytest's.
        name: of what is made.
        make: fills the folder it is given.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # of one run, whatever its processes
    original = shared / f"shared_{name}"
    with FileLock(shared / f"shared_{name}.lock"):
        if not original.is_dir():
            unfinished = shared / f"unfinished_{name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(original)
    copy = factory.mktemp(name)
    shutil.copytree(original, copy, dirs_exist_ok=True)  # times of change too
    return copy
