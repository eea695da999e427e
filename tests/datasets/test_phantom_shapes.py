"""Signed distances against geometry, fields against their statistics, painting against volumes."""

from __future__ import annotations

import numpy as np
import pytest

from fcas_nnunet.datasets.phantom.acquisition import Tissue, draw_acquisition, scan
from fcas_nnunet.datasets.phantom.coronaries import Tree, Vessel, resample
from fcas_nnunet.datasets.phantom.fields import NoiseField, Warp
from fcas_nnunet.datasets.phantom.render import Canvas, Grid
from fcas_nnunet.datasets.phantom.shapes import Ellipsoid, HalfSpace, Intersection, Offset, Tube, Union

ORIGIN, UPRIGHT = np.zeros(3), np.eye(3)
NO_WARP = Warp(np.ones((1, 3)), np.zeros(1), np.zeros((1, 3)))


def sphere(radius: float, center: np.ndarray = ORIGIN) -> Ellipsoid:
    return Ellipsoid(center, np.full(3, radius), UPRIGHT)


def points(*positions: tuple[float, float, float]) -> np.ndarray:
    return np.array(positions, float).T


def centred_grid(size: int, spacing_mm: float) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = spacing_mm * np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    affine[:3, 3] = -spacing_mm * (size - 1) / 2
    return Grid(affine, (size, size, size), NO_WARP)


def test_distance_to_a_sphere_is_exact() -> None:
    distance = sphere(5.0)(points((7, 0, 0), (0, 3, 4), (1, 0, 0), (0, 0, -9)))
    np.testing.assert_allclose(distance, [2, 0, -4, 4], atol=1e-9)


def test_ellipsoid_is_zero_on_its_poles_and_grows_with_slope_one_there() -> None:
    turned = np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, 1]])
    solid = Ellipsoid(np.array([1.0, 2, 3]), np.array([10.0, 5, 2]), turned)
    poles = solid.center + turned * solid.semi_axes[:, None]
    np.testing.assert_allclose(solid(poles.T), 0, atol=1e-9)
    np.testing.assert_allclose(solid((poles + 0.01 * turned).T), 0.01, rtol=0.01)


def test_tube_is_a_cone_with_round_ends() -> None:
    tube = Tube(np.array([[0.0, 0, 0], [10, 0, 0]]), np.array([2.0, 1.0]))
    # beside the start, beside the middle (radius 1.5), beyond the end (radius 1)
    np.testing.assert_allclose(tube(points((0, 5, 0), (5, 0, 4), (14, 0, 0))), [3, 2.5, 3], atol=1e-9)


def test_union_intersection_and_offset_combine_distances() -> None:
    left, right = sphere(5.0), sphere(5.0, np.array([8.0, 0, 0]))
    at = points((-7, 0, 0), (4, 0, 0), (15, 0, 0))
    np.testing.assert_allclose(Union([left, right])(at), [2, -1, 2], atol=1e-9)
    np.testing.assert_allclose(Intersection([left, HalfSpace(ORIGIN, np.array([1.0, 0, 0]))])(at), [2, 4, 15])
    np.testing.assert_allclose(Offset(left, 1.5)(at), left(at) - 1.5)


def test_fillet_fills_the_notch_between_two_spheres_and_nothing_else() -> None:
    solids = [sphere(5.0), sphere(5.0, np.array([9.0, 0, 0]))]
    notch, far = points((4.5, 2.6, 0)), points((-7, 0, 0))
    assert Union(solids)(notch)[0] > 0 > Union(solids, fillet_mm=4.0)(notch)[0]
    # equal distances at the notch: the polynomial takes off a quarter of the width
    np.testing.assert_allclose(Union(solids, 4.0)(notch), Union(solids)(notch) - 1.0, atol=1e-9)
    np.testing.assert_allclose(Union(solids, 4.0)(far), Union(solids)(far))


def test_bounds_hold_the_solid() -> None:
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    solids = [
        Ellipsoid(np.array([1.0, -2, 3]), np.array([9.0, 4, 2]), turned),
        Tube(rng.uniform(-5, 5, (4, 3)), np.array([1.0, 3, 2, 0.5])),
        Union([sphere(3.0), sphere(3.0, np.array([5.0, 0, 0]))], fillet_mm=4.0),
    ]
    samples = rng.uniform(-15, 15, (3, 40000))
    for solid in solids:
        inside = samples[:, solid(samples) < 0]
        low, high = solid.bounds
        assert inside.shape[1] > 100
        assert (inside.min(axis=1) >= low).all()
        assert (inside.max(axis=1) <= high).all()


def test_noise_field_has_unit_variance_and_its_grain() -> None:
    field = NoiseField.draw(np.random.default_rng(1), cell_mm=4.0)
    line = np.stack([np.arange(0, 4000, 0.5), np.full(8000, 1.3), np.linspace(0, 900, 8000)])
    values = field(line)
    assert abs(values.mean()) < 0.15
    assert 0.8 < values.std() < 1.2
    lag = [np.corrcoef(values[:-n], values[n:])[0, 1] for n in (1, 24)]
    assert lag[0] > 0.9
    assert abs(lag[1]) < 0.15


def test_warp_is_undone_by_its_inverse() -> None:
    warp = Warp.draw(np.random.default_rng(2))
    positions = np.random.default_rng(3).uniform(-80, 80, (3, 500))
    moved = np.linalg.norm(warp(positions) - positions, axis=0)
    assert 1 < moved.mean() < 8
    np.testing.assert_allclose(warp(warp.inverse(positions)), positions, atol=1e-3)


def test_painted_sphere_keeps_its_volume_between_voxels() -> None:
    acquisition = draw_acquisition(np.random.default_rng(0))
    canvas = Canvas(centred_grid(20, 2.0), acquisition)
    background = acquisition.hu[Tissue.AIR]
    acquisition.texture_hu[Tissue.MUSCLE] = 0.0
    canvas.paint(sphere(11.0), Tissue.MUSCLE, 7)
    share = (canvas.hu - background) / (acquisition.hu[Tissue.MUSCLE] - background)
    volume = 4 / 3 * np.pi * 11.0**3
    # a ramp one voxel wide averages (r ± voxel/2)³: it adds (voxel/r)²/4
    assert share.sum() * 8 == pytest.approx(volume * (1 + (2.0 / 11.0) ** 2 / 4), rel=0.005)
    assert (canvas.codes == 7).sum() * 8 == pytest.approx(volume, rel=0.05)


def test_vessel_thinner_than_a_voxel_keeps_its_volume_and_its_thread() -> None:
    acquisition = draw_acquisition(np.random.default_rng(0))
    acquisition.texture_hu[Tissue.CORONARY_BLOOD] = 0.0
    acquisition.band_gain[:] = 1
    canvas = Canvas(centred_grid(24, 2.0), acquisition)
    line = resample(np.array([[-15.0, -9, -11], [14, 10, 12]]))
    canvas.paint_vessels((Vessel("D1", Tree.LEFT, line, np.full(len(line), 0.8)),), Tissue.CORONARY_BLOOD, 8)
    air = acquisition.hu[Tissue.AIR]
    share = (canvas.hu - air) / (acquisition.hu[Tissue.CORONARY_BLOOD] - air)
    cylinder = np.pi * 0.8**2 * np.linalg.norm(line[-1] - line[0]) + 4 / 3 * np.pi * 0.8**3
    assert share.max() < 0.6  # nowhere a full voxel
    assert share.sum() * 8 == pytest.approx(cylinder, rel=0.12)
    voxels = np.argwhere(canvas.codes == 8)
    order = voxels[np.argsort(voxels @ np.array([23, 19, 29]))]
    assert np.abs(np.diff(order, axis=0)).max() == 1  # a 26-connected chain
    assert canvas.codes[tuple(np.rint(canvas.grid.indices(line)[[0, -1]]).astype(int).T)].tolist() == [8, 8]


def test_noise_has_its_standard_deviation_and_a_grain() -> None:
    grid = centred_grid(32, 2.0)
    settings = draw_acquisition(np.random.default_rng(5))
    image = scan(
        np.zeros(grid.shape, np.float32), grid.positions(), grid.spacing_mm, np.array([1e4, 1e4]), settings
    ).astype(float)
    assert image.std() == pytest.approx(settings.noise_hu, rel=0.02)
    neighbours = np.corrcoef(image[:, :, :-1].ravel(), image[:, :, 1:].ravel())[0, 1]
    apart = np.corrcoef(image[:, :, :-6].ravel(), image[:, :, 6:].ravel())[0, 1]
    assert 0.1 < neighbours < 0.7
    assert abs(apart) < 0.05
