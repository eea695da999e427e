"""Making a synthetic case again from what the manifest keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.config.options import ReferenceSource
from fcas_nnunet.generator.checkpoint import Generator
from fcas_nnunet.generator.generate import CasePlan, LoadCase, drawn_case
from fcas_nnunet.generator.mgm.masks import apply_recipe
from fcas_nnunet.generator.mgm.recipe import Recipe
from fcas_nnunet.labels.anatomy import LabelRoles, label_roles


def remake_case(
    generator: Generator,
    record: Mapping[str, Any],
    load_case: LoadCase,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[Case, dict[str, Any]]:
    """Make a case again from its manifest record: the mask from its recipe, the scan from its seed.

    Args:
        generator: the one that made it, with the record's settings, on `device`.
        record: of the manifest.
        load_case: reads a reference or template by id.
        device: where to run.
        precision: of the autocast.

    Returns:
        As `make_case`.
    """
    plan = CasePlan.from_record(record)
    source = load_case(plan.reference)
    mask = replayed_mask(record, source, label_roles(generator.record.labels, generator.record.roles))
    return drawn_case(generator, plan, source, mask, record["mgm"], load_case, device, precision)


def replayed_mask(record: Mapping[str, Any], reference: Case, roles: LabelRoles) -> np.ndarray:
    """The mask of a manifest record, from its stored recipe instead of its seed."""
    plan = CasePlan.from_record(record)
    if plan.masks == ReferenceSource.GIVEN:
        return reference.mask
    return apply_recipe(reference.mask, Recipe.from_dict(record["mgm"]), reference.spacing_mm, roles)
