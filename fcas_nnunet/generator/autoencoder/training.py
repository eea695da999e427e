"""Train the autoencoder on crops of all variants."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from fcas_nnunet.config.generator import AutoencoderConfig, PairConfig
from fcas_nnunet.generator.autoencoder.crops import CropBatch, CropSampler
from fcas_nnunet.generator.autoencoder.network import Autoencoder, autoencoder_loss, reconstruction_weights
from fcas_nnunet.generator.data.training_data import TrainingData, unseen_shape
from fcas_nnunet.generator.data.variants import Variant, all_variants
from fcas_nnunet.generator.optimisation.loop import Objective, Training
from fcas_nnunet.generator.optimisation.progress import Panel, channel_panels
from fcas_nnunet.labels.anatomy import thin_label_ids
from fcas_nnunet.seeds import derive_seed

VALIDATION_CROPS = 16
#: Crops over which the mean weight of a voxel is taken; training does not see them.
WEIGHED_CROPS = 64
#: Largest difference between a crop and its reconstruction that a sample picture shows.
SHOWN_DIFFERENCE = 0.1


class AutoencoderObjective(Objective[CropBatch]):
    """The autoencoder's training loss.

    Args:
        autoencoder: Autoencoder to train.
        thin_ids: Label ids of the thin structures.
        mean_weight: Divisor of the voxel weights: their mean over the data, not over each batch, so that an item's loss
            does not depend on the others.
    """

    def __init__(self, autoencoder: Autoencoder, thin_ids: list[int], mean_weight: float = 1.0) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.thin_ids = thin_ids
        self.mean_weight = mean_weight

    def forward(self, batch: CropBatch) -> torch.Tensor:
        """Weighted L1 + KL of a batch of crops."""
        images = batch.images.float()
        reconstructions, mean, std = self.autoencoder(images, batch.noise)
        weights = self.weights(batch.labels) / self.mean_weight
        return autoencoder_loss(images, reconstructions, mean, std, weights, self.autoencoder.config.kl_weight)

    def weights(self, labels: torch.Tensor) -> torch.Tensor:
        """Voxel weights, background 1; float32, the shape of the labels."""
        config = self.autoencoder.config
        return reconstruction_weights(labels, self.thin_ids, config.heart_weight, config.thin_weight)

    def networks(self) -> list[nn.Module]:
        return [self.autoencoder]


def train_autoencoder(
    data: TrainingData,
    config: AutoencoderConfig,
    variants: tuple[list[Variant], list[Variant]],
    cache: Path,
    folder: Path,
    accelerator: Accelerator,
    seed: int,
) -> Autoencoder:
    """Train the autoencoder on crops of all variants; return the best by validation, the same in every process."""
    training, validation = (
        CropSampler(pool, cache, config.crop_size, seed, name)
        for pool, name in zip(variants, ("training", "validation"), strict=True)
    )
    torch.manual_seed(derive_seed(seed, "autoencoder weights"))
    objective = AutoencoderObjective(Autoencoder(config), thin_label_ids(data.labels, data.roles))
    objective.mean_weight = float(objective.weights(training.batch(range(-WEIGHED_CROPS, 0)).labels).mean())
    run = Training(objective, config.optimisation, folder, accelerator, "autoencoder")
    shown = validation.batch([0])
    run.run(
        training, validation, VALIDATION_CROPS,
        lambda module: _reconstruction(module, shown.to(accelerator.device)),
    )  # fmt: skip
    best = run.load_best(run.finish())
    assert isinstance(best, AutoencoderObjective), "the objective that was passed in"
    return best.autoencoder


def variant_split(data: TrainingData, pairs: PairConfig) -> tuple[list[Variant], list[Variant]]:
    """Split variants into training and validation: other cases, or an unseen shape if there are few cases."""
    training, validation = data.split()
    variants = all_variants(training, pairs)
    if validation:
        return variants, all_variants(validation, pairs)
    unseen = unseen_shape(pairs)
    return [v for v in variants if v.shape != unseen], [v for v in variants if v.shape == unseen]


def _reconstruction(module: nn.Module, batch: CropBatch) -> list[Panel]:
    assert isinstance(module, AutoencoderObjective), "the objective in training"
    image = batch.images.float()
    back = module.autoencoder.decode(module.autoencoder.encode(image)[0]).float()
    limits = (-SHOWN_DIFFERENCE, SHOWN_DIFFERENCE)
    shown = [("real", image, (0.0, 1.0)), ("reconstruction", back, (0.0, 1.0)), ("difference", back - image, limits)]
    return [panel for title, volume, window in shown for panel in channel_panels(title, volume[0], window)]
