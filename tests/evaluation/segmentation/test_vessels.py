"""clDice, pieces and tunnels: closed forms, and other ways to count them."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import skeletonize

from fcas_nnunet.evaluation.segmentation.vessels import betti_numbers, centreline_dice, skeleton, topology_errors


def tube(length=56, width=3, shape=(9, 9, 64)):
    mask = np.zeros(shape, dtype=bool)
    mask[3 : 3 + width, 3 : 3 + width, 4 : 4 + length] = True
    return mask


def test_a_tube_with_a_gap():
    """Of a 56-long tube 6 voxels are missing: sensitivity 50/56, precision 1, 2 · 50/106 = 0.9434."""
    whole = tube(width=1)
    gap = whole.copy()
    gap[..., 30:36] = False
    assert centreline_dice(whole, gap) == pytest.approx(2 * 50 / 106)
    assert topology_errors(whole, gap).pieces == 1


@pytest.mark.parametrize("width", [2, 4])
def test_straight_tubes_of_even_width_keep_a_centreline(width):
    even = tube(width=width)
    lines = skeleton(even)
    assert not (lines & ~even).any()
    assert lines.sum() >= 56 - 2 * width
    assert ndimage.label(lines, np.ones((3, 3, 3)))[1] == 1
    assert centreline_dice(even, even) == 1


def test_a_lost_piece_beside_a_kept_one_is_found():
    both = tube(shape=(20, 9, 64))
    both[12:14, 3:5, 4:60] = True
    lines = skeleton(both)
    assert lines[:9].any()
    assert lines[12:14].sum() >= 52
    alone = np.asarray(skeletonize(np.pad(both[:9], 1)), dtype=bool)[1:-1, 1:-1, 1:-1]
    np.testing.assert_array_equal(lines[:9], alone)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_even_a_dot_has_a_skeleton(size):
    dot = np.zeros((5, 5, 5), dtype=bool)
    dot[1 : 1 + size, 1 : 1 + size, 1 : 1 + size] = True
    assert 1 <= skeleton(dot).sum() <= dot.sum()
    assert not (skeleton(dot) & ~dot).any()


def shapes():
    d, h, w = np.mgrid[-12:13, -12:13, -12:13]
    torus = (np.hypot(h, w) - 8) ** 2 + d**2 <= 9
    distance = np.sqrt(d**2 + h**2 + w**2)
    shell = (distance <= 10) & (distance >= 6)
    two = np.zeros_like(torus)
    two[2:6, 2:6, 2:6] = two[12:16, 12:16, 12:16] = True
    return {"torus": (torus, (1, 1)), "shell": (shell, (1, 0)), "two cubes": (two, (2, 0))}


@pytest.mark.parametrize("name", ["torus", "shell", "two cubes"])
def test_betti_numbers_of_known_shapes(name):
    mask, expected = shapes()[name]
    assert betti_numbers(mask) == expected
    assert topology_errors(np.zeros_like(mask), mask) == topology_errors(mask, np.zeros_like(mask))


@pytest.mark.parametrize("seed", range(5))
def test_tunnels_equal_the_count_by_vertices_edges_faces_and_cells(seed):
    """χ of the cubical complex of closed voxels, counted from scratch: β1 = β0 + β2 − χ."""
    mask = np.random.default_rng(seed).random((7, 6, 8)) < 0.35
    cells = np.zeros(tuple(2 * n + 1 for n in mask.shape), dtype=bool)
    for offset in np.ndindex(3, 3, 3):  # a voxel covers its cube, faces, edges and corners
        cells[tuple(slice(o, o + 2 * n, 2) for o, n in zip(offset, mask.shape, strict=True))] |= mask
    parity = np.indices(cells.shape).sum(axis=0) % 2
    dimension_sign = np.where(parity == 0, 1, -1)  # index parity counts the odd coordinates: the cell's dimension
    euler = int(dimension_sign[cells].sum())
    pieces = ndimage.label(mask, np.ones((3, 3, 3)))[1]
    voids = ndimage.label(~np.pad(mask, 1))[1] - 1
    assert betti_numbers(mask) == (pieces, pieces + voids - euler)


@pytest.mark.parametrize("density", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(4))
def test_betti_numbers_equal_gudhi(density, seed):
    """Voxels as closed cubes: they meet at corners, so that gudhi's foreground is the 26-connected one."""
    gudhi = pytest.importorskip("gudhi")
    mask = np.random.default_rng(seed).random((9, 8, 10)) < density
    if seed % 2:
        mask = ndimage.binary_opening(np.pad(mask, 2), np.ones((2, 2, 2)))
    filtration = gudhi.CubicalComplex(top_dimensional_cells=np.where(np.pad(mask, 1), 0.0, 1.0))
    filtration.compute_persistence()
    pieces, tunnels, _ = filtration.persistent_betti_numbers(0.5, 0.5)[:3]
    assert betti_numbers(mask) == (pieces, tunnels)


def test_empty_masks_follow_the_policy():
    full, empty = tube(), np.zeros_like(tube())
    assert math.isnan(centreline_dice(empty, empty))
    assert centreline_dice(full, empty) == centreline_dice(empty, full) == 0
    assert math.isnan(topology_errors(empty, empty).pieces)
    assert topology_errors(full, empty).pieces == 1
