"""What a page shows of a volume: turned upright, cropped to the heart, on a grid of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report_sets import SHAPE, SPACING_MM, heart, turned, turned_affine

from fcas_nnunet.evaluation.viewing.frame import frame_of
from fcas_nnunet.labels.resampling import nearest_labels


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, True)])
def test_a_file_of_any_orientation_is_turned_upright(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    image, mask = heart()
    frame = frame_of(turned(mask, axes, flips), turned_affine(axes, flips))
    assert (frame.orientation.axes, frame.orientation.flips, frame.full) == (axes, flips, SHAPE)
    assert frame.spacing_mm == pytest.approx(SPACING_MM)
    # the mask's box 3–17, 2–19, 4–23 with 6, 8 and 12 voxels to each side, within 20 × 24 × 28
    assert (frame.starts, frame.sizes) == ((0, 0, 0), (20, 24, 28))
    np.testing.assert_array_equal(frame.upright(turned(image, axes, flips)), image)
    assert frame.orientation.tilt_degrees == pytest.approx(0, abs=1e-6)


def test_a_tilted_grid_is_named_by_its_angle_and_cropped_by_its_margin() -> None:
    angle = math.radians(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[0, 0, 1], [-math.sin(angle), math.cos(angle), 0], [math.cos(angle), math.sin(angle), 0]]
    )
    mask = np.zeros((60, 60, 60), dtype=np.uint8)
    mask[30, 20:31, 40] = 1
    frame = frame_of(mask, affine)
    assert frame.orientation.tilt_degrees == pytest.approx(20)
    assert (frame.starts, frame.sizes) == ((18, 8, 28), (25, 35, 25))


def stored(d_mm: float, h_mm: float, w_mm: float) -> np.ndarray:
    """The affine of a volume stored upright."""
    return np.diag([w_mm, h_mm, d_mm, 1.0])[:, [2, 1, 0, 3]]


def test_upright_volumes_run_to_superior_posterior_left() -> None:
    """A volume whose axes are right, superior, anterior becomes [S, P, L]: 1 mm, 3 mm, 2 mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[-2.0, 0, 0], [0, 0, -3.0], [0, 1.0, 0]])  # columns d, h, w in LPS
    array = np.arange(2 * 4 * 3).reshape(2, 4, 3)
    frame = frame_of(np.zeros_like(array), affine)
    turned = frame.upright(array)
    assert frame.spacing_mm == (1.0, 3.0, 2.0)
    assert turned.shape == (4, 3, 2)
    # Lowest, foremost, rightmost: h = 0; w = last (anterior grows with w); d = last (right grows with d).
    assert turned[0, 0, 0] == array[1, 0, 2]
    assert turned[3, 2, 1] == array[0, 3, 0]


def test_the_frame_holds_the_mask_and_15_mm_and_keeps_to_its_voxels() -> None:
    mask = np.zeros((60, 80, 80), dtype=np.uint8)
    mask[20:40, 30:60, 5:50] = 1
    frame = frame_of(mask, stored(1.0, 1.5, 1.5), 15)
    assert (frame.starts, frame.sizes) == ((5, 20, 0), (50, 50, 60))
    shape = frame.even_shape(10**9)
    assert shape == (50, 75, 90)  # of 1 mm, as fine as the scan and no finer
    assert frame.spacing_at(shape) == (1.0, 1.0, 1.0)
    small = frame.even_shape(40_000)
    assert 30_000 < np.prod(small) <= 40_000
    assert frame.spacing_at(small) == pytest.approx([2.036] * 3, rel=0.03)  # (50 · 75 · 90 / 40,000)^(1/3)
    assert frame_of(np.zeros_like(mask), stored(1, 1, 1)).even_shape(10**9) == mask.shape


def test_labels_on_the_even_grid_are_the_nearest() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (10, 12, 14)).astype(np.uint8)
    assert np.array_equal(nearest_labels(labels, labels.shape), labels)
    coarse = frame_of(np.zeros_like(labels), stored(1, 1, 1)).even_shape(10 * 12 * 14 // 8)
    assert np.array_equal(nearest_labels(labels, coarse), labels[1::2, 1::2, 1::2])
