"""TCDM: denoiser, condition, and the bidirectional loss (paper §3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.networks.blocks.selfattention import SABlock
from monai.networks.nets.controlnet import ControlNetConditioningEmbedding
from torch import nn
from torch.utils.checkpoint import checkpoint

from fcas_nnunet.config.generator import LATENT_DOWNSAMPLING, TCDMConfig
from fcas_nnunet.config.options import Architecture, Conditioning
from fcas_nnunet.generator.autoencoder.network import fold_blocks
from fcas_nnunet.generator.tcdm.prior import LatentPrior

#: Factor on spacings (mm) and regions before MAISI's embeddings.
SPACING_SCALE = REGION_SCALE = 100.0
#: One-hot code of the region among head and neck, thorax, abdomen, pelvis.
THORAX = (0.0, 1.0, 0.0, 0.0)
CT_CLASS, NUM_CLASSES = 1, 128

_MAISI_DDPM_INPUTS: dict[str, Any] = {
    "include_spacing_input": True,
    "include_top_region_index_input": True,
    "include_bottom_region_index_input": True,
}
#: Options of the denoiser alone, and of denoiser and ControlNet.
_ARCHITECTURES: dict[Architecture, tuple[dict[str, Any], dict[str, Any]]] = {
    Architecture.PLAIN: ({}, {}),
    Architecture.MAISI_DDPM: (_MAISI_DDPM_INPUTS, {"include_fc": False, "resblock_updown": False}),
    Architecture.MAISI_RFLOW: (
        {"include_spacing_input": True},
        {"include_fc": True, "resblock_updown": True, "num_class_embeds": NUM_CLASSES},
    ),
}


class SpaceToDepthEmbedding(nn.Module):
    """Condition embedding at latent resolution: every 4³ block of voxels becomes channels, mixed by 1×1 convolutions.

    It costs a fraction of MAISI's full-resolution convolutions, which take 60 % of a small network's forward pass.
    Neighbouring blocks are mixed in the denoiser: 3³ convolutions here, too, took 45 % of a training step on a CPU.
    With `zero_init` the output starts at zero, as in a ControlNet.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, zero_init: bool) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(in_channels * LATENT_DOWNSAMPLING**3, hidden_channels, kernel_size=1)
        self.conv_out = nn.Conv3d(hidden_channels, out_channels, kernel_size=1)
        if zero_init:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """[B, C, D, H, W] => [B, out_channels, D/4, H/4, W/4]."""
        return self.conv_out(F.silu(self.conv_in(fold_blocks(condition, LATENT_DOWNSAMPLING))))


class Denoiser(DiffusionModelUNetMaisi):
    """MONAI's MAISI UNet, with the ControlNet's residuals added out of place.

    Upstream adds them in place, which joint training cannot differentiate. There, the last down residual is the same
    tensor as `h`, so `h` is the sum here, too.
    """

    def _apply_down_blocks(
        self,
        h: torch.Tensor,
        emb: torch.Tensor,
        context: torch.Tensor | None,
        down_block_additional_residuals: tuple[torch.Tensor, ...] | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        h, residuals = super()._apply_down_blocks(h, emb, context, None)
        if down_block_additional_residuals is None:
            return h, residuals
        sums = [r + extra for r, extra in zip(residuals, down_block_additional_residuals, strict=True)]
        return sums[-1], sums


class EmbeddedControlNet(ControlNetMaisi):
    """MONAI's MAISI ControlNet, which takes the condition's embedding, so that sampling computes it once per case."""

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        embedded_condition: torch.Tensor,
        class_labels: torch.Tensor | None,
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Residuals for the denoiser's down blocks and its middle block."""
        emb = self._prepare_time_and_class_embedding(x, timesteps, class_labels)
        h = self._apply_initial_convolution(x) + embedded_condition
        down, h = self._apply_down_blocks(emb, None, h)
        h = self._apply_mid_block(emb, None, h)
        down, mid = self._apply_controlnet_blocks(h, down)
        return tuple(down), mid


class Recomputed(nn.Module):
    """Mix-in for a module's class: saves only inputs for the backward pass. The module must not be random."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        run = super().forward
        if not torch.is_grad_enabled():
            return run(*args, **kwargs)
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


class TCDM(nn.Module):
    """Template-guided conditional diffusion model on latents.

    With the architecture of MAISI's weights, the denoiser's inputs include the voxel spacing, and the region thorax
    (`maisi_ddpm`) or the class CT (`maisi_rflow`). The spacing is a buffer, so it is saved with the weights.

    Args:
        config: Sizes, and the path of the condition: `controlnet` (the paper) or `concat` to the denoiser's input.
        spacing_mm: Working spacing along (D, H, W); without effect on a `plain` denoiser.

    Source: paper §3.1.1, Eq. 1–3.
    """

    spacing_mm: torch.Tensor | None

    def __init__(self, config: TCDMConfig, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.config = config
        plain = config.architecture == Architecture.PLAIN
        self.register_buffer("spacing_mm", None if plain else torch.tensor([float(s) for s in spacing_mm]))
        latents = config.latent_channels
        denoiser_options, blocks = _ARCHITECTURES[config.architecture]
        levels: dict[str, Any] = {
            "spatial_dims": 3,
            "num_res_blocks": config.num_res_blocks,
            "num_channels": config.channels,
            "attention_levels": config.attention_levels,
            "num_head_channels": config.num_head_channels,
            "norm_num_groups": config.norm_num_groups,
            **blocks,
        }
        self.controlnet: EmbeddedControlNet | None = None
        self.condition_embedding: SpaceToDepthEmbedding | None = None
        self.prior = LatentPrior(config) if config.prior else None
        if config.conditioning == Conditioning.CONTROLNET:
            self.denoiser = Denoiser(in_channels=latents, out_channels=latents, **levels, **denoiser_options)
            self.controlnet = EmbeddedControlNet(
                in_channels=latents,
                conditioning_embedding_in_channels=config.condition_channels,
                use_checkpointing=False,
                **levels,
            )
            self.controlnet.controlnet_cond_embedding = _controlnet_embedding(config)  # type: ignore[assignment]
        else:
            width = config.condition_embedding_channels[0]
            self.condition_embedding = SpaceToDepthEmbedding(
                config.condition_channels, 2 * width, width, zero_init=False
            )
            self.denoiser = Denoiser(in_channels=latents + width, out_channels=latents, **levels)
        if not plain:  # no N × N matrix of attention (8,192² at a clinical crop); MONAI refuses the flag on a CPU
            for child in self.modules():
                if isinstance(child, SABlock):
                    child.use_flash_attention = True
        if config.gradient_checkpointing:
            self._recompute_blocks()
        if config.frozen_denoiser:
            self.denoiser.requires_grad_(False).eval()

    def _recompute_blocks(self) -> None:
        """Checkpoint the modules with most activations: the levels' blocks, and the condition embedding."""
        modules = [self._embedding]
        for network in (self.denoiser, self.controlnet):
            if network is not None:
                modules += [*network.down_blocks, network.middle_block, *getattr(network, "up_blocks", ())]
        for module in modules:  # in place: parameters keep their names, and copies are checkpointed, too
            base = type(module)
            module.__class__ = type(base.__name__, (Recomputed, base), {})

    @property
    def _embedding(self) -> nn.Module:
        embedding = self.condition_embedding if self.controlnet is None else self.controlnet.controlnet_cond_embedding
        assert isinstance(embedding, nn.Module), "concat has a separate embedding"
        return embedding

    def train(self, mode: bool = True) -> TCDM:
        """As in torch, but a frozen denoiser stays in eval mode."""
        super().train(mode)
        if self.config.frozen_denoiser:
            self.denoiser.eval()
        return self

    def embed_condition(self, condition: torch.Tensor) -> torch.Tensor:
        """Embed the condition: the first part of c = E_ctrl(c_raw) (Eq. 1), and the prior where there is one.

        [B, 16 + C or 16 + 2 · C, D, H, W] => [B, E, D/4, H/4, W/4], the same for all timesteps; float32 with a prior,
        which bf16 would blur.
        """
        embedded: torch.Tensor = self._embedding(condition)
        if self.prior is None:
            return embedded
        return torch.cat([self.prior(condition), embedded.float()], dim=1)

    def forward(
        self, noisy_latents: torch.Tensor, timesteps: torch.Tensor, embedded_condition: torch.Tensor
    ) -> torch.Tensor:
        """Predict noise, v, clean latents or flow from scaled noisy latents.

        Args:
            noisy_latents: Scaled noisy latents, [B, 4 · C, d, h, w].
            timesteps: Timesteps [B], 0 … num_train_timesteps − 1; for a flow up to num_train_timesteps, also fractions.
            embedded_condition: Result of `embed_condition`, [B, E, d, h, w].

        Returns:
            [B, 4 · C, d, h, w].
        """
        if self.prior is None:
            return self._denoise(noisy_latents, timesteps, embedded_condition)
        known = self.prior.channels
        mean, scale = self.prior.around(noisy_latents.float(), timesteps, embedded_condition[:, :known])
        return mean + scale * self._denoise(noisy_latents, timesteps, embedded_condition[:, known:]).float()

    def loss_weights(
        self, noisy_latents: torch.Tensor, timesteps: torch.Tensor, embedded_condition: torch.Tensor
    ) -> torch.Tensor | None:
        """Weights of the squared error, [B, 4 · C, d, h, w]: the inverse of the prior's scale. None without one.

        Their mean is 1.
        """
        if self.prior is None:
            return None
        known = embedded_condition[:, : self.prior.channels]
        _, scale = self.prior.around(noisy_latents.float(), timesteps, known)
        return (1 / scale) / (1 / scale).mean()

    def _denoise(self, noisy_latents: torch.Tensor, timesteps: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        if self.controlnet is None:
            return self.denoiser(torch.cat([noisy_latents, embedding], dim=1), timesteps)
        extra = self.extra_inputs(noisy_latents)
        down, mid = self.controlnet(noisy_latents, timesteps, embedding, extra.get("class_labels"))
        return self.denoiser(
            noisy_latents, timesteps, down_block_additional_residuals=down, mid_block_additional_residual=mid, **extra
        )

    def extra_inputs(self, noisy_latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Extra inputs of a MAISI denoiser: spacing, and region or class."""
        if self.spacing_mm is None:
            return {}
        batch = len(noisy_latents)
        spacing_xyz = self.spacing_mm.flip(0).to(noisy_latents)
        spacing = {"spacing_tensor": SPACING_SCALE * spacing_xyz.expand(batch, -1)}
        if self.config.architecture == Architecture.MAISI_RFLOW:
            return spacing | {"class_labels": torch.full((batch,), CT_CLASS, device=noisy_latents.device)}
        region = REGION_SCALE * torch.tensor(THORAX).to(noisy_latents).expand(batch, -1)
        return spacing | {"top_region_index_tensor": region, "bottom_region_index_tensor": region}


def _controlnet_embedding(config: TCDMConfig) -> nn.Module:
    widths = config.condition_embedding_channels
    if len(widths) == 1:
        return SpaceToDepthEmbedding(config.condition_channels, 2 * widths[0], config.channels[0], zero_init=True)
    return ControlNetConditioningEmbedding(
        spatial_dims=3, in_channels=config.condition_channels, out_channels=config.channels[0], channels=widths
    )
