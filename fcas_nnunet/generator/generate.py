"""Make synthetic cases: a mask, its scan, its confidence, and the record that reproduces all three."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import MaskConfig
from fcas_nnunet.config.options import SCAN, ReferenceSource, ScanSource
from fcas_nnunet.config.sources import PaintConfig, VarietyConfig, WarpConfig
from fcas_nnunet.generator.checkpoint import Generator, case_sha256
from fcas_nnunet.generator.data.contrasts import add_contrast
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.drawing import Drawing, Registered, draw_image, guide
from fcas_nnunet.generator.mgm.deformation import IDENTITY, Deformation
from fcas_nnunet.generator.mgm.masks import NoMaskError, apply_recipe, generate_mask
from fcas_nnunet.generator.mgm.quality import Bounds
from fcas_nnunet.generator.mgm.recipe import Recipe, SourceMask
from fcas_nnunet.generator.mgm.resampling import deform_labels, deform_scan, within_volume
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.sources.cut_out import cut_out, filled
from fcas_nnunet.generator.sources.painted import contrast_ranges, paint_scan, tissues_of
from fcas_nnunet.generator.sources.registered import bring, mend
from fcas_nnunet.generator.sources.registration import REGISTRATION, Registration, register
from fcas_nnunet.generator.sources.variety import Traits, cut_to, draw_traits, take_on, view_box
from fcas_nnunet.generator.sources.warped import warp_offsets, warp_scan
from fcas_nnunet.labels.anatomy import GivenRoles, LabelRoles, label_roles
from fcas_nnunet.seeds import derive_seed

LoadCase = Callable[[str], Case]
VARIETY = "variety"  # what a case took on of other scans: a key of its record


@dataclass(frozen=True)
class Drawer:
    """What draws scans: a trained generator, on `device`, and the precision of its autocast."""

    generator: Generator
    device: torch.device
    precision: torch.dtype


@dataclass(frozen=True)
class Variety:
    """What scans may take on of others: how many of them, and the traits of the labelled scans."""

    config: VarietyConfig
    labelled: Sequence[Traits]


@dataclass(frozen=True)
class _RealCase:
    """A reference or template, and what is derived from it once for all cases that are made from it."""

    case: Case
    source: SourceMask
    config: PaintConfig

    @cached_property
    def sha256(self) -> str:
        return case_sha256(self.case)

    @cached_property
    def outside(self) -> np.ndarray | None:
        """What was cut out of each channel, but for structures, bool [C, D, H, W]; None where nothing was."""
        found = None if self.case.image is None else cut_out(self.case.image)
        return None if found is None else found & (self.case.mask == 0)

    @cached_property
    def whole(self) -> np.ndarray:
        """The scan, continued into what was cut out of it, in its own values."""
        assert self.case.image is not None, "references have scans"
        return filled(self.case.image, self.outside)

    @cached_property
    def palette(self) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """Tissue of every voxel, uint8 [D, H, W]; and the range of each channel's contrasts, in standard units."""
        image, mask = replace(self.case, image=self.whole).standard_image, self.case.mask
        between = contrast_ranges(image, mask, self.config.contrast_margin)
        return tissues_of(image, mask, self.config.num_tissues), between


class CaseMaker:
    """Makes synthetic cases by their plans or records, each on its reference's voxel grid.

    Args:
        labels: Label name → id.
        roles: Roles of the labels, where a user gave them.
        load_case: Reads a reference or template by id.
        masks: MGM's ranges. Masks of warped scans have no local changes, since there is no field to warp the scan by.
        warp: How scans are warped.
        paint: How scans are painted.
        drawer: Where some are drawn.
        registrations: Folder where registrations of pairs are kept for other processes; None = nowhere.
        kept: How many references and templates are kept after they were read.
        variety: What scans take on of others; None = nothing.
    """

    def __init__(
        self,
        labels: Mapping[str, int],
        roles: GivenRoles,
        load_case: LoadCase,
        masks: MaskConfig,
        warp: WarpConfig,
        paint: PaintConfig,
        drawer: Drawer | None = None,
        kept: int = 1,
        registrations: Path | None = None,
        variety: Variety | None = None,
    ) -> None:
        self.num_labels, self.roles = max(labels.values()), label_roles(labels, roles)
        self.load_case, self.masks, self.warp, self.paint, self.drawer = load_case, masks, warp, paint, drawer
        self._real_case = lru_cache(max(2, kept))(self._read)  # a reference and its template
        self.registrations, self.variety = registrations, variety

    @classmethod
    def of_generator(cls, drawer: Drawer, load_case: LoadCase, kept: int = 1) -> CaseMaker:
        """The maker of a generator's labels, roles and settings."""
        record = drawer.generator.record
        config = record.config
        return cls(record.labels, record.roles, load_case, config.masks, config.warp, config.paint, drawer, kept)

    def make(self, plan: CasePlan, bounds_ml: Bounds | None = None) -> tuple[Case, dict[str, Any]]:
        """Make a case by its plan.

        Args:
            plan: Plan of the case.
            bounds_ml: Plausible volumes of new masks.

        Returns:
            The case with image, mask and confidence; and its manifest record.

        Raises:
            NoMaskError: when no acceptable mask could be drawn; names the reference.
        """
        real = self._real_case(plan.reference)
        masks = self.masks.without_local_changes() if plan.scan == ScanSource.WARPED else self.masks
        mask, mask_record = reference_mask(plan, real.case, masks, self.roles, bounds_ml, real.source)
        traits = Traits()
        if self.variety is not None and plan.scan != ScanSource.PAINTED:
            traits = draw_traits(self.variety.labelled, self.variety.config, derive_seed(plan.seed, VARIETY))
        return self._case(plan, mask, mask_record, traits)

    def remake(self, record: Mapping[str, Any]) -> tuple[Case, dict[str, Any]]:
        """As `make`, again from a manifest record: the mask from its recipe, the scan from its seed.

        The generator, if there is one, and the settings are those that made the case.
        """
        plan = CasePlan.from_record(record)
        mask = replayed_mask(record, self._real_case(plan.reference).case, self.roles)
        return self._case(plan, mask, record["mgm"], Traits.from_record(record.get(VARIETY, {})))

    def _read(self, name: str) -> _RealCase:
        case = self.load_case(name)
        return _RealCase(case, SourceMask(case.mask, case.spacing_mm, self.roles), self.paint)

    def _case(
        self, plan: CasePlan, mask: np.ndarray, mask_record: Mapping[str, Any], traits: Traits
    ) -> tuple[Case, dict[str, Any]]:
        """A case and its record, from its mask, the record of `reference_mask`, and what the scan takes on."""
        deformation = deformation_of(mask_record)
        real = self._real_case(plan.reference)
        ignored = moved_ignored(real.case, mask_record)
        if ignored is not None:  # no structure is drawn there
            mask = np.where(ignored, np.uint8(0), mask)
        ways = {
            ScanSource.DRAWN: self._drawn, ScanSource.WARPED: self._warped, ScanSource.REGISTERED: self._registered,
            ScanSource.PAINTED: self._painted,
        }  # fmt: skip
        case, more = ways[plan.scan](plan, mask, deformation)
        assert case.confidence is not None, "every way gives it"
        confidence = case.confidence if ignored is None else np.where(ignored, np.float32(0), case.confidence)
        seed = derive_seed(plan.seed, VARIETY)
        if traits.changes_scan:
            shown = _with_surroundings(plan, mask, real.case, deformation)
            case = take_on(case, label_codes(shown, self.num_labels)[1], traits, seed)
        image = self._with_cut_out(case, plan, deformation)
        case = replace(case, image=image, confidence=confidence, ignored=ignored)
        if traits.extent_mm is not None:
            case = cut_to(case, view_box(case.mask, case.affine, traits.extent_mm, seed))
        assert case.confidence is not None, "it was cut with the case"
        inside = case.confidence[case.mask > 0]
        return case, {
            **plan.to_record(),
            SCAN: str(plan.scan),
            "mgm": mask_record,
            "parents_sha256": {"reference": real.sha256, "template": self._real_case(plan.template).sha256},
            "mean_confidence_in_structures": round(float(inside.mean()), 6) if inside.size else 1.0,
            "std_confidence_in_structures": round(float(inside.std()), 6) if inside.size else 0.0,
            "expected_error": None,
            **more,
            **({VARIETY: traits.to_record()} if traits != Traits() else {}),
        }

    def _with_cut_out(self, case: Case, plan: CasePlan, deformation: Deformation) -> np.ndarray:
        """A case's image, 0 where its reference's and template's scans were cut out, but not in a structure."""
        assert case.image is not None, "every way gives it"
        real, template = self._real_case(plan.reference), self._real_case(plan.template)
        if real.outside is None or template.outside is None:
            return case.image
        image = case.image.copy()
        for channel, part, theirs in zip(image, real.outside, template.outside, strict=True):
            if part.any() and theirs.any():
                moved = deform_labels(part, deformation, case.spacing_mm)
                channel[moved & (case.mask == 0)] = 0
        return image

    def _drawn(self, plan: CasePlan, mask: np.ndarray, deformation: Deformation) -> tuple[Case, dict[str, Any]]:
        """The scan that the generator draws, and what its record holds besides."""
        assert self.drawer is not None, "a drawn case needs a generator"
        generator = self.drawer.generator
        record = generator.record
        real, shown = self._real_case(plan.reference), self._real_case(plan.template)
        source, template = real.case, shown.case
        guided: Case | Registered = template
        if record.tcdm.registers:
            whole, theirs = replace(source, image=real.whole), replace(template, image=shown.whole)
            guided = guide(record, whole, theirs, deformation, self._registration(real, shown))
        around = None
        if source.surroundings is not None and record.draws_surroundings:  # deformed with the mask, as in training
            around = deform_labels(source.surroundings, deformation, source.spacing_mm)
        reference = Case(plan.case_id, None, mask, source.affine, around)
        seed = derive_seed(plan.seed, "noise")
        drawing = draw_image(generator, reference, guided, seed, self.drawer.device, self.drawer.precision)
        case = replace(
            reference, image=to_own(drawing.image, template), scales=template.scales, confidence=drawing.confidence,
            surroundings=None,
        )  # fmt: skip
        return case, {
            "sampling": to_dict(record.config.sampling.for_model(record.tcdm.prediction_type)),
            "confidence": to_dict(record.config.confidence.for_generator(generator.calibrated is not None)),
            "expected_error": _error_record(generator, drawing, mask),
        }

    def _warped(self, plan: CasePlan, mask: np.ndarray, deformation: Deformation) -> tuple[Case, dict[str, Any]]:
        """The reference's scan under the deformation of its mask."""
        real = self._real_case(plan.reference)
        source = real.case
        new = _with_surroundings(plan, mask, source, deformation)
        image, inside = warp_scan(
            real.whole, label_codes(new, self.num_labels)[1], self.num_labels, deformation, source.spacing_mm,
            self.warp, derive_seed(plan.seed, "contrast"), [scale.unit for scale in source.scales],
        )  # fmt: skip
        image = np.stack(replace(new, image=image).stored_channels)
        return replace(new, image=image, confidence=inside.astype(np.float32), surroundings=None), {}

    def _registered(self, plan: CasePlan, mask: np.ndarray, deformation: Deformation) -> tuple[Case, dict[str, Any]]:
        """The template's scan, registered to the reference, under the deformation of the mask."""
        real, template = self._real_case(plan.reference), self._real_case(plan.template)
        source = replace(real.case, image=real.whole)
        theirs = replace(template.case, image=template.whole)
        new = _with_surroundings(plan, mask, source, deformation)
        codes = label_codes(new, self.num_labels)[1]
        brought = bring(source, deformation, theirs, self._registration(real, template), self.num_labels)
        own, inside = deform_scan(source.standard_image, deformation, source.spacing_mm)
        offsets = warp_offsets(self.warp, len(own), self.num_labels, derive_seed(plan.seed, "contrast"))
        image = to_own(add_contrast(mend(brought, codes, own).image, codes, offsets), theirs)
        confidence = (inside | brought.inside).astype(np.float32)
        confidence[brought.disagrees(mask, self.num_labels)] = self.warp.mended_confidence
        return replace(new, image=image, scales=theirs.scales, confidence=confidence, surroundings=None), {}

    def _registration(self, reference: _RealCase, template: _RealCase) -> Registration:
        """The map from a reference to a template, found once for each pair of scans."""
        if template is reference:
            return Registration.identity()
        name = hashlib.sha256(f"{REGISTRATION} {reference.sha256} {template.sha256}".encode()).hexdigest()
        path = None if self.registrations is None else self.registrations / f"{name}.npz"
        if path is not None and path.is_file():
            return Registration.load(path)
        found = register(reference.case, template.case, self.num_labels)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            found.save(path)
        return found

    def _painted(self, plan: CasePlan, mask: np.ndarray, deformation: Deformation) -> tuple[Case, dict[str, Any]]:
        """The mask, and the tissues of the reference's scan around it, in random contrasts."""
        real = self._real_case(plan.reference)
        source, (tissues, between) = real.case, real.palette
        carried = deform_labels(tissues, deformation, source.spacing_mm)
        image = paint_scan(mask, carried, between, self.paint, derive_seed(plan.seed, "paint"))
        confidence = within_volume(mask.shape, deformation, source.spacing_mm).astype(np.float32)
        image = to_own(image, source)
        return Case(plan.case_id, image, mask, source.affine, confidence=confidence, scales=source.scales), {}


def _with_surroundings(plan: CasePlan, mask: np.ndarray, source: Case, deformation: Deformation) -> Case:
    """The case of a new mask, without a scan, with its source's surroundings under the mask's deformation."""
    around = source.surroundings
    if around is not None:
        around = deform_labels(around, deformation, source.spacing_mm)
    return Case(plan.case_id, None, mask, source.affine, around, scales=source.scales)


def to_own(image: np.ndarray, real: Case) -> np.ndarray:
    """Standard units => the own values of a real scan, [C, D, H, W] in a type that holds those of all channels."""
    return np.stack([scale.to_own(channel) for scale, channel in zip(real.scales, image, strict=True)])


def _error_record(generator: Generator, drawing: Drawing, mask: np.ndarray) -> dict[str, float] | None:
    """Scale of the confidence inside the structures, in standard units; None where it has no such scale."""
    if drawing.expected_error is None:
        return None
    assert generator.calibrated is not None, "the expected error comes from it"
    scale = generator.calibrated.calibration.inside
    mean = float(drawing.expected_error[mask > 0].mean())
    values = {"mean": mean, "at_confidence_1": scale.certain, "at_confidence_0": scale.uncertain}
    return {name: round(value, 3) for name, value in values.items()}


def reference_mask(
    plan: CasePlan,
    reference: Case,
    config: MaskConfig,
    roles: LabelRoles,
    bounds_ml: Bounds | None = None,
    source: SourceMask | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Make the mask to draw.

    Args:
        plan: Plan of the case; its seed determines the mask.
        reference: Case that the mask is made from.
        config: Ranges of MGM.
        roles: Roles of the labels.
        bounds_ml: Plausible volumes.
        source: Reference's mask with what is derived from it, if many masks are made from it.

    Returns:
        uint8 [D, H, W], and its manifest record, which is empty for a given mask.

    Raises:
        NoMaskError: If no acceptable mask could be drawn; the message names the reference.
    """
    if plan.masks == ReferenceSource.GIVEN:
        return reference.mask, {}
    try:
        made = generate_mask(
            reference.mask, reference.spacing_mm, config, derive_seed(plan.seed, "mask"), roles,
            bounds_ml=bounds_ml, source=source,
        )  # fmt: skip
    except NoMaskError as error:
        raise NoMaskError(f"{plan.reference}: {error}") from error
    return made.mask, made.recipe.to_dict() | {"rejections": made.rejections}


def deformation_of(mask_record: Mapping[str, Any]) -> Deformation:
    """The deformation that made a mask of its reference's, from the record of `reference_mask`."""
    return Recipe.from_dict(mask_record).deformation if mask_record else IDENTITY


def moved_ignored(reference: Case, mask_record: Mapping[str, Any]) -> np.ndarray | None:
    """The voxels of a new mask that are ignored, bool [D, H, W]: the reference's, moved as the mask; None without any.

    `mask_record` is the result of `reference_mask`.
    """
    if reference.ignored is None or not mask_record:
        return reference.ignored
    return deform_labels(reference.ignored, deformation_of(mask_record), reference.spacing_mm)


def replayed_mask(record: Mapping[str, Any], reference: Case, roles: LabelRoles) -> np.ndarray:
    """Make the mask of a manifest record again, from its stored recipe instead of its seed."""
    plan = CasePlan.from_record(record)
    if plan.masks == ReferenceSource.GIVEN:
        return reference.mask
    return apply_recipe(reference.mask, Recipe.from_dict(record["mgm"]), reference.spacing_mm, roles)
