"""Load published weights from files that the user names: without unpickling code, and whole or not at all.

Nothing here downloads, and no network keeps random weights: their features would mean nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import file_sha256
from fcas_nnunet.listing import listed

SHA256_DIGITS = 12


def hub_checkpoints() -> Path:
    """`$TORCH_HOME/hub/checkpoints`, where torch stores its downloads."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"


def weights_label(path: Path) -> str:
    """Name a file of weights for a result: its name and the first 12 digits of its SHA-256."""
    return f"{path.name}, sha256 {file_sha256(path)[:SHA256_DIGITS]}"


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict onto the CPU.

    Raises:
        MissingFileError: when there is no such file.
        InputError: when it holds anything but tensors by name.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: file of weights must exist, got none. Put it there or fix the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle make torch's reader raise anything
        raise InputError(
            f"{path}: file must hold torch weights alone, got one that cannot be read as such. Download it again."
        ) from error
    if not isinstance(state, dict) or not state or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise InputError(f"{path}: file must be a state dict of tensors, got {type(state).__name__}. Name another.")
    return dict(state)


def load_strictly(module: nn.Module, state: dict[str, torch.Tensor], path: Path, network: str) -> None:
    """Load a state dict whose names and shapes are the module's; path and network are named in the error.

    Counters of batches (`num_batches_tracked`) may be missing, as in torch's oldest files.

    Raises:
        InputError: naming what is missing, what is too much, and what has another shape.
    """
    own = module.state_dict()
    counters = {key: tensor for key, tensor in own.items() if key.endswith("num_batches_tracked")}
    state = counters | state
    faults = [f"no {key}" for key in own if key not in state]
    faults += [f"{key} besides" for key in state if key not in own]
    faults += [
        f"{key} of shape {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if faults:
        raise InputError(f"{path}: weights must be those of {network}, got {listed(faults)}. Name another file.")
    module.load_state_dict(state)
