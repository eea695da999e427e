"""Check a machine for what nnU-Net and this package need; every finding has a remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import Root
from fcas_nnunet.integration.environment import torchvision_fix
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE
from fcas_nnunet.machine import available_cores

DISTRIBUTION = "fcas-nnunet"
OLDEST_PYTHON = (3, 11)
#: A note on `cpu_settings` that fcas_doctor and fcas_prepare print.
PLANNING_NOTE = (
    "fcas_prepare and trainings run so; nnU-Net's own planning fails with nnUNet_n_proc_DA=0, so write "
    "nnUNet_n_proc_DA=2 in front of nnUNetv2_plan_and_preprocess"
)
PROBE_TRAINER = "nnUNetTrainerCAL"
PROCESSES_VARIABLE = "nnUNet_def_n_proc"
#: Largest number of worker processes on a machine; each takes hundreds of megabytes.
LEAST_PROCESS_LIMIT, PROCESSES_A_CORE = 16, 4
MOST_PREPROCESSING_PROCESSES = 8
SCARCE_DISK_GB, TOO_LITTLE_DISK_GB = 20.0, 1.0
_LOOK_UP = (
    f"from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\nfind({PROBE_TRAINER!r})"
)


class Status(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    status: Status
    subject: str
    message: str
    remedy: str = ""  # empty when all is well


_ok, _warning, _problem = (partial(Finding, status) for status in Status)


def check_environment() -> Iterator[Finding]:
    """Run every check, the cheap ones first; takes about ten seconds, mostly for nnU-Net's imports."""
    yield check_python()
    yield from check_versions()
    yield from check_folders()
    if find_spec("torch") is None:  # reported above; the checks below need it
        return
    yield from check_device()
    torchvision = check_torchvision()
    yield torchvision
    if torchvision.status is not Status.PROBLEM:  # without torchvision the look-up fails for that reason alone
        yield check_trainers()


def check_python() -> Finding:
    """Check the interpreter's version."""
    found, oldest = (".".join(map(str, parts)) for parts in (sys.version_info[:3], OLDEST_PYTHON))
    if sys.version_info < OLDEST_PYTHON:
        return _problem("Python", f"must be {oldest} or newer, got {found}", "Use a newer interpreter.")
    return _ok("Python", f"{found} in {sys.prefix}")


def check_versions(distribution: str = DISTRIBUTION) -> Iterator[Finding]:
    """Check every requirement of `distribution` against the installed version."""
    try:
        named = [Requirement(line) for line in requires(distribution) or []]
    except PackageNotFoundError:
        yield _problem(distribution, "is not installed", "pip install -c constraints.txt -e .")
        return
    requirements = [item for item in named if item.marker is None or item.marker.evaluate({"extra": ""})]
    unmet = False
    for requirement in requirements:
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            installed = "none"
        if installed == "none" or not requirement.specifier.contains(installed, prereleases=True):
            unmet = True
            rule = str(requirement.specifier) or "installed"
            remedy = f'pip install "{requirement.name}{requirement.specifier}"'
            yield _problem(requirement.name, f"must be {rule}, got {installed}", remedy)
    if not unmet:
        main = ", ".join(f"{name} {version(name)}" for name in ("nnunetv2", "torch", "torchvision", "monai"))
        yield _ok("versions", f"all {len(requirements)} requirements met ({main})")


def check_folders() -> Iterator[Finding]:
    """Check that nnU-Net's three folders are set, writable, and have free space."""
    return map(_folder_finding, map(str, Root))


def _folder_finding(variable: str) -> Finding:
    value = os.environ.get(variable)
    if not value:
        remedy = f"export {variable}=/path/to/{variable} (in your shell's start-up file, to keep it)."
        return _problem(variable, "must be set to a folder, got nothing", remedy)
    folder = Path(value).expanduser().absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        return _problem(variable, f"must be a folder, got the file {existing}", "Name a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        remedy = f"Grant yourself write access, or point {variable} elsewhere."
        return _problem(variable, f"must be writable, got {existing} without write access", remedy)
    free_gb = shutil.disk_usage(existing).free / 1e9
    state = f"{folder}{'' if folder == existing else ' (will be made)'}, {free_gb:.0f} GB free"
    if free_gb < TOO_LITTLE_DISK_GB:
        remedy = "Free some space, or point it to another disk."
        return _problem(variable, f"must have {TOO_LITTLE_DISK_GB:.0f} GB free, got {state}", remedy)
    if free_gb < SCARCE_DISK_GB:
        remedy = "Preprocessed clinical volumes take about 1 GB for every 5 to 10 cases: watch it."
        return _warning(variable, state, remedy)
    return _ok(variable, state)


def check_device() -> Iterator[Finding]:
    """Check the GPU, or on a CPU the settings that nnU-Net needs there."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield _ok("device", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
        return
    cores = available_cores()
    remedy = "Give nnU-Net's commands `-device cpu`; full-size training wants a GPU and a CUDA build of torch."
    yield _warning("device", f"no GPU: torch {torch.__version__} on {cores} CPU cores", remedy)
    unset = [f"{name}={value}" for name, value in cpu_settings().items() if name not in os.environ]
    if unset:
        remedy = f"export {' '.join(unset)} ({PLANNING_NOTE})."
        yield _warning("threads", "nnU-Net's defaults start more workers than the CPU carries", remedy)


def cpu_settings() -> dict[str, str]:
    """Return environment variables for nnU-Net on a CPU: no data loading workers, one thread per core, passive waiting.

    By default, waiting threads spin: two that wait for each other beside other work on the machine then take many times
    as long."""
    cores = str(available_cores())
    names = {"nnUNet_n_proc_DA": "0", PROCESSES_VARIABLE: cores, "OMP_NUM_THREADS": cores}
    return names | {"OMP_WAIT_POLICY": "passive"}


def checked_processes(text: str, what: str) -> int:
    """Parse a number of worker processes that this machine can run; `what` names the option, such as `-np`.

    Raises:
        InputError: when it is no whole number, below 1, or more than the machine can run.
    """
    most = max(LEAST_PROCESS_LIMIT, PROCESSES_A_CORE * available_cores())
    with suppress(ValueError):
        if 1 <= (number := int(text)) <= most:
            return number
    raise InputError(
        f"{what}: number of processes must be 1 to {most} on a machine of {available_cores()} cores, got {text}. "
        "Give another, or none for the default."
    )


def nnunet_processes() -> int | None:
    """Read nnU-Net's number of worker processes by `checked_processes`; None if the variable is not set."""
    wanted = os.environ.get(PROCESSES_VARIABLE)
    return checked_processes(wanted, PROCESSES_VARIABLE) if wanted else None


def preprocessing_processes() -> int:
    """Return nnU-Net's number of preprocessing workers, limited to the number of cores."""
    return nnunet_processes() or min(MOST_PREPROCESSING_PROCESSES, available_cores())


def check_torchvision() -> Finding:
    """Check that torchvision can be imported, which nnU-Net needs through timm."""
    hook = torchvision_fix.hook_file()
    without_hook = torchvision_fix.import_error(with_hook=False)
    if without_hook is None:
        if hook.is_file():
            remedy = "fcas_doctor --unfix removes it; leaving it does no harm."
            return _warning("torchvision", "imports by itself: the hook of --fix is not needed", remedy)
        return _ok("torchvision", "imports")
    if hook.is_file() and torchvision_fix.import_error(with_hook=True) is None:
        return _ok("torchvision", f"imports by the hook in {hook.parent} ({without_hook} without it)")
    message = f"must import, or nnU-Net finds no trainer but its plain one, got `{without_hook}`"
    if torchvision_fix.releases_match():
        remedy = (
            "It is a CUDA build beside a CPU build of torch. fcas_doctor --fix mends it in this environment; "
            "or install torchvision from where torch came from."
        )
    else:
        expected = torchvision_fix.matching_torchvision(version("torch"))
        remedy = f'Install the release made for torch {version("torch")}: pip install "torchvision=={expected}.*"'
    return _problem("torchvision", message, remedy)


def check_trainers() -> Finding:
    """Check, in a separate process, that stock nnU-Net finds this package's trainers."""
    look_up = subprocess.run([sys.executable, "-c", _LOOK_UP], capture_output=True, text=True, check=False)
    where = os.environ.get(EXT_TRAINER_VARIABLE)
    if look_up.returncode == 0:
        source = f"through nnUNet_extTrainer={where}" if where else "among its own"
        return _ok("trainers", f"nnU-Net finds {PROBE_TRAINER} {source}")
    last_line = (look_up.stderr.strip().splitlines() or ["no message"])[-1]
    if "Could not find requested nnunet trainer" not in last_line:
        remedy = "The message names the import that fails; reinstall that package."
        return _problem("trainers", f"nnU-Net must find {PROBE_TRAINER}, got `{last_line}`", remedy)
    got = f"nnUNet_extTrainer={where}" if where else "nnUNet_extTrainer unset"
    remedy = 'eval "$(fcas_env)" for this shell, or fcas_env --install for good.'
    return _problem("trainers", f"nnU-Net must find {PROBE_TRAINER}, got {got}", remedy)
