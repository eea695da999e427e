"""The working grid: there and back, and 8-bit codes."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcas_nnunet.case import Case
from fcas_nnunet.config.generator import GridConfig
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.generator.data.grid import (
    WorkingGrid,
    label_codes,
    to_standard_range,
    to_unit_range,
    working_spacing,
)
from fcas_nnunet.orientation import Orientation


def test_same_spacing_is_lossless():
    volume = np.random.default_rng(0).normal(size=(20, 33, 16)).astype(np.float32)
    grid = WorkingGrid.of(volume.shape, (2, 1, 1), (2, 1, 1), 16)
    assert grid.shape == (32, 48, 16)
    np.testing.assert_array_equal(grid.image_to_native(grid.image_to_working(volume[None]))[0], volume)
    labels = (volume > 0).astype(np.uint8)
    working = grid.labels_to_working(labels)
    np.testing.assert_array_equal(working[:20, :33, :16].numpy(), labels)
    assert (working[20:, :33, :16] == working[19:20, :33, :16]).all()  # the border continues


@pytest.mark.parametrize(("multiple", "expected"), [(16, (32, 48, 16)), (32, (32, 64, 32))])
def test_sizes_are_what_the_networks_divide(multiple, expected):
    assert WorkingGrid.of((20, 33, 16), (1, 1, 1), (1, 1, 1), multiple).shape == expected


def test_small_volumes_are_padded_up_to_the_crop_with_their_border():
    volume = np.random.default_rng(0).normal(size=(20, 70, 30)).astype(np.float32)
    grid = WorkingGrid.of(volume.shape, (1, 1, 1), (1, 1, 1), 32, at_least=(64, 32, 32))
    assert grid.resampled_shape == volume.shape  # never resized
    assert grid.shape == (64, 96, 32)
    working = grid.image_to_working(np.stack([volume, -volume]))
    assert (working[:, 20:, :70, :30] == working[:, 19:20, :70, :30]).all()
    np.testing.assert_array_equal(grid.image_to_native(working), np.stack([volume, -volume]))


AXES = list(permutations(range(3)))
FLIPS = list(product((False, True), repeat=3))


@pytest.mark.parametrize(("preset", "towards"), [("tiny", (1, 1, 1)), ("paper", (1, -1, -1))])
@pytest.mark.parametrize("axes", AXES)
def test_copies_of_a_scan_stored_any_way_round_have_one_working_volume(axes, preset, towards):
    """Stored along any axes in any direction: one working volume and spacing, and each gets its own way back."""
    rng = np.random.default_rng(0)
    tcdm = PRESETS[preset].tcdm
    image, mask = rng.normal(size=(20, 33, 18)).astype(np.float32), rng.integers(0, 4, (20, 33, 18), np.uint8)
    plain = Case("a", image[None], mask, spl_affine(towards))
    working = WorkingGrid.of_case(plain, (1.7, 1.1, 1.3), tcdm)
    assert working.orientation == Orientation()
    expected_image, expected_mask = working.image_to_working(image[None]), working.labels_to_working(mask)
    for flips in FLIPS:
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
        stored_image, stored_mask = (volume[steps].transpose(axes) for volume in (image, mask))
        affine = spl_affine(np.where(flips, -1, 1) * towards)[:, [*axes, 3]]
        grid = WorkingGrid.of_case(Case("b", stored_image[None], stored_mask, affine), (1.7, 1.1, 1.3), tcdm)
        assert torch.equal(grid.image_to_working(stored_image[None]), expected_image)
        assert torch.equal(grid.labels_to_working(stored_mask), expected_mask)
        back = working.image_to_native(expected_image)
        np.testing.assert_array_equal(grid.image_to_native(expected_image)[0], back[0][steps].transpose(axes))
        kept = working.confidence_to_native(expected_image[0])
        np.testing.assert_array_equal(grid.confidence_to_native(expected_image[0]), kept[steps].transpose(axes))


def spl_affine(signs):
    """(d, h, w) → LPS mm of a volume of 2 × 1 × 1.5 mm; sign +1 runs towards superior, posterior, left."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1.5 * signs[2]], [0, signs[1], 0], [2 * signs[0], 0, 0]])
    return affine


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(5, 40)] * 3),
    native=st.tuples(*[st.floats(0.4, 3.0)] * 3),
    working=st.floats(0.5, 3.0),
)
def test_a_linear_ramp_survives_resampling(shape, native, working):
    """Physical positions are kept: a ramp over the volume comes back as itself away from the border."""
    grid = WorkingGrid.of(shape, native, (working,) * 3, 16)
    d = np.broadcast_to((np.arange(shape[0]) + 0.5)[:, None, None] / shape[0], shape)
    back = grid.image_to_native(grid.image_to_working(d[None]))[0]
    assert back.shape == shape
    inner = slice(shape[0] // 4, -(shape[0] // 4) or None)
    step = max(1 / grid.resampled_shape[0], 1 / shape[0])
    assert np.abs(back - d)[inner].max() <= step


def test_working_spacing_is_the_median_coarsened_to_the_limit():
    cases = [((64, 64, 64), (1, 1, 1)), ((64, 64, 64), (2, 2, 2)), ((64, 64, 64), (3, 3, 3))]
    assert working_spacing(cases, GridConfig()) == (2, 2, 2)
    assert working_spacing(cases, GridConfig(max_voxels=32**3)) == pytest.approx((4, 4, 4))
    assert working_spacing(cases, GridConfig(spacing_mm=(1, 2, 3))) == (1, 2, 3)


def test_working_spacing_is_refined_where_the_median_volume_is_small():
    cases = [((32, 32, 32), (2, 2, 3))] * 3
    assert working_spacing(cases, GridConfig(min_voxels=64**3)) == pytest.approx((1, 1, 1.5))
    assert working_spacing(cases, GridConfig(min_voxels=16**3)) == (2, 2, 3)
    with pytest.raises(ValueError, match=r"min_voxels: must be in \[0, max_voxels = 8\], got 9"):
        GridConfig(max_voxels=8, min_voxels=9)


@pytest.mark.parametrize("ratio", [2 / 3, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3])
@pytest.mark.parametrize("place", [-20, -9.3, 0, 7.7, 19.1])
def test_a_thin_vessel_keeps_its_contrast_there_and_back(ratio, place):
    """A vessel two voxels wide keeps nine tenths; averages over areas would leave 41 % of it at a ratio of 1.1."""
    d, h = np.mgrid[:64, :64] - 31.5
    vessel = 300 * np.exp(-((d - place) ** 2 + (h - 0.8 * place) ** 2) / (2 * 0.85**2))
    vessel = np.repeat(vessel[..., None], 4, axis=2).astype(np.float32)
    grid = WorkingGrid.of(vessel.shape, (1, 1, 1), (ratio, ratio, 1), 4)
    back = grid.image_to_native(grid.image_to_working(vessel[None]))[0]
    assert back.max() / vessel.max() >= 0.9


def test_what_a_coarser_grid_cannot_hold_does_not_fold_over_though_another_axis_is_refined():
    """5 × 0.4 × 0.4 mm to 2 × 1 × 1 mm: stripes of 0 and 100 HU vanish, and noise of 20 HU becomes about 8."""
    grid = WorkingGrid.of((8, 80, 80), (5, 0.4, 0.4), (2, 1, 1), 4)
    stripes = np.tile(100.0 * (np.arange(80) % 2), (8, 80, 1))
    assert grid.image_to_working(stripes[None])[0, :, :, 4:28].std() < 1
    assert grid.image_to_working(stripes.transpose(0, 2, 1)[None])[0, :, 4:28].std() < 1
    noise = np.random.default_rng(0).normal(0, 20, (8, 80, 80))
    assert 7 < grid.image_to_working(noise[None])[0, :20, :32, :32].std() < 10


def test_a_confidence_of_one_stays_one_on_another_grid():
    grid = WorkingGrid.of((21, 22, 23), (2, 2, 2), (1.3, 1.3, 1.3), 16)
    assert (grid.confidence_to_native(torch.ones(grid.shape)) == 1).all()
    random = grid.confidence_to_native(torch.rand(grid.shape, generator=torch.Generator().manual_seed(0)))
    assert random.shape == (21, 22, 23)
    assert 0 <= random.min() < random.max() <= 1


def test_hu_and_unit_range():
    hu = torch.tensor([-2000.0, -1000, 0, 1000, 3000])
    unit = to_unit_range(hu, (-1000, 1000))
    assert unit.tolist() == [0, 0, 0.5, 1, 1]
    assert to_standard_range(unit, (-1000, 1000)).tolist() == [-1000, -1000, 0, 1000, 1000]


def test_surroundings_come_after_the_labels_and_never_cover_them():
    mask, surroundings = np.zeros((2, 2, 2), np.uint8), np.full((2, 2, 2), 3, np.uint8)
    mask[0] = 5
    reference, template = label_codes(Case("a", None, mask, np.eye(4), surroundings), num_labels=8)
    assert reference.tolist() == mask.tolist()
    assert (template[0] == 5).all()
    assert (template[1] == 11).all()


def test_a_working_volume_that_no_memory_holds_is_refused():
    """A header that says 1000 mm instead of 1 mm."""
    with pytest.raises(
        ValueError, match=r"at most 1,073,741,824 voxels, got 32000 × 32000 × 32000, 32000 × .* mm at a"
    ):
        WorkingGrid.of((32, 32, 32), (1000, 1000, 1000), (1, 1, 1), multiple=16)
    assert WorkingGrid.of((512, 512, 1000), (0.4, 0.4, 0.25), (0.25, 0.25, 0.25), multiple=16).shape == (832, 832, 1008)
