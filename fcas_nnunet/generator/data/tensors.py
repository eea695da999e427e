"""Save state dicts, read them without unpickling code, and load them strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fcas_nnunet.config.schema import settings
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import atomic_path
from fcas_nnunet.files import file_sha256 as file_sha256
from fcas_nnunet.listing import listed

SAFETENSORS = ".safetensors"
#: Files in the folder of a part of the generator: its weights, and their average over the training.
MODEL_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"


@settings
class FileIdentity:
    """Name (without its folder) and hash of a file that weights were loaded from."""

    name: str
    sha256: str


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, whole or not at all; `metadata` is stored in the file beside the tensors."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata=dict(metadata) if metadata else None)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata that `save_weights` wrote; empty for a file of another format.

    Raises:
        InputError: If the file cannot be read.
    """
    if path.suffix != SAFETENSORS:
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: must be a readable checkpoint, got {error}. Fetch or train it again.") from error


def load_weights(module: nn.Module, path: Path) -> None:
    """Read a state dict and load it strictly; raises as `read_state` and `load_state`."""
    load_state(module, read_state(path), path)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict: a file's whole content or its `unet_state_dict`, as in MAISI's files.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it cannot be read, or is no state dict of finite numbers.
    """
    content = read_content(path)
    return as_state(content.get("unet_state_dict", content) if isinstance(content, dict) else content, path)


def read_content(path: Path) -> Any:
    """Read all that a .safetensors or .pt file holds; never unpickles code.

    Raises:
        MissingFileError: If there is no such file.
        InputError: If it cannot be read.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: the weights must exist, got no file. Check the path.")
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{path}: must be a readable checkpoint, got {error}. Fetch or train it again.") from error
    except Exception as error:  # torch raises pickle errors of several kinds for files that are no checkpoint
        raise InputError(
            f"{path}: must be a checkpoint of tensors (weights_only), got {type(error).__name__}. Fetch it again."
        ) from error


def as_state(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Check that content is a state dict of finite numbers, and return it.

    Raises:
        InputError: If it is not.
    """
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path}: must be a state dict of tensors, got {type(content).__name__}. Check the file.")
    broken = sorted(key for key, tensor in content.items() if not torch.isfinite(tensor).all())
    if broken:
        raise InputError(
            f"{path}: weights must be finite, got NaN or infinity in {listed(broken, 3)}. Train or fetch them again."
        )
    return content


def load_state(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a state dict strictly; raises as `check_fit`."""
    check_fit(module, state, path)
    module.load_state_dict(state)


def check_fit(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Check that a state dict fits a module exactly, which may be on the meta device.

    Raises:
        InputError: If it does not fit; the message names every missing, unexpected and misshapen tensor.
    """
    needed = module.state_dict()
    faults = [f"missing {key}" for key in needed.keys() - state.keys()]
    faults += [f"unexpected {key}" for key in state.keys() - needed.keys()]
    faults += [
        f"{key} of shape {tuple(state[key].shape)} instead of {tuple(needed[key].shape)}"
        for key in needed.keys() & state.keys()
        if needed[key].shape != state[key].shape
    ]
    if faults:
        got = listed(sorted(faults), separator="; ")
        raise InputError(
            f"{path}: weights must fit the network, got: {got}. Name the file of another one, or train it."
        )
