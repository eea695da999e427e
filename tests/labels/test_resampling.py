"""Label maps on coarser grids: thin structures stay whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcas_nnunet.labels.components import count_pieces_and_tunnels
from fcas_nnunet.labels.resampling import reduce_labels, resample_labels, shares, thin_structures

CHAMBER, ARTERY, OTHER = 1, 2, 3


def tube(shape: tuple[int, int, int], points: np.ndarray, radius: float) -> np.ndarray:
    """Voxels within `radius` of a polyline; bool."""
    place = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    inside = np.zeros(shape, dtype=bool)
    for start, stop in zip(points[:-1], points[1:], strict=True):
        way = stop - start
        part = np.clip((place - start) @ way / max(way @ way, 1e-9), 0, 1)
        inside |= np.linalg.norm(place - start - part[..., None] * way, axis=-1) <= radius
    return inside


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    radius=st.floats(0.9, 3.0),
    new=st.tuples(*[st.integers(12, 45)] * 3),
    branches=st.integers(0, 3),
)
def test_two_trees_stay_two_trees(seed: int, radius: float, new: tuple[int, int, int], branches: int) -> None:
    """Two branching arteries in two halves of a volume, up to four times coarser or finer along some axes."""
    rng = np.random.default_rng(seed)
    shape = (48, 30, 34)
    labels = np.full(shape, CHAMBER, dtype=np.uint8)
    for first, last in ((4, 17), (30, 43)):  # four coarse voxels lie between
        trunk = rng.uniform((first, 3, 3), (last, 26, 30), (5, 3))
        tree = tube(shape, trunk, radius)
        for _ in range(branches):
            start = trunk[rng.integers(5)]
            tree |= tube(shape, np.stack([start, rng.uniform((first, 3, 3), (last, 26, 30))]), 0.9)
        labels[tree] = ARTERY
    before = count_pieces_and_tunnels(labels == ARTERY)
    reduced = resample_labels(labels, new, [ARTERY])
    assert reduced.shape == new
    after = count_pieces_and_tunnels(reduced == ARTERY)
    assert after[0] == before[0] == 2
    assert after[1] <= before[1]  # a loop of a coarse voxel's size cannot be held
    share = (reduced == ARTERY).mean() / (labels == ARTERY).mean()
    assert share >= 0.9


def test_nearest_labels_where_nothing_is_thin_and_nothing_is_skipped() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (6, 7, 8), np.uint8)
    np.testing.assert_array_equal(resample_labels(labels, labels.shape, [2]), labels)
    twice = labels.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(resample_labels(labels, (12, 14, 16), [2]), twice)
    np.testing.assert_array_equal(resample_labels(labels, (2, 7, 8)), labels[[1, 4]])


def test_a_diagonal_thread_of_single_voxels_stays_one_piece_and_lies_where_it_lay() -> None:
    labels = np.zeros((40, 40, 40), dtype=np.uint8)
    labels[np.arange(40), np.arange(40), 39 - np.arange(40)] = ARTERY
    reduced = resample_labels(labels, (13, 13, 13), [ARTERY])
    assert count_pieces_and_tunnels(reduced == ARTERY) == (1, 0)
    middle = (np.argwhere(reduced == ARTERY) + 0.5) * 40 / 13 - 0.5
    np.testing.assert_allclose(middle[:, 0], middle[:, 1], atol=3.1)
    np.testing.assert_allclose(middle[:, 0] + middle[:, 2], 39, atol=3.1)
    assert middle.min() < 3 and middle.max() > 36  # both ends


def test_loops_stay_loops() -> None:
    d, h, w = np.indices((20, 48, 48))
    ring = np.abs(np.hypot(h - 24, w - 24) - 15) < 1.2
    labels = np.where(ring & (np.abs(d - 9) < 1.2), ARTERY, 0).astype(np.uint8)
    assert count_pieces_and_tunnels(labels == ARTERY) == (1, 1)
    reduced = resample_labels(labels, (6, 15, 15), [ARTERY])
    assert count_pieces_and_tunnels(reduced == ARTERY) == (1, 1)


def test_neighbours_a_voxel_apart_do_not_meet_and_a_speck_is_not_lost() -> None:
    labels = np.zeros((24, 24, 24), dtype=np.uint8)
    labels[2:22, 11, 11] = ARTERY
    labels[2:22, 13, 11] = ARTERY  # both in one row of coarse voxels
    labels[12, 20, 20] = ARTERY
    reduced = resample_labels(labels, (8, 8, 8), [ARTERY])
    assert count_pieces_and_tunnels(reduced == ARTERY) == (3, 0)


def test_two_thin_structures_keep_their_pieces_and_what_lies_around_closes_behind_them() -> None:
    labels = np.full((30, 30, 30), CHAMBER, dtype=np.uint8)
    labels[3:27, 8:10, 8:10] = ARTERY
    labels[15:17, 3:27, 20:22] = OTHER
    reduced = resample_labels(labels, (10, 10, 10), [ARTERY, OTHER])
    for label in (ARTERY, OTHER):
        assert count_pieces_and_tunnels(reduced == label) == (1, 0)
    assert set(np.unique(reduced)) == {CHAMBER, ARTERY, OTHER}  # no hole in the chamber


def test_a_speck_torn_off_a_chamber_goes_to_what_lies_around_and_an_island_stays() -> None:
    labels = np.zeros((39, 39, 39), dtype=np.uint8)
    labels[4:30, 4:30, 4:30] = CHAMBER
    labels[20, 30:34, 20] = CHAMBER  # a thread to ...
    labels[19:22, 34:36, 19:22] = CHAMBER  # ... a bud
    labels[33:, 33:, 33:] = CHAMBER
    assert count_pieces_and_tunnels(labels == CHAMBER)[0] == 2
    shape = (13, 13, 13)
    assert count_pieces_and_tunnels(labels[1::3, 1::3, 1::3] == CHAMBER)[0] == 3
    reduced = resample_labels(labels, shape)
    assert count_pieces_and_tunnels(reduced == CHAMBER)[0] == 2
    assert (reduced[12, 12, 12], reduced[6, 11, 6]) == (CHAMBER, 0)


def test_known_structures_give_the_same_map() -> None:
    labels = np.zeros((24, 24, 24), dtype=np.uint8)
    labels[2:22, 11:13, 11:13] = ARTERY
    structures = thin_structures(labels, [ARTERY, OTHER])
    assert [s.label for s in structures] == [ARTERY]
    expected = resample_labels(labels, (7, 8, 9), [ARTERY])
    np.testing.assert_array_equal(reduce_labels(labels, (7, 8, 9), structures), expected)


@pytest.mark.parametrize(("size", "parts"), [(7, 3), (3, 7), (5, 5)])
def test_shares_are_means_over_equal_stretches(size: int, parts: int) -> None:
    weights = shares(size, parts)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=0), parts / size, atol=1e-6)
