"""Simple points: what is changed by them keeps its pieces, tunnels and cavities."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import euler_number

from fcas_nnunet.labels.components import label_components
from fcas_nnunet.labels.homotopy import HomotopicObject, is_simple, skeleton

SEEDS = st.integers(0, 2**32)


def betti(binary: np.ndarray) -> tuple[int, int, int]:
    """β0, β1, β2 of an object (26) in its background (6)."""
    padded = np.pad(binary, 1)
    pieces = label_components(padded)[1]
    cavities = label_components(~padded, connectivity=6)[1] - 1
    return pieces, pieces + cavities - int(euler_number(padded, connectivity=3)), cavities


def blobs(seed: int, size: int = 12, density: float = 0.35) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size, size)) < density


def simple_by_definition(block: np.ndarray) -> bool:
    """Bertrand and Malandain's two numbers, counted with cc3d."""
    thing = block.copy()
    thing[1, 1, 1] = False
    empty = ~block
    empty[1, 1, 1] = False
    for corner in np.ndindex(2, 2, 2):
        empty[tuple(2 * c for c in corner)] = False
    pieces, _ = label_components(empty, connectivity=6)
    beside = {pieces[at] for at in ((0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2))} - {0}
    return label_components(thing)[1] == 1 and len(beside) == 1


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, density=st.floats(0.1, 0.9))
def test_simple_is_what_the_definition_says(seed: int, density: float) -> None:
    blocks = np.random.default_rng(seed).random((60, 3, 3, 3)) < density
    expected = [simple_by_definition(block) for block in blocks]
    np.testing.assert_array_equal(is_simple(blocks.reshape(-1, 27)), expected)


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, density=st.floats(0.05, 0.6))
def test_whatever_grows_or_shrinks_keeps_its_topology(seed: int, density: float) -> None:
    start = blobs(seed, density=density)
    thing = HomotopicObject(start)
    thing.grow(blobs(seed + 1, density=0.8))
    assert betti(thing.binary) == betti(start)
    assert (thing.binary >= start).all()
    grown = thing.binary.copy()
    thing.shrink(blobs(seed + 2, density=0.1))
    assert betti(thing.binary) == betti(start)
    assert (thing.binary <= grown).all()


def test_nothing_simple_is_left_undone() -> None:
    """Growing a voxel fills a ball; shrinking the ball without keeping ends leaves a voxel."""
    ball = np.square(np.indices((15, 15, 15)) - 7).sum(axis=0) <= 36
    seed = np.zeros_like(ball)
    seed[7, 7, 7] = True
    thing = HomotopicObject(seed)
    thing.grow(ball)
    np.testing.assert_array_equal(thing.binary, ball)
    thing.shrink(np.zeros_like(ball), keep_ends=False)
    assert thing.binary.sum() == 1


def test_branches_that_would_fuse_keep_a_gap() -> None:
    """Two lines grow into a block that holds both: it is filled but for a wall of one voxel between them."""
    lines = np.zeros((9, 9, 20), bool)
    lines[4, 1, 2:18] = lines[4, 7, 2:18] = True
    block = np.zeros_like(lines)
    block[2:7, 1:8, 2:18] = True
    thing = HomotopicObject(lines)
    thing.grow(block)
    assert betti(thing.binary) == (2, 0, 0)
    assert (block & ~thing.binary).sum() == 5 * 1 * 16


def test_a_skeleton_is_thin_whole_and_as_long_as_its_object() -> None:
    tube = np.zeros((12, 12, 40), bool)
    tube[4:8, 4:8, 5:35] = True  # even width: skimage's skeletonize loses such tubes
    thin = skeleton(tube)
    assert betti(thin) == (1, 0, 0)
    assert (thin <= tube).all()
    assert thin.sum() <= 45
    assert np.ptp(np.argwhere(thin)[:, 2]) >= 26
    ring = np.square(np.hypot(*(np.indices((30, 30)) - 15)) - 10) < 7
    loop = skeleton(np.repeat(ring[None], 5, axis=0))
    assert betti(loop) == (1, 1, 0)
    assert loop.sum() < 90


def test_the_rim_of_the_volume_is_no_obstacle() -> None:
    full = np.ones((5, 6, 7), bool)
    thing = HomotopicObject(full)
    thing.shrink(np.zeros_like(full), keep_ends=False)
    assert thing.binary.sum() == 1
    thing.grow(full)
    np.testing.assert_array_equal(thing.binary, full)
