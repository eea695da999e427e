"""Distilling the preview decoder from the frozen one: SSV sees its intermediate images for a twentieth of the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from fcas_nnunet.config.generator import PreviewConfig
from fcas_nnunet.generator.autoencoder.latents import MEAN
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.preview_decoder import PreviewDecoder
from fcas_nnunet.generator.data.variants import Variant, read_crop, stored_shape
from fcas_nnunet.generator.optimisation.batches import Batch
from fcas_nnunet.generator.optimisation.loop import Objective, Training
from fcas_nnunet.generator.optimisation.progress import Panel
from fcas_nnunet.seeds import derive_seed

VALIDATION_CROPS = 16
#: Crops that the linear path is fitted to; of their own.
FITTED_CROPS = 16
#: Share of crops that are taken as they are.
SHARP_SHARE = 0.5
BLUR_LATENTS = 5


@dataclass(frozen=True)
class LatentBatch(Batch):
    """Unscaled latents float32 [B, 4, d, h, w]."""

    latents: torch.Tensor


class LatentSampler:
    """An endless sequence of latents as SSV meets them: those of images, and smoother ones on the way to them.

    A denoiser's early guesses at the clean latents are means over all that is still possible, so every other crop is
    mixed with a blurred copy of itself, in a random proportion. Stateless, as `PairSampler`.

    Args:
        variants: to draw from.
        folder: of their latents.
        crop_size: latents along (d, h, w); cut to the smallest volume.
        seed: of the run.
        name: told apart from other samplers of the run.
    """

    def __init__(
        self, variants: Sequence[Variant], folder: Path, crop_size: Sequence[int], seed: int, name: str
    ) -> None:
        self.paths = [folder / variant.latents_file for variant in variants]
        self.shapes = [stored_shape(path, MEAN) for path in self.paths]
        self.crop_size = [min(wanted, *there) for wanted, *there in zip(crop_size, *self.shapes, strict=True)]
        self.seed = seed
        self.name = name

    def __len__(self) -> int:
        """Items of an epoch."""
        return len(self.paths)

    def batch(self, numbers: Sequence[int]) -> LatentBatch:
        """Some crops, on the CPU."""
        return LatentBatch(torch.stack([self._read(number) for number in numbers]))

    def _read(self, number: int) -> torch.Tensor:
        rng = np.random.default_rng(derive_seed(self.seed, "preview", self.name, number))
        index = int(rng.integers(len(self.paths)))
        start = [int(rng.integers(n - s + 1)) for n, s in zip(self.shapes[index], self.crop_size, strict=True)]
        d, h, w = (slice(a, a + s) for a, s in zip(start, self.crop_size, strict=True))
        latents = read_crop(self.paths[index], MEAN, (d, h, w)).float()
        if rng.random() < SHARP_SHARE:
            return latents
        blurred = F.avg_pool3d(
            latents, kernel_size=BLUR_LATENTS, stride=1, padding=BLUR_LATENTS // 2, count_include_pad=False
        )
        return torch.lerp(latents, blurred, float(rng.random()))


class _Teacher:
    """A decoder that is no submodule: neither trained, averaged nor saved; copies of its holder share it."""

    def __init__(self, decoder: Autoencoder) -> None:
        self.decoder = decoder

    def __deepcopy__(self, memo: object) -> _Teacher:
        return self


class DistillationObjective(Objective[LatentBatch]):
    """Mean absolute difference between the preview and the decoder it stands for."""

    def __init__(self, preview: PreviewDecoder, teacher: Autoencoder) -> None:
        super().__init__()
        self.preview = preview
        self._teacher = _Teacher(teacher)

    def forward(self, batch: LatentBatch) -> torch.Tensor:
        """Mean over a batch of crops."""
        with torch.no_grad():
            wanted = self._teacher.decoder.decode(batch.latents)
        return (self.preview.decode(batch.latents) - wanted).abs().mean()

    def networks(self) -> list[nn.Module]:
        """What `torch.compile` is applied to."""
        return [self.preview]

    def panels(self, batch: LatentBatch) -> list[Panel]:
        """A crop by the full decoder and by the preview."""
        decoders: dict[str, Autoencoder | PreviewDecoder] = {"decoder": self._teacher.decoder, "preview": self.preview}
        return [
            Panel(title, decoder.decode(batch.latents)[0, 0].float().cpu().numpy())
            for title, decoder in decoders.items()
        ]


def train_preview(
    config: PreviewConfig,
    autoencoder: Autoencoder,
    variants: tuple[Sequence[Variant], Sequence[Variant]],
    cache: Path,
    folder: Path,
    accelerator: Accelerator,
    seed: int,
) -> PreviewDecoder:
    """Distil a preview decoder on the cached latents; the best by validation, in every process the same.

    Args:
        config: its sizes and its training.
        autoencoder: frozen, on the accelerator's device.
        variants: to train and to validate on.
        cache: folder of the latents.
        folder: where `training_state/`, `progress.png` and `training.log` go.
        accelerator: device, precision, processes.
        seed: of the run.
    """
    training, validation = (
        LatentSampler(pool, cache, config.crop_size, seed, name)
        for pool, name in zip(variants, ("training", "validation"), strict=True)
    )
    torch.manual_seed(derive_seed(seed, "preview weights"))
    preview = PreviewDecoder(config)
    fitted = training.batch(range(-FITTED_CROPS, 0)).latents
    with torch.no_grad():
        wanted = [autoencoder.decode(crop[None].to(accelerator.device)).cpu() for crop in fitted]
    preview.fit_linear(fitted, torch.cat(wanted))
    objective = DistillationObjective(preview, autoencoder)
    run = Training(objective, config.optimisation, folder, accelerator, "preview decoder")
    shown = validation.batch([0])
    run.run(
        training, validation, VALIDATION_CROPS,
        lambda module: _panels(module, shown.to(accelerator.device)),
    )  # fmt: skip
    best = run.load_best(run.finish())
    assert isinstance(best, DistillationObjective), "what was put in"
    return best.preview


def _panels(module: nn.Module, batch: LatentBatch) -> list[Panel]:
    assert isinstance(module, DistillationObjective), "what is trained"
    return module.panels(batch)
