"""Volumes as the report's page holds them: upright, cropped, reduced, packed within a budget; and still pictures."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_sets import LABELS, SHAPE, SPACING_MM, heart, turned, turned_affine

from fcas_nnunet.commands.report.page import REAL_SHARE, SCANS_BUDGET
from fcas_nnunet.evaluation.viewing.pictures import case_pictures
from fcas_nnunet.evaluation.viewing.volumes import (
    LADDER,
    average_down,
    frame_of,
    grey_values,
    pack_scan,
)

THIN = [LABELS["coronary_arteries"]]


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


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10))
def test_averaging_keeps_the_mean(size: int, parts: int, seed: int) -> None:
    parts = min(size, parts)
    volume = np.random.default_rng(seed).normal(size=(size, 3, size))
    reduced = np.stack(list(average_down(volume, (parts, 3, parts))))
    assert reduced.shape == (parts, 3, parts)
    assert reduced.mean() == pytest.approx(volume.mean(), abs=1e-5)


def test_averaging_by_hand() -> None:
    volume = np.arange(3.0).reshape(3, 1, 1)
    reduced = [float(part[0, 0]) for part in average_down(volume, (2, 1, 1))]
    assert reduced == pytest.approx([(0 + 1 * 0.5) / 1.5, (1 * 0.5 + 2) / 1.5])


def test_grey_values_at_their_knots() -> None:
    hu = np.array([-3000, -1024, -200, 200, 600, 2000, 9000])
    assert grey_values(hu).tolist() == [0, 0, 32, 128, 224, 255, 255]


def decoded(atlas: bytes, shape: tuple[int, int, int], columns: int) -> np.ndarray:
    picture = np.asarray(Image.open(io.BytesIO(atlas)).convert("L"))
    rows = -(-shape[0] // columns)
    slices = picture.reshape(rows, shape[1], columns, shape[2]).swapaxes(1, 2).reshape(-1, *shape[1:])
    assert not slices[shape[0] :].any()
    return slices[: shape[0]]


def test_a_small_scan_is_packed_without_loss() -> None:
    image, mask = heart()
    packed = pack_scan(image, mask, mask / 4, turned_affine((0, 1, 2), (False,) * 3), budget=10**6, thin=THIN)
    assert (packed.shape, packed.quality, packed.label_step) == (SHAPE, 0, 85)
    np.testing.assert_array_equal(decoded(packed.image, SHAPE, packed.columns), grey_values(image))
    np.testing.assert_array_equal(decoded(packed.mask, SHAPE, packed.columns), 85 * mask)
    assert packed.confidence is not None
    np.testing.assert_array_equal(decoded(packed.confidence, SHAPE, packed.columns), np.rint(mask / 4 * 255))


def noisy_heart(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, mask and confidence of a ball in noise: harder to pack than a scan."""
    rng = np.random.default_rng(0)
    place = np.indices((side,) * 3) - side / 2
    mask = (np.square(place).sum(axis=0) < (0.45 * side) ** 2).astype(np.uint8)
    image = (300.0 * mask + rng.normal(0, 25, mask.shape)).astype(np.int16)
    return image, mask, rng.random(mask.shape, dtype=np.float32)


@pytest.mark.parametrize("budget", [500_000, 120_000, 40_000])
def test_packing_keeps_to_its_budget(budget: int) -> None:
    image, mask, confidence = noisy_heart(96)
    packed = pack_scan(image, mask, confidence, np.eye(4)[:, [2, 1, 0, 3]], budget=budget)
    assert packed.num_bytes <= budget
    shown = decoded(packed.image, packed.shape, packed.columns).astype(float)
    assert shown[tuple(n // 2 for n in packed.shape)] == pytest.approx(float(grey_values(np.array(300))), abs=16)


def test_twenty_clinical_cases_stay_under_25_mb() -> None:
    """By the budget: what is packed per case, as text, with 20 synthetic and 40 real scans, and 2 MB for the page."""
    budget = int(SCANS_BUDGET / (20 + REAL_SHARE * 40))
    image, mask, confidence = noisy_heart(160)  # what a 512 × 512 × 256 scan is at most reduced from
    packed = pack_scan(image, mask, confidence, np.eye(4)[:, [2, 1, 0, 3]], budget=budget)
    real = pack_scan(image, mask, None, np.eye(4)[:, [2, 1, 0, 3]], budget=int(REAL_SHARE * budget))
    page = 4 / 3 * (20 * packed.num_bytes + 40 * real.num_bytes) + 2e6
    assert page < 25e6
    assert packed.shape != packed.frame.sizes or packed.quality > 0  # noise as this had to be reduced
    assert LADDER[-1][0] < max(packed.shape)  # but not to the last rung


def test_pictures_show_the_plane_they_name() -> None:
    image, mask = heart()
    axes, flips = (2, 0, 1), (True, False, True)
    colours = {1: "#ff0000", 2: "#00ff00", 3: "#0000ff"}
    first = case_pictures(image, mask, None, turned_affine((0, 1, 2), (False,) * 3), colours)
    other = case_pictures(
        turned(image, axes, flips), turned(mask, axes, flips), None, turned_affine(axes, flips), colours
    )
    assert first == other
    strip = np.asarray(Image.open(io.BytesIO(first.strip)).convert("RGB")).astype(int)
    assert strip.shape == (180, 540, 3)
    assert Image.open(io.BytesIO(first.still)).size == (660, 440)
    with_confidence = case_pictures(image, mask, np.ones(SHAPE), turned_affine((0, 1, 2), (False,) * 3), colours)
    still = np.asarray(Image.open(io.BytesIO(with_confidence.still)).convert("RGB")).astype(int)
    assert still.shape == (660, 660, 3)
    # the last row is confidence 1 throughout: viridis' yellow in the middle of each plane
    for column in range(3):
        np.testing.assert_allclose(still[550, 110 + 220 * column], [253, 231, 37], atol=12)
