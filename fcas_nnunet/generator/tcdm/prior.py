"""Fit a Gaussian prior on the clean latents, given the condition alone; the denoiser learns the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from fcas_nnunet.case import NUM_BITS
from fcas_nnunet.config.generator import LATENT_DOWNSAMPLING, TCDMConfig
from fcas_nnunet.generator.autoencoder.network import fold_blocks
from fcas_nnunet.generator.tcdm.conditions import origin_of
from fcas_nnunet.generator.tcdm.schedulers import diffusion

_BLOCK = LATENT_DOWNSAMPLING**3
_RIDGE = 1e-4
_MIN_VARIANCE = 1e-4
_ROWS_PER_NUMBER = 4  # at least, of the numbers that a latent is fitted from
#: Blocks of a sample that the fit uses; a clinical crop has half a million, of 64 numbers each.
_MAX_ROWS = 2**14
#: Median of the χ² distribution of one degree of freedom: a Gaussian's median squared residual over its variance.
_MEDIAN_OF_CHI_SQUARE = 0.4549
NUM_REGIONS = 3
_NEAR_BLOCKS = 1
INSIDE = 2


class LatentPrior(nn.Module):
    """Mean (linear in each 4³ block) and spread of the clean latents, given the first guess at the image.

    The denoiser's output is added to it, so that an untrained denoiser already draws the guess in all its contrasts,
    and a short training is spent on texture and boundaries. Inside a structure, the guess lacks texture, close to
    Gaussian noise: there, the output is added to the posterior mean given the noisy latents, and scaled by its standard
    deviation. Elsewhere it lacks anatomy, which the denoiser has to find: there, the output is added to the prior mean
    itself, since a Gaussian posterior would draw noise.

    The guess is good inside a structure, less so where two meet, and poor in the surroundings, so blocks outside,
    across the boundary and inside of structures have a map and a variance each. Of a registered template, so have those
    that are in place and those that are not.

    Source: preconditioning as in EDM (arXiv 2206.00364), around a mean from the condition as in PriorGrad
    (arXiv 2106.06406).
    """

    weight: torch.Tensor
    bias: torch.Tensor
    variance: torch.Tensor
    alphas_cumprod: torch.Tensor

    def __init__(self, config: TCDMConfig) -> None:
        super().__init__()
        self.latent_channels, self.image_channels = config.latent_channels, config.image_channels
        self.config, self.registers = config, config.registers
        self.num_regions = NUM_REGIONS * (1 + self.registers)
        shape = self.num_regions, self.latent_channels
        self.register_buffer("weight", torch.zeros(*shape, self.image_channels * _BLOCK))
        self.register_buffer("bias", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("alphas_cumprod", diffusion(config).alphas_cumprod.clone(), persistent=False)

    @property
    def channels(self) -> int:
        """Channels of the result: mean and standard deviation of the latents, and the structures."""
        return 2 * self.latent_channels + 1

    @torch.no_grad()
    def fit(self, samples: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Fit each region by least squares on samples of condition and scaled latents.

        The condition is [B, 16 + 2 · C, D, H, W], the latents are [B, 4 · C, d, h, w].
        The variance comes from the median of the squared residuals: gross errors, where anatomies differ, are left to
        the denoiser and must not be drawn as noise.
        """
        rows = [
            _some_rows(self._regions(condition), self._guess_blocks(condition), latents)
            for condition, latents in samples
        ]
        region_of, blocks, latents = (torch.cat(parts) for parts in zip(*rows, strict=True))
        region_of, fitted = region_of[:, 0], list[int]()
        for region in range(self.num_regions):
            where = region_of == region
            if where.sum() > _ROWS_PER_NUMBER * blocks.shape[1]:
                weight, bias, variance = _least_squares(blocks[where], latents[where])
                self.weight[region], self.bias[region], self.variance[region] = weight, bias, variance
                fitted.append(region)
        if self.registers:  # a region that training hardly shows is as sure as its like elsewhere, or as any
            for region in {*range(self.num_regions)}.difference(fitted):
                like = [(region + NUM_REGIONS) % self.num_regions, *reversed(fitted)]
                for values in (self.weight, self.bias, self.variance) if fitted else ():
                    values[region] = values[next(other for other in like if other in fitted)]

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """Mean, standard deviation, and 1 inside of structures: [B, 16 + 2 · C, D, H, W] => [B, 8 · C + 1, d, h, w].

        Computed in fp32 also under autocast: a bf16 mean would be up to 5 units of 2000 off.
        """
        with torch.autocast(condition.device.type, enabled=False):
            means = torch.einsum("rok,bkdhw->rbodhw", self.weight, self._guess_blocks(condition))
        means = means + self.bias.view(self.num_regions, 1, -1, 1, 1, 1)
        stds = self.variance.sqrt().view(self.num_regions, 1, -1, 1, 1, 1).expand_as(means)
        region = self._regions(condition)
        mean, std = (values.gather(0, region.expand_as(means[0])[None])[0] for values in (means, stds))
        return torch.cat([mean, std, (region % NUM_REGIONS == INSIDE).to(mean.dtype)], dim=1)

    def around(
        self, noisy_latents: torch.Tensor, timesteps: torch.Tensor, prior: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Summand and factor of the denoiser's output, [B, 4 · C, d, h, w] each; `prior` is what `forward` returns."""
        mean, std, inside = prior.split([self.latent_channels, self.latent_channels, 1], dim=1)
        alpha_bar = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1, 1)
        alpha, noise_variance, variance = alpha_bar.sqrt(), 1 - alpha_bar, std**2
        total = alpha_bar * variance + noise_variance
        gain = inside * alpha * variance / total
        scale = torch.where(inside > 0, (variance * noise_variance / total).sqrt(), std)
        return mean + gain * (noisy_latents - alpha * mean), scale

    def _regions(self, condition: torch.Tensor) -> torch.Tensor:
        """As `regions`; of a registered template, the three where it is in place, then those where it is not."""
        if not self.registers:
            return regions(condition)
        return regions(condition) + NUM_REGIONS * displaced(origin_of(condition, self.config)).long()

    def _guess_blocks(self, condition: torch.Tensor) -> torch.Tensor:
        """[B, 16 + 2 · C, D, H, W] => [B, 64 · C, D/4, H/4, W/4]."""
        return fold_blocks(condition[:, -self.image_channels :], LATENT_DOWNSAMPLING)


def regions(condition: torch.Tensor) -> torch.Tensor:
    """Position of each latent's block: outside (0), across the boundary of (1) or inside (2) the reference structures.

    [B, C, D, H, W] => int64 [B, 1, D/4, H/4, W/4].
    """
    labelled = condition[:, :NUM_BITS].amax(dim=1, keepdim=True)
    some, all_ = (F.max_pool3d(part, LATENT_DOWNSAMPLING) for part in (labelled, -labelled))
    return some.long() + (all_ < 0).long()


def displaced(origin: torch.Tensor) -> torch.Tensor:
    """The blocks near to where a registered template was mirrored, or where the reference's own scan takes over.

    The condition's channel [B, 1, D, H, W] => bool [B, 1, D/4, H/4, W/4].
    """
    own, mirrored = origin == 1, (origin > 0) & (origin < 1)

    def near(where: torch.Tensor) -> torch.Tensor:
        blocks = F.max_pool3d(where.to(origin.dtype), LATENT_DOWNSAMPLING)
        return F.max_pool3d(blocks, 2 * _NEAR_BLOCKS + 1, stride=1, padding=_NEAR_BLOCKS) > 0

    return near(mirrored) | (near(own) & near(~own))


def _some_rows(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """[B, C, d, h, w] => [B · d · h · w, C] each; above `_MAX_ROWS`, the same random rows of all."""
    rows = [tensor.movedim(1, -1).flatten(0, -2) for tensor in tensors]
    if len(rows[0]) <= _MAX_ROWS:
        return rows
    drawn = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(0))[:_MAX_ROWS]
    return [part[drawn.to(part.device)] for part in rows]


def _least_squares(blocks: torch.Tensor, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight [L, M], bias [L] and robust variance of the residuals [L] of latents [N, L] given blocks [N, M]."""
    blocks, latents = blocks.double(), latents.double()
    blocks_mean, latents_mean = blocks.mean(dim=0), latents.mean(dim=0)
    centred = blocks - blocks_mean
    covariance = centred.T @ centred / len(blocks)
    covariance.diagonal().add_(_RIDGE)
    weight = torch.linalg.solve(covariance, centred.T @ (latents - latents_mean) / len(blocks))
    bias = latents_mean - blocks_mean @ weight
    squares = (latents - blocks @ weight - bias) ** 2
    return weight.T, bias, (squares.median(dim=0).values / _MEDIAN_OF_CHI_SQUARE).clamp_min(_MIN_VARIANCE)
