"""HD95 and surface Dice: closed forms, and MONAI's numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from fcas_nnunet.evaluation.segmentation.surfaces import hausdorff_95_mm, surface_dice, surface_distances


def blob(seed, shape=(17, 20, 23)):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return field > np.percentile(field, 80)


def cubes(shift):
    first, second = np.zeros((2, 40, 40, 40), dtype=bool)
    first[5:25, 5:25, 5:25] = True
    second[5:25, 5:25, 5 + shift : 25 + shift] = True
    return first, second


def test_a_20_cube_shifted_by_3():
    """Each end face lies 3 voxels beside the other cube's; of the side faces all but their last 3 columns coincide."""
    distances = surface_distances(*cubes(3), (1, 1, 1))
    assert max(d.max() for d in distances) == 3
    assert hausdorff_95_mm(distances) == 3  # 400 of 2,168 surface voxels are 3 away, more than 5 %
    assert surface_dice(distances, 3.0) == 1.0


def test_distances_are_in_mm_along_each_axis():
    distances = surface_distances(*cubes(3), (1.0, 1.0, 0.5))
    assert max(d.max() for d in distances) == 1.5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.8, 0.6)])
def test_both_equal_monai(seed, spacing):
    first, second = blob(seed), blob(seed) ^ (ndimage.binary_dilation(blob(seed)) & blob(seed + 50))
    one_hot = [torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32)) for mask in (first, second)]
    distances = surface_distances(first, second, spacing)
    hausdorff = compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing).item()
    dice = compute_surface_dice(*one_hot, class_thresholds=[1.0], spacing=spacing).item()
    assert hausdorff_95_mm(distances) == pytest.approx(hausdorff, abs=1e-4)
    assert surface_dice(distances, 1.0) == pytest.approx(dice, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.8, 0.6)])
def test_both_equal_scipys_distance_transform(seed, spacing):
    """From the definitions: surfaces by erosion, distances over the whole volume."""
    first, second = blob(seed), blob(seed + 10)
    surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]  # the volume's end is outside
    to_first, to_second = (ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces)
    forth, back = to_second[surfaces[0]], to_first[surfaces[1]]
    distances = surface_distances(first, second, spacing)
    np.testing.assert_allclose(np.sort(distances[0]), np.sort(forth), rtol=1e-6)
    np.testing.assert_allclose(np.sort(distances[1]), np.sort(back), rtol=1e-6)
    wanted = max(np.percentile(forth, 95), np.percentile(back, 95))
    assert hausdorff_95_mm(distances) == pytest.approx(wanted, rel=1e-6)
    for tolerance in (0.7, 1.1, 2.05):
        within = (forth <= tolerance).sum() + (back <= tolerance).sum()
        assert surface_dice(distances, tolerance) == pytest.approx(within / (len(forth) + len(back)))


def test_an_empty_mask_has_no_distance():
    full, empty = blob(0), np.zeros_like(blob(0))
    for pair in ((full, empty), (empty, full), (empty, empty)):
        distances = surface_distances(*pair, (1, 1, 1))
        assert math.isnan(hausdorff_95_mm(distances))
        assert math.isnan(surface_dice(distances, 1.0))


@given(seed=st.integers(0, 50), tolerance=st.floats(0, 4))
def test_both_are_symmetric_and_perfect_for_equals(seed, tolerance):
    first, second = blob(seed), blob(seed + 1)
    forth, back = surface_distances(first, second, (1, 2, 1)), surface_distances(second, first, (1, 2, 1))
    assert hausdorff_95_mm(forth) == hausdorff_95_mm(back)
    assert surface_dice(forth, tolerance) == surface_dice(back, tolerance)
    same = surface_distances(first, first, (1, 2, 1))
    assert hausdorff_95_mm(same) == 0
    assert surface_dice(same, 0) == 1
