"""Train TCDM on cached latents with the bidirectional loss (paper §3.1.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from fcas_nnunet.config.generator import FCaSConfig, TCDMConfig
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.data.tensors import EMA_FILE, MODEL_FILE, save_weights
from fcas_nnunet.generator.data.training_data import TrainingData, unseen_shape
from fcas_nnunet.generator.optimisation.batches import Batch
from fcas_nnunet.generator.optimisation.loop import Objective, Training
from fcas_nnunet.generator.optimisation.progress import Panel, channel_panels
from fcas_nnunet.generator.tcdm import maisi
from fcas_nnunet.generator.tcdm.conditions import build_condition, guess_of, usual_intensities
from fcas_nnunet.generator.tcdm.maisi import MaisiWeights
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.pairs import PairEnd, PairSampler, RegisteredEnd
from fcas_nnunet.generator.tcdm.sampling import synthesise
from fcas_nnunet.generator.tcdm.schedulers import Process, draw_noise, draw_timesteps, forward_process, training_target
from fcas_nnunet.generator.tcdm.templates import partners_of
from fcas_nnunet.seeds import derive_seed

VALIDATION_PAIRS = 8
#: Pairs that the prior is fitted to; not those of training, which thus are the same with and without a prior.
PRIOR_PAIRS = 32
#: torch 2.13's bf16 Conv3d (kernel 3) gives NaN weight gradients on CPUs for inputs of 2³; from 3³ on they are right.
MIN_BF16_SIZE_ON_CPU = 3


@dataclass(frozen=True)
class Draws(Batch):
    """Random numbers of the loss: for A@B of every pair, then for B@A of every pair (K = 2; 1 as the ablation).

    Attributes:
        posterior_noise: Standard normal noise to sample the latents from their posterior, float32 [K·B, 4·C, d, h, w].
        noise: Noise of the diffusion, float32 [K·B, 4·C, d, h, w].
        timesteps: Timesteps [K·B]; int64 for a diffusion, float32 for a flow.
    """

    posterior_noise: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor

    @classmethod
    def of(cls, config: TCDMConfig, process: Process, latent_size: Sequence[int], seeds: Sequence[int]) -> Draws:
        """Draw from one seed per pair, so that a pair's numbers do not depend on the others of its batch."""
        directions = 1 if config.pairs.one_direction else 2
        shape = (directions, config.latent_channels, *latent_size)
        items = []
        for generator in (torch.Generator().manual_seed(seed) for seed in seeds):
            posterior_noise = torch.randn(shape, generator=generator)
            noise = draw_noise(shape, generator, config.multi_resolution_noise)
            items.append((posterior_noise, noise, draw_timesteps(process, directions, latent_size, generator)))
        return cls(*(torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*items, strict=True)))


@dataclass(frozen=True)
class PairBatch(Batch):
    """Training pairs, and the random numbers of their loss."""

    a: PairEnd
    b: PairEnd
    draws: Draws


class PairItems:
    """The pairs of a sampler with their draws, each from a separate seed."""

    def __init__(self, sampler: PairSampler, config: TCDMConfig) -> None:
        self.sampler = sampler
        self.config = config
        self.process = forward_process(config)

    def __len__(self) -> int:
        return len(self.sampler)

    def batch(self, numbers: Sequence[int]) -> PairBatch:
        """The items of these numbers, on the CPU."""
        a, b = self.sampler.batch(numbers)
        seeds = [derive_seed(self.sampler.seed, self.sampler.name, "noise", number) for number in numbers]
        return PairBatch(a, b, Draws.of(self.config, self.process, a.mean.shape[2:], seeds))


class TCDMObjective(Objective[PairBatch]):
    """The bidirectional loss (Eq. 3, 4)."""

    def __init__(
        self,
        config: TCDMConfig,
        scale: LatentScale,
        num_labels: int,
        spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
        usual: torch.Tensor | None = None,
    ) -> None:
        super().__init__()
        self.tcdm = TCDM(config, spacing_mm)
        self.guess_labels = num_labels if config.prior else 0
        self.usual: torch.Tensor | None
        self.register_buffer("usual", usual, persistent=False)  # from the data, not learnt
        self.scale = scale
        self.scheduler = forward_process(config)
        self.num_directions = 1 if config.pairs.one_direction else 2

    def forward(self, batch: PairBatch) -> torch.Tensor:
        """L_A@B + L_B@A, mean over a batch of pairs; L_B@A alone as the ablation."""
        condition, mean, std = self._directions(batch.a, batch.b)
        draws = batch.draws
        latents = self.scale.to_scaled(mean + std * draws.posterior_noise)  # raw latents => scaled latents
        noisy = self.scheduler.add_noise(latents, draws.noise, draws.timesteps)
        with torch.autocast(noisy.device.type, enabled=self._autocasts(noisy)):
            embedded = self.tcdm.embed_condition(condition)
            prediction = self.tcdm(noisy, draws.timesteps, embedded).float()
        error = (prediction - training_target(self.scheduler, latents, draws.noise, draws.timesteps)) ** 2
        weights = self.tcdm.loss_weights(noisy, draws.timesteps, embedded)
        if weights is not None:
            error = error * self._per_pair(weights)
        return self.num_directions * error.mean()  # equal halves: the sum of the directions' means

    def fit_prior(self, pairs: Iterable[PairBatch]) -> None:
        """Fit the prior, where the model has one, before training."""
        if self.tcdm.prior is not None:
            drawn = (self._directions(batch.a, batch.b) for batch in pairs)
            self.tcdm.prior.fit((condition, self.scale.to_scaled(mean)) for condition, mean, _ in drawn)

    def condition(self, target: PairEnd, template: PairEnd) -> torch.Tensor:
        """Build the raw condition to draw one end of pairs with the other as the template, [B, 16 + …, D, H, W].

        Registered templates are those of the drawn end.
        """
        if not isinstance(target, RegisteredEnd):
            return build_condition(target.reference, template.template, template.image, self.guess_labels, self.usual)
        registered = target.guess, target.origin
        return build_condition(target.reference, target.template, target.image, self.guess_labels, None, registered)

    def networks(self) -> list[nn.Module]:
        """The modules that do nearly all of the work, without a graph break."""
        return [self.tcdm.denoiser] + ([] if self.tcdm.controlnet is None else [self.tcdm.controlnet])

    def _directions(self, a: PairEnd, b: PairEnd) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Condition, and mean and standard deviation of the raw latents, of A@B and B@A one after the other."""
        directions = [(a, b), (b, a)][: self.num_directions]
        condition = torch.cat([self.condition(target, template) for target, template in directions])
        # float before `cat`: bf16 autocast cannot join float16
        mean = torch.cat([target.mean.float() for target, _ in directions])
        return condition, mean, torch.cat([target.log_std.float() for target, _ in directions]).exp()

    def _per_pair(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights of mean 1 over both directions of each pair, so that its loss does not depend on the others."""
        by_pair = weights.unflatten(0, (self.num_directions, -1))
        return (by_pair / by_pair.mean(dim=(0, 2, 3, 4, 5), keepdim=True)).flatten(0, 1)

    def _autocasts(self, latents: torch.Tensor) -> bool:
        """Return whether autocast applies: not where the CPU's bf16 gradients are wrong."""
        deepest = min(latents.shape[2:]) // 2 ** (len(self.tcdm.config.channels) - 1)
        on_cpu = latents.device.type == "cpu"
        return torch.is_autocast_enabled(latents.device.type) and not (on_cpu and deepest < MIN_BF16_SIZE_ON_CPU)


def train_tcdm(
    data: TrainingData,
    config: FCaSConfig,
    cache: Path,
    folder: Path,
    accelerator: Accelerator,
    scale: LatentScale,
    spacing_mm: Sequence[float],
    autoencoder: Autoencoder,
    label_means: Mapping[int, Sequence[float]],
    weights: MaisiWeights | None = None,
) -> None:
    """Train TCDM on the cached variants and latents; save the last weights and the best averaged ones.

    Args:
        data: The labelled cases.
        config: Settings of the generator.
        cache: Folder of the variants and their latents.
        folder: Folder for weights and progress.
        accelerator: Device, precision, processes.
        scale: Scale between raw and scaled latents.
        spacing_mm: Working spacing along (D, H, W).
        autoencoder: Frozen autoencoder, which decodes the sample pictures.
        label_means: Label id → mean of each channel over the cases, for structures that a template lacks.
        weights: MAISI's weights to start from; None = random ones.
    """
    training, validation = (PairItems(sampler, config.tcdm) for sampler in _pair_samplers(data, config, cache))
    torch.manual_seed(derive_seed(config.seed, "tcdm weights"))
    usual = usual_intensities(label_means, config.grid.intensity_range, config.tcdm.image_channels)
    objective = TCDMObjective(config.tcdm, scale, max(data.labels.values()), spacing_mm, usual)
    if weights is not None:
        maisi.load_into(objective.tcdm, weights)
    objective.fit_prior(training.batch([-1 - i]) for i in range(PRIOR_PAIRS))
    run = Training(objective, config.tcdm.optimisation, folder, accelerator, "tcdm")
    shown = validation.batch([0])
    run.run(
        training, validation, VALIDATION_PAIRS,
        lambda module: _drawn_pair(module, shown.to(accelerator.device), autoencoder, config),
    )  # fmt: skip
    last = run.finish()
    assert isinstance(last, TCDMObjective), "the objective that was passed in"
    if accelerator.is_main_process:
        save_weights(last.tcdm, folder / MODEL_FILE)
        run.load_best(last)
        save_weights(last.tcdm, folder / EMA_FILE)


def _pair_samplers(data: TrainingData, config: FCaSConfig, cache: Path) -> tuple[PairSampler, PairSampler]:
    """Samplers of training and validation pairs: of other cases, or with an unseen shape if there are few cases."""
    pairs = config.tcdm.pairs
    training, validation = data.split()
    unseen = None if validation else unseen_shape(pairs)
    seen = [shape for shape in range(pairs.num_shapes) if shape != unseen]
    partners = len(partners_of(training[0], training, pairs.num_partners)) if config.tcdm.registers else 0
    shared = (cache, pairs, seen, config.grid.crop_size, config.seed)
    return (
        PairSampler(training, *shared, "training", num_partners=partners),
        PairSampler(validation or training, *shared, "validation", new_shape=unseen, num_partners=partners),
    )


def _drawn_pair(module: nn.Module, batch: PairBatch, autoencoder: Autoencoder, config: FCaSConfig) -> list[Panel]:
    assert isinstance(module, TCDMObjective), "the objective in training"
    noise = torch.Generator().manual_seed(derive_seed(config.seed, "sample"))
    condition = module.condition(batch.a, batch.b)
    drawn = synthesise(
        module.tcdm, autoencoder, module.scale, module.tcdm.embed_condition(condition),
        batch.a.reference[0, 0].cpu().numpy() > 0, config.sampling, None, noise, guess_of(condition, config.tcdm),
    ).image  # fmt: skip
    template, real = batch.b.image[0], batch.a.image[0]
    if config.tcdm.registers:
        template, real = real, autoencoder.decode(batch.a.mean.float(), SLAB_ELEMENTS)[0].clamp(0, 1)
    return [
        *channel_panels("template", template),
        Panel("reference mask", batch.a.reference[0, 0].cpu().numpy(), limits=None),
        *channel_panels("drawn", drawn),
        *channel_panels("real", real),
    ]
