"""Installs and removes the torchvision hook in an environment, and tells whether it is needed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fcas_nnunet.files import atomic_write_text
from fcas_nnunet.integration.environment import torchvision_hook

HOOK_MODULE = "fcas_torchvision_hook"
_PTH_LINE = f"import {HOOK_MODULE}; {HOOK_MODULE}.activate()\n"


def site_packages() -> Path:
    """The environment's folder for pure Python packages."""
    return Path(sysconfig.get_path("purelib"))


def in_virtual_environment() -> bool:
    """Whether this interpreter belongs to a venv, virtualenv or conda environment."""
    return sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix


def hook_files(folder: Path | None = None) -> tuple[Path, Path]:
    """The hook's two files, module and .pth, in `folder` (default: this environment's site-packages)."""
    folder = folder or site_packages()
    return folder / f"{HOOK_MODULE}.py", folder / f"{HOOK_MODULE}.pth"


def is_installed(folder: Path | None = None) -> bool:
    """Whether the hook's two files are there."""
    return all(path.is_file() for path in hook_files(folder))


def install(folder: Path | None = None, *, force: bool = False) -> list[Path]:
    """Put the hook into the environment; repeating it changes nothing.

    Args:
        folder: site-packages to write into (default: this environment's).
        force: allow it outside a virtual environment.

    Returns:
        The files that were written; empty when all was in place.

    Raises:
        ValueError: outside a virtual environment without `force`.
    """
    if not (force or in_virtual_environment()):
        raise ValueError(
            f"{sys.prefix}: the environment to mend must be a virtual one, got the system's Python. "
            "Run fcas_doctor from a virtual environment, or add --force."
        )
    module, pth = hook_files(folder)
    source = Path(torchvision_hook.__file__).read_text(encoding="utf-8")
    written = []
    for path, text in ((module, source), (pth, _PTH_LINE)):  # the .pth last: it never names a module that is not there
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            atomic_write_text(path, text)
            written.append(path)
    return written


def remove(folder: Path | None = None) -> list[Path]:
    """Take the hook out again. Returns the files that were removed."""
    module, pth = hook_files(folder)
    removed = [path for path in (pth, module) if path.is_file()]
    for path in removed:
        path.unlink()
    return removed


def import_error(*, with_hook: bool) -> str | None:
    """The last line of what `import torchvision` says in a fresh interpreter; None when it succeeds.

    Args:
        with_hook: let an installed hook act; without it torchvision is on its own.
    """
    environment = dict(os.environ)
    environment.pop("FCAS_TORCHVISION_HOOK", None)
    if not with_hook:
        environment["FCAS_TORCHVISION_HOOK"] = "0"
    result = subprocess.run(
        [sys.executable, "-c", "import torchvision"], env=environment, capture_output=True, text=True, check=False
    )
    return None if result.returncode == 0 else (result.stderr.strip().splitlines() or ["no message"])[-1]


def matching_torchvision(torch_version: str) -> str | None:
    """The torchvision release made for a torch release, as "0.28": its minor version is torch's plus 15."""
    match = re.match(r"2\.(\d+)", torch_version)
    return f"0.{int(match[1]) + 15}" if match else None


def releases_match() -> bool | None:
    """Whether the installed torch and torchvision were released together; None when either is missing or unknown."""
    try:
        expected, installed = matching_torchvision(version("torch")), version("torchvision")
    except PackageNotFoundError:
        return None
    return None if expected is None else installed.startswith(expected + ".")
