"""Models on disk: safetensors + config.yaml, loaded strictly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fcas_nnunet.case import Case
from fcas_nnunet.config import AutoencoderConfig, FCaSConfig, OptimisationConfig
from fcas_nnunet.config_files import load_config, to_dict
from fcas_nnunet.files import atomic_path, atomic_write_text
from fcas_nnunet.generator.autoencoder import Autoencoder
from fcas_nnunet.generator.latents import LatentScale
from fcas_nnunet.generator.tcdm import TCDM

CONFIG_FILE = "config.yaml"
MODEL_FILE = "model.safetensors"
EMA_FILE = "ema.safetensors"
AUTOENCODER, TCDM_FOLDER = "autoencoder", "tcdm"


@dataclass(frozen=True)
class GeneratorRecord:
    """What a trained generator is, and what it was made from; `tcdm/config.yaml`, written last.

    Attributes:
        config: all settings.
        autoencoder: settings of the autoencoder in use, trained or loaded.
        labels: label name → id of the data set it was trained on.
        surroundings: surrounding name → id, empty where there are none.
        working_spacing_mm: along (D, H, W).
        latent_scale: raw ↔ scaled latents.
        cases: case id → hash of image, mask and surroundings; all cases seen in training or validation.
        validation_cases: those held out for validation.
    """

    config: FCaSConfig
    autoencoder: AutoencoderConfig
    labels: dict[str, int]
    surroundings: dict[str, int]
    working_spacing_mm: tuple[float, float, float]
    latent_scale: LatentScale
    cases: dict[str, str]
    validation_cases: tuple[str, ...]


@dataclass(frozen=True)
class Generator:
    """A trained generator, its networks frozen and in eval mode."""

    record: GeneratorRecord
    autoencoder: Autoencoder
    tcdm: TCDM


def is_trained(folder: Path) -> bool:
    """Whether `folder` (fcas__<preset>) holds a finished generator."""
    return (folder / TCDM_FOLDER / CONFIG_FILE).is_file()


def save_generator(folder: Path, record: GeneratorRecord) -> None:
    """Write the record that makes a generator a finished one."""
    atomic_write_text(folder / TCDM_FOLDER / CONFIG_FILE, yaml.safe_dump(to_dict(record), sort_keys=False))


def read_record(folder: Path) -> GeneratorRecord:
    """The record of a finished generator.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it is broken.
    """
    return load_config(GeneratorRecord, folder / TCDM_FOLDER / CONFIG_FILE)


def load_generator(folder: Path, device: torch.device) -> Generator:
    """Load a finished generator.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when a file is broken or does not fit.
    """
    record = read_record(folder)
    autoencoder = Autoencoder(record.autoencoder)
    load_weights(autoencoder, folder / AUTOENCODER / MODEL_FILE)
    tcdm = TCDM(record.config.tcdm)
    load_weights(tcdm, folder / TCDM_FOLDER / EMA_FILE)
    for network in (autoencoder, tcdm):
        network.requires_grad_(False).eval().to(device)
    return Generator(record, autoencoder, tcdm)


def weights_sha256(folder: Path) -> str:
    """One hash over the weights that generation uses."""
    digest = hashlib.sha256()
    for path in (folder / AUTOENCODER / MODEL_FILE, folder / TCDM_FOLDER / EMA_FILE):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a state dict strictly.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is truncated, or its keys or shapes do not fit; each is named.
    """
    load_state(module, read_state(path), path)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from .safetensors or .pt; never unpickles code.

    A .pt file may hold the bare state dict or hold it under `unet_state_dict`, as MAISI's do.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the weights must exist, got no file. Check the path.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: must be a readable checkpoint, got {error}. Fetch or train it again.") from error
    except Exception as error:  # torch raises pickle errors of several kinds for what is no checkpoint
        raise ValueError(
            f"{path}: must be a checkpoint of tensors (weights_only), got {type(error).__name__}. Fetch it again."
        ) from error
    if isinstance(content, dict) and "unet_state_dict" in content:
        content = content["unet_state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ValueError(f"{path}: must be a state dict of tensors, got {type(content).__name__}. Check the file.")
    return content


def load_state(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        ValueError: naming every missing, unexpected and misshapen tensor.
    """
    own = module.state_dict()
    faults = [f"missing {key}" for key in own.keys() - state.keys()]
    faults += [f"unexpected {key}" for key in state.keys() - own.keys()]
    faults += [
        f"{key} of shape {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    if faults:
        raise ValueError(f"{path}: weights must fit the network, got: {'; '.join(sorted(faults))}.")
    module.load_state_dict(state)


def load_autoencoder(path: Path, optimisation: OptimisationConfig) -> Autoencoder:
    """An autoencoder from a file: one of ours (config.yaml beside it), or MAISI's `autoencoder_v1.pt`.

    MAISI's layout has three levels of w, 2w, 4w channels, two residual blocks each; w is read from the file.

    Args:
        path: .safetensors or .pt.
        optimisation: kept in the config of a loaded autoencoder, without effect.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it cannot be read or does not fit.
    """
    state = read_state(path)
    config_path = path.parent / CONFIG_FILE
    if config_path.is_file():
        autoencoder = Autoencoder(load_config(AutoencoderConfig, config_path))
        load_state(autoencoder, state, path)
        return autoencoder
    first = state.get("encoder.blocks.0.conv.conv.weight")
    if first is None:
        raise ValueError(
            f"{path}: must be MAISI's autoencoder or one of ours with its config.yaml beside it, got keys like "
            f"{sorted(state)[:3]}. Check the file."
        )
    width = first.shape[0]
    config = AutoencoderConfig(
        channels=(width, 2 * width, 4 * width),
        num_res_blocks=2,
        norm_num_groups=int(np.gcd(32, width)),
        optimisation=optimisation,
    )
    autoencoder = Autoencoder(config)
    load_state(autoencoder.network, state, path)
    return autoencoder


def case_sha256(case: Case) -> str:
    """A hash of a case's content: image, mask, surroundings and where they lie."""
    digest = hashlib.sha256()
    for array in (case.image, case.mask, case.surroundings, case.affine):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
