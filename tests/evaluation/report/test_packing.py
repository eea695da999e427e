"""Volumes as the report's page holds them: averaged down and packed within a budget."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_sets import LABELS, SHAPE, heart, turned_affine

from fcas_nnunet.commands.report.page import REAL_SHARE, SCANS_BUDGET
from fcas_nnunet.evaluation.report.packing import GREYS, LADDER, OTHER_GREYS, average_down, pack_scan
from fcas_nnunet.evaluation.viewing.atlas import Atlas

THIN = [LABELS["coronary_arteries"]]


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


def decoded(atlas: Atlas, shape: tuple[int, int, int]) -> np.ndarray:
    picture = np.asarray(Image.open(io.BytesIO(atlas.data)).convert("L"))
    (height, width), rows = atlas.tile, -(-shape[0] // atlas.columns)
    slices = picture.reshape(rows, height, atlas.columns, width).swapaxes(1, 2).reshape(-1, height, width)
    assert not slices[shape[0] :].any()
    return slices[: shape[0], : shape[1], : shape[2]]


def test_a_small_scan_is_packed_without_loss() -> None:
    image, mask = heart()
    packed = pack_scan(image, mask, mask / 4, turned_affine((0, 1, 2), (False,) * 3), budget=10**6, thin=THIN)
    assert (packed.shape, packed.quality, packed.label_step) == (SHAPE, 0, 85)
    np.testing.assert_array_equal(decoded(packed.image, SHAPE), GREYS.codes(image))
    np.testing.assert_array_equal(decoded(packed.mask, SHAPE), 85 * mask)
    assert packed.confidence is not None
    np.testing.assert_array_equal(decoded(packed.confidence, SHAPE), np.rint(mask / 4 * 255))


def test_a_dark_mr_keeps_its_steps() -> None:
    """Three standard deviations below the mean, where the grey values of CT are 26 units apart."""
    image, mask = heart()
    dark = image - 480
    packed = pack_scan(dark, mask, None, turned_affine((0, 1, 2), (False,) * 3), budget=10**6, unit="units")
    back = np.interp(decoded(packed.image, SHAPE), OTHER_GREYS.values, OTHER_GREYS.knots)
    assert np.abs(back - dark).max() <= 1400 / 224 / 2 + 1e-9
    assert packed.window == tuple(np.percentile(dark, (0.5, 99.5)))


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
    shown = decoded(packed.image, packed.shape).astype(float)
    assert shown[tuple(n // 2 for n in packed.shape)] == pytest.approx(float(GREYS.codes(np.array(300))), abs=16)


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
