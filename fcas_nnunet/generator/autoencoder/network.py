"""The 4-channel, 4× autoencoder, MONAI's MAISI network, and its training loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiGroupNorm3D
from torch import nn

from fcas_nnunet.config.generator import LATENT_CHANNELS, LATENT_DOWNSAMPLING, AutoencoderConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.autoencoder.slabs import run_blocks, run_in_slabs

INITIAL_LOG_VARIANCE = -8.0
#: Where MONAI clamps the posterior's log variance.
LOG_VARIANCE_RANGE = (-30.0, 20.0)


def fold_blocks(volume: torch.Tensor, size: int) -> torch.Tensor:
    """Fold voxels into channels: [B, C, D, H, W] => [B, C · size³, D/size, H/size, W/size]; nothing is lost."""
    return rearrange(volume, "b c (d p) (h q) (w r) -> b (c p q r) d h w", p=size, q=size, r=size)


class LinearSkip(nn.Module):
    """A linear path from image to latents and back: each 4³ block's mean and its slopes along D, H and W.

    The four filters are orthonormal and learnable; untrained, decoding is the transpose of encoding, the best linear
    fit of a block. They are 8 voxels wide, zero outside the block at first, so that neighbouring blocks can learn to
    overlap (0.7 dB on phantoms).
    """

    def __init__(self) -> None:
        super().__init__()
        p = LATENT_DOWNSAMPLING
        rim = p // 2
        self.encoder = nn.Conv3d(1, LATENT_CHANNELS, kernel_size=2 * p, stride=p, padding=rim, bias=False)
        self.decoder = nn.ConvTranspose3d(LATENT_CHANNELS, 1, kernel_size=2 * p, stride=p, padding=rim, bias=False)
        ramp = torch.arange(p) - (p - 1) / 2
        slopes = torch.meshgrid(ramp, ramp, ramp, indexing="ij")
        filters = torch.stack([torch.ones(p, p, p), *slopes])[:, None]
        filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1)
        with torch.no_grad():
            self.encoder.weight.copy_(F.pad(filters, [rim] * 6))
            self.decoder.weight.copy_(F.pad(filters, [rim] * 6))


class Autoencoder(nn.Module):
    """MONAI's `AutoencoderKlMaisi`, with voxels optionally folded into channels before it.

    Every channel of a scan goes through it alone, as another scan would, and has four latents of its own: each is as
    sharp as the one channel of CT, in the same memory, and any number of channels takes the same weights.

    Source: MAISI, arXiv 2409.11169.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        voxels_per_patch = config.patch_size**3
        levels = len(config.channels)
        self.network = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=voxels_per_patch,
            out_channels=voxels_per_patch,
            num_res_blocks=(config.num_res_blocks,) * levels,
            num_channels=config.channels,
            attention_levels=(False,) * levels,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=config.norm_num_groups,
            norm_eps=1e-6,
            num_splits=1,
            save_mem=False,
        )
        swap_group_norms(self.network)
        self.skip = LinearSkip() if config.linear_skip else None
        if self.skip is not None:  # the network starts silent, on both sides
            for convolution in (self.network.decoder.blocks[-1], self.network.quant_conv_mu):  # type: ignore[index]
                for parameter in convolution.parameters():  # type: ignore[union-attr]
                    nn.init.zeros_(parameter)
        # a small σ from the start: with MONAI's σ ≈ 1 a short training spends itself on noise
        nn.init.constant_(self.network.quant_conv_log_sigma.conv.bias, INITIAL_LOG_VARIANCE)  # type: ignore[union-attr, arg-type]

    def encode(self, images: torch.Tensor, slab_elements: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode images to the posterior of their latents.

        The last convolutions run in fp32 also under autocast: bf16 latents would be up to 5 units of 2000 off.

        Args:
            images: Images [B, C, D, H, W] in [0, 1], sizes divisible by 4.
            slab_elements: Channels × voxels of a slab, to process one volume slab by slab without gradients: the same
                result in less memory. None = all at once.

        Returns:
            Mean and standard deviation, each [B, 4 · C, D/4, H/4, W/4], unscaled.

        Raises:
            InputError: If a size is not divisible by 4.
        """
        if any(size % LATENT_DOWNSAMPLING for size in images.shape[2:]):
            raise InputError(f"images: sizes must be divisible by 4, got {tuple(images.shape[2:])}. Pad them.")
        single = images.flatten(0, 1)[:, None]
        folded = fold_blocks(single, self.config.patch_size)
        if slab_elements is None:
            features = self.network.encoder(folded)
        else:
            blocks: Any = self.network.encoder.blocks
            features = torch.cat([run_in_slabs(blocks, one, slab_elements) for one in folded.split(1)])
        with torch.autocast(images.device.type, enabled=False):
            features = features.float()
            mean = self.network.quant_conv_mu(features)
            std = (self.network.quant_conv_log_sigma(features).clamp(*LOG_VARIANCE_RANGE) / 2).exp()
            mean = mean if self.skip is None else mean + self.skip.encoder(single.float())
            return _of_scans(mean, images.shape[1]), _of_scans(std, images.shape[1])

    def decode(self, latents: torch.Tensor, slab_elements: int | None = None) -> torch.Tensor:
        """Decode unscaled latents to images.

        The last norm and convolution run in fp32 also under autocast: a bf16 output has steps of 7.8 units of 2000.

        Args:
            latents: Unscaled latents, [B, 4 · C, d, h, w].
            slab_elements: Channels × voxels of a slab, as in `encode`.

        Returns:
            [B, C, 4d, 4h, 4w] float32, about [0, 1], not clipped.
        """
        num_channels = latents.shape[1] // LATENT_CHANNELS
        single = latents.unflatten(1, (num_channels, LATENT_CHANNELS)).flatten(0, 1)
        parts = [single] if slab_elements is None else single.split(1)
        return _of_scans(torch.cat([self._decoded(part, slab_elements) for part in parts]), num_channels)

    def _decoded(self, latents: torch.Tensor, slab_elements: int | None) -> torch.Tensor:
        """Decode single channels, [B, 4, d, h, w] => [B, 1, 4d, 4h, 4w]."""
        x = self.network.post_quant_conv(latents)
        x = run_blocks(self.network.decoder.blocks, x, slab_elements)  # type: ignore[arg-type]
        with torch.autocast(x.device.type, enabled=False):
            p = self.config.patch_size
            x = rearrange(x, "b (p q r) d h w -> b 1 (d p) (h q) (w r)", p=p, q=p, r=p)
            return x if self.skip is None else x + self.skip.decoder(latents.float())

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encode, sample with standard normal noise, decode: (reconstruction, mean, standard deviation)."""
        mean, std = self.encode(images)
        return self.decode(mean + std * noise), mean, std


def _of_scans(single: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Join the channels of each scan: [B · C, K, D, H, W] => [B, C · K, D, H, W]."""
    return single.unflatten(0, (-1, num_channels)).flatten(1, 2)


def reconstruction_weights(
    labels: torch.Tensor, thin_ids: list[int], heart_weight: float, thin_weight: float
) -> torch.Tensor:
    """Voxel weights of the L1 loss, float32 in the shape of the labels [B, 1, D, H, W].

    Background is 1, labelled voxels are `heart_weight`, thin structures and the voxels next to them `thin_weight`.
    """
    weights = torch.where(labels > 0, heart_weight, 1.0)
    if thin_ids:
        thin = torch.isin(labels, torch.tensor(thin_ids, dtype=labels.dtype, device=labels.device))
        rim = F.max_pool3d(thin.float(), kernel_size=3, stride=1, padding=1) > 0
        weights = torch.where(rim, thin_weight, weights)
    return weights


def autoencoder_loss(
    images: torch.Tensor,
    reconstructions: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    weights: torch.Tensor,
    kl_weight: float,
) -> torch.Tensor:
    """Weighted L1 + KL to the standard normal (summed over a channel's latents, averaged over voxels and channels)."""
    l1 = (weights * (images - reconstructions).abs()).mean()
    kl = 0.5 * (mean**2 + std**2 - 2 * std.clamp_min(1e-6).log() - 1).sum(dim=1).mean() / images.shape[1]
    return l1 + kl_weight * kl


def swap_group_norms(module: nn.Module) -> None:
    """Replace MAISI's group norms by torch's in place: the same function and state dict, 1.5–2.9× faster."""
    for name, child in module.named_children():
        if isinstance(child, MaisiGroupNorm3D):
            setattr(module, name, nn.GroupNorm(child.num_groups, child.num_channels, child.eps, child.affine))
        else:
            swap_group_norms(child)
