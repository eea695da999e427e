"""Images on grids of another voxel size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcas_nnunet.generator.data.spline_projection import blend, project, spline_matrix, triangle_matrix

SIZES = st.integers(1, 40)


@settings(deadline=None)
@given(SIZES, SIZES)
def test_a_constant_stays_and_the_mean_is_kept(size, new_size):
    matrix = spline_matrix(size, new_size)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-9)
    # a volume's splines and their projection have one integral; summing voxels integrates a mirrored spline
    np.testing.assert_allclose(matrix.sum(axis=0) / new_size, 1 / size, atol=1e-9)


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(2, 3))
def test_a_grid_that_holds_the_old_one_s_splines_loses_nothing(size, factor):
    """Knots at half voxels: a refinement by an odd factor puts one on each old knot, one by two does not."""
    there, back = spline_matrix(size, factor * size), spline_matrix(factor * size, size)
    tolerance = 1e-9 if factor == 3 else 0.05
    np.testing.assert_allclose(back @ there, np.eye(size), atol=tolerance)


def test_the_projection_is_the_nearest_spline():
    """The difference of the old and the new spline is orthogonal to every new one: checked by fine sums."""
    size, new_size, fine = 9, 5, 405  # odd refinements hold both splines exactly
    values = np.random.default_rng(0).normal(size=size)
    projected = spline_matrix(size, new_size) @ values
    old, new = spline_matrix(size, fine) @ values, spline_matrix(new_size, fine)
    np.testing.assert_allclose(new.T @ (new @ projected - old) / len(old), 0, atol=1e-5)


@settings(deadline=None)
@given(SIZES, SIZES)
def test_linear_weights_are_a_mean(size, new_size):
    weights = triangle_matrix(size, new_size)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_linear_weights_by_hand():
    np.testing.assert_allclose(triangle_matrix(2, 4), [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    # two voxels become one: a triangle of four, its ends beyond the volume
    np.testing.assert_allclose(triangle_matrix(4, 2), np.array([[4, 3, 1, 0], [0, 1, 3, 4]]) / 8)


@pytest.mark.parametrize("resample", [project, blend])
@pytest.mark.parametrize("shape", [(7, 12, 9), (20, 5, 8), (11, 6, 30)])
def test_all_axes_at_once_and_the_same_bytes_with_any_number_of_threads(resample, shape):
    volume = torch.rand(11, 12, 13, generator=torch.Generator().manual_seed(0))
    matrix_of = {project: spline_matrix, blend: triangle_matrix}[resample]
    d, h, w = (matrix_of(n, m) for n, m in zip(volume.shape, shape, strict=True))
    result = resample(volume, shape)
    np.testing.assert_allclose(result, np.einsum("ai,bj,ck,ijk->abc", d, h, w, volume.double()), atol=1e-5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(resample(volume, shape), result)
    finally:
        torch.set_num_threads(threads)


def test_autocast_does_not_round():
    volume = torch.rand(11, 12, 13, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(project(volume, (7, 12, 9)), project(volume.clone(), (7, 12, 9)))
        inside = project(volume, (7, 12, 9))
    assert inside.dtype == torch.float32
    assert torch.equal(inside, project(volume, (7, 12, 9)))
