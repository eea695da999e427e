"""A small decoder that stands for the autoencoder's where SSV looks at intermediate images."""

from __future__ import annotations

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiDecoder
from torch import nn

from fcas_nnunet.config.generator import LATENT_CHANNELS, LATENT_DOWNSAMPLING, PreviewConfig
from fcas_nnunet.generator.autoencoder.blocks import fold_blocks
from fcas_nnunet.generator.autoencoder.network import swap_group_norms
from fcas_nnunet.generator.autoencoder.slabs import run_blocks

_RIM = LATENT_DOWNSAMPLING // 2
_RIDGE = 1e-6


class PreviewDecoder(nn.Module):
    """MAISI's decoder at a fraction of its width, around a linear path from every latent to its 4³ voxels.

    The linear path is fitted in closed form before training, and the network starts silent: a short distillation then
    learns what the fit lacks. Without it, a decoder distilled in minutes ranks voxels otherwise than the full one.

    Args:
        config: its sizes.
    """

    def __init__(self, config: PreviewConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.channels)
        self.decoder = MaisiDecoder(
            spatial_dims=3,
            num_channels=config.channels,
            in_channels=LATENT_CHANNELS,
            out_channels=1,
            num_res_blocks=(config.num_res_blocks,) * levels,
            norm_num_groups=config.norm_num_groups,
            norm_eps=1e-6,
            attention_levels=(False,) * levels,
            with_nonlocal_attn=False,
            num_splits=1,
            dim_split=0,
            save_mem=False,
        )
        swap_group_norms(self.decoder)
        for parameter in _last_convolution(self.decoder).parameters():
            nn.init.zeros_(parameter)
        # 8 voxels wide, so that neighbouring blocks can learn to overlap
        self.linear = nn.ConvTranspose3d(
            LATENT_CHANNELS, 1, kernel_size=2 * LATENT_DOWNSAMPLING, stride=LATENT_DOWNSAMPLING, padding=_RIM
        )
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def fit_linear(self, latents: torch.Tensor, images: torch.Tensor) -> None:
        """Least squares from a latent to the 4³ voxels that it covers.

        Args:
            latents: unscaled [B, 4, d, h, w].
            images: what they shall decode to, [B, 1, 4d, 4h, 4w].
        """
        rows = latents.movedim(1, -1).flatten(0, -2).double()
        blocks = fold_blocks(images, LATENT_DOWNSAMPLING).movedim(1, -1).flatten(0, -2).double()
        centred = rows - rows.mean(dim=0)
        covariance = centred.T @ centred / len(rows)
        covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean())
        weight = torch.linalg.solve(covariance, centred.T @ (blocks - blocks.mean(dim=0)) / len(rows))
        size = (LATENT_CHANNELS, 1, *(LATENT_DOWNSAMPLING,) * 3)
        inner = (..., *(slice(_RIM, _RIM + LATENT_DOWNSAMPLING),) * 3)
        self.linear.weight[inner] = weight.view(size).to(self.linear.weight)
        # one bias for all voxels of a block: that of their mean
        assert self.linear.bias is not None, "it has one"
        self.linear.bias.fill_(float((blocks.mean(dim=0) - rows.mean(dim=0) @ weight).mean()))

    def decode(self, latents: torch.Tensor, slab_elements: int | None = None) -> torch.Tensor:
        """What `Autoencoder.decode` gives, about: unscaled latents [B, 4, d, h, w] => [B, 1, 4d, 4h, 4w] float32."""
        x = run_blocks(self.decoder.blocks, latents, slab_elements)  # type: ignore[arg-type]
        with torch.autocast(x.device.type, enabled=False):
            return x + self.linear(latents.float())


def _last_convolution(decoder: MaisiDecoder) -> nn.Module:
    return decoder.blocks[-1]
