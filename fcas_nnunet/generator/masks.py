"""MGM: new masks from a given one, without training (paper §3.1.3, Eqs. 5 and 6), every vessel whole.

A label volume and its spacing in, a new mask out:

    mask, deformation, rejections = generate_mask(mask, spacing_mm, MaskConfig(), seed=0, thin_ids=[8])

The paper deforms and closes; measured, that leaves a vessel one voxel wide in dozens of pieces. Here a class that came
apart is joined along the source's own neighbourhoods, every mask is checked against its source, and drawn anew where it
fails.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection

import numpy as np
import torch

from fcas_nnunet.generator.deformation import (
    Deformation,
    Triple,
    as_triple,
    draw_deformation,
    elastic_jacobian_range,
    mask_center_mm,
    output_points_mm,
    source_points_mm,
)
from fcas_nnunet.generator.mask_config import MaskConfig, Padding
from fcas_nnunet.generator.morphology import close_box2, dilate_box3, erode_box3, label_components
from fcas_nnunet.generator.reconnection import reconnect_class
from fcas_nnunet.generator.resampling import Region, deform_labels
from fcas_nnunet.generator.topology import (
    FACES,
    Box,
    ClassTopology,
    class_boxes,
    describe_mask,
    topology_faults,
    union_box,
)

logger = logging.getLogger(__name__)

_SPECK_PART = 0.005  # of a class's volume
_VIEW_POINTS = 300  # per class, besides the outermost
_POLAR, _AZIMUTH = np.meshgrid(np.linspace(0.0, np.pi, 9), np.linspace(0.0, 2 * np.pi, 16, endpoint=False))
_DIRECTIONS = np.stack(
    [np.cos(_POLAR), np.sin(_POLAR) * np.cos(_AZIMUTH), np.sin(_POLAR) * np.sin(_AZIMUTH)], axis=-1
).reshape(-1, 3)
_VIEW_MARGIN_VOXELS = 1.0
_VIEW_PASSES = 5
_MARGIN_VOXELS = 2  # half a voxel of sampling, one of closing


def generate_mask(
    mask: np.ndarray,
    spacing_mm: Triple,
    config: MaskConfig,
    seed: int,
    thin_ids: Collection[int] = (),
    *,
    source: dict[int, ClassTopology] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, Deformation, list[str]]:
    """Draw deformations until one gives a mask made as its source is.

    Args:
        mask: label ids, uint8 [D, H, W].
        spacing_mm: voxel size along (D, H, W).
        config: ranges of the draw and bounds of the check.
        seed: same seed, same mask.
        thin_ids: labels that win where classes meet, and whose tunnels are checked (`anatomy.thin_label_ids`).
        source: `describe_mask(mask, thin_ids)`, when many masks are made from one; None = found here.
        device: where to sample.

    Returns:
        The mask, uint8 [D, H, W]; the deformation, from which `deform_mask` gives the same mask again; and why earlier
        draws were rejected, one sentence each.

    Raises:
        ValueError: when the mask is empty, or every draw was rejected.
    """
    source = source if source is not None else describe_mask(mask, thin_ids)
    if not source:
        raise ValueError("mask: at least one voxel must be labelled to deform it, got none. Leave this case out.")
    center_mm = mask_center_mm(mask, spacing_mm)
    surface = _surface_points(mask, source, spacing_mm)
    d, h, w = mask.shape
    rejections: list[str] = []
    for attempt in range(config.max_tries):
        deformation = draw_deformation(
            config, (d, h, w), spacing_mm, _seed_of_try(seed, attempt),
            center_mm=center_mm, strength=config.milder**attempt,
        )  # fmt: skip
        deformation = _kept_in_view(deformation, *surface, mask.shape, spacing_mm)
        smallest_jacobian, _ = elastic_jacobian_range(deformation)
        if smallest_jacobian <= config.min_jacobian:
            faults = [f"the field's smallest Jacobian is {smallest_jacobian:.3f}, at most {config.min_jacobian}"]
        else:
            deformed = deform_mask(mask, deformation, spacing_mm, thin_ids, source=source, device=device)
            faults = topology_faults(source, describe_mask(deformed, thin_ids), config)
        if not faults:
            return deformed, deformation, rejections
        rejections.append(f"seed {seed}, try {attempt + 1}: {'; '.join(faults)}")
        logger.info("mask rejected: %s", rejections[-1])
    raise ValueError(
        f"mask: one of {config.max_tries} deformations must keep its topology, got none (seed {seed}). "
        "Narrow the ranges of MaskConfig, or leave this case out. Rejected:\n" + "\n".join(rejections)
    )


def deform_mask(
    mask: np.ndarray,
    deformation: Deformation,
    spacing_mm: Triple,
    thin_ids: Collection[int] = (),
    *,
    source: dict[int, ClassTopology] | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Apply a deformation to a mask: nearest sampling, closing per class, and joining what came apart.

    Where classes meet the thin ones win: their closing and joints may take any voxel but another thin class's; those of
    the other classes take background only.

    Args:
        mask: label ids, uint8 [D, H, W].
        deformation: the record.
        spacing_mm: voxel size along (D, H, W).
        thin_ids: labels of thin classes.
        source: `describe_mask(mask)` if known.
        device: where to sample.

    Returns:
        uint8 [D, H, W]; only labels of `mask`. The identity returns the mask, bit for bit.
    """
    boxes = class_boxes(mask)
    if deformation.is_identity or not boxes:
        return mask.copy()
    source = source if source is not None else describe_mask(mask)
    region = _output_region(union_box(boxes.values()), mask.shape, deformation, spacing_mm)
    if min(s.stop - s.start for s in region) == 0:
        return np.zeros_like(mask)
    part = deform_labels(mask, deformation, spacing_mm, region=region, device=device)
    origin = np.array([s.start for s in region])

    ordered = sorted(boxes, key=lambda label: (label in thin_ids, label))  # thin classes have the last word
    for label in ordered:
        added = _closed_gaps(mask, label, boxes[label], part, origin, deformation, spacing_mm)
        _paint(part, added, label, thin_ids)
    torn = _torn(part, source, ordered)
    for label in torn:
        if label not in thin_ids:  # crumbs of a chamber's surface are not worth a joint
            _absorb_specks(part, label, source[label].components)
    torn = _torn(part, source, torn)
    for label in torn:
        box = boxes[label]
        added = reconnect_class(mask[box] == label, box, part == label, origin, deformation, spacing_mm)
        _paint(part, added, label, thin_ids)
    for label in _torn(part, source, ordered if torn else []):  # a joint may cut what it crosses
        _absorb_specks(part, label, source[label].components)
    deformed = np.zeros_like(mask)
    deformed[region] = part
    return deformed


def _closed_gaps(
    mask: np.ndarray,
    label: int,
    box: Box,
    part: np.ndarray,
    origin: np.ndarray,
    deformation: Deformation,
    spacing_mm: Triple,
) -> np.ndarray:
    """Voxels of `part` that closing adds to a class (Eq. 6), [N, 3].

    Left open are gaps that the source has itself, and those between two of its components.
    """
    found = class_boxes((part == label).view(np.uint8))
    if not found:
        return np.empty((0, 3), dtype=int)
    here = found[1]
    binary = part[here] == label
    gaps = np.argwhere(close_box2(binary) & ~binary)
    original = np.pad(mask[box] == label, 1)  # the source's gaps lie inside its box; the rim stands for the outside
    own_gap = close_box2(original) & ~original
    spacing, corner = np.array(spacing_mm), np.array([s.start for s in here]) + origin

    def source_index(voxels: np.ndarray) -> tuple[np.ndarray, ...]:
        index = np.rint(source_points_mm(deformation, (voxels + corner) * spacing) / spacing).astype(int)
        return tuple(np.clip(index - [s.start - 1 for s in box], 0, np.array(own_gap.shape) - 1).T)

    gaps = gaps[~own_gap[source_index(gaps)]]
    components, count = label_components(original)
    if count > 1 and len(gaps):
        origin_of = np.zeros(np.array(binary.shape) + 2, dtype=np.int64)
        voxels = np.argwhere(binary)
        origin_of[tuple((voxels + 1).T)] = components[source_index(voxels)]
        around = np.stack([origin_of[tuple((gaps + step).T)] for step in np.ndindex(3, 3, 3)])
        nearest = np.where(around > 0, around, count + 1).min(axis=0)
        gaps = gaps[around.max(axis=0) <= nearest]
    return gaps + [s.start for s in here]


def _torn(part: np.ndarray, source: dict[int, ClassTopology], labels: list[int]) -> list[int]:
    """The classes, in the order given, whose pieces are not as many as in the source."""
    if not labels:
        return []
    pieces = {label: topology.components for label, topology in describe_mask(part).items()}
    return [label for label in labels if pieces.get(label, 0) != source[label].components]


def _absorb_specks(part: np.ndarray, label: int, num_components: int) -> None:
    """Give a class's tiny surplus pieces to what surrounds them most.

    They are left where the border cuts a corner off, or where another class holds the place of a joint.
    """
    d, h, w = class_boxes((part == label).view(np.uint8)).get(1, (slice(0, 0),) * 3)
    part = part[max(d.start - 1, 0) : d.stop + 1, max(h.start - 1, 0) : h.stop + 1, max(w.start - 1, 0) : w.stop + 1]
    pieces, _ = label_components(part == label)
    sizes = np.bincount(pieces.ravel())
    surplus = 1 + np.argsort(-sizes[1:], kind="stable")[num_components:]
    for piece in surplus:
        if sizes[piece] > _SPECK_PART * sizes[1:].sum():
            continue
        voxels = np.argwhere(pieces == piece)
        around = tuple(slice(max(a - 1, 0), b + 2) for a, b in zip(voxels.min(axis=0), voxels.max(axis=0), strict=True))
        rim = dilate_box3(pieces[around] == piece) & (part[around] != label)
        part[tuple(voxels.T)] = np.bincount(part[around][rim]).argmax()


def _paint(part: np.ndarray, voxels: np.ndarray, label: int, thin_ids: Collection[int]) -> None:
    """Give voxels to a class where it may have them."""
    at = tuple(voxels.T)
    free = ~np.isin(part[at], list(thin_ids)) if label in thin_ids else part[at] == 0
    part[tuple(voxels[free].T)] = label


def _output_region(box: Box, shape: tuple[int, ...], deformation: Deformation, spacing_mm: Triple) -> Region:
    """A box of the output that holds all that `box` is moved to."""
    spacing = np.array(spacing_mm)
    low, high = np.array([s.start - 0.5 for s in box]), np.array([s.stop - 0.5 for s in box])
    if deformation.padding is Padding.BORDER:  # what touches the border goes on beyond it
        far = 2 * np.linalg.norm(np.array(shape) * spacing) / spacing
        low = np.where(low < 0, low - far, low)
        high = np.where(high > np.array(shape) - 1, high + far, high)
    ends = np.stack([low, high])
    corners = np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    affine_part = dataclasses.replace(deformation, max_displacement_mm=0.0)
    moved = output_points_mm(affine_part, corners * spacing) / spacing
    reach = deformation.max_displacement_mm / spacing + _MARGIN_VOXELS
    first = np.clip(np.floor(moved.min(axis=0) - reach), 0, shape).astype(int)
    last = np.clip(np.ceil(moved.max(axis=0) + reach), first, shape).astype(int)
    d, h, w = (slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return d, h, w


def _surface_points(
    mask: np.ndarray, source: dict[int, ClassTopology], spacing_mm: Triple
) -> tuple[np.ndarray, np.ndarray]:
    """Some points of each class's surface, mm [N, 3], and which faces their class keeps off, bool [N, 3, 2]."""
    points, keeps_off = [], []
    for label, box in class_boxes(mask).items():
        binary = mask[box] == label
        surface = np.argwhere(binary & ~erode_box3(binary))
        surface_mm = (surface + [s.start for s in box]) * np.array(spacing_mm)
        outermost = np.unique((surface_mm @ _DIRECTIONS.T).argmax(axis=0))  # the affine part keeps them outermost
        some = np.concatenate([surface_mm[outermost], surface_mm[:: -(-len(surface) // _VIEW_POINTS)]])
        points.append(some)
        free = np.array([face not in source[label].touched_faces for face in FACES]).reshape(1, 3, 2)
        keeps_off.append(free.repeat(len(some), axis=0))
    return np.concatenate(points), np.concatenate(keeps_off)


def _kept_in_view(
    deformation: Deformation,
    points_mm: np.ndarray,
    keeps_off: np.ndarray,
    shape: tuple[int, ...],
    spacing_mm: Triple,
) -> Deformation:
    """The deformation, shifted as little as brings each class back inside the volume.

    Only faces count that the class does not touch in the source. A heart too large for the volume is shrunk until it
    fits. The elastic part stays where it is, so a shift changes what it does to the heart: hence several passes.
    """
    spacing = np.array(spacing_mm)
    first = _VIEW_MARGIN_VOXELS * spacing
    last = (np.array(shape) - 1 - _VIEW_MARGIN_VOXELS) * spacing
    for _ in range(_VIEW_PASSES):
        moved = output_points_mm(deformation, points_mm)
        lowest = np.where(keeps_off[..., 0], moved, np.inf).min(axis=0)
        highest = np.where(keeps_off[..., 1], moved, -np.inf).max(axis=0)
        least, most = first - lowest, last - highest  # bounds of the shift
        if (least <= 0).all() and (most >= 0).all():
            break
        fit = min(1.0, float(((last - first) / np.maximum(highest - lowest, last - first)).min()))
        shift = np.where(least <= most, np.clip(0.0, least, most), 0.5 * (least + most))
        deformation = dataclasses.replace(
            deformation,
            scale=as_triple([fit * factor for factor in deformation.scale]),
            translation_mm=as_triple(shift + deformation.translation_mm),
        )
    return deformation


def _seed_of_try(seed: int, attempt: int) -> int:
    """A seed of its own for each draw, so that neighbouring seeds share none."""
    return int(np.random.SeedSequence([seed, attempt]).generate_state(1, np.uint64)[0])
