"""Which variants make a training item — a pair for TCDM, a crop for the autoencoder — and reading them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from fcas_nnunet.choices import ItemsPerEpoch
from fcas_nnunet.config import LATENT_CHANNELS, LATENT_DOWNSAMPLING, PairConfig
from fcas_nnunet.generator.batches import Batch
from fcas_nnunet.generator.latents import LOG_STD, MEAN
from fcas_nnunet.generator.variants import IMAGE, REFERENCE, TEMPLATE, Variant, read_crop, stored_shape
from fcas_nnunet.seeds import derive_seed

Crop = tuple[slice, slice, slice]

#: Share of autoencoder crops that are centred on a labelled voxel.
FOREGROUND_SHARE = 0.67
POINTS_OF_LABEL = 4000
KEPT_FOREGROUNDS = 256
KEPT_ORDERS = 8


@dataclass(frozen=True)
class PairEnd(Batch):
    """One end of a batch of pairs, as stored: half the bytes go to the device, and masks are binarised there.

    Attributes:
        mean: float16 [B, 4, d, h, w], raw latents' posterior mean.
        log_std: float16 [B, 4, d, h, w], log of its standard deviation.
        reference: uint8 [B, 1, D, H, W], the mask when this end is drawn.
        template: uint8 [B, 1, D, H, W], the mask when it is the template.
        image: float16 [B, 1, D, H, W] in [0, 1], the image when it is the template.
    """

    mean: torch.Tensor
    log_std: torch.Tensor
    reference: torch.Tensor
    template: torch.Tensor
    image: torch.Tensor


@dataclass(frozen=True)
class Pair:
    """A training pair (A, B), and where its crop lies.

    Attributes:
        a: one end.
        b: the other.
        position: along (D, H, W) in [0, 1): 0 is the crop that begins with the volume, 1 the one that ends with it.
    """

    a: Variant
    b: Variant
    position: tuple[float, float, float]


class PairSampler:
    """An endless sequence of training pairs; stateless, so that every process and a resumed run see the same.

    Pairs of different cases come in rounds: a permutation of all {A, B}, another one every time. The two directions of
    a pair are one item (`one_direction`: one each), so a round has every direction once. Where an epoch is the cases, a
    round is a permutation of the cases instead, each paired with the next: every case is either end once. Between the
    pairs, evenly spaced, lie the self-pairs, in the share that their probability asks for; they visit the cases in
    turn, in another order every time. An epoch is a round of the pairs with their self-pairs, or as many items as there
    are cases. Which end is A, contrasts, shapes and the crop's position are drawn anew for every item.

    Args:
        case_ids: to draw from; of a single case only self-pairs can be made.
        folder: of the variants and their latents.
        pairs: share of self-pairs, number of contrasts.
        shapes: which shapes are drawn.
        crop_size: voxels along (D, H, W), no larger than the smallest volume.
        seed: of the run.
        name: told apart from other samplers of the run.
        new_shape: when given, one end of each pair has this shape (validation on an unseen shape).
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
        self._of_cases = pairs.items_per_epoch == ItemsPerEpoch.CASES
        self._pairs_per_round = self._round()
        self._self_share = pairs.self_pair_probability if self._pairs_per_round else 1.0
        if self._self_share > 0 and new_shape is None and len(self.shapes) < 2:
            raise ValueError(
                f"{name} cases: a case paired with itself needs num_shapes of at least 2, got {len(self.shapes)} "
                f"({len(self.case_ids)} cases, self_pair_probability {pairs.self_pair_probability}). Raise "
                "tcdm.pairs.num_shapes."
            )

    def __len__(self) -> int:
        """Items of an epoch."""
        if self._of_cases or self._self_share == 1:
            return len(self.case_ids)
        return math.ceil(self._pairs_per_round / (1 - self._self_share))

    def pair(self, number: int) -> Pair:
        """Which pair an item is; a negative number is one that training does not see."""
        rng = np.random.default_rng(derive_seed(self.seed, self.name, number))
        position = tuple(rng.random(3))
        contrast_a, contrast_b = (int(c) for c in rng.integers(self.pairs.num_contrasts, size=2))
        selves = math.floor(number * self._self_share)
        if math.floor((number + 1) * self._self_share) > selves:
            case_a = case_b = self.case_ids[self._in_turn("selves", len(self.case_ids), selves)]
            contrast_b = contrast_a
        else:
            ends = self._ends(number - selves)
            turned = not self.pairs.one_direction and rng.random() < 0.5
            case_a, case_b = (self.case_ids[end] for end in (ends[::-1] if turned else ends))
        shape_a, shape_b = self._shapes(rng, distinct=case_a == case_b)
        return Pair(Variant(case_a, shape_a, contrast_a), Variant(case_b, shape_b, contrast_b), position)

    def batch(self, numbers: Sequence[int]) -> tuple[PairEnd, PairEnd]:
        """The ends (A, B) of some pairs, on the CPU."""
        pairs = [self.pair(number) for number in numbers]
        a, b = (
            PairEnd(*(torch.stack(parts) for parts in zip(*ends, strict=True)))
            for ends in (
                [self._read(pair.a, pair.position) for pair in pairs],
                [self._read(pair.b, pair.position) for pair in pairs],
            )
        )
        return a, b

    def _in_turn(self, what: str, count: int, number: int) -> int:
        """The entry at a place of an endless sequence of permutations."""
        turn, place = divmod(number, count)
        return int(_order(derive_seed(self.seed, self.name, what, turn), count)[place])

    def _round(self) -> int:
        """Pairs of a round; none of a single case."""
        cases = len(self.case_ids)
        if self._of_cases:
            return cases if cases > 1 else 0
        return cases * (cases - 1) // (1 if self.pairs.one_direction else 2)

    def _ends(self, number: int) -> tuple[int, int]:
        """The cases of a pair, by its place in the rounds; ordered with `one_direction`."""
        if self._of_cases:
            first = number - number % self._pairs_per_round
            after = first + (number + 1) % self._pairs_per_round
            a, b = (self._in_turn("cases", self._pairs_per_round, place) for place in (number, after))
            return a, b
        number = self._in_turn("pairs", self._pairs_per_round, number)
        if self.pairs.one_direction:
            a, b = divmod(number, len(self.case_ids) - 1)
            return a, b + (b >= a)
        larger = (1 + math.isqrt(1 + 8 * number)) // 2  # the pairs {0..b−1, b} begin at b · (b − 1) / 2
        return number - larger * (larger - 1) // 2, larger

    def _shapes(self, rng: np.random.Generator, distinct: bool) -> tuple[int, int]:
        if self.new_shape is not None:
            seen = int(rng.choice(self.shapes))
            return (self.new_shape, seen) if rng.random() < 0.5 else (seen, self.new_shape)
        a, b = rng.choice(self.shapes, size=2, replace=not distinct)
        return int(a), int(b)

    def _read(self, variant: Variant, position: Sequence[float]) -> list[torch.Tensor]:
        shape_path, latents_path = self.folder / variant.shape_file, self.folder / variant.latents_file
        latent_shape = stored_shape(latents_path, MEAN)
        size = [c // LATENT_DOWNSAMPLING for c in self.crop_size]
        latent_crop = _crop([round(p * (n - s)) for p, n, s in zip(position, latent_shape, size, strict=True)], size)
        crop = _crop([c.start * LATENT_DOWNSAMPLING for c in latent_crop], self.crop_size)
        return [
            read_crop(latents_path, MEAN, latent_crop),
            read_crop(latents_path, LOG_STD, latent_crop),
            read_crop(shape_path, REFERENCE, crop)[None],
            read_crop(shape_path, TEMPLATE, crop)[None],
            read_crop(self.folder / variant.image_file, IMAGE, crop)[None],
        ]


@dataclass(frozen=True)
class CropBatch(Batch):
    """Crops the autoencoder is trained on.

    Attributes:
        images: float16 [B, 1, D, H, W] in [0, 1].
        labels: uint8 [B, 1, D, H, W], reference label ids.
        noise: float32 [B, 4, D/4, H/4, W/4], standard normal.
    """

    images: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor


class CropSampler:
    """An endless sequence of crops, most of them centred on a labelled voxel; stateless, as `PairSampler`.

    As nnU-Net does, a label is drawn first, then one of its voxels: a coronary is as often the centre as a chamber of a
    hundred times its volume. In an epoch every variant is visited once, in another order every time.

    Args:
        variants: to draw from.
        folder: of the variants.
        crop_size: voxels along (D, H, W), no larger than the smallest volume.
        seed: of the run.
        name: told apart from other samplers of the run.
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
        """Items of an epoch."""
        return len(self.variants)

    def batch(self, numbers: Sequence[int]) -> CropBatch:
        """Some crops, on the CPU."""
        return CropBatch(*(torch.stack(parts) for parts in zip(*map(self._read, numbers), strict=True)))

    def _read(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        turn, place = divmod(number, len(self.variants))
        order = _order(derive_seed(self.seed, "autoencoder", self.name, "order", turn), len(self.variants))
        variant = self.variants[int(order[place])]
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
        crop = _crop(start, self.crop_size)
        latent_size = (size // LATENT_DOWNSAMPLING for size in self.crop_size)
        noise = torch.randn((LATENT_CHANNELS, *latent_size), generator=torch.Generator().manual_seed(item_seed))
        image = read_crop(self.folder / variant.image_file, IMAGE, crop)[None]
        return image, read_crop(shape_path, REFERENCE, crop)[None], noise


@lru_cache(KEPT_ORDERS)
def _order(seed: int, count: int) -> np.ndarray:
    """A permutation of 0 … count − 1; kept, since an epoch's is asked for with each of its items."""
    return np.random.default_rng(seed).permutation(count)


@lru_cache(KEPT_FOREGROUNDS)
def _foreground(shape_path: Path) -> list[np.ndarray]:
    """Some voxels of each of a shape's labels, int16 [N, 3]; kept, since finding them takes longer than a crop."""
    mask = read_crop(shape_path, REFERENCE, (slice(None),) * 3)
    found = mask.nonzero()
    labels = mask[tuple(found.T)]
    points = [found[labels == label].numpy() for label in labels.unique()]
    return [of_label[:: max(1, len(of_label) // POINTS_OF_LABEL)].astype(np.int16) for of_label in points]


def _crop(start: Sequence[int], size: Sequence[int]) -> Crop:
    d, h, w = (slice(int(a), int(a) + int(n)) for a, n in zip(start, size, strict=True))
    return d, h, w
