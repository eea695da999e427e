"""Let stock nnU-Net find this package's trainers: through `nnUNet_extTrainer`, or a shim beside its own variants."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import atomic_path

EXT_TRAINER_VARIABLE = "nnUNet_extTrainer"
SHIM = "fcas_nnunet_trainers.py"


def shim_folder() -> Path:
    """Return the leaf folder that `nnUNet_extTrainer` points to; it contains the shim alone."""
    return Path(__file__).parents[1] / "nnunet_ext"


def all_shim_folders() -> list[Path]:
    """Return all shim folders: the one for users, and those of commands with trainers of their own."""
    return [shim_folder(), *sorted(Path(__file__).parents[2].glob("commands/*/nnunet_ext"))]


def ext_trainer_value(environment: Mapping[str, str] = os.environ, folders: Sequence[Path] | None = None) -> str:
    """Return the value of `nnUNet_extTrainer` with folders of this package added.

    `folders` None means the folder for users alone. Other folders that the variable names in the environment stay, in
    their order.
    """
    before = [folder for folder in environment.get(EXT_TRAINER_VARIABLE, "").split(os.pathsep) if folder.strip()]
    ours = map(str, folders or [shim_folder()])
    return os.pathsep.join(dict.fromkeys([*before, *ours]))


def installed_shim() -> Path:
    """Return the path to which `install_shim` copies the shim, beside nnU-Net's own trainer variants.

    Raises:
        MissingFileError: if nnU-Net is not installed.
    """
    spec = find_spec("nnunetv2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingFileError("nnunetv2: package must be installed, got none. Run: pip install 'nnunetv2>=2.8,<2.9'")
    return Path(spec.submodule_search_locations[0]) / "training" / "nnUNetTrainer" / "variants" / SHIM


def install_shim() -> Path:
    """Copy the shim beside nnU-Net's variants; returns the file written.

    Raises:
        InputError: if nnU-Net's folder cannot be written to.
    """
    path = installed_shim()
    try:
        with atomic_path(path) as temporary:
            shutil.copyfile(shim_folder() / SHIM, temporary)
    except PermissionError as error:
        raise InputError(
            f'{path.parent}: folder must be writable, got {error.strerror}. Use: eval "$(fcas_env)"'
        ) from error
    return path


def uninstall_shim() -> Path | None:
    """Remove the copy that `install_shim` made; returns the file, or None when there was none."""
    path = installed_shim()
    if not path.is_file():
        return None
    path.unlink()
    return path
