"""Draw the crops that the autoencoder is trained on, and read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from fcas_nnunet.config.generator import LATENT_CHANNELS, LATENT_DOWNSAMPLING
from fcas_nnunet.generator.data.variants import REFERENCE, Variant, crop_at, read_crop, read_image, stored_shape
from fcas_nnunet.generator.optimisation.batches import Batch, in_turn
from fcas_nnunet.seeds import derive_seed

#: Share of the crops that are centred on a labelled voxel.
FOREGROUND_SHARE = 0.67
POINTS_OF_LABEL = 4000
KEPT_FOREGROUNDS = 256


@dataclass(frozen=True)
class CropBatch(Batch):
    """A batch of crops.

    Attributes:
        images: Images, float16 [B, C, D, H, W] in [0, 1].
        labels: Label ids, uint8 [B, 1, D, H, W].
        noise: Standard normal noise of the latents, float32 [B, 4 · C, D/4, H/4, W/4].
    """

    images: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor


class CropSampler:
    """An endless sequence of crops, most of them centred on a labelled voxel; stateless, as `PairSampler`.

    As nnU-Net does, a label is drawn first, then one of its voxels: a coronary is as often the centre as a chamber of a
    hundred times its volume. An epoch visits every variant once, in another order every time.

    Args:
        variants: Variants to draw from.
        folder: Folder of the variants' files.
        crop_size: Voxels along (D, H, W), no larger than the smallest volume.
        seed: Seed of the run.
        name: Name that distinguishes the sampler from others of the run.
    """

    def __init__(
        self, variants: Sequence[Variant], folder: Path, crop_size: Sequence[int], seed: int, name: str
    ) -> None:
        self.variants = list(variants)
        self.folder = folder
        self.crop_size = tuple(crop_size)
        self.seed = seed
        self.name = name

    def __len__(self) -> int:
        return len(self.variants)

    def batch(self, numbers: Sequence[int]) -> CropBatch:
        """The crops of these numbers, on the CPU."""
        return CropBatch(*(torch.stack(parts) for parts in zip(*map(self._read, numbers), strict=True)))

    def _read(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        variant = self.variants[in_turn(number, len(self.variants), self.seed, "autoencoder", self.name, "order")]
        item_seed = derive_seed(self.seed, "autoencoder", self.name, number)
        rng = np.random.default_rng(item_seed)
        shape_path = self.folder / variant.shape_file
        shape = stored_shape(shape_path, REFERENCE)
        centre = rng.random(3) * shape
        labels = _foreground(shape_path)
        if labels and rng.random() < FOREGROUND_SHARE:
            points = labels[rng.integers(len(labels))]
            centre = points[rng.integers(len(points))]
        start = [int(np.clip(c - s // 2, 0, n - s)) for c, s, n in zip(centre, self.crop_size, shape, strict=True)]
        crop = crop_at(start, self.crop_size)
        image = read_image(self.folder / variant.image_file, crop)
        latent_size = (len(image) * LATENT_CHANNELS, *(size // LATENT_DOWNSAMPLING for size in self.crop_size))
        noise = torch.randn(latent_size, generator=torch.Generator().manual_seed(item_seed))
        return image, read_crop(shape_path, REFERENCE, crop)[None], noise


@lru_cache(KEPT_FOREGROUNDS)
def _foreground(shape_path: Path) -> list[np.ndarray]:
    """List some voxels of each label of a shape, int16 [N, 3]; cached, since finding them takes longer than a crop."""
    mask = read_crop(shape_path, REFERENCE, (slice(None),) * 3)
    found = mask.nonzero()
    labels = mask[tuple(found.T)]
    points = [found[labels == label].numpy() for label in labels.unique()]
    return [of_label[:: max(1, len(of_label) // POINTS_OF_LABEL)].astype(np.int16) for of_label in points]
