"""Change a heart locally before it is deformed: a chamber's size, a wall's thickness, a vessel's calibre, a stenosis.

Each is a small record, drawn apart from being applied. Chambers and walls change by one label advancing into another
while a rest of that stays, so no two labels lose touch; vessels change by simple points alone, so none breaks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import edt
import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.generator.mgm.deformation import uniform_numbers
from fcas_nnunet.generator.mgm.topology import class_boxes
from fcas_nnunet.geometry import Box, Triple, grown
from fcas_nnunet.labels.anatomy import LabelRoles
from fcas_nnunet.labels.homotopy import HomotopicObject, skeleton
from fcas_nnunet.labels.morphology import dilate_box3, voxel_graph

#: Thickness that remains of a label between the one that advances into it and any third one.
_REST_MM = 2.0
_UNCHANGED = 0.95  # a factor on the radius that no voxel shows
_SMOOTHING_MM = 3.0
_SEEDS = 1  # a random stream beside the deformation's


class LocalKind(StrEnum):
    """The property of a label that a local change alters."""

    CHAMBER_SIZE = "chamber_size"
    WALL_THICKNESS = "wall_thickness"
    VESSEL_CALIBRE = "vessel_calibre"
    STENOSIS = "stenosis"


@dataclass(frozen=True)
class LocalChange:
    """One change of one label.

    Attributes:
        kind: Property that changes.
        label: Id of the label.
        amount: Distance in mm that a chamber's or a wall's border moves, outwards if positive; factor on a vessel's
            radius; part of the radius that a stenosis takes.
        position: Place of a stenosis, as a part of the vessel's skeleton voxels in C order; else 0.
        length_mm: Length within which a stenosis takes at least half its depth; else 0.
    """

    kind: LocalKind
    label: int
    amount: float
    position: float = 0.0
    length_mm: float = 0.0


def draw_local_changes(
    config: MaskConfig, roles: LabelRoles, labels: Collection[int], seed: int
) -> tuple[LocalChange, ...]:
    """Draw a change of one chamber, of one wall, of the calibre of all thin labels, and one stenosis.

    Ranges of `config` that are a single neutral value draw nothing. `labels` are the ids that the mask has.
    """
    unit = iter(uniform_numbers(int(np.random.SeedSequence([seed, _SEEDS]).generate_state(1, np.uint64)[0]), 9))

    def between(bounds: tuple[float, float]) -> float:
        return float(bounds[0] + (bounds[1] - bounds[0]) * next(unit))

    def pick(candidates: Collection[int]) -> int | None:
        present, turn = sorted(set(candidates) & set(labels)), next(unit)
        return present[int(turn * len(present))] if present else None

    chamber, chamber_mm = pick(roles.chambers), between(config.chamber_size_mm)
    wall, wall_mm = pick(roles.walls), between(config.wall_thickness_mm)
    vessel, calibre = pick(roles.thin), between(config.vessel_calibre)
    depth, position, length_mm = between(config.stenosis), next(unit), between(config.stenosis_length_mm)
    drawn = []
    if chamber is not None and chamber_mm:
        drawn.append(LocalChange(LocalKind.CHAMBER_SIZE, chamber, chamber_mm))
    if wall is not None and wall_mm:
        drawn.append(LocalChange(LocalKind.WALL_THICKNESS, wall, wall_mm))
    if calibre != 1:
        drawn += [LocalChange(LocalKind.VESSEL_CALIBRE, label, calibre) for label in sorted(roles.thin & set(labels))]
    if vessel is not None and depth:
        drawn.append(LocalChange(LocalKind.STENOSIS, vessel, depth, position, length_mm))
    return tuple(drawn)


def apply_local_changes(
    mask: np.ndarray, changes: Sequence[LocalChange], spacing_mm: Triple[float], roles: LabelRoles
) -> np.ndarray:
    """Apply changes to a mask of label ids, uint8 [D, H, W], in their order.

    Returns:
        uint8 [D, H, W]; only labels of `mask`, and background where the mask has background or a vessel had more of it.
    """
    changed = mask.copy() if changes else mask
    for change in changes:
        box = class_boxes(changed).get(change.label)
        if box is None:
            continue
        if change.kind is LocalKind.CHAMBER_SIZE:
            others = set(np.unique(changed[box]).tolist()) - {0, change.label} - roles.thin
            _move_border(changed, change, sorted(others), spacing_mm)
        elif change.kind is LocalKind.WALL_THICKNESS:
            _move_border(changed, change, sorted(roles.chambers), spacing_mm)
        else:
            _change_calibre(changed, change, box, spacing_mm, roles)
    return changed


@dataclass(frozen=True)
class HopelessRange:
    """A range of which even `mildest`, the value nearest to `neutral`, makes a label too small or too large.

    Attributes:
        setting: Name of the range in `MaskConfig`.
        mildest: Value of the range nearest to `neutral`.
        neutral: Value that changes nothing.
        label: Id of a label that becomes too small or too large.
        ratio: Volume of that label at `mildest`, as a part of the source's.
    """

    setting: str
    mildest: float
    neutral: float
    label: int
    ratio: float


def hopeless_ranges(
    mask: np.ndarray, config: MaskConfig, spacing_mm: Triple[float], roles: LabelRoles
) -> list[HopelessRange]:
    """Find the ranges that can give no acceptable mask of this source, without drawing one.

    A volume counts as acceptable if the affine part could bring it into `volume_ratio_range` with all three axes at an
    end of `scale_range`. A change that picks one of several labels is hopeless if every one fails. A stenosis always
    leaves enough. The mask holds label ids, uint8 [D, H, W].
    """
    volumes = np.bincount(mask.ravel(), minlength=NUM_CODES)
    present = set(np.flatnonzero(volumes[1:]) + 1)
    (least, most), (smallest, largest) = config.volume_ratio_range, config.scale_range
    found = []
    for setting, kind, neutral, picks in (
        ("chamber_size_mm", LocalKind.CHAMBER_SIZE, 0.0, [[label] for label in sorted(roles.chambers & present)]),
        ("wall_thickness_mm", LocalKind.WALL_THICKNESS, 0.0, [[label] for label in sorted(roles.walls & present)]),
        ("vessel_calibre", LocalKind.VESSEL_CALIBRE, 1.0, [sorted(roles.thin & present)]),
    ):
        mildest = float(np.clip(neutral, *getattr(config, setting)))
        if mildest == neutral:
            continue
        faults = []
        for labels in filter(None, picks):
            changes = [LocalChange(kind, int(label), mildest) for label in labels]
            after = np.bincount(apply_local_changes(mask, changes, spacing_mm, roles).ravel(), minlength=NUM_CODES)
            ratios = [(int(label), float(after[label] / volumes[label])) for label in sorted(present)]
            faults.append([pair for pair in ratios if not least / largest**3 <= pair[1] <= most / smallest**3])
        if faults and all(faults):
            found.append(HopelessRange(setting, mildest, neutral, *faults[0][0]))
    return found


def _move_border(mask: np.ndarray, change: LocalChange, neighbours: Sequence[int], spacing_mm: Triple[float]) -> None:
    """Let a label advance into its neighbours, or them into it."""
    for neighbour in neighbours:
        winner, loser = (change.label, neighbour) if change.amount > 0 else (neighbour, change.label)
        boxes = class_boxes(mask)
        if winner not in boxes or loser not in boxes:
            continue
        margin = np.ceil(max(abs(change.amount), _REST_MM) / np.array(spacing_mm) + 1).astype(int)
        part = mask[grown(boxes[loser], margin)]
        border = (part == winner) & dilate_box3(part == loser)
        if not border.any():
            continue
        to_border = edt.edt(~border, anisotropy=spacing_mm)
        to_others = edt.edt((part == winner) | (part == loser), anisotropy=spacing_mm)
        taken = (part == loser) & (to_border <= abs(change.amount)) & (to_others > max(_REST_MM, *spacing_mm))
        part[taken] = winner


def _change_calibre(
    mask: np.ndarray, change: LocalChange, box: Box, spacing_mm: Triple[float], roles: LabelRoles
) -> None:
    """Widen or narrow a vessel about its skeleton, everywhere or along a part of a branch."""
    spacing = np.array(spacing_mm)
    widest_mm = edt.edt(np.pad(mask[box] == change.label, 1), anisotropy=spacing_mm).max()
    part = mask[grown(box, np.ceil(max(change.amount, 1.0) * widest_mm / spacing + 2).astype(int))]
    vessel = part == change.label
    core = skeleton(vessel)
    core_voxels = np.argwhere(core)
    radius_mm = _radii_mm(np.argwhere(vessel) * spacing, core_voxels * spacing)
    factor = np.full(len(core_voxels), change.amount)
    if change.kind is LocalKind.STENOSIS:
        _, graph = voxel_graph(core_voxels, spacing)
        start = int(change.position * len(core_voxels))
        along_mm = sparse.csgraph.dijkstra(graph, directed=False, indices=start)  # infinite in other pieces
        factor = 1 - change.amount * 0.5 ** np.square(2 * along_mm / change.length_mm)

    near = np.argwhere(edt.edt(~vessel, anisotropy=spacing_mm) <= factor.max() * radius_mm.max())
    distance, nearest = cKDTree(core_voxels * spacing).query(near * spacing)
    wanted = np.zeros(part.shape, dtype=bool)
    wanted[tuple(near[distance <= factor[nearest] * radius_mm[nearest]].T)] = True
    wide = np.zeros(part.shape, dtype=bool)
    wide[tuple(near[factor[nearest] > _UNCHANGED].T)] = True  # where nothing narrows, existing voxels stay
    changed = HomotopicObject(vessel)
    if change.amount > 1:  # a stenosis does not widen
        changed.grow(wanted & ~np.isin(part, sorted(roles.thin)))
    changed.shrink(wanted | core | (wide & vessel))
    part[changed.binary] = change.label
    part[vessel & ~changed.binary] = 0


def _radii_mm(vessel_mm: np.ndarray, core_mm: np.ndarray) -> np.ndarray:
    """A vessel's radius at its skeleton: distance of the farthest voxel nearest to each skeleton voxel, smoothed."""
    core = cKDTree(core_mm)
    distance, nearest = core.query(vessel_mm)
    reach = np.zeros(len(core_mm))
    np.maximum.at(reach, nearest, distance)
    return np.array([reach[around].mean() for around in core.query_ball_point(core_mm, _SMOOTHING_MM)])
