"""Registered scans: a template's scan brought onto a new mask, mended where the two disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, map_coordinates

from fcas_nnunet.case import Case
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.mgm.deformation import Deformation
from fcas_nnunet.generator.mgm.resampling import (
    coordinate_slabs,
    is_inside,
    spline_coefficients,
    spline_values,
    whole_box,
)
from fcas_nnunet.generator.sources.registration import Registration
from fcas_nnunet.orientation import SPL, Orientation


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


def bring(
    reference: Case, deformation: Deformation, template: Case, registration: Registration, num_labels: int
) -> Brought:
    """Bring a template onto the mask that a deformation makes of a reference's.

    Args:
        reference: Case whose mask was deformed.
        deformation: Of the reference's mask.
        template: Case with image.
        registration: From the reference to the template.
        num_labels: Highest label id of the data set.
    """
    turn, turn_there = (Orientation.of(case.affine, SPL) for case in (reference, template))
    step, step_there = (
        np.array(turned.reorder(case.spacing_mm), np.float32)
        for turned, case in ((turn, reference), (turn_there, template))
    )
    last = np.array(turn.reorder(reference.shape))[:, None, None, None] - 1
    flipped = np.array(turn.flips)[:, None, None, None]
    sizes = turn_there.reorder(template.shape)
    codes_there = np.ascontiguousarray(turn_there.turn(label_codes(template, num_labels)[1]))
    splines = spline_coefficients(np.stack([turn_there.turn(channel) for channel in template.standard_image]))
    image = np.empty((len(splines), *reference.shape), np.float32)
    codes, inside = np.empty(reference.shape, np.uint8), np.empty(reference.shape, bool)
    for slab, coordinates in coordinate_slabs(deformation, reference.spacing_mm, whole_box(reference.shape)):
        source = np.stack([coordinates[axis].numpy() for axis in turn.axes])
        turned = np.moveaxis(np.where(flipped, last - source, source), 0, -1).astype(np.float32)
        points = registration.points_mm(torch.from_numpy((turned + 0.5) * step)).numpy()
        places = np.moveaxis(points / step_there - 0.5, -1, 0)
        image[:, slab] = spline_values(splines, places)
        codes[slab] = map_coordinates(codes_there, places, order=0, mode="nearest")
        inside[slab] = is_inside(places, sizes)
    return Brought(image, codes, inside)


def mend(brought: Brought, codes: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Give every voxel of a new mask an intensity of its own structure.

    Where the template shows another structure, the scan is mirrored at the nearest border of the right one. Beyond the
    template, and where it has no such structure, the reference's own scan takes over, in the template's contrast.

    Args:
        brought: The template on the mask's grid.
        codes: Labels and surroundings of the new mask, uint8 [D, H, W].
        own: The reference's scan under the same deformation, standard units, float32 [C, D, H, W].

    Returns:
        Standard units, float32 [C, D, H, W].
    """
    image = brought.image.copy()
    for code in np.unique(codes):
        wanted = codes == code
        right = wanted & (brought.codes == code) & brought.inside
        wrong = wanted & ~right
        if not wrong.any():
            continue
        beyond = wrong & ~brought.inside if right.any() else wrong
        for channel, theirs in zip(image, own, strict=True):
            channel[beyond] = _in_contrast(theirs, channel, right)[beyond]
        mirrored = wrong & ~beyond
        if mirrored.any():
            places = _mirrored(right, mirrored)
            for channel in image:
                channel[mirrored] = channel[places]
    return image


def _in_contrast(own: np.ndarray, image: np.ndarray, where: np.ndarray) -> np.ndarray:
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
