"""Errors against real scans, and the maps that know only the mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from fcas_nnunet.evaluation.confidence.controls import control_maps
from fcas_nnunet.evaluation.confidence.error_maps import (
    boundary_distance,
    mean_matched_error,
    raw_error,
    wall_shell,
)
from fcas_nnunet.labels.contrast import matched_error, means_by_code
from fcas_nnunet.labels.morphology import label_changes

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 5, (12, 11, 10)).astype(np.uint8)
REAL = RNG.normal(200, 30, (1, *CODES.shape))


def test_matched_error_forgives_contrast_alone() -> None:
    other_contrast = REAL + np.array([0, 50, -80, 10, 300])[CODES]
    assert matched_error(other_contrast, REAL, CODES).max() < 1e-3
    assert raw_error(other_contrast, REAL).max() == pytest.approx(300, abs=1e-3)


def test_matched_error_by_hand() -> None:
    codes = np.array([[[1, 1, 2, 2]]])
    synthetic, real = np.array([[[[10.0, 20, 5, 5]]]]), np.array([[[[0.0, 0, 1, 3]]]])
    # differences 10 20 | 4 2, their means 15 | 3
    assert matched_error(synthetic, real, codes).tolist() == [[[5, 5, 1, 1]]]


def test_errors_are_the_mean_over_the_channels() -> None:
    codes = np.array([[[1, 1, 2, 2]]])
    synthetic = np.array([[10.0, 20, 5, 5], [100, 98, 0, 0]])[:, None, None]
    real = np.array([[0.0, 0, 1, 3], [0, 0, 0, 8]])[:, None, None]
    # of the second channel: differences 100 98 | 0 -8, their means 99 | -4
    assert matched_error(synthetic, real, codes).tolist() == [[[3, 3, 2.5, 2.5]]]
    assert raw_error(synthetic, real).tolist() == [[[55, 59, 2, 5]]]


def test_several_renderings_are_averaged_after_matching() -> None:
    reals = [REAL, REAL + 100, REAL + RNG.normal(0, 5, REAL.shape)]
    expected = (2 * matched_error(REAL, REAL, CODES) + matched_error(REAL, reals[2], CODES)) / 3
    assert np.allclose(mean_matched_error(REAL, reals, CODES), expected, atol=1e-4)


def test_boundary_distance_against_a_search_over_all_voxels() -> None:
    mask = np.zeros((14, 12, 10), dtype=np.uint8)
    mask[4:9, 3:8, 2:7], mask[6, 9, 8] = 1, 2
    spacing = (0.5, 1.0, 2.0)
    changes = label_changes(mask)
    points = np.argwhere(changes) * spacing
    everywhere = np.argwhere(np.ones_like(mask)) * spacing
    expected = cKDTree(points).query(everywhere)[0].reshape(mask.shape)
    assert np.allclose(boundary_distance(mask, spacing), expected, atol=1e-5)
    assert (boundary_distance(np.ones((3, 3, 3), dtype=np.uint8), spacing) == 0).all()


def test_a_shell_lies_on_both_sides_of_a_wall() -> None:
    mask = np.zeros((1, 1, 6), dtype=np.uint8)
    mask[..., 3:] = 4
    assert wall_shell(mask, 2).ravel().tolist() == [False, True, True, True, True, False]


def test_controls_say_what_they_are_named_after() -> None:
    mask = np.where(CODES < 3, CODES, 0).astype(np.uint8)
    confidence = RNG.random(CODES.shape).astype(np.float32)
    maps = control_maps(confidence, REAL, mask, CODES, (1, 1, 1), {0: 1.0, 1: 5.0, 2: 2.0, 3: 3.0, 4: 4.0}, seed=1)
    assert np.ptp(maps["uniform"]) == 0
    assert np.array_equal(np.sort(maps["shuffled"].ravel()), np.sort(confidence.ravel()))
    assert not np.array_equal(maps["shuffled"], confidence)
    assert np.array_equal(maps["inverted"], -confidence)
    assert np.array_equal(maps["foreground mask"] == 1, mask > 0)
    assert np.array_equal(maps["class prior"], -np.array([1, 5, 2, 3, 4], dtype=np.float32)[CODES])
    departure = maps["departure from the mean"]
    assert departure[mask == 1] == pytest.approx(-np.abs(REAL[0][mask == 1] - REAL[0][mask == 1].mean()), rel=1e-5)
    assert np.array_equal(maps["boundary distance"] == 0, label_changes(CODES))
    step = np.zeros((9, 9, 9))
    step[5:] = 100
    gradient = control_maps(step, step[None], mask[:9, :9, :9], step.astype(np.uint8), (1, 1, 1), None, 0)[
        "image gradient"
    ]
    assert set(np.argwhere(gradient == gradient.min())[:, 0]) == {4, 5}


def test_means_by_code_weigh_voxels_alike() -> None:
    errors = [np.array([[[1.0, 2, 3]]]), np.array([[[7.0, 9]]])]
    codes = [np.array([[[0, 0, 1]]]), np.array([[[1, 4]]])]
    assert means_by_code(errors, codes) == {0: 1.5, 1: 5.0, 4: 9.0}
