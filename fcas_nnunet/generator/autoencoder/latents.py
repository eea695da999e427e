"""Cache the latents of all variants on disk, and measure their scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from accelerate import Accelerator
from pydantic import Field

from fcas_nnunet.config.generator import LATENT_CHANNELS
from fcas_nnunet.config.schema import Positive, settings
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.data.variants import Variant, open_tensors, read_image, save_tensors
from fcas_nnunet.generator.optimisation.batches import local_share

MEAN, LOG_STD, SUMS = "mean", "log_std", "sums"
_PER_CHANNEL = Field(min_length=LATENT_CHANNELS)


@settings
class LatentScale:
    """Raw latents ↔ scaled latents of about zero mean and unit variance, per channel.

    MAISI scales by one number; an autoencoder trained on few cases has channels of quite different spread.

    Attributes:
        mean: Mean of the raw latents, [4 · C]; subtracted first.
        scale_factor: 1 / standard deviation of the raw latents, [4 · C]; multiplied after the subtraction.
    """

    mean: Annotated[tuple[float, ...], _PER_CHANNEL] = (0.0,) * LATENT_CHANNELS
    scale_factor: Annotated[tuple[Positive, ...], _PER_CHANNEL] = (1.0,) * LATENT_CHANNELS

    def to_scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """raw latents => scaled latents, [B, 4 · C, d, h, w]."""
        return (latents - self._view(self.mean, latents)) * self._view(self.scale_factor, latents)

    def to_raw(self, latents: torch.Tensor) -> torch.Tensor:
        """scaled latents => raw latents, [B, 4 · C, d, h, w]."""
        return latents / self._view(self.scale_factor, latents) + self._view(self.mean, latents)

    @staticmethod
    def _view(values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, -1, 1, 1, 1)


@torch.inference_mode()
def cache_latents(
    autoencoder: Autoencoder, variants: Sequence[Variant], folder: Path, accelerator: Accelerator, num_channels: int = 1
) -> LatentScale:
    """Encode every variant that has no latents yet: mean and log standard deviation in fp16.

    One sampled z would put a noise of σ into the data for good (MAISI's issue #45), so both moments are saved.
    Every process encodes its share, and returns when all have finished.

    Args:
        autoencoder: Frozen autoencoder in eval mode, on the accelerator's device.
        variants: Variants to encode.
        folder: Folder of the variants' images; the latents are written there, too.
        accelerator: Device, precision, processes.
        num_channels: Of the scans.

    Returns:
        The scale over all variants, the same in every process.
    """
    # count, then sums of latents and their squares; in double precision, so that the order does not show
    latent_channels = LATENT_CHANNELS * num_channels
    sums = torch.zeros(1 + 2 * latent_channels, dtype=torch.float64)
    for variant in local_share(variants, accelerator, "encoding", "volume"):
        path = folder / variant.latents_file
        if not path.exists():
            image = read_image(folder / variant.image_file).to(accelerator.device).float()[None]
            with accelerator.autocast():
                mean, std = autoencoder.encode(image, SLAB_ELEMENTS)
            latents, log_std = mean[0].half().cpu(), std[0].clamp_min(1e-6).log().half().cpu()
            save_tensors({MEAN: latents, LOG_STD: log_std, SUMS: _sums(latents, log_std)}, path)
        sums += _saved_sums(path)
    accelerator.wait_for_everyone()
    count, total, total_squared = (
        accelerator.reduce(sums.to(accelerator.device), "sum").cpu().split([1, latent_channels, latent_channels])
    )
    mean = total / count
    std = (total_squared / count - mean**2).clamp_min(1e-12).sqrt()
    return LatentScale(tuple(mean.float().tolist()), tuple((1 / std).float().tolist()))


def _sums(latents: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Number of positions, then sums of latents [4 · C, d, h, w] and of their expected squares; float64."""
    latents, variance = latents.double().flatten(1), (2 * log_std.double()).exp().flatten(1)
    return torch.cat([latents.new_tensor([latents.shape[1]]), latents.sum(1), (latents**2 + variance).sum(1)])


def _saved_sums(path: Path) -> torch.Tensor:
    """Read the sums of a file of latents, without these; files of earlier versions hold none."""
    with open_tensors(path) as file:
        if SUMS in file.keys():
            return file.get_tensor(SUMS)
        return _sums(file.get_tensor(MEAN), file.get_tensor(LOG_STD))
