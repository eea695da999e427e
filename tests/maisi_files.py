"""Weights in the layout of MAISI's published files: MONAI's own classes at a small width, every tensor random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import nn

SCALE_FACTOR = 0.83
#: Below 1, so that rounding does not grow over the blocks.
GAIN = 0.7
LEVELS: dict[str, Any] = {
    "spatial_dims": 3, "in_channels": 4, "num_channels": (32, 32, 64), "attention_levels": (False, False, True),
    "num_head_channels": (0, 0, 32), "num_res_blocks": 1, "norm_num_groups": 32,
}  # fmt: skip
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ddpm": (
        {"include_top_region_index_input": True, "include_bottom_region_index_input": True},
        {"include_fc": False, "resblock_updown": False},
    ),
    "rflow": ({}, {"include_fc": True, "resblock_updown": True, "num_class_embeds": 128}),
}


def maisi_denoiser(variant: str) -> DiffusionModelUNetMaisi:
    """MONAI's class as `config_network_<variant>.json` builds it, narrowed."""
    inputs, blocks = VARIANTS[variant]
    return randomised(
        DiffusionModelUNetMaisi(out_channels=4, include_spacing_input=True, **LEVELS, **inputs, **blocks), seed=1
    )


def maisi_controlnet(variant: str) -> ControlNetMaisi:
    """The same of the ControlNet, eight condition channels."""
    network = ControlNetMaisi(
        conditioning_embedding_in_channels=8, conditioning_embedding_num_channels=(4, 8, 16), use_checkpointing=False,
        **LEVELS, **VARIANTS[variant][1],
    )  # fmt: skip
    return randomised(network, seed=2)


def maisi_autoencoder(width: int = 8) -> AutoencoderKlMaisi:
    """`autoencoder_v1.pt`, narrowed."""
    torch.manual_seed(0)
    return AutoencoderKlMaisi(
        spatial_dims=3, in_channels=1, out_channels=1, latent_channels=4, num_channels=(width, 2 * width, 4 * width),
        num_res_blocks=(2, 2, 2), norm_num_groups=8, norm_eps=1e-6, attention_levels=(False,) * 3, num_splits=1,
        save_mem=False,
    ).eval()  # fmt: skip


def write_denoiser(network: nn.Module, path: Path) -> Path:
    """The keys of `diff_unet_3d_*.pt`."""
    torch.save(
        {
            "epoch": 3, "loss": 0.1, "num_train_timesteps": 1000, "scale_factor": torch.tensor(SCALE_FACTOR),
            "unet_state_dict": network.state_dict(),
        },
        path,
    )  # fmt: skip
    return path


def write_controlnet(network: nn.Module, path: Path) -> Path:
    """The keys of `controlnet_3d_*.pt`."""
    torch.save({"epoch": 3, "loss": 0.1, "controlnet_state_dict": network.state_dict()}, path)
    return path


def write_autoencoder(path: Path, width: int = 8) -> Path:
    """The bare state dict of `autoencoder_v1.pt`."""
    torch.save(maisi_autoencoder(width).state_dict(), path)
    return path


def randomised(network: nn.Module, seed: int) -> Any:
    """No tensor zero: MONAI's output convolutions start there, and would hide what comes before."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = max(1, parameter[0].numel() if parameter.ndim > 1 else 100)
            noise = torch.randn(parameter.shape, generator=generator) * GAIN / fan_in**0.5
            parameter.copy_(noise + 1 if parameter.ndim == 1 and (parameter == 1).all() else noise)
    return network.eval()
