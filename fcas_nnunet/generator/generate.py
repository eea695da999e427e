"""Make synthetic cases: a mask, its scan, its confidence, and the record that reproduces all three."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import MaskConfig
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.generator.checkpoint import Generator, case_sha256
from fcas_nnunet.generator.drawing import Drawing, draw_image
from fcas_nnunet.generator.mgm.masks import NoMaskError, apply_recipe, generate_mask
from fcas_nnunet.generator.mgm.quality import Bounds
from fcas_nnunet.generator.mgm.recipe import Recipe, SourceMask
from fcas_nnunet.generator.mgm.resampling import deform_labels
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.labels.anatomy import LabelRoles, label_roles
from fcas_nnunet.seeds import derive_seed

LoadCase = Callable[[str], Case]


def make_case(
    generator: Generator,
    plan: CasePlan,
    load_case: LoadCase,
    device: torch.device,
    precision: torch.dtype,
    bounds_ml: Bounds | None = None,
) -> tuple[Case, dict[str, Any]]:
    """Make a synthetic case on its reference's voxel grid.

    Args:
        generator: Trained generator on `device`.
        plan: Plan of the case.
        load_case: Function that reads a reference or template by id.
        device: Device to compute on.
        precision: Precision of the autocast.
        bounds_ml: Plausible volumes of new masks.

    Returns:
        The case with image (HU), mask and confidence; and its manifest record.

    Raises:
        NoMaskError: If no acceptable mask could be drawn; the message names the reference.
    """
    config = generator.record.config
    source = load_case(plan.reference)
    roles = label_roles(generator.record.labels, generator.record.roles)
    mask, mask_record = reference_mask(plan, source, config.masks, roles, bounds_ml)
    return drawn_case(generator, plan, source, mask, mask_record, load_case, device, precision)


def drawn_case(
    generator: Generator,
    plan: CasePlan,
    source: Case,
    mask: np.ndarray,
    mask_record: Mapping[str, Any],
    load_case: LoadCase,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[Case, dict[str, Any]]:
    """As `make_case`, from a mask and its record (`reference_mask`), and the case that they come from."""
    record = generator.record
    template = source if plan.template == plan.reference else load_case(plan.template)
    around = source.surroundings if record.draws_surroundings else None
    if around is not None and mask_record:  # under the deformation of the new mask, as in training
        around = deform_labels(around, Recipe.from_dict(mask_record).deformation, source.spacing_mm)
    reference = Case(plan.case_id, None, mask, source.affine, around)
    drawing = draw_image(generator, reference, template, derive_seed(plan.seed, "noise"), device, precision)
    case = replace(
        reference, image=template.scale.to_own(drawing.image), scale=template.scale, confidence=drawing.confidence,
        surroundings=None,
    )  # fmt: skip
    inside = drawing.confidence[mask > 0]
    return case, {
        **plan.to_record(),
        "mgm": mask_record,
        "parents_sha256": {"reference": case_sha256(source), "template": case_sha256(template)},
        "sampling": to_dict(record.config.sampling.for_model(record.tcdm.prediction_type)),
        "confidence": to_dict(record.config.confidence.for_generator(generator.calibrated is not None)),
        "mean_confidence_in_structures": round(float(inside.mean()), 6),
        "std_confidence_in_structures": round(float(inside.std()), 6),
        "expected_error_hu": _error_record(generator, drawing, mask),
    }


def _error_record(generator: Generator, drawing: Drawing, mask: np.ndarray) -> dict[str, float] | None:
    """Scale of the confidence inside the structures, in HU; None where it has no such scale."""
    if drawing.expected_error_hu is None:
        return None
    assert generator.calibrated is not None, "the expected error comes from it"
    scale = generator.calibrated.calibration.inside
    mean = float(drawing.expected_error_hu[mask > 0].mean())
    values = {"mean": mean, "at_confidence_1": scale.certain_hu, "at_confidence_0": scale.uncertain_hu}
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


def remake_case(
    generator: Generator,
    record: Mapping[str, Any],
    load_case: LoadCase,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[Case, dict[str, Any]]:
    """Make a case again from its manifest record: the mask from its recipe, the scan from its seed.

    Args:
        generator: The generator that made the case, with the record's settings, on `device`.
        record: Record of the case in the manifest.
        load_case: Function that reads a reference or template by id.
        device: Device to compute on.
        precision: Precision of the autocast.

    Returns:
        The case and its record, as from `make_case`.
    """
    plan = CasePlan.from_record(record)
    source = load_case(plan.reference)
    mask = replayed_mask(record, source, label_roles(generator.record.labels, generator.record.roles))
    return drawn_case(generator, plan, source, mask, record["mgm"], load_case, device, precision)


def replayed_mask(record: Mapping[str, Any], reference: Case, roles: LabelRoles) -> np.ndarray:
    """Make the mask of a manifest record again, from its stored recipe instead of its seed."""
    plan = CasePlan.from_record(record)
    if plan.masks == ReferenceSource.GIVEN:
        return reference.mask
    return apply_recipe(reference.mask, Recipe.from_dict(record["mgm"]), reference.spacing_mm, roles)
