"""Registered scans: a template's scan brought onto a new mask, mended where the two disagree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, map_coordinates

from fcas_nnunet.case import NUM_CODES, Case
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.mgm.deformation import Deformation
from fcas_nnunet.generator.mgm.resampling import (
    coordinate_slabs,
    is_inside,
    spline_coefficients,
    spline_values,
    whole_box,
)
from fcas_nnunet.geometry import Triple
from fcas_nnunet.orientation import SPL, Orientation

#: Where an intensity of a mended template is from.
IN_PLACE, MIRRORED, OWN = 0, 1, 2


@dataclass(frozen=True)
class Brought:
    """A template on a new mask's voxel grid, as stored.

    Attributes:
        image: Standard units, float32 [C, D, H, W]; beyond the template, its outermost voxels are repeated.
        codes: The template's labels and surroundings, uint8 [D, H, W].
        inside: Whether a voxel comes from within the template, bool [D, H, W].
    """

    image: np.ndarray
    codes: np.ndarray
    inside: np.ndarray

    def disagrees(self, mask: np.ndarray, num_labels: int) -> np.ndarray:
        """Return where the template's own label is another than that of a mask [D, H, W]; nowhere beyond it."""
        own = np.where(self.codes > num_labels, np.uint8(0), self.codes)  # surroundings are background
        return self.inside & (own != mask)


class PointMap(Protocol):
    """What takes points of a reference to points of a template: a `Registration`, or several."""

    def points_mm(self, points_mm: torch.Tensor) -> torch.Tensor:
        """Points [..., 3] in mm from the corner of the turned reference => the same of the template."""


def bring(
    reference: Case, deformation: Deformation, template: Case, registration: PointMap, num_labels: int
) -> Brought:
    """Bring a template onto the mask that a deformation makes of a reference's.

    Args:
        reference: Case whose mask was deformed.
        deformation: Of the reference's mask.
        template: Case with image.
        registration: From the reference to the template.
        num_labels: Highest label id of the data set.
    """
    turn_there = Orientation.of(template.affine, SPL)
    sizes = turn_there.reorder(template.shape)
    codes_there = np.ascontiguousarray(turn_there.turn(label_codes(template, num_labels)[1]))
    splines = spline_coefficients(np.stack([turn_there.turn(channel) for channel in template.standard_image]))
    image = np.empty((len(splines), *reference.shape), np.float32)
    codes, inside = np.empty(reference.shape, np.uint8), np.empty(reference.shape, bool)
    for slab, places in _places(reference, deformation, template, registration):
        image[:, slab] = spline_values(splines, places)
        codes[slab] = map_coordinates(codes_there, places, order=0, mode="nearest")
        inside[slab] = is_inside(places, sizes)
    return Brought(image, codes, inside)


def within(reference: Case, deformation: Deformation, template: Case, registration: PointMap) -> np.ndarray:
    """Whether each voxel comes from within the template, bool [D, H, W]: as `bring` says."""
    inside = np.empty(reference.shape, bool)
    sizes = Orientation.of(template.affine, SPL).reorder(template.shape)
    for slab, places in _places(reference, deformation, template, registration):
        inside[slab] = is_inside(places, sizes)
    return inside


def _places(
    reference: Case, deformation: Deformation, template: Case, registration: PointMap
) -> Iterator[tuple[slice, np.ndarray]]:
    """Where each voxel comes from, slab by slab: indices of the turned template, float32 [3, d, h, w]."""
    turn, turn_there = (Orientation.of(case.affine, SPL) for case in (reference, template))
    step, step_there = (
        np.array(turned.reorder(case.spacing_mm), np.float32)
        for turned, case in ((turn, reference), (turn_there, template))
    )
    last = np.array(turn.reorder(reference.shape))[:, None, None, None] - 1
    flipped = np.array(turn.flips)[:, None, None, None]
    for slab, coordinates in coordinate_slabs(deformation, reference.spacing_mm, whole_box(reference.shape)):
        source = np.stack([coordinates[axis].numpy() for axis in turn.axes])
        turned = np.moveaxis(np.where(flipped, last - source, source), 0, -1).astype(np.float32)
        points = registration.points_mm(torch.from_numpy((turned + 0.5) * step)).numpy()
        yield slab, np.moveaxis(points / step_there - 0.5, -1, 0)


@dataclass(frozen=True)
class Mended:
    """A brought template with an intensity of the right structure everywhere.

    Attributes:
        image: Standard units, float32 [C, D, H, W].
        origin: Where each intensity is from, uint8 [D, H, W]: `IN_PLACE`, `MIRRORED` or the reference's `OWN`.
        codes: The template's structure that it is of, uint8 [D, H, W]; meaningless where it is the reference's own.
    """

    image: np.ndarray
    origin: np.ndarray
    codes: np.ndarray


def mend(brought: Brought, codes: np.ndarray, own: np.ndarray, last_code: int = NUM_CODES - 1) -> Mended:
    """Give every voxel of a new mask an intensity of its own structure.

    Where the template shows another structure, the scan is mirrored at the nearest border of the right one. Beyond the
    template, and where it has no such structure, the reference's own scan takes over, in the template's contrast.

    Args:
        brought: The template on the mask's grid.
        codes: Labels and surroundings of the new mask, uint8 [D, H, W].
        own: The reference's scan under the same deformation, standard units, float32 [C, D, H, W].
        last_code: Highest code that the mask tells apart; of the template, those above count as background.
    """
    image, shown, origin = brought.image.copy(), brought.codes.copy(), np.zeros(codes.shape, np.uint8)
    theirs = np.where(brought.codes <= last_code, brought.codes, 0)
    for code in np.unique(codes):
        wanted = codes == code
        right = wanted & (theirs == code) & brought.inside
        wrong = wanted & ~right
        if not wrong.any():
            continue
        beyond = wrong & ~brought.inside if right.any() else wrong
        origin[beyond] = OWN
        for channel, ours in zip(image, own, strict=True):
            channel[beyond] = in_contrast(ours, channel, right)[beyond]
        mirrored = wrong & ~beyond
        if mirrored.any():
            places = _mirrored(right, mirrored)
            origin[mirrored] = MIRRORED
            for volume in (*image, shown):
                volume[mirrored] = volume[places]
    return Mended(image, origin, shown)


def out_of_place(wrong: np.ndarray, spacing_mm: Triple[float], near_mm: float, far_mm: float) -> np.ndarray:
    """How little a template is in place, float32 [D, H, W]: 1 near to where it is wrong, 0 far from there."""
    if not wrong.any():
        return np.zeros(wrong.shape, np.float32)
    away_mm = distance_transform_edt(~wrong, sampling=spacing_mm)
    return np.clip((far_mm - away_mm) / (far_mm - near_mm), 0, 1).astype(np.float32)


def in_contrast(own: np.ndarray, image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A scan with the mean and spread that another has in a region; as it is where the region is all but empty."""
    if np.count_nonzero(where) < 2:
        return own
    mean, spread = own[where].mean(), own[where].std()
    return (own - mean) * (image[where].std() / max(float(spread), 1e-6)) + image[where].mean()


def _mirrored(right: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """For each voxel of a region its mirror image at the nearest voxel of another, or that voxel where it has none."""
    nearest = distance_transform_edt(~right, return_distances=False, return_indices=True)[:, wanted]
    mirror = 2 * nearest - np.argwhere(wanted).T
    limits = np.array(right.shape)[:, None]
    found = np.all((mirror >= 0) & (mirror < limits), axis=0)
    found[found] = right[tuple(mirror[:, found])]
    return tuple(np.where(found, mirror, nearest))
