"""MGM: make new masks from a given one, without training (paper §3.1.3, Eqs. 5 and 6), with every vessel whole.

    new = generate_mask(mask, spacing_mm, seed=0, roles=label_roles(labels)).mask

The paper deforms and closes; measured, that leaves a vessel one voxel wide in dozens of pieces. Here a class that came
apart is joined along the source's neighbourhoods, a vessel is given its source's topology, and a mask that differs
from its source in topology is rejected and drawn again.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Collection
from dataclasses import dataclass

import edt
import numpy as np

from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.mgm.deformation import (
    Deformation,
    draw_deformation,
    elastic_jacobian_range,
    mask_center_mm,
    output_points_mm,
    source_points_mm,
)
from fcas_nnunet.generator.mgm.framing import shift_into_view
from fcas_nnunet.generator.mgm.local_changes import apply_local_changes, draw_local_changes
from fcas_nnunet.generator.mgm.quality import Bounds, counted_faults, topology_faults
from fcas_nnunet.generator.mgm.recipe import Recipe, SourceMask
from fcas_nnunet.generator.mgm.reconnection import reconnect_class
from fcas_nnunet.generator.mgm.resampling import deform_labels
from fcas_nnunet.generator.mgm.topology import ClassTopology, class_boxes, describe_mask, union_box
from fcas_nnunet.generator.mgm.vessels import fit_vessel, has_topology
from fcas_nnunet.geometry import Box, Triple, grown, triple
from fcas_nnunet.labels.anatomy import LabelRoles
from fcas_nnunet.labels.components import absorb_specks, bounding_box, label_components
from fcas_nnunet.labels.homotopy import HomotopicObject
from fcas_nnunet.labels.morphology import close_box2
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

_MARGIN_VOXELS = 2  # half a voxel of sampling, one of closing


class NoMaskError(InputError):
    """No acceptable mask can be made from a reference; others may do."""


@dataclass(frozen=True)
class GeneratedMask:
    """A new mask, uint8 [D, H, W]; the recipe that reproduces it; and the reasons why earlier draws were rejected."""

    mask: np.ndarray
    recipe: Recipe
    rejections: list[str]


def generate_mask(
    mask: np.ndarray,
    spacing_mm: Triple[float],
    config: MaskConfig | None = None,
    seed: int = 0,
    roles: LabelRoles | None = None,
    *,
    bounds_ml: Bounds | None = None,
    source: SourceMask | None = None,
) -> GeneratedMask:
    """Draw recipes until one gives a mask that passes the quality gate.

    Args:
        mask: Label ids, uint8 [D, H, W].
        spacing_mm: Voxel size along (D, H, W).
        config: Ranges of the draw and bounds of the check; None = the defaults.
        seed: Seed of the draws; the same seed gives the same mask.
        roles: Ids of vessels and their roots, chambers, walls (`anatomy.label_roles`); None = no special labels.
        bounds_ml: Accepted volumes (`quality.volume_bounds_ml`); None = a range about the source's.
        source: Value of `SourceMask(mask, spacing_mm, roles)`, if many masks are made from one; None = computed here.

    Raises:
        NoMaskError: If the mask is empty, or every draw was rejected.
    """
    config = config or MaskConfig()
    source = source or SourceMask(mask, spacing_mm, roles or LabelRoles())
    if not source.boxes:
        raise NoMaskError("mask: at least one voxel must be labelled to deform it, got none. Leave this case out.")
    rejections: list[str] = []
    found: list[str] = []
    for attempt in range(config.max_tries):
        # a separate seed for each draw, so that neighbouring seeds share none
        seed_of_try = int(np.random.SeedSequence([seed, attempt]).generate_state(1, np.uint64)[0])
        recipe, changed = _draw(source, config, seed_of_try, config.milder**attempt)
        candidate, faults = _attempt(source, changed, recipe, config, bounds_ml)
        if candidate is not None and not faults:
            return GeneratedMask(candidate, recipe, rejections)
        found += faults
        rejections.append(f"seed {seed}, try {attempt + 1}: {listed(faults, separator='; ')}")
        logger.info("mask rejected: %s", rejections[-1])
    raise NoMaskError(
        f"mask: one of {config.max_tries} draws must be made as its source is, got none (seed {seed}): "
        f"{counted_faults(found)}. Narrow the ranges, or leave this case out."
    )


def apply_recipe(
    mask: np.ndarray, recipe: Recipe, spacing_mm: Triple[float], roles: LabelRoles | None = None
) -> np.ndarray:
    """Make a mask, uint8 [D, H, W], again from its source, its recipe and its roles."""
    roles = roles or LabelRoles()
    changed = apply_local_changes(mask, recipe.local_changes, spacing_mm, roles)
    return deform_mask(changed, recipe.deformation, spacing_mm, roles)


def deform_mask(
    mask: np.ndarray,
    deformation: Deformation,
    spacing_mm: Triple[float],
    roles: LabelRoles | None = None,
    *,
    source: SourceMask | None = None,
) -> np.ndarray:
    """Apply a deformation to a mask: nearest sampling, closing per class, and joining what came apart.

    Where classes meet the thin ones win: their closing and joints may take any voxel but another thin class's; those of
    the other classes take background only.

    Args:
        mask: Label ids, uint8 [D, H, W].
        deformation: Deformation to apply.
        spacing_mm: Voxel size along (D, H, W).
        roles: Roles of the labels; None = no special labels.
        source: Value of `SourceMask(mask, ...)`, if there is one.

    Returns:
        uint8 [D, H, W]; only labels of `mask`. The identity returns the mask, bit for bit.
    """
    source = source or SourceMask(mask, spacing_mm, roles or LabelRoles())
    boxes, thin_ids = source.boxes, source.roles.thin
    if deformation.is_identity or not boxes:
        return mask.copy()
    region = _output_region(union_box(boxes.values()), mask.shape, deformation, spacing_mm)
    if min(s.stop - s.start for s in region) == 0:
        return np.zeros_like(mask)
    part = deform_labels(mask, deformation, spacing_mm, region=region)
    origin = np.array([s.start for s in region])

    moved = class_boxes(part)
    for label in _thin_last(moved, thin_ids):
        added = _closed_gaps(source, label, part, moved[label], origin, deformation)
        if label in source.roles.wide:  # closing must not pierce a handle into a vessel or bridge its bends
            added = _simple_voxels(part, label, added)
        _paint(part, added, label, thin_ids)
    _mend(part, source, origin, deformation)
    deformed = np.zeros_like(mask)
    deformed[region] = part
    return deformed


def _draw(source: SourceMask, config: MaskConfig, seed: int, strength: float) -> tuple[Recipe, SourceMask]:
    """Draw a recipe, and return it with the source after its local changes."""
    changes = draw_local_changes(config, source.roles, source.boxes.keys(), seed)
    changed = source
    if changes:
        mask = apply_local_changes(source.mask, changes, source.spacing_mm, source.roles)
        changed = SourceMask(mask, source.spacing_mm, source.roles)
    deformation = draw_deformation(
        config, triple(source.mask.shape), source.spacing_mm, seed,
        center_mm=mask_center_mm(changed.mask, source.spacing_mm), strength=strength,
    )  # fmt: skip
    if not source.fills:
        deformation = shift_into_view(deformation, *changed.surface, source.mask.shape, source.spacing_mm)
    return Recipe(changes, deformation), changed


def _attempt(
    source: SourceMask, changed: SourceMask, recipe: Recipe, config: MaskConfig, bounds_ml: Bounds | None
) -> tuple[np.ndarray | None, list[str]]:
    """Make the mask of a recipe, and list its faults; no mask is made where the field could fold."""
    smallest_jacobian, _ = elastic_jacobian_range(recipe.deformation)
    if smallest_jacobian <= config.min_jacobian:
        return None, [f"the field's smallest Jacobian is {smallest_jacobian:.3f}, at most {config.min_jacobian}"]
    mask = deform_mask(changed.mask, recipe.deformation, source.spacing_mm, source=changed)
    candidate = describe_mask(mask, source.roles.vessels, source.roles.roots)
    faults = topology_faults(
        source.topology, candidate, config, source.spacing_mm, bounds_ml, fills=source.fills
    )  # fmt: skip
    for label in sorted(source.roles.thin & candidate.keys()):
        predicted = changed.vessels[label].predicted_voxels(recipe.deformation, source.spacing_mm)
        ratio = candidate[label].num_voxels / predicted
        if abs(ratio - 1) > config.volume_tolerance:
            faults.append(f"class {label} has {ratio:.2f} of the volume that its deformation predicts")
    return mask, faults


def _mend(part: np.ndarray, source: SourceMask, origin: np.ndarray, deformation: Deformation) -> None:
    """Bring every class's pieces, and the vessels' tunnels, back to what the source has."""
    thin_ids = source.roles.thin
    thick = sorted(source.boxes.keys() - thin_ids)
    torn = _torn(part, source, thick)
    for label in torn:  # crumbs of a chamber's surface need no joint
        absorb_specks(part, label, source.topology[label].components)
    torn = _torn(part, source, torn)
    for label in torn:
        box = source.boxes[label]
        added = reconnect_class(source.mask[box] == label, box, part == label, origin, deformation, source.spacing_mm)
        _paint(part, added, label, thin_ids)
    moved = class_boxes(part)
    present = _thin_last(moved.keys() & source.roles.vessels, thin_ids)
    pierced = [i for i in present if not has_topology(part[moved[i]] == i, source.topology[i])]
    pierced += sorted((thin_ids & source.boxes.keys()) - moved.keys())
    for label in pierced:
        if label in thin_ids:
            _refit(part, label, source, origin, deformation)
        else:
            _cut_bridges(part[moved[label]], label, source.topology[label])
    for label in _torn(part, source, thick if torn or pierced else []):  # drawn voxels may cut the classes they cross
        absorb_specks(part, label, source.topology[label].components)


def _cut_bridges(part: np.ndarray, label: int, topology: ClassTopology) -> None:
    """Part a wide vessel from itself where sampling skipped the gap between two of its bends.

    It grows again from its deepest voxel, by simple points, deep ones before shallow ones: so the gap stays where the
    bridge is. Only for a vessel in one piece without tunnels; another is left to the quality gate.
    """
    if (topology.components, topology.tunnels) != (1, 0):
        return
    sampled = part == label
    depth = edt.edt(np.pad(sampled, 1))[1:-1, 1:-1, 1:-1]
    deepest = np.zeros_like(sampled)
    deepest.flat[depth.argmax()] = True
    vessel = HomotopicObject(deepest)
    vessel.grow_in_order(sampled, depth.max() - depth, 1.0)
    _give_up(part, label, sampled & ~vessel.binary)


def _refit(part: np.ndarray, label: int, source: SourceMask, origin: np.ndarray, deformation: Deformation) -> None:
    """Replace a vessel by one with the source's topology; the voxels that it loses go to the classes around."""
    sampled = part == label
    fitted = fit_vessel(source.vessels[label], sampled, origin, deformation, source.spacing_mm)
    for other in source.roles.thin - {label}:
        fitted &= part != other
    part[fitted] = label
    _give_up(part, label, sampled & ~fitted)


def _give_up(part: np.ndarray, label: int, voxels: np.ndarray) -> None:
    """Give a class's voxels to the class that surrounds each one most."""
    for voxel in np.argwhere(voxels):
        around = part[tuple(slice(max(i - 1, 0), i + 2) for i in voxel)]
        counts = np.bincount(around[around != label])
        part[tuple(voxel)] = counts.argmax() if len(counts) else 0


def _closed_gaps(
    source: SourceMask, label: int, part: np.ndarray, here: Box, origin: np.ndarray, deformation: Deformation
) -> np.ndarray:
    """Voxels of `part` that closing adds to a class (Eq. 6), [N, 3]; the class lies in the box `here`.

    Gaps that the source itself has, and those between two of its components, stay open.
    """
    box, spacing = source.boxes[label], np.array(source.spacing_mm)
    binary = part[here] == label
    gaps = np.argwhere(close_box2(binary) & ~binary)
    # the source's gaps lie inside its box; the rim stands for the outside
    original = np.pad(source.mask[box] == label, 1)
    source_gap = close_box2(original) & ~original
    corner = np.array([s.start for s in here]) + origin

    def source_index(voxels: np.ndarray) -> tuple[np.ndarray, ...]:
        index = np.rint(source_points_mm(deformation, (voxels + corner) * spacing) / spacing).astype(int)
        return tuple(np.clip(index - [s.start - 1 for s in box], 0, np.array(source_gap.shape) - 1).T)

    gaps = gaps[~source_gap[source_index(gaps)]]
    components, count = label_components(original)
    if count > 1 and len(gaps):
        origin_of = np.zeros(np.array(binary.shape) + 2, dtype=np.int64)
        voxels = np.argwhere(binary)
        origin_of[tuple((voxels + 1).T)] = components[source_index(voxels)]
        around = np.stack([origin_of[tuple((gaps + step).T)] for step in np.ndindex(3, 3, 3)])
        nearest = np.where(around > 0, around, count + 1).min(axis=0)
        gaps = gaps[around.max(axis=0) <= nearest]
    return gaps + [s.start for s in here]


def _simple_voxels(part: np.ndarray, label: int, voxels: np.ndarray) -> np.ndarray:
    """Select the voxels, [N, 3], that can be added to a class without a change of its topology."""
    free = np.zeros(part.shape, dtype=bool)
    free[tuple(voxels.T)] = True
    tight = bounding_box(free)
    if tight is None:
        return voxels
    box = grown(tight)
    vessel = HomotopicObject(part[box] == label)
    vessel.grow(free[box] & (part[box] == 0))
    return np.argwhere(vessel.binary & free[box] & (part[box] == 0)) + [s.start for s in box]


def _torn(part: np.ndarray, source: SourceMask, labels: list[int]) -> list[int]:
    """List the classes, in the given order, whose number of pieces differs from the source's."""
    if not labels:
        return []
    pieces = {label: topology.components for label, topology in describe_mask(part).items()}
    return [label for label in labels if pieces.get(label, 0) != source.topology[label].components]


def _thin_last(labels: Collection[int], thin_ids: Collection[int]) -> list[int]:
    """Sort labels, thin classes last, so that these win."""
    return sorted(labels, key=lambda label: (label in thin_ids, label))


def _paint(part: np.ndarray, voxels: np.ndarray, label: int, thin_ids: Collection[int]) -> None:
    """Give voxels to a class where it may take them: thin ones anywhere but in thin ones, others in background."""
    at = tuple(voxels.T)
    free = ~np.isin(part[at], list(thin_ids)) if label in thin_ids else part[at] == 0
    part[tuple(voxels[free].T)] = label


def _output_region(box: Box, shape: tuple[int, ...], deformation: Deformation, spacing_mm: Triple[float]) -> Box:
    """A box of the output that contains the moved content of `box`."""
    spacing = np.array(spacing_mm)
    low, high = np.array([s.start - 0.5 for s in box]), np.array([s.stop - 0.5 for s in box])
    distance = 2 * np.linalg.norm(np.array(shape) * spacing) / spacing
    low = np.where(low < 0, low - distance, low)  # content that touches the border continues beyond it
    high = np.where(high > np.array(shape) - 1, high + distance, high)
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    affine_part = dataclasses.replace(deformation, max_displacement_mm=0.0)
    moved = output_points_mm(affine_part, corners * spacing) / spacing
    reach = deformation.max_displacement_mm / spacing + _MARGIN_VOXELS
    first = np.clip(np.floor(moved.min(axis=0) - reach), 0, shape).astype(int)
    last = np.clip(np.ceil(moved.max(axis=0) + reach), first, shape).astype(int)
    return triple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
