"""Registered templates of the training pairs: what the drawing of a case sees of another, or of itself.

A case that went to another patient and back lies where its own registration errors put it, but keeps its contrast and
its texture: what the denoiser may keep of such a template, and what it has to mend, is what it may keep and has to mend
of another patient's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from fcas_nnunet.case import NUM_CODES, Case
from fcas_nnunet.config.generator import FCaSConfig, PairConfig
from fcas_nnunet.generator.data.contrasts import add_contrast
from fcas_nnunet.generator.data.grid import to_unit_range
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.data.variants import (
    IMAGE,
    REFERENCE,
    TEMPLATE,
    Variant,
    contrasts_of,
    on_working_grid,
    open_tensors,
    read_crop,
    read_image,
    read_tensors,
    save_tensors,
    shape_of,
)
from fcas_nnunet.generator.mgm.deformation import IDENTITY, Deformation
from fcas_nnunet.generator.optimisation.batches import local_share
from fcas_nnunet.generator.sources.registered import OWN, Brought, bring, in_contrast, mend, out_of_place, within
from fcas_nnunet.generator.sources.registration import Registration, register, sampled
from fcas_nnunet.geometry import Box, Triple, triple
from fcas_nnunet.orientation import SPL, Orientation
from fcas_nnunet.seeds import derive_seed

GUESS, GUESS_CODES, ORIGIN, OFFSETS = "guess", "guess_codes", "origin", "offsets"
#: Going back undoes part of the way's errors: labels disagree in 6 % of a left atrium, in 13 % between patients.
_ERROR_FACTOR = 2.0
#: The errors are there this near to where labels disagree, and gone so far from there.
_DISPLACED_MM = 3.0, 9.0


@dataclass(frozen=True)
class RegisteredTemplate:
    """What is brought onto a shape of a case: the case itself by way of a partner, or the partner's scan."""

    case_id: str
    shape: int
    partner: int
    of_partner: bool

    @property
    def file(self) -> str:
        """Its image, codes and guess."""
        return f"{self.case_id}__s{self.shape}__{'of' if self.of_partner else 'by'}{self.partner}.safetensors"


def partners_of(case_id: str, training: Sequence[str], count: int) -> list[str]:
    """The training cases that a case is registered to, as many as there are up to `count`.

    They are its neighbours in a random ring of the training cases, so that those of most are each other's.
    """
    ring = sorted({*training, case_id}, key=lambda name: derive_seed(0, "partners", name))
    place = ring.index(case_id)
    steps = [sign * step for step in range(1, len(ring)) for sign in (1, -1)]
    return list(dict.fromkeys(ring[(place + step) % len(ring)] for step in steps))[:count]


def templates_of(case_id: str, training: Sequence[str], pairs: PairConfig) -> list[RegisteredTemplate]:
    """List the registered templates of a case's shapes; `training` holds the training cases."""
    return [
        RegisteredTemplate(case_id, shape, place, of_partner)
        for place in range(len(partners_of(case_id, training, pairs.num_partners)))
        for shape in range(pairs.num_shapes)
        for of_partner in ([False] if pairs.self_pair_probability == 1 else [False, True])
    ]


def register_partners(data: TrainingData, folder: Path, config: FCaSConfig, accelerator: Accelerator) -> None:
    """Register every case to its partners and back, unless it is done; returns when all processes are ready."""
    training, _ = data.split()
    pairs = {
        pair
        for case_id in data.case_ids
        for partner in partners_of(case_id, training, config.tcdm.pairs.num_partners)
        for pair in ((case_id, partner), (partner, case_id))
    }
    for reference, template in local_share(sorted(pairs), accelerator, "registration", "pair"):
        path = _map_file(folder, reference, template)
        if not path.is_file():
            cases = data.load_case(reference), data.load_case(template)
            register(*cases, max(data.labels.values())).save(path)
    accelerator.wait_for_everyone()


def make_templates(
    data: TrainingData,
    case_id: str,
    folder: Path,
    working_spacing_mm: Sequence[float],
    config: FCaSConfig,
) -> None:
    """Write the registered templates of a case's shapes into the folder of its variants, unless all exist.

    Args:
        data: The labelled cases.
        case_id: Case whose variants are written.
        folder: Folder of the variants, and of the maps of `register_partners`.
        working_spacing_mm: Working spacing along (D, H, W).
        config: Settings of the generator.
    """
    pairs, num_labels = config.tcdm.pairs, max(data.labels.values())
    training = data.split()[0]
    partners = partners_of(case_id, training, pairs.num_partners)
    missing = [template for template in templates_of(case_id, training, pairs) if not (folder / template.file).exists()]
    if not missing:
        return
    padded, whole = _padded_and_whole(data, case_id, working_spacing_mm, config)
    last_code = NUM_CODES - 1 if pairs.reference_surroundings else num_labels
    low, high = config.grid.intensity_range
    offsets = torch.from_numpy(contrasts_of(case_id, len(whole.scales), num_labels, config) / (high - low))
    for place, partner_id in enumerate(partners):
        partner = _padded_and_whole(data, partner_id, working_spacing_mm, config)[1]
        there = Registration.load(_map_file(folder, case_id, partner_id))
        back = Registration.load(_map_file(folder, partner_id, case_id))
        ways = _Ways(padded, whole, partner, there, there_and_back(whole, partner, there, back, num_labels, last_code))
        for template in (template for template in missing if template.partner == place):
            target = Variant(case_id, template.shape, 0)
            masks = {key: codes.numpy() for key, codes in read_tensors(folder / target.shape_file).items()}
            real = read_image(folder / target.image_file).float().numpy()
            brought = ways.brought(shape_of(padded, template.shape, config), template.of_partner, num_labels)
            unit = to_unit_range(torch.from_numpy(brought.image), config.grid.intensity_range).numpy()
            brought = replace(brought, image=unit)
            if template.of_partner:
                brought = _in_its_contrast(brought, real, masks[TEMPLATE])
            shown = _tensors(brought, masks, real, last_code)
            save_tensors({**shown, OFFSETS: offsets}, folder / template.file)


@dataclass(frozen=True)
class _Ways:
    """What a case is shown of itself and of a partner: both on the working grid, the case with its padding, too."""

    padded: Case
    whole: Case
    partner: Case
    there: Registration
    around: ThereAndBack

    def brought(self, deformation: Deformation, of_partner: bool, num_labels: int) -> Brought:
        """Either on the shape that a deformation makes of the case, in standard units."""
        if of_partner:
            return bring(self.padded, deformation, self.partner, self.there, num_labels)
        brought = bring(self.padded, deformation, self.whole, self.around, num_labels)
        seen = within(self.padded, deformation, self.partner, self.there)
        return replace(brought, inside=brought.inside & seen)


def _tensors(
    brought: Brought, masks: Mapping[str, np.ndarray], real: np.ndarray, last_code: int
) -> dict[str, torch.Tensor]:
    """What a shape's training is shown of a brought template; images in [0, 1]."""
    guess = mend(brought, masks[REFERENCE], real, last_code)
    return {
        IMAGE: torch.from_numpy(brought.image).half(),
        TEMPLATE: torch.from_numpy(brought.codes),
        GUESS: torch.from_numpy(guess.image.clip(0, 1)).half(),
        GUESS_CODES: torch.from_numpy(np.where(guess.origin == OWN, masks[TEMPLATE], guess.codes)),
        ORIGIN: torch.from_numpy(guess.origin),
    }


@dataclass(frozen=True)
class ThereAndBack:
    """The way from a case to a partner and back, which ends beside where it began.

    Attributes:
        there: From the case to the partner.
        back: From the partner to the case.
        extent_mm: Of the partner; what lies beyond is taken from its border, as `bring` does.
        share: How much of the difference counts, float32 [D, H, W] of the turned case: `_ERROR_FACTOR` where the masks
            disagree, 0 far from there, where a template is to be kept as it is. None = 1 everywhere.
        spacing_mm: Voxel size of that.
    """

    there: Registration
    back: Registration
    extent_mm: Triple[float]
    share: np.ndarray | None
    spacing_mm: Triple[float]

    def points_mm(self, points_mm: torch.Tensor) -> torch.Tensor:
        """As of a registration of the case to itself."""
        there = self.there.points_mm(points_mm)
        end = self.back.points_mm(torch.minimum(there.clamp(min=0), torch.tensor(self.extent_mm).to(there)))
        if self.share is None:
            return end
        share = torch.from_numpy(self.share).to(points_mm)[None, None]
        part = sampled(share, points_mm.reshape(-1, 1, 1, 3), self.spacing_mm).reshape(points_mm.shape[:-1])
        return points_mm + part[..., None] * (end - points_mm)


def there_and_back(
    case: Case, partner: Case, there: Registration, back: Registration, num_labels: int, last_code: int
) -> ThereAndBack:
    """The way to a partner and back, as far as it counts: near to where it leads to another structure."""
    turn, turn_there = (Orientation.of(one.affine, SPL) for one in (case, partner))
    size, step_mm = turn_there.reorder(partner.shape), turn_there.reorder(partner.spacing_mm)
    extent_mm = triple(n * step for n, step in zip(size, step_mm, strict=True))
    spacing_mm = turn.reorder(case.spacing_mm)
    whole = ThereAndBack(there, back, extent_mm, None, spacing_mm)
    moved = bring(case, IDENTITY, case, whole, num_labels)
    unmoved = bring(case, IDENTITY, case, Registration.identity(), num_labels)
    codes, own = (np.where(one.codes <= last_code, one.codes, 0) for one in (moved, unmoved))
    wrong = (codes != own) | ~within(case, IDENTITY, partner, there)
    share = _ERROR_FACTOR * np.ascontiguousarray(turn.turn(out_of_place(wrong, case.spacing_mm, *_DISPLACED_MM)))
    return replace(whole, share=share)


def read_template(
    path: Path, contrast: int, crop: Box
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Read a part of a registered template in one of its case's contrasts.

    Returns:
        Its codes, uint8 [1, D, H, W], and image, float16 [C, D, H, W] in [0, 1]; the first guess, as the image, and its
        origin, as the codes.
    """
    codes, guess_codes, origin = (read_crop(path, key, crop) for key in (TEMPLATE, GUESS_CODES, ORIGIN))
    image, guess = (read_crop(path, key, crop) for key in (IMAGE, GUESS))
    if contrast:
        with open_tensors(path) as file:
            offsets = file.get_slice(OFFSETS)[contrast].numpy()
        image, guess = (
            torch.from_numpy(add_contrast(volume.numpy(), of.numpy(), offsets)).clamp(0, 1).half()
            for volume, of in ((image, codes), (guess, guess_codes))
        )
    return codes[None], image, guess, origin[None]


def _map_file(folder: Path, reference: str, template: str) -> Path:
    return folder / f"{reference}__to__{template}.npz"


def _padded_and_whole(
    data: TrainingData, case_id: str, spacing_mm: Sequence[float], config: FCaSConfig
) -> tuple[Case, Case]:
    """A case on its working grid as its variants are, and without the padding."""
    case, grid = on_working_grid(data, case_id, spacing_mm, config)
    assert case.image is not None, "training cases have images"
    d, h, w = (slice(size) for size in grid.resampled_shape)
    around = None if case.surroundings is None else case.surroundings[d, h, w]
    return case, replace(case, image=case.image[:, d, h, w], mask=case.mask[d, h, w], surroundings=around)


def _in_its_contrast(brought: Brought, real: np.ndarray, codes: np.ndarray) -> Brought:
    """A brought template with the mean and spread of a real scan in every structure that both show."""
    image = brought.image.copy()
    for code in np.unique(brought.codes):
        theirs = brought.codes == code
        both = theirs & (codes == code) & brought.inside
        for channel, target in zip(image, real, strict=True):
            channel[theirs] = in_contrast(channel, target, both)[theirs]
    return replace(brought, image=image.clip(0, 1))
