"""Which variants make a training pair, read as crops (paper §3.1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from fcas_nnunet.config import LATENT_DOWNSAMPLING, PairConfig
from fcas_nnunet.generator.latents import LOG_STD, MEAN
from fcas_nnunet.generator.variants import IMAGE, REFERENCE, TEMPLATE, Variant, read_crop, stored_shape
from fcas_nnunet.seeds import derive_seed

Crop = tuple[slice, slice, slice]

#: Share of autoencoder crops that are centred on a labelled voxel, as nnU-Net oversamples the foreground.
FOREGROUND_SHARE = 0.67
FOREGROUND_POINTS = 20_000
KEPT_FOREGROUNDS = 256


@dataclass(frozen=True)
class PairEnd:
    """One end of a batch of pairs.

    Attributes:
        mean: [B, 4, d, h, w], raw latents' posterior mean.
        log_std: [B, 4, d, h, w], log of its standard deviation.
        reference: uint8 [B, 1, D, H, W], the mask when this end is drawn.
        template: uint8 [B, 1, D, H, W], the mask when it is the template.
        image: [B, 1, D, H, W] in [0, 1], the image when it is the template.
    """

    mean: torch.Tensor
    log_std: torch.Tensor
    reference: torch.Tensor
    template: torch.Tensor
    image: torch.Tensor

    def to(self, device: torch.device) -> PairEnd:
        """The same on a device."""
        return PairEnd(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class PairSampler:
    """Draws the batch of a training step; stateless, so that a resumed run sees what an uninterrupted one sees.

    Args:
        case_ids: to draw from.
        folder: of the variants and their latents.
        pairs: share of self-pairs, number of contrasts.
        shapes: which shapes are drawn.
        new_shape: when given, one end of each pair has this shape (validation on an unseen shape).
        crop_size: voxels along (D, H, W), multiples of 16, no larger than the smallest volume.
        seed: of the run.
        name: told apart from other samplers of the run.
    """

    def __init__(
        self,
        case_ids: Sequence[str],
        folder: Path,
        pairs: PairConfig,
        shapes: Sequence[int],
        crop_size: Sequence[int],
        seed: int,
        name: str,
        new_shape: int | None = None,
    ) -> None:
        self.case_ids = list(case_ids)
        self.folder = folder
        self.pairs = pairs
        self.shapes = list(shapes)
        self.new_shape = new_shape
        self.crop_size = tuple(crop_size)
        self.seed = seed
        self.name = name

    def batch(self, step: int, batch_size: int) -> tuple[PairEnd, PairEnd]:
        """The pairs (A, B) of a step, on the CPU."""
        rng = np.random.default_rng(derive_seed(self.seed, self.name, step))
        drawn = [self._draw(rng) for _ in range(batch_size)]
        positions = rng.random((batch_size, 3))
        ends = [
            [self._read(pair[end], position) for pair, position in zip(drawn, positions, strict=True)]
            for end in (0, 1)
        ]  # fmt: skip
        a, b = (PairEnd(*(torch.stack(tensors) for tensors in zip(*end, strict=True))) for end in ends)
        return a, b

    def _draw(self, rng: np.random.Generator) -> tuple[Variant, Variant]:
        contrasts = rng.integers(self.pairs.num_contrasts, size=2)
        shapes = list(rng.permutation(self.shapes))
        if self.new_shape is not None:
            shapes = [self.new_shape, shapes[0]] if rng.random() < 0.5 else [shapes[0], self.new_shape]
        if len(self.case_ids) == 1 or rng.random() < self.pairs.self_pair_probability:
            case_id = str(rng.choice(self.case_ids))
            return Variant(case_id, int(shapes[0]), int(contrasts[0])), Variant(
                case_id, int(shapes[1]), int(contrasts[0])
            )
        a, b = rng.choice(self.case_ids, size=2, replace=False)
        shape_b = int(rng.choice(self.shapes))
        return Variant(str(a), int(shapes[0]), int(contrasts[0])), Variant(str(b), shape_b, int(contrasts[1]))

    def _read(self, variant: Variant, position: np.ndarray) -> list[torch.Tensor]:
        shape_path, latents_path = self.folder / variant.shape_file, self.folder / variant.latents_file
        latent_shape = stored_shape(latents_path, MEAN)
        size = [c // LATENT_DOWNSAMPLING for c in self.crop_size]
        latent_crop = _crop([round(p * (n - s)) for p, n, s in zip(position, latent_shape, size, strict=True)], size)
        crop = _crop([c.start * LATENT_DOWNSAMPLING for c in latent_crop], self.crop_size)
        return [
            read_crop(latents_path, MEAN, latent_crop).float(),
            read_crop(latents_path, LOG_STD, latent_crop).float(),
            read_crop(shape_path, REFERENCE, crop)[None],
            read_crop(shape_path, TEMPLATE, crop)[None],
            read_crop(self.folder / variant.image_file, IMAGE, crop).float()[None],
        ]


def image_batch(
    variants: Sequence[Variant],
    folder: Path,
    crop_size: Sequence[int],
    batch_size: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops to train the autoencoder on, most of them centred on a labelled voxel.

    Args:
        variants: to draw from.
        folder: of the variants.
        crop_size: voxels along (D, H, W).
        batch_size: number of crops.
        seed: of this batch.

    Returns:
        (images in [0, 1], reference label ids uint8), each [B, 1, D, H, W].
    """
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for index in rng.integers(len(variants), size=batch_size):
        variant = variants[index]
        shape_path = folder / variant.shape_file
        shape = stored_shape(shape_path, REFERENCE)
        centre = rng.random(3) * shape
        foreground = _foreground(shape_path)
        if len(foreground) and rng.random() < FOREGROUND_SHARE:
            centre = foreground[rng.integers(len(foreground))]
        start = [int(np.clip(c - s // 2, 0, n - s)) for c, s, n in zip(centre, crop_size, shape, strict=True)]
        crop = _crop(start, crop_size)
        images.append(read_crop(folder / variant.image_file, IMAGE, crop).float()[None])
        labels.append(read_crop(shape_path, REFERENCE, crop)[None])
    return torch.stack(images), torch.stack(labels)


@lru_cache(KEPT_FOREGROUNDS)
def _foreground(shape_path: Path) -> np.ndarray:
    """Some of a shape's labelled voxels, int16 [N, 3]; kept, since finding them takes longer than a crop."""
    found = read_crop(shape_path, REFERENCE, (slice(None),) * 3).nonzero().numpy()
    return found[:: max(1, len(found) // FOREGROUND_POINTS)].astype(np.int16)


def common_crop(shapes: Sequence[Sequence[int]], crop_size: Sequence[int]) -> tuple[int, int, int]:
    """The crop that fits into every volume: the configured one, or the smallest volume where that is smaller."""
    d, h, w = (min(size, *sizes) for size, *sizes in zip(crop_size, *shapes, strict=True))
    return d, h, w


def _crop(start: Sequence[int], size: Sequence[int]) -> Crop:
    d, h, w = (slice(int(a), int(a) + int(n)) for a, n in zip(start, size, strict=True))
    return d, h, w
