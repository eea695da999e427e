"""Read MAISI's published weights, derive the settings of their networks, and load them into a TCDM.

MAISI's arrays are (x, y, z), here (z, y, x): its kernels are transposed, which equals transposing the scans. The groups
of norms and the channels of an attention head are not in its files: both are 32, or less in narrower networks.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcas_nnunet.config.generator import LATENT_CHANNELS, AutoencoderConfig, OptimisationConfig, TCDMConfig
from fcas_nnunet.config.options import Architecture, Conditioning, PredictionType
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.data.tensors import FileIdentity, as_state, file_sha256, load_state, read_content
from fcas_nnunet.generator.data.tensors import check_fit as weights_fit
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

State = dict[str, torch.Tensor]

LICENCE_NOTE = (
    "MAISI's weights are NVIDIA's: its README names the NVIDIA Open Model License for the CT weights, while the "
    "repository's LICENSE.weights carries a non-commercial text. Read both before you use or pass on what is made with "
    "them; this package never redistributes them."
)
CONDITION_KERNEL = "controlnet_cond_embedding.conv_in.conv.weight"
#: Widths of MAISI's condition embedding, used where no ControlNet is loaded.
EMBEDDING_WIDTHS = (8, 32, 64)
GROUPS = HEAD_CHANNELS = 32
#: Factor by which the standard deviation of a data set's latents may differ from MAISI's.
SCALE_TOLERANCE = 2.0
_DDPM_KEYS = ("top_region_index_layer.0.weight", "bottom_region_index_layer.0.weight")
_RFLOW_KEY = "class_embedding.weight"
_PREDICTIONS = {
    Architecture.MAISI_DDPM: PredictionType.EPSILON,
    Architecture.MAISI_RFLOW: PredictionType.FLOW,
}


@dataclass(frozen=True)
class PretrainedFiles:
    """Weights to start from instead of training them; None = trained from scratch.

    Attributes:
        autoencoder: MAISI's autoencoder, or one of this package with its config.yaml beside it.
        denoiser: MAISI's UNet; requires the autoencoder it was trained with.
        controlnet: MAISI's ControlNet to start from; requires the denoiser.
    """

    autoencoder: Path | None = None
    denoiser: Path | None = None
    controlnet: Path | None = None

    def __post_init__(self) -> None:
        for name, needed, why in (
            ("denoiser", "autoencoder", "its latents are those of one autoencoder"),
            ("controlnet", "denoiser", "it steers one denoiser"),
        ):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise InputError(
                    f"--{name}: must be given with --{needed}, since {why}, got it alone. Name the --{needed}, too."
                )

    def identity(self) -> dict[str, FileIdentity | None]:
        """Name and hash of every file."""
        return {
            name: None if path is None else FileIdentity(path.name, file_sha256(path))
            for name, path in vars(self).items()
        }


@dataclass(frozen=True)
class MaisiWeights:
    """State dicts of MAISI's denoiser, and of its ControlNet if given; kernels on (z, y, x)."""

    architecture: Architecture
    denoiser: State
    controlnet: State | None
    latent_scale: LatentScale
    files: PretrainedFiles


def read_weights(files: PretrainedFiles) -> MaisiWeights | None:
    """Read the denoiser and the ControlNet; None if no denoiser is given.

    Raises:
        MissingFileError: If a file is missing.
        InputError: If a file cannot be read, or is not a MAISI file.
    """
    if files.denoiser is None:
        return None
    content, denoiser = _content(files.denoiser, "unet_state_dict")
    scale = LatentScale(scale_factor=(_scale_factor(content, files.denoiser),) * LATENT_CHANNELS)
    controlnet = None
    if files.controlnet is not None:
        controlnet = on_our_axes(_content(files.controlnet, "controlnet_state_dict")[1])
    return MaisiWeights(_architecture(denoiser, files.denoiser), on_our_axes(denoiser), controlnet, scale, files)


def refuse_channels(weights: MaisiWeights, channel_names: Sequence[str]) -> None:
    """Refuse scans of several channels.

    Raises:
        InputError: If there are several; names them.
    """
    if len(channel_names) > 1:
        raise InputError(
            f"{weights.files.denoiser}: scans must have one channel, as MAISI's denoiser draws them, got "
            f"{', '.join(channel_names)}. Leave out --denoiser and --controlnet."
        )


def config_of(weights: MaisiWeights, config: TCDMConfig) -> TCDMConfig:
    """Return a configuration with the weights' settings for networks and process, and the rest unchanged.

    Raises:
        InputError: If the widths cannot be read from the files.
    """
    assert weights.files.denoiser is not None, "read from there"
    channels, num_res_blocks, attention = _levels(weights.denoiser, weights.files.denoiser)
    attends = (*attention[:-1], True)  # the middle block always does, with the deepest level's heads
    return replace(
        config,
        channels=channels,
        attention_levels=attention,
        num_head_channels=tuple(math.gcd(HEAD_CHANNELS, n) * on for n, on in zip(channels, attends, strict=True)),
        num_res_blocks=num_res_blocks,
        norm_num_groups=math.gcd(GROUPS, *channels),
        architecture=weights.architecture,
        frozen_denoiser=True,
        conditioning=Conditioning.CONTROLNET,
        condition_embedding_channels=_embedding_widths(weights, config),
        prior=False,
        prediction_type=_PREDICTIONS[weights.architecture],
        multi_resolution_noise=0.0,
    )


@torch.no_grad()
def load_into(tcdm: TCDM, weights: MaisiWeights) -> None:
    """Load the weights into a fresh model built by `config_of`; raises as `check_fit`.

    Without a ControlNet, a fresh one starts from the denoiser's encoder, and its output convolutions stay zero.
    Condition channels that MAISI's ControlNet does not have start at zero.
    """
    for network, state, path in _placed(tcdm, weights):
        load_state(network, state, path)
    if weights.controlnet is None:
        assert tcdm.controlnet is not None, "set by config_of"
        fresh = tcdm.controlnet.state_dict()
        shared = {k: v for k, v in weights.denoiser.items() if k in fresh and fresh[k].shape == v.shape}
        tcdm.controlnet.load_state_dict(fresh | shared)


def check_fit(weights: MaisiWeights, config: TCDMConfig) -> None:
    """Check that the weights fit a configuration of `config_of`, without the memory of a model.

    Raises:
        InputError: If they do not fit; the message names every missing, unexpected and misshapen tensor.
    """
    with torch.device("meta"):
        tcdm = TCDM(config)
    for network, state, path in _placed(tcdm, weights):
        weights_fit(network, state, path)


def checked_scale(weights: MaisiWeights, measured: LatentScale) -> LatentScale:
    """Return the scale that the denoiser was trained with; warn if that of this data set's latents is far from it."""
    local, theirs = (
        math.exp(sum(map(math.log, s.scale_factor)) / LATENT_CHANNELS) for s in (measured, weights.latent_scale)
    )
    if not 1 / SCALE_TOLERANCE < local / theirs < SCALE_TOLERANCE:
        logger.warning(
            f"{weights.files.denoiser}: its scale_factor should be about one by the latents' standard deviation, got "
            f"{theirs:.3g} for {local:.3g}. Check that --autoencoder is the one it was trained with."
        )
    return weights.latent_scale


def autoencoder_config(
    state: Mapping[str, torch.Tensor], optimisation: OptimisationConfig, path: Path
) -> AutoencoderConfig:
    """Derive the settings of an autoencoder in MAISI's layout; `optimisation` is recorded, without effect.

    Raises:
        InputError: If the state is not that of an `AutoencoderKlMaisi`.
    """
    widths: list[list[int]] = [[]]  # widths of the residual blocks, level by level
    for index in range(_count(state, r"encoder\.blocks\.(\d+)\.")):
        block = f"encoder.blocks.{index}"
        if (kernel := state.get(f"{block}.conv1.conv.conv.weight")) is not None:
            widths[-1].append(kernel.shape[0])
        elif f"{block}.conv.conv.conv.weight" in state:
            widths.append([])  # between two levels, the grid is halved
    blocks = {len(level) for level in widths}
    if not all(widths) or len(blocks) != 1:
        raise InputError(
            f"{path}: must be MAISI's autoencoder, or one of this package with its config.yaml beside it, got keys "
            f"like {sorted(state)[:3]}. Check the file."
        )
    channels = tuple(level[0] for level in widths)
    return AutoencoderConfig(
        channels=channels, num_res_blocks=blocks.pop(), norm_num_groups=math.gcd(GROUPS, *channels),
        optimisation=optimisation,
    )  # fmt: skip


def on_our_axes(state: Mapping[str, torch.Tensor]) -> State:
    """Transpose every 3D kernel, (x, y, z) => (z, y, x); nothing else in these networks depends on the axes."""
    return {
        key: tensor.permute(0, 1, 4, 3, 2).contiguous() if tensor.ndim == 5 else tensor for key, tensor in state.items()
    }


def _placed(tcdm: TCDM, weights: MaisiWeights) -> list[tuple[nn.Module, State, Path]]:
    """List (network, state, file) for each file."""
    files = weights.files
    assert files.denoiser is not None and tcdm.controlnet is not None, "set by config_of"
    placed: list[tuple[nn.Module, State, Path]] = [(tcdm.denoiser, weights.denoiser, files.denoiser)]
    if weights.controlnet is not None and files.controlnet is not None:
        state = _widened(weights.controlnet, tcdm.config.condition_channels, files.controlnet)
        placed.append((tcdm.controlnet, state, files.controlnet))
    return placed


def _content(path: Path, key: str) -> tuple[dict[str, Any], State]:
    """Read a checkpoint, and return it with its state dict under `key`."""
    content = read_content(path)
    if not isinstance(content, dict) or key not in content:
        found = sorted(content)[:5] if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: must be a MAISI checkpoint with {key}, got {found}. Check the file.")
    return content, as_state(content[key], path)


def _scale_factor(content: Mapping[str, Any], path: Path) -> float:
    value = content.get("scale_factor")
    scale = float(value) if isinstance(value, (int, float, torch.Tensor)) else math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"{path}: scale_factor must be a positive number, got {value}. Check the file.")
    return scale


def _architecture(state: Mapping[str, torch.Tensor], path: Path) -> Architecture:
    regions, classes = [key in state for key in _DDPM_KEYS], _RFLOW_KEY in state
    if all(regions) and not classes:
        return Architecture.MAISI_DDPM
    if classes and not any(regions):
        return Architecture.MAISI_RFLOW
    found = [key for key in (*_DDPM_KEYS, _RFLOW_KEY) if key in state]
    raise InputError(
        f"{path}: must be MAISI's ddpm denoiser, with {' and '.join(_DDPM_KEYS)}, or its rflow denoiser, with "
        f"{_RFLOW_KEY}, got {', '.join(found) or 'neither'}. Check the file."
    )


def _levels(state: Mapping[str, torch.Tensor], path: Path) -> tuple[tuple[int, ...], int, tuple[bool, ...]]:
    """Width of each level, residual blocks per level, and which levels have attention."""
    count = _count(state, r"down_blocks\.(\d+)\.")
    kernels = [state.get(f"down_blocks.{i}.resnets.0.conv1.conv.weight") for i in range(count)]
    blocks = {_count(state, rf"down_blocks\.{i}\.resnets\.(\d+)\.") for i in range(count)}
    if len(blocks) != 1 or any(kernel is None for kernel in kernels):
        raise InputError(
            f"{path}: down_blocks must be levels of equally many residual blocks, got {count} levels of "
            f"{sorted(blocks)} blocks. Check the file."
        )
    attention = tuple(_count(state, rf"down_blocks\.{i}\.attentions\.(\d+)\.") > 0 for i in range(count))
    return tuple(kernel.shape[0] for kernel in kernels if kernel is not None), blocks.pop(), attention


def _embedding_widths(weights: MaisiWeights, config: TCDMConfig) -> tuple[int, ...]:
    if weights.controlnet is None:
        widths = config.condition_embedding_channels
        return widths if len(widths) == len(EMBEDDING_WIDTHS) else EMBEDDING_WIDTHS
    keys = [CONDITION_KERNEL, *(f"controlnet_cond_embedding.blocks.{i}.conv.weight" for i in (1, 3))]
    missing = [key for key in keys if key not in weights.controlnet]
    if missing:
        raise InputError(
            f"{weights.files.controlnet}: must be MAISI's ControlNet, got none of {listed(missing)}. Check the file."
        )
    return tuple(weights.controlnet[key].shape[0] for key in keys)


def _widened(state: State, channels: int, path: Path) -> State:
    """Widen the ControlNet for a condition of more channels, whose weights start at zero."""
    kernel = state[CONDITION_KERNEL]
    known = kernel.shape[1]
    if known > channels:
        raise InputError(
            f"{path}: {CONDITION_KERNEL} must take at most the {channels} channels of a condition, got {known}. "
            "Check the file."
        )
    wider = kernel.new_zeros((kernel.shape[0], channels, *kernel.shape[2:]))
    wider[:, :known] = kernel
    return state | {CONDITION_KERNEL: wider}


def _count(keys: Iterable[str], pattern: str) -> int:
    """One more than the largest number that `pattern` finds."""
    found = (re.match(pattern, key) for key in keys)
    return max((int(match[1]) + 1 for match in found if match), default=0)
