"""The modules behind the console commands, by the commands' names; a run of one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType


def command_module(name: str) -> ModuleType:
    """The module of `fcas_<name>`: a file of its own, or the `command` of a folder."""
    module = import_module(f"fcas_nnunet.commands.{name}")
    return import_module(f"{module.__name__}.command") if hasattr(module, "__path__") else module


def kill_at_first_case(output: Path, arguments: Sequence[str]) -> None:
    """Start fcas_generate, and kill it and its workers when the first case of a data set is whole."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fcas_nnunet.commands.generate.command", *arguments],
        env=dict(os.environ), start_new_session=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((output / "labelsTr").glob("*.nii.gz")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (output / "dataset.json").exists(), "killed too late to test anything"
