"""From labelled cases to a trained generator: variants, autoencoder, latents, TCDM."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from fcas_nnunet.anatomy import label_roles, thin_label_ids
from fcas_nnunet.case import Case
from fcas_nnunet.config import AutoencoderConfig, FCaSConfig, TCDMConfig
from fcas_nnunet.config_files import to_dict
from fcas_nnunet.files import atomic_write_text
from fcas_nnunet.generator import checkpoint, maisi
from fcas_nnunet.generator.autoencoder import Autoencoder, autoencoder_loss, reconstruction_weights
from fcas_nnunet.generator.conditions import build_condition
from fcas_nnunet.generator.grid import is_axial, working_spacing
from fcas_nnunet.generator.latents import LatentScale, cache_latents
from fcas_nnunet.generator.maisi import MaisiWeights, PretrainedFiles
from fcas_nnunet.generator.pairs import PairEnd, PairSampler, image_batch
from fcas_nnunet.generator.schedulers import draw_noise, draw_timesteps, forward_process, training_target
from fcas_nnunet.generator.tcdm import TCDM
from fcas_nnunet.generator.training import Training
from fcas_nnunet.generator.variants import Variant, make_variants, variants_of
from fcas_nnunet.seeds import derive_seed

logger = logging.getLogger(__name__)

RUN_FILE = "run.yaml"
CACHE_FOLDER = "cache"
MAX_CODE = 255
VALIDATION_CROPS, VALIDATION_PAIRS = 16, 8
#: Batches that the prior is fitted to; of their own, so that training sees the same with and without it.
PRIOR_BATCHES = 32
#: torch 2.13's bf16 Conv3d (kernel 3) gives NaN weight gradients on CPUs for inputs of 2³; from 3³ on they are right.
MIN_BF16_SIZE_ON_CPU = 3


@dataclass(frozen=True)
class TrainingData:
    """The labelled cases a generator is trained on.

    Attributes:
        case_ids: sorted.
        load_case: reads one, with image and surroundings.
        labels: label name → id, background included.
        surroundings: surrounding name → id; empty where there are none.
    """

    case_ids: Sequence[str]
    load_case: Callable[[str], Case]
    labels: Mapping[str, int]
    surroundings: Mapping[str, int]

    def __post_init__(self) -> None:
        codes = max(self.labels.values()) + max(self.surroundings.values(), default=0)
        if codes > MAX_CODE:
            raise ValueError(f"labels + surroundings: must fit into 8 bits (255 ids), got {codes}. Merge some.")
        if len(self.case_ids) < 2:
            raise ValueError(
                f"training cases: must be at least 2, since a pair needs two, got {len(self.case_ids)}. Add cases."
            )

    def split(self) -> tuple[list[str], list[str]]:
        """(training, validation) cases: about one in eight held out, none of fewer than four."""
        held_out = 0 if len(self.case_ids) < 4 else max(1, len(self.case_ids) // 8)
        ids = list(self.case_ids)
        return ids[: len(ids) - held_out], ids[len(ids) - held_out :]


def train_generator(
    data: TrainingData,
    config: FCaSConfig,
    folder: Path,
    accelerator: Accelerator,
    pretrained: PretrainedFiles | None = None,
    keep_cache: bool = False,
) -> None:
    """Train (or go on training) a generator in `folder`.

    Args:
        data: the labelled cases.
        config: preset, or the user's own.
        folder: `nnUNet_results/DatasetNNN_Name/fcas__<preset>`.
        accelerator: device and precision.
        pretrained: weights to start from; with a denoiser among them, the ControlNet alone is trained, and the networks
            and the process are those of the files.
        keep_cache: keep the variants and latents on disk when done.

    Raises:
        ValueError: when the folder holds a run with other settings or other data, the data is too small, or weights do
            not fit.
    """
    pretrained = pretrained or PretrainedFiles()
    weights = maisi.read_weights(pretrained)
    asked = config
    if weights is not None:
        config = replace(config, tcdm=maisi.config_of(weights, config.tcdm))
        maisi.check_fit(weights, config.tcdm)
    elif config.tcdm.frozen_denoiser:
        raise ValueError(
            "frozen_denoiser: must be off where no denoiser is loaded, got true. Name one with --denoiser."
        )
    config.sampling.for_model(config.tcdm.prediction_type)  # a solver that cannot run it is better named now
    grids, hashes = _survey(data, axial_alone=weights is not None)
    spacing = working_spacing(grids, config.grid)
    _claim(folder, data, asked, hashes, pretrained)
    autoencoder = _ready_autoencoder(config, folder, pretrained)
    cache = folder / CACHE_FOLDER
    for case_id in tqdm(data.case_ids, desc="variants", unit="case"):
        make_variants(
            data.load_case(case_id), cache, spacing, data.labels, label_roles(data.labels),
            config.grid, config.tcdm, config.masks, config.seed,
        )  # fmt: skip
    autoencoder = autoencoder or _trained_autoencoder(data, config, folder, accelerator)
    autoencoder = autoencoder.requires_grad_(False).eval().to(accelerator.device)
    variants = [variant for case_id in data.case_ids for variant in variants_of(case_id, config.tcdm.pairs)]
    scale = cache_latents(autoencoder, variants, cache, accelerator.device, autocast_dtype(accelerator))
    if weights is not None:
        scale = maisi.checked_scale(weights, scale)
    train_tcdm(data, config, folder, accelerator, scale, spacing, weights)
    d, h, w = spacing
    checkpoint.save_generator(
        folder,
        checkpoint.GeneratorRecord(
            config=asked, autoencoder=autoencoder.config, tcdm=config.tcdm, labels=dict(data.labels),
            surroundings=dict(data.surroundings), working_spacing_mm=(d, h, w), latent_scale=scale,
            cases=hashes, validation_cases=tuple(data.split()[1]),
        ),
    )  # fmt: skip
    if not keep_cache:
        shutil.rmtree(cache)


class AutoencoderObjective(nn.Module):
    """The autoencoder's training loss as a module, so that it can be wrapped whole."""

    def __init__(self, autoencoder: Autoencoder, thin_ids: list[int]) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.thin_ids = thin_ids

    def forward(self, images: torch.Tensor, labels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Weighted L1 + KL of a batch of crops."""
        config = self.autoencoder.config
        reconstructions, mean, std = self.autoencoder(images, noise)
        weights = reconstruction_weights(labels, self.thin_ids, config.heart_weight, config.thin_weight)
        return autoencoder_loss(images, reconstructions, mean, std, weights, config.kl_weight)


def train_autoencoder(
    data: TrainingData,
    config: AutoencoderConfig,
    variants: tuple[list[Variant], list[Variant]],
    cache: Path,
    folder: Path,
    accelerator: Accelerator,
    seed: int,
) -> Autoencoder:
    """Train the autoencoder on crops of all variants; returns the best by validation."""
    torch.manual_seed(derive_seed(seed, "autoencoder weights"))
    objective = AutoencoderObjective(Autoencoder(config), thin_label_ids(data.labels))
    training, validation = variants
    crop = config.crop_size
    device, batch_size = accelerator.device, config.optimisation.batch_size

    def loss_on(module: nn.Module, pool: list[Variant], name: str, step: int) -> torch.Tensor:
        batch_seed = derive_seed(seed, "autoencoder", name, step)
        images, labels = image_batch(pool, cache, crop, batch_size, batch_seed)
        shape = (batch_size, 4, *(n // 4 for n in crop))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(batch_seed))
        return module(images.to(device), labels.to(device), noise.to(device))

    run = Training(objective, config.optimisation, folder, accelerator, "autoencoder")
    run.run(
        lambda module, step: loss_on(module, training, "training", step),
        lambda module: _mean(
            [loss_on(module, validation, "validation", i) for i in range(-(-VALIDATION_CROPS // batch_size))]
        ),
    )
    best = run.load_best(accelerator.unwrap_model(run.objective))
    assert isinstance(best, AutoencoderObjective), "what was put in"
    return best.autoencoder


class TCDMObjective(nn.Module):
    """The bidirectional loss (Eq. 3, 4) as a module, so that it can be wrapped whole."""

    def __init__(
        self, config: TCDMConfig, scale: LatentScale, num_labels: int, spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> None:
        super().__init__()
        self.tcdm = TCDM(config, spacing_mm)
        self.guess_labels = num_labels if config.prior else 0
        self.scale = scale
        self.scheduler = forward_process(config)
        self.one_direction = config.pairs.one_direction

    def forward(self, a: PairEnd, b: PairEnd, seed: int) -> torch.Tensor:
        """L_A@B + L_B@A for a batch of pairs; L_B@A alone as the ablation.

        Args:
            a: one end of the pairs.
            b: the other.
            seed: of latents' noise, diffusion noise and timesteps.
        """
        condition, mean, std = self._directions(a, b)
        generator = torch.Generator().manual_seed(seed)
        raw = mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)
        latents = self.scale.to_scaled(raw)  # raw latents => scaled latents
        noise = draw_noise(latents.shape, generator, self.tcdm.config.multi_resolution_noise).to(latents.device)
        timesteps = draw_timesteps(self.scheduler, len(latents), latents.shape[2:], generator).to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(noisy.device.type, enabled=self._autocasts(noisy)):
            embedded = self.tcdm.embed_condition(condition)
            prediction = self.tcdm(noisy, timesteps, embedded).float()
        error = (prediction - training_target(self.scheduler, latents, noise, timesteps)) ** 2
        weights = self.tcdm.loss_weights(noisy, timesteps, embedded)
        mean_error = error.mean() if weights is None else (weights * error).mean()
        return (1 if self.one_direction else 2) * mean_error  # equal halves: the sum of the directions' means

    def fit_prior(self, pairs: Iterable[tuple[PairEnd, PairEnd]]) -> None:
        """Fit the prior, where the model has one, before training."""
        if self.tcdm.prior is not None:
            drawn = (self._directions(a, b) for a, b in pairs)
            self.tcdm.prior.fit((condition, self.scale.to_scaled(mean)) for condition, mean, _ in drawn)

    def _directions(self, a: PairEnd, b: PairEnd) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Condition, and mean and standard deviation of the raw latents, of A@B and B@A one after the other."""
        directions = [(a, b)] if self.one_direction else [(a, b), (b, a)]
        condition = torch.cat(
            [
                build_condition(target.reference, template.template, template.image, self.guess_labels)
                for target, template in directions
            ]
        )
        mean = torch.cat([target.mean for target, _ in directions])
        return condition, mean, torch.cat([target.log_std for target, _ in directions]).exp()

    def _autocasts(self, latents: torch.Tensor) -> bool:
        """Whether the surrounding autocast may go on: not where the CPU's bf16 gradients are wrong."""
        deepest = min(latents.shape[2:]) // 2 ** (len(self.tcdm.config.channels) - 1)
        on_cpu = latents.device.type == "cpu"
        return torch.is_autocast_enabled(latents.device.type) and not (on_cpu and deepest < MIN_BF16_SIZE_ON_CPU)


def train_tcdm(
    data: TrainingData,
    config: FCaSConfig,
    folder: Path,
    accelerator: Accelerator,
    scale: LatentScale,
    spacing_mm: Sequence[float],
    weights: MaisiWeights | None = None,
) -> None:
    """Train TCDM on the cached latents, from MAISI's weights or from scratch; writes the last weights and the best
    averaged ones."""
    torch.manual_seed(derive_seed(config.seed, "tcdm weights"))
    training, validation = _pair_samplers(data, config, folder / CACHE_FOLDER)
    device, optimisation = accelerator.device, config.tcdm.optimisation

    def loss_on(module: nn.Module, sampler: PairSampler, step: int) -> torch.Tensor:
        a, b = sampler.batch(step, optimisation.batch_size)
        return module(a.to(device), b.to(device), derive_seed(config.seed, sampler.name, "noise", step))

    objective = TCDMObjective(config.tcdm, scale, max(data.labels.values()), spacing_mm)
    if weights is not None:
        maisi.load_into(objective.tcdm, weights)
    objective.fit_prior(training.batch(-1 - i, optimisation.batch_size) for i in range(PRIOR_BATCHES))
    run = Training(objective, optimisation, folder / checkpoint.TCDM_FOLDER, accelerator, "tcdm")
    run.run(
        lambda module, step: loss_on(module, training, step),
        lambda module: _mean(
            [loss_on(module, validation, i) for i in range(-(-VALIDATION_PAIRS // optimisation.batch_size))]
        ),
    )
    last = accelerator.unwrap_model(run.objective)
    assert isinstance(last, TCDMObjective), "what was put in"
    checkpoint.save_weights(last.tcdm, folder / checkpoint.TCDM_FOLDER / checkpoint.MODEL_FILE)
    run.load_best(last)
    checkpoint.save_weights(last.tcdm, folder / checkpoint.TCDM_FOLDER / checkpoint.EMA_FILE)


def autocast_dtype(accelerator: Accelerator) -> torch.dtype:
    """The accelerator's precision as a dtype."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)


def _ready_autoencoder(config: FCaSConfig, folder: Path, pretrained: PretrainedFiles) -> Autoencoder | None:
    """The autoencoder of this run, where it need not be trained: finished before, or loaded from a file."""
    file, optimisation = pretrained.autoencoder, config.autoencoder.optimisation
    if file is not None and (pretrained.denoiser is not None or checkpoint.is_maisis(file)):
        logger.info(maisi.LICENCE_NOTE)
    kept = checkpoint.kept_autoencoder(folder, optimisation)
    if kept is None and file is not None:
        kept = checkpoint.keep_autoencoder(folder, checkpoint.load_autoencoder(file, optimisation))
    return kept


def _trained_autoencoder(data: TrainingData, config: FCaSConfig, folder: Path, accelerator: Accelerator) -> Autoencoder:
    trained = train_autoencoder(
        data, config.autoencoder, _variant_split(data, config), folder / CACHE_FOLDER,
        folder / checkpoint.AUTOENCODER, accelerator, config.seed,
    )  # fmt: skip
    return checkpoint.keep_autoencoder(folder, trained)


def _variant_split(data: TrainingData, config: FCaSConfig) -> tuple[list[Variant], list[Variant]]:
    """Variants to train the autoencoder on and to validate it on: other cases, or an unseen shape of few."""
    training, validation = data.split()
    pairs = config.tcdm.pairs
    if validation:
        return (
            [v for case_id in training for v in variants_of(case_id, pairs)],
            [v for case_id in validation for v in variants_of(case_id, pairs)],
        )
    variants = [v for case_id in training for v in variants_of(case_id, pairs)]
    unseen = _unseen_shape(config)
    return [v for v in variants if v.shape != unseen], [v for v in variants if v.shape == unseen]


def _pair_samplers(data: TrainingData, config: FCaSConfig, cache: Path) -> tuple[PairSampler, PairSampler]:
    pairs = config.tcdm.pairs
    train_ids, validation_ids = data.split()
    shapes = list(range(pairs.num_shapes))
    crop = config.grid.crop_size
    unseen = None if validation_ids else _unseen_shape(config)
    seen = [shape for shape in shapes if shape != unseen]
    training = PairSampler(train_ids, cache, pairs, seen, crop, config.seed, "training")
    validation = PairSampler(
        validation_ids or train_ids, cache, pairs, seen, crop, config.seed, "validation", new_shape=unseen
    )
    return training, validation


def _unseen_shape(config: FCaSConfig) -> int:
    """The shape kept for validation when there are too few cases to hold any out."""
    pairs = config.tcdm.pairs
    needed = 3 if pairs.self_pair_probability > 0 else 2
    if pairs.num_shapes < needed:
        raise ValueError(
            f"num_shapes: must be at least {needed} for fewer than four cases, since one shape is held out for "
            f"validation, got {pairs.num_shapes}. Raise it in the configuration."
        )
    return pairs.num_shapes - 1


def _survey(
    data: TrainingData, axial_alone: bool
) -> tuple[list[tuple[tuple[int, ...], tuple[float, ...]]], dict[str, str]]:
    """Every case's grid and hash."""
    grids: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    hashes, turned = {}, []
    for case_id in tqdm(data.case_ids, desc="reading", unit="case"):
        case = data.load_case(case_id)
        grids.append((case.shape, case.spacing_mm))
        hashes[case_id] = checkpoint.case_sha256(case)
        turned += [] if is_axial(case.affine) else [case_id]
    if axial_alone and turned:
        raise ValueError(
            f"{', '.join(turned)}: volumes must be axial slices for MAISI's weights, which know no other way, got "
            "other axes. Reorient them."
        )
    return grids, hashes


def _claim(
    folder: Path, data: TrainingData, config: FCaSConfig, hashes: dict[str, str], pretrained: PretrainedFiles
) -> None:
    """Make the folder this run's own, or see that it is."""
    run = {
        "config": to_dict(config),
        "labels": dict(data.labels),
        "surroundings": dict(data.surroundings),
        "cases": hashes,
        "pretrained": pretrained.identity(),
    }
    path = folder / RUN_FILE
    if not path.is_file():
        atomic_write_text(path, yaml.safe_dump(run, sort_keys=False))
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8"))
    differing = [key for key in run if run[key] != before.get(key)]
    if differing:
        raise ValueError(
            f"{folder}: a run must go on with the settings and data it began with, got other {', '.join(differing)}. "
            "Use another preset or seed folder, or delete this one to train anew."
        )


def _mean(losses: list[torch.Tensor]) -> float:
    return float(torch.stack([loss.float() for loss in losses]).mean())
