"""A small decoder that stands for the autoencoder's where SSV looks at intermediate images."""

from __future__ import annotations

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiDecoder
from torch import nn

from fcas_nnunet.config import LATENT_CHANNELS, PreviewConfig
from fcas_nnunet.generator.autoencoder import swap_group_norms
from fcas_nnunet.generator.slabs import run_in_slabs


class PreviewDecoder(nn.Module):
    """MAISI's decoder at a fraction of its width.

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

    def decode(self, latents: torch.Tensor, slab_elements: int | None = None) -> torch.Tensor:
        """What `Autoencoder.decode` gives, about: unscaled latents [B, 4, d, h, w] => [B, 1, 4d, 4h, 4w] float32."""
        if slab_elements is not None:
            return run_in_slabs(self.decoder.blocks, latents, slab_elements)
        *blocks, last_norm, last_convolution = self.decoder.blocks
        x = latents
        for block in blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):
            return last_convolution(last_norm(x.float()))
