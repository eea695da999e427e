"""Draw TCDM's training pairs of variants, and read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fcas_nnunet.config.generator import LATENT_DOWNSAMPLING, PairConfig
from fcas_nnunet.config.options import ItemsPerEpoch
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.autoencoder.latents import LOG_STD, MEAN
from fcas_nnunet.generator.data.variants import (
    REFERENCE,
    TEMPLATE,
    Variant,
    crop_at,
    read_crop,
    read_image,
    stored_shape,
)
from fcas_nnunet.generator.optimisation.batches import Batch, in_turn
from fcas_nnunet.generator.tcdm.templates import RegisteredTemplate, read_template
from fcas_nnunet.seeds import derive_seed


@dataclass(frozen=True)
class PairEnd(Batch):
    """One end of a batch of pairs, in the stored types, so that half the bytes go to the device.

    Attributes:
        mean: Posterior mean of the raw latents, float16 [B, 4 · C, d, h, w].
        log_std: Logarithm of their standard deviation, float16 [B, 4 · C, d, h, w].
        reference: Mask when this end is drawn, uint8 [B, 1, D, H, W].
        template: Mask when this end is the template, uint8 [B, 1, D, H, W].
        image: Image, float16 [B, C, D, H, W] in [0, 1].
    """

    mean: torch.Tensor
    log_std: torch.Tensor
    reference: torch.Tensor
    template: torch.Tensor
    image: torch.Tensor


@dataclass(frozen=True)
class RegisteredEnd(PairEnd):
    """One end of pairs of registered templates: `template` and `image` are of the one that was brought onto this end.

    Attributes:
        guess: First guess at this end's image, float16 [B, C, D, H, W] in [0, 1].
        origin: Where the guess is from (`registered.Mended`), uint8 [B, 1, D, H, W].
    """

    guess: torch.Tensor
    origin: torch.Tensor


@dataclass(frozen=True)
class Pair:
    """A training pair (A, B), and the place of its crop.

    Attributes:
        a: Variant at the end A.
        b: Variant at the end B.
        position: Place of the crop along (D, H, W) in [0, 1): 0 is the first crop of the volume, 1 the last.
        partners: Number of the partner whose registration each end's template comes from, where templates are
            registered.
    """

    a: Variant
    b: Variant
    position: tuple[float, float, float]
    partners: tuple[int, int] = (0, 0)


class PairSampler:
    """An endless sequence of training pairs; stateless, so that every process and a resumed run see the same.

    Pairs of different cases come in rounds: a permutation of all {A, B}, another one every time. The two directions of
    a pair are one item (`one_direction`: one each), so a round has every direction once. If an epoch counts cases, a
    round is a permutation of the cases instead, each paired with the next: every case is either end once. Self-pairs
    lie evenly between them, in the share of their probability; they visit the cases in turn, in another order every
    time. An epoch is a round of the pairs with their self-pairs, or as many items as there are cases. Which end is A,
    contrasts, shapes and the crop's position are drawn anew for every item.

    Args:
        case_ids: Cases to draw from; a single case gives self-pairs only.
        folder: Folder of the variants and their latents.
        pairs: Share of self-pairs, number of contrasts.
        shapes: Shapes to draw from.
        crop_size: Voxels along (D, H, W), no larger than the smallest volume.
        seed: Seed of the run.
        name: Name that distinguishes the sampler from others of the run.
        new_shape: Shape of one end of each pair, for validation on an unseen shape; None = both are of `shapes`.
        num_partners: Partners of every case (`templates.partners_of`); 0 = templates are not registered.
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
        num_partners: int = 0,
    ) -> None:
        self.case_ids = list(case_ids)
        self.folder = folder
        self.pairs = pairs
        self.shapes = list(shapes)
        self.new_shape = new_shape
        self.num_partners = num_partners
        self.crop_size = tuple(crop_size)
        self.seed = seed
        self.name = name
        self._of_cases = pairs.items_per_epoch == ItemsPerEpoch.CASES
        cases = len(self.case_ids)
        if self._of_cases:
            self._pairs_per_round = cases if cases > 1 else 0
        else:
            self._pairs_per_round = cases * (cases - 1) // (1 if pairs.one_direction else 2)
        self._self_share = pairs.self_pair_probability if self._pairs_per_round else 1.0
        if self._self_share > 0 and new_shape is None and len(self.shapes) < 2:
            raise InputError(
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
        """The pair of an item; training uses no negative numbers."""
        rng = np.random.default_rng(derive_seed(self.seed, self.name, number))
        position = tuple(rng.random(3))
        contrast_a, contrast_b = (int(c) for c in rng.integers(self.pairs.num_contrasts, size=2))
        selves = math.floor(number * self._self_share)
        if math.floor((number + 1) * self._self_share) > selves:
            case_a = case_b = self.case_ids[in_turn(selves, len(self.case_ids), self.seed, self.name, "selves")]
            contrast_b = contrast_a
        else:
            ends = self._ends(number - selves)
            flipped = not self.pairs.one_direction and rng.random() < 0.5
            case_a, case_b = (self.case_ids[end] for end in (ends[::-1] if flipped else ends))
        shape_a, shape_b = self._shapes(rng, distinct=case_a == case_b)
        partners = rng.integers(self.num_partners, size=2) if self.num_partners else (0, 0)
        return Pair(
            Variant(case_a, shape_a, contrast_a), Variant(case_b, shape_b, contrast_b), position,
            (int(partners[0]), int(partners[1])),
        )  # fmt: skip

    def batch(self, numbers: Sequence[int]) -> tuple[PairEnd, PairEnd]:
        """The ends (A, B) of some pairs, on the CPU."""
        pairs = [self.pair(number) for number in numbers]
        kind = RegisteredEnd if self.num_partners else PairEnd
        a, b = (
            kind(*(torch.stack(parts) for parts in zip(*(self._read(pair, end) for pair in pairs), strict=True)))
            for end in (0, 1)
        )
        return a, b

    def _ends(self, number: int) -> tuple[int, int]:
        """The cases of a pair, by its place in the rounds; ordered with `one_direction`."""
        if self._of_cases:
            after = number - number % self._pairs_per_round + (number + 1) % self._pairs_per_round
            a, b = (in_turn(place, self._pairs_per_round, self.seed, self.name, "cases") for place in (number, after))
            return a, b
        number = in_turn(number, self._pairs_per_round, self.seed, self.name, "pairs")
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

    def _read(self, pair: Pair, end: int) -> list[torch.Tensor]:
        variant, position = (pair.a, pair.b)[end], pair.position
        shape_path, latents_path = self.folder / variant.shape_file, self.folder / variant.latents_file
        latent_shape = stored_shape(latents_path, MEAN)
        size = [c // LATENT_DOWNSAMPLING for c in self.crop_size]
        latent_crop = crop_at([round(p * (n - s)) for p, n, s in zip(position, latent_shape, size, strict=True)], size)
        crop = crop_at([c.start * LATENT_DOWNSAMPLING for c in latent_crop], self.crop_size)
        drawn = [
            read_crop(latents_path, MEAN, latent_crop),
            read_crop(latents_path, LOG_STD, latent_crop),
            read_crop(shape_path, REFERENCE, crop)[None],
        ]
        if self.num_partners:
            of_partner = pair.a.case_id != pair.b.case_id
            template = RegisteredTemplate(variant.case_id, variant.shape, pair.partners[end], of_partner)
            return [*drawn, *read_template(self.folder / template.file, variant.contrast, crop)]
        return [
            *drawn,
            read_crop(shape_path, TEMPLATE, crop)[None],
            read_image(self.folder / variant.image_file, crop),
        ]
