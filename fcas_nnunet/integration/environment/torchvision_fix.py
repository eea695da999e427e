"""Make `import torchvision` succeed if torch is a CPU build and torchvision is PyPI's CUDA build.

nnU-Net's networks require timm, which requires torchvision. Beside a CPU build of torch, pip installs PyPI's CUDA
build: its requirement, torch==2.13.0 say, is met by 2.13.0+cpu, and only torch's own index has the matching wheel.

torchvision's compiled operators need CUDA libraries that a CPU build of torch lacks, and its import stops at "operator
torchvision::nms does not exist". nnU-Net imports it by way of timm and uses none of its operators, yet its look-up of
trainers fails. `fcas_doctor --fix` writes a line into a `.pth` file, which Python runs whenever it starts: operators
that have not loaded are declared to torch without a kernel, so that the import succeeds and calling one still fails
loudly. FCAS_TORCHVISION_HOOK=0 switches the line off for one process, `fcas_doctor --unfix` removes the file.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_text

_SWITCH = "FCAS_TORCHVISION_HOOK"
_SOURCE = f"""
class FcasTorchvisionHook:
    def find_spec(name, path=None, target=None):
        if name == "torchvision._meta_registrations":
            import torch
            for operator in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, operator):
                    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    torch.library.define("torchvision::" + operator, schema)

if os.environ.get("{_SWITCH}") != "0":
    sys.meta_path.insert(0, FcasTorchvisionHook)
"""
_PTH_LINE = f"import os, sys; exec({_SOURCE!r})\n"


def hook_file() -> Path:
    """Return the path of the hook, in this environment's folder for pure Python packages."""
    return Path(sysconfig.get_path("purelib")) / "fcas_torchvision_hook.pth"


def in_virtual_environment() -> bool:
    """Return whether this interpreter belongs to a venv, virtualenv or conda environment."""
    return sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix


def install(*, force: bool = False) -> list[Path]:
    """Install the hook into the environment; repeating it changes nothing.

    Returns:
        The file that was written; empty when it was in place.

    Raises:
        InputError: Outside a virtual environment without `force`.
    """
    if not (force or in_virtual_environment()):
        raise InputError(
            f"{sys.prefix}: the environment to mend must be a virtual one, got the system's Python. "
            "Run fcas_doctor from a virtual environment, or add --force."
        )
    path = hook_file()
    if path.is_file() and path.read_text(encoding="utf-8") == _PTH_LINE:
        return []
    atomic_write_text(path, _PTH_LINE)
    path.with_suffix(".py").unlink(missing_ok=True)  # the module that an earlier version put beside it
    return [path]


def remove() -> list[Path]:
    """Remove the hook. Returns the files that were removed."""
    removed = [path for path in (hook_file(), hook_file().with_suffix(".py")) if path.is_file()]
    for path in removed:
        path.unlink()
    return removed


def import_error(*, with_hook: bool) -> str | None:
    """Import torchvision in a new interpreter, with the hook on or off; return the error's last line, or None."""
    environment = os.environ | {_SWITCH: "1" if with_hook else "0"}
    command = [sys.executable, "-c", "import torchvision"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["no message"])[-1]


def matching_torchvision(torch_version: str) -> str | None:
    """Return the torchvision release for a torch release, such as "0.28": its minor version is torch's plus 15."""
    match = re.match(r"2\.(\d+)", torch_version)
    return f"0.{int(match[1]) + 15}" if match else None


def releases_match() -> bool | None:
    """Return whether the installed torch and torchvision were released together; None if one is missing or unknown."""
    try:
        expected, installed = matching_torchvision(version("torch")), version("torchvision")
    except PackageNotFoundError:
        return None
    return None if expected is None else installed.startswith(expected + ".")
