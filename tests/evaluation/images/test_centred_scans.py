"""Scans on the grid that they are compared on: where voxels go, what is averaged, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from fcas_nnunet.evaluation.images.centred_scans import centre_scan, centred_image
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.orientation import Orientation

RANGE = IntensityRange(-200, 800, "stated")
SHAPE = (40, 44, 48)


def affine(d_mm: float, h_mm: float, w_mm: float) -> np.ndarray:
    """D towards the head (z), H to the back (y), W to the left (x)."""
    return np.array([[0, 0, w_mm, 10], [0, h_mm, 0, -20], [d_mm, 0, 0, 5], [0, 0, 0, 1.0]])


def box_mask() -> np.ndarray:
    """Ventricle (1) and aorta (2), 20 voxels along each axis together; centroid at voxel (19.5, 21.5, 23.5)."""
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[10:30, 12:32, 14:34] = 1
    mask[10:30, 12:32, 24:34] = 2
    return mask


def test_a_ramp_stays_a_ramp_about_the_centroid() -> None:
    """Linear interpolation leaves what is linear as it is; a triangle of a fraction of voxels nearly does."""
    d, h, w = np.indices(SHAPE)
    image = 100.0 + 3 * d - 2 * h + w
    cube = centred_image(image, box_mask(), affine(1.5, 1.0, 0.8), RANGE, voxels=10, step_mm=2.0)
    offsets_mm = 2 * (np.arange(10) - 4.5)
    e, f, g = np.meshgrid(19.5 + offsets_mm / 1.5, 21.5 + offsets_mm / 1.0, 23.5 + offsets_mm / 0.8, indexing="ij")
    np.testing.assert_allclose(cube, 100 + 3 * e - 2 * f + g, atol=0.08)  # of 3 HU a voxel


def test_detail_finer_than_the_grid_is_averaged_not_folded() -> None:
    """Planes of 0 and 100 HU in turn, 0.5 mm each: on 2 mm they are 50 everywhere, not 0 or 100 by accident."""
    image = np.broadcast_to(100.0 * (np.arange(SHAPE[2]) % 2), SHAPE)
    cube = centred_image(image, box_mask(), affine(0.5, 0.5, 0.5), RANGE, voxels=8)
    np.testing.assert_allclose(cube, 50.0, atol=1e-3)


def test_values_are_clipped_and_outside_the_scan_there_are_none() -> None:
    image = np.where(np.indices(SHAPE)[0] < 20, -1000.0, 2000.0)
    cube = centred_image(image, box_mask(), affine(2, 2, 2), RANGE)  # 80 × 88 × 96 mm in a cube of 192 mm
    assert np.nanmin(cube) == -200
    assert np.nanmax(cube) == 800
    # 96 voxels of 2 mm about the centroid; the scan's voxels lie on the grid's: 40 × 44 × 48 of them.
    assert np.count_nonzero(~np.isnan(cube)) == 40 * 44 * 48
    assert np.isnan(cube[:28]).all()
    assert not np.isnan(cube[28 : 28 + 40, 26 : 26 + 44, 24 : 24 + 48]).any()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flipped", [(), (0,), (0, 2)])
def test_how_a_scan_is_stored_does_not_matter(order: tuple[int, ...], flipped: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).normal(200, 50, SHAPE)
    stored = affine(1.5, 1.0, 0.8)
    for axis in flipped:
        stored[:3, 3] += stored[:3, axis] * (SHAPE[axis] - 1)
        stored[:3, axis] *= -1
    stored = stored[:, [*order, 3]]
    arrays = [np.flip(array, flipped).transpose(order) for array in (image, box_mask())]
    orientation = Orientation.of(stored)
    assert orientation.spacing_mm(stored) == pytest.approx((1.5, 1.0, 0.8))
    np.testing.assert_array_equal(orientation.turn(arrays[0]), image)
    first = centre_scan(image, box_mask(), affine(1.5, 1.0, 0.8), RANGE)
    second = centre_scan(*arrays, stored, RANGE)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.texture, second.texture)


def test_texture_is_what_is_left_without_means_and_outlines() -> None:
    image = np.full(SHAPE, 40.0)
    image[box_mask() == 1] = 300.0
    image[box_mask() == 2] = 400.0
    image[20, 22, 19] += 64
    scan = centre_scan(image, box_mask(), affine(2, 2, 2), RANGE)
    # Of the 20 × 20 × 10 voxels of each structure, the outermost layer does not count: 18 × 18 × 8 are left.
    left = ~np.isnan(scan.texture)
    assert np.count_nonzero(left) == 2 * 18 * 18 * 8
    assert scan.means == pytest.approx({1: 300 + 64 / (20 * 20 * 10), 2: 400})
    assert scan.texture[48, 48, 43] == pytest.approx(64 - 64 / (18 * 18 * 8), abs=0.05)
    assert np.nanmax(np.abs(np.where(scan.texture > 60, np.nan, scan.texture))) < 0.1


def test_near_is_the_heart_and_a_centimetre_around_it() -> None:
    scan = centre_scan(np.zeros(SHAPE), box_mask(), affine(2, 2, 2), RANGE)
    profile = scan.near[48, 48]
    assert np.flatnonzero(profile).tolist() == list(range(38 - 5, 58 + 5))  # 20 voxels, and 5 of 2 mm on either side


def test_what_cannot_be_compared_is_refused() -> None:
    image = np.zeros(SHAPE)
    with pytest.raises(ValueError, match=r"mask: shape must be the scan's \(40, 44, 48\), got \(39, 44, 48\)"):
        centre_scan(image, box_mask()[1:], affine(1, 1, 1), RANGE)
    with pytest.raises(ValueError, match="mask: at least one voxel must be labelled"):
        centre_scan(image, box_mask() * 0, affine(1, 1, 1), RANGE)
    image[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="scan: voxels must be finite, got 1 of 84480"):
        centre_scan(image, box_mask(), affine(1, 1, 1), RANGE)
