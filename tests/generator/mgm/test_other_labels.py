"""Masks that are no hearts: many classes, classes of a few voxels, hundreds of pieces, maps that fill the volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from fcas_nnunet.generator.mgm.framing import surface_points
from fcas_nnunet.generator.mgm.masks import generate_mask
from fcas_nnunet.generator.mgm.quality import mask_faults
from fcas_nnunet.generator.mgm.topology import describe_mask, fills_volume
from fcas_nnunet.labels.components import label_components

ISOTROPIC = (1.0, 1.0, 1.0)


def parcels(count: int, size: int = 48, *, fill: bool) -> np.ndarray:
    """So many classes side by side: all of the volume, or a ball."""
    centres = np.random.default_rng(0).uniform(0.1, 0.9, (count, 3)) * size
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), axis=-1)
    mask = (cKDTree(centres).query(grid)[1] + 1).astype(np.uint8)
    return mask if fill else np.where(np.linalg.norm(grid - size / 2, axis=-1) < 0.4 * size, mask, 0).astype(np.uint8)


def lesions(count: int, size: int = 64) -> np.ndarray:
    """So many lesions of 1 to 33 voxels, in pieces of their own or touching."""
    rng = np.random.default_rng(0)
    offsets = (np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij")) ** 2).sum(axis=0)
    mask = np.zeros((size,) * 3, np.uint8)
    for centre in rng.integers(6, size - 6, (count, 3)):
        mask[tuple(slice(c - 2, c + 3) for c in centre)] |= offsets <= rng.choice([0, 1, 2, 4])
    return mask


@pytest.mark.parametrize("fill", [True, False])
def test_two_hundred_classes_are_deformed_in_a_few_draws(fill: bool) -> None:
    mask = parcels(200, fill=fill)
    made = generate_mask(mask, ISOTROPIC, seed=3)
    assert np.unique(made.mask[made.mask > 0]).tolist() == np.unique(mask[mask > 0]).tolist()
    assert (made.mask != mask).mean() > 0.1
    assert len(made.rejections) < 6
    assert fills_volume(made.mask) == fill


def test_hundreds_of_lesions_are_deformed_in_a_few_draws() -> None:
    mask = lesions(250)
    before = label_components(mask)[1]
    assert before > 150
    for seed in range(3):
        made = generate_mask(mask, (1.0, 1.0, 3.0), seed=seed)
        assert abs(label_components(made.mask)[1] - before) <= before // 20
        assert len(made.rejections) < 4


def test_classes_of_a_few_voxels_survive() -> None:
    mask = np.zeros((32, 32, 32), np.uint8)
    mask[8:20, 8:20, 8:20] = 1
    for label in range(2, 9):
        mask[3 + 3 * label, 24, 10 : 10 + label // 2] = label
    for seed in range(4):
        made = generate_mask(mask, ISOTROPIC, seed=seed)
        assert np.unique(made.mask).tolist() == list(range(9))
        assert len(made.rejections) < 3


@pytest.mark.parametrize("fill", [True, False])
def test_one_class(fill: bool) -> None:
    mask = np.full((24, 24, 24), fill, np.uint8)
    mask[6:18, 6:18, 6:18] = 1
    made = generate_mask(mask, ISOTROPIC, seed=1)
    assert bool((made.mask == mask).all()) == fill, "nothing but itself can be made of what fills the volume"


def test_few_points_stand_for_many_classes() -> None:
    """The shift into the volume moves these points many times."""
    mask = parcels(200, fill=False)
    points, _ = surface_points(mask, describe_mask(mask), ISOTROPIC)
    assert 200 <= len(points) < 16_000


def test_pieces_of_a_class_that_is_no_vessel_are_counted_less_strictly_the_more_there_are() -> None:
    few, many = np.zeros((2, 40, 40, 40), np.uint8)
    few[::4, 0, 0] = 1
    many[::4, ::4, 0] = 1
    for mask, lost in ((few, 1), (many, 6)):
        fewer = mask.copy()
        fewer[tuple(np.argwhere(mask)[:lost].T)] = 0
        count = int(mask.sum())
        assert mask_faults(fewer, mask, ISOTROPIC) == [f"class 1 has {count - lost} components, its source {count}"]
    fewer = many.copy()
    fewer[tuple(np.argwhere(many)[:5].T)] = 0
    assert mask_faults(fewer, many, ISOTROPIC) == []


def test_the_border_cuts_what_fills_the_volume() -> None:
    mask = np.full((10, 10, 10), 2, np.uint8)
    mask[1:5, 2:8, 2:8] = 1
    moved = np.full((10, 10, 10), 2, np.uint8)
    moved[:1, 2:8, 2:8] = 1
    assert mask_faults(moved, mask, ISOTROPIC) == []
    faults = mask_faults(
        np.where(moved == 1, 1, 0).astype(np.uint8), np.where(mask == 1, 1, 0).astype(np.uint8), ISOTROPIC
    )
    assert faults == [
        "class 1 is newly cut by the border at first D", "class 1 has 0.25 of its source's volume, outside [0.4, 2.0]",
    ]  # fmt: skip
