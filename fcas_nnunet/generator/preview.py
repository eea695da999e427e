"""Distilling the preview decoder from the frozen one: SSV sees its intermediate images for a twentieth of the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from fcas_nnunet.config import PreviewConfig
from fcas_nnunet.generator.autoencoder import Autoencoder
from fcas_nnunet.generator.latents import MEAN
from fcas_nnunet.generator.preview_decoder import PreviewDecoder
from fcas_nnunet.generator.training import Training
from fcas_nnunet.generator.variants import Variant, read_crop, stored_shape
from fcas_nnunet.seeds import derive_seed

#: Validation crops.
VALIDATION_CROPS = 16


class DistillationObjective(nn.Module):
    """Mean absolute difference between the preview and the decoder it stands for."""

    def __init__(self, preview: PreviewDecoder, teacher: Autoencoder) -> None:
        super().__init__()
        self.preview = preview
        self._teacher = [teacher]  # in a list, so that it is no submodule: neither trained, averaged nor saved

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Of unscaled latents [B, 4, d, h, w]."""
        with torch.no_grad():
            wanted = self._teacher[0].decode(latents)
        return (self.preview.decode(latents) - wanted).abs().mean()


def train_preview(
    config: PreviewConfig,
    autoencoder: Autoencoder,
    variants: tuple[Sequence[Variant], Sequence[Variant]],
    cache: Path,
    folder: Path,
    accelerator: Accelerator,
    seed: int,
) -> PreviewDecoder:
    """Distil a preview decoder on the cached latents.

    Args:
        config: its sizes and its training.
        autoencoder: frozen.
        variants: to train and to validate on.
        cache: folder of the latents.
        folder: where `training_state/`, `progress.png` and `training.log` go.
        accelerator: device and precision.
        seed: of the run.
    """
    torch.manual_seed(derive_seed(seed, "preview weights"))
    objective = DistillationObjective(PreviewDecoder(config), autoencoder)
    training, validation = variants
    batch_size = config.optimisation.batch_size

    def loss_on(module: nn.Module, pool: Sequence[Variant], name: str, step: int) -> torch.Tensor:
        batch = latent_batch(pool, cache, config.crop_size, batch_size, derive_seed(seed, "preview", name, step))
        return module(batch.to(accelerator.device))

    run = Training(objective, config.optimisation, folder, accelerator, "preview decoder")
    run.run(
        lambda module, step: loss_on(module, training, "training", step),
        lambda module: float(
            torch.stack(
                [loss_on(module, validation, "validation", i) for i in range(-(-VALIDATION_CROPS // batch_size))]
            ).mean()
        ),
    )
    best = run.load_best(accelerator.unwrap_model(run.objective))
    assert isinstance(best, DistillationObjective), "what was put in"
    return best.preview


def latent_batch(
    variants: Sequence[Variant], cache: Path, crop_size: Sequence[int], batch_size: int, seed: int
) -> torch.Tensor:
    """Crops of latents as SSV meets them: those of images, and smoother ones on the way to them.

    A denoiser's early guesses at the clean latents are means over all that is still possible, so each crop is mixed
    with a blurred copy of itself, in a random proportion.

    Args:
        variants: to draw from.
        cache: folder of their latents.
        crop_size: latents along (d, h, w); cut to the smallest volume drawn.
        batch_size: number of crops.
        seed: of this batch.

    Returns:
        Unscaled latents float32 [B, 4, d, h, w].
    """
    rng = np.random.default_rng(seed)
    paths = [cache / variants[i].latents_file for i in rng.integers(len(variants), size=batch_size)]
    shapes = [stored_shape(path, MEAN) for path in paths]
    size = [min(wanted, *there) for wanted, *there in zip(crop_size, *shapes, strict=True)]
    crops = []
    for path, shape in zip(paths, shapes, strict=True):
        start = [int(rng.integers(n - s + 1)) for n, s in zip(shape, size, strict=True)]
        d, h, w = (slice(a, a + s) for a, s in zip(start, size, strict=True))
        crops.append(read_crop(path, MEAN, (d, h, w)).float())
    latents = torch.stack(crops)
    blurred = F.avg_pool3d(latents, kernel_size=5, stride=1, padding=2, count_include_pad=False)
    share = torch.from_numpy(rng.random((batch_size, 1, 1, 1, 1)).astype(np.float32))
    share = torch.where(share < 0.5, 0.0, share)  # half of them as they are
    return torch.lerp(latents, blurred, share)
