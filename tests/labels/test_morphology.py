"""Small boxes and pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fcas_nnunet.labels.components import label_components
from fcas_nnunet.labels.morphology import close_box2, label_changes, loose_pairs


def test_closing_fills_one_voxel_and_adds_nothing_at_the_rim() -> None:
    row = np.array([1, 1, 0, 1, 0, 0, 1], bool)
    expected = np.array([1, 1, 1, 1, 0, 0, 1], bool)
    np.testing.assert_array_equal(close_box2(row[None, None]), expected[None, None])
    full = np.ones((3, 3, 3), bool)
    np.testing.assert_array_equal(close_box2(full), full)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_change_on_both_sides_of_every_wall_of_arrays_and_tensors(axis: int) -> None:
    row = np.array([0, 0, 0, 4, 4, 4, 2], np.uint8).reshape(np.roll([-1, 1, 1], axis))
    expected = [False, False, True, True, False, True, True]
    assert label_changes(row).ravel().tolist() == expected
    assert label_changes(torch.from_numpy(row)).ravel().tolist() == expected


@pytest.mark.parametrize("shape", [(10, 1, 1), (1, 1, 3), (3, 1, 10), (2, 3, 1)])
def test_lone_voxels_in_slender_arrays_are_counted(shape: tuple[int, int, int]) -> None:
    """cc3d alone runs out of room here."""
    lone = np.zeros(shape, bool)
    lone[::2, ::2, ::2] = True
    pieces, count = label_components(lone)
    assert count == lone.sum()
    np.testing.assert_array_equal(pieces > 0, lone)


def test_loose_pairs_are_those_that_no_full_block_holds() -> None:
    """Two 3³ blocks in a row hold all their pairs, and two that touch at an edge hold none across it."""
    joined = np.zeros((8, 8, 8), bool)
    joined[1:4, 1:4, 1:7] = True
    assert not loose_pairs(joined, (0, 0, 1)).any()
    touching = np.zeros((8, 8, 8), bool)
    touching[1:4, 1:4, 1:4] = touching[1:4, 4:7, 4:7] = True
    assert np.argwhere(loose_pairs(touching, (0, 1, 1))).tolist() == [[1, 3, 3], [2, 3, 3], [3, 3, 3]]
    assert not loose_pairs(touching, (0, 0, 1)).any()
