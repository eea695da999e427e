"""Variety of masks in closed form: cubes."""

from __future__ import annotations

import numpy as np
import pytest

from fcas_nnunet.evaluation.segmentation.diversity import centred_mask, dice_per_label, measure_diversity, sample_mask

LABELS = {"cube": 1, "absent": 2}


def cube(edge: int, at: int = 20, size: int = 60) -> np.ndarray:
    mask = np.zeros((size, size, size), np.uint8)
    mask[at : at + edge, at : at + edge, at : at + edge] = 1
    return mask


def test_where_a_heart_lies_and_how_fine_its_voxels_are_is_no_variety() -> None:
    here, there = (sample_mask(cube(20, at), (2.0, 2.0, 2.0), [1, 2]) for at in (5, 33))
    fine = sample_mask(cube(40, 10, 60), (1.0, 1.0, 1.0), [1, 2])
    np.testing.assert_array_equal(here.centred, there.centred)
    assert dice_per_label(here.centred, fine.centred, [1])[0] == pytest.approx(1.0)
    assert here.volumes_ml == there.volumes_ml == fine.volumes_ml == (64.0, 0.0)


def test_the_centred_grid_holds_the_heart_at_its_size() -> None:
    mask = centred_mask(cube(21), (2.0, 4.0, 1.0))
    assert mask.shape == (96, 96, 96)
    extent = np.ptp(np.argwhere(mask), axis=0) + 1
    assert extent.tolist() == pytest.approx([21, 42, 10.5], abs=1)


def test_dice_between_and_to_the_source_and_the_spread_of_volumes() -> None:
    """Cubes of 40, 20 and 20 mm: Dice 1 between the small ones, 2·8/(8 + 64) to the large one."""
    large, small = (sample_mask(cube(edge), (2.0, 2.0, 2.0), [1, 2], "a") for edge in (20, 10))
    given = {"a": sample_mask(cube(20), (2.0, 2.0, 2.0), [1, 2]), "b": sample_mask(cube(10), (2.0, 2.0, 2.0), [1, 2])}
    report = measure_diversity([large, small, small], given, LABELS)
    entry = report["labels"]["cube"]
    part = 2 * 8 / (8 + 64)
    assert (report["num_generated"], report["num_given"], report["pairs"]) == (3, 2, 3)
    assert entry["dice_between"]["mean"] == pytest.approx((1 + 2 * part) / 3, abs=0.001)
    assert entry["dice_to_source"]["mean"] == pytest.approx((1 + 2 * part) / 3, abs=0.001)
    assert entry["dice_between_given"] == {"mean": pytest.approx(part, abs=0.001), "std": None}
    assert entry["volume_ml"]["mean"] == pytest.approx((64 + 8 + 8) / 3, abs=0.001)
    spread, of_given = np.std([64, 8, 8], ddof=1) / (80 / 3), np.std([64, 8], ddof=1) / 36
    assert entry["spread_of_given"] == pytest.approx(spread / of_given, abs=0.001)
    assert report["labels"]["absent"]["dice_between"] == {"mean": None, "std": None}


def test_an_empty_mask_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="mask: at least one voxel must be labelled to be compared"):
        centred_mask(np.zeros((4, 4, 4), np.uint8), (1.0, 1.0, 1.0))
