"""The field is what its record says: physical, invertible where sampled, the same after a trip through JSON."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcas_nnunet.config.masks import MAX_INJECTIVE_FRACTION, MaskConfig
from fcas_nnunet.generator.mgm.deformation import (
    Deformation,
    draw_deformation,
    elastic_jacobian_range,
    mask_center_mm,
    output_points_mm,
    source_points_mm,
)
from fcas_nnunet.generator.mgm.resampling import coordinate_slabs, deform_image, deform_labels

SHAPE, SPACING_MM = (24, 30, 20), (1.5, 0.7, 2.0)
SEEDS = st.integers(0, 2**32)
ZEROS = (0.0, 0.0, 0.0)
IDENTITY = Deformation(ZEROS, (1.0, 1.0, 1.0), ZEROS, ZEROS, ZEROS, 1.0, (4, 4, 4), 0.0, 0)


def sampling_coordinates(deformation: Deformation, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Where each output voxel is sampled, as indices of the source: float32 [3, D, H, W]."""
    slabs = coordinate_slabs(deformation, spacing_mm, tuple(slice(0, size) for size in shape))
    return np.concatenate([np.stack(coordinates) for _, coordinates in slabs], axis=1)


def drawn(seed: int, **changes: object) -> Deformation:
    return draw_deformation(MaskConfig(**changes), SHAPE, SPACING_MM, seed)


def only(**changes: object) -> Deformation:
    """The identity about (10, 10, 10) mm, but for `changes`."""
    return dataclasses.replace(IDENTITY, center_mm=(10.0, 10.0, 10.0), **changes)


@given(seed=SEEDS)
def test_the_record_survives_json(seed: int) -> None:
    deformation = drawn(seed)
    record = json.loads(json.dumps(deformation.to_dict()))
    assert Deformation.from_dict(record) == Deformation.from_dict(record | {"padding": "border"}) == deformation


def test_the_stream_of_numbers_is_fixed_for_good() -> None:
    """Manifests replay with any numpy: the control displacements come from PCG64's raw bits, in doubles' 53."""
    deformation = dataclasses.replace(drawn(1), elastic_seed=7, max_displacement_mm=1.0)
    raw = np.random.PCG64(7).random_raw(2)
    expected = [2 * ((int(bits) >> 11) / 2**53) - 1 for bits in raw]
    assert deformation.control_displacements_mm().ravel()[:2].tolist() == expected
    assert expected == pytest.approx([0.2501909, 0.7944277], abs=1e-7)


def test_a_broken_record_is_refused() -> None:
    record = drawn(0).to_dict()
    del record["scale"]
    with pytest.raises(ValueError, match=r"got \['zoom'\] too many and \['scale'\] too few"):
        Deformation.from_dict({**record, "zoom": 1})
    with pytest.raises(ValueError, match=r"got \['padding'\] too many"):  # of earlier versions, which had another
        Deformation.from_dict(drawn(0).to_dict() | {"padding": "constant"})


def test_a_field_that_could_fold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_displacement_mm must lie in \[0, 16.120\].*got 20"):
        dataclasses.replace(drawn(0), max_displacement_mm=20.0)


@pytest.mark.parametrize(
    ("deformation", "source", "expected"),
    [
        (only(translation_mm=(1.0, -2.0, 3.0)), (10, 10, 10), (11, 8, 13)),
        (only(scale=(2.0, 1.0, 0.5)), (11, 12, 14), (12, 12, 12)),
        (only(rotation_deg=(90.0, 0.0, 0.0)), (10, 11, 10), (10, 10, 11)),  # about D: H turns to W
        (only(rotation_deg=(0.0, 0.0, 90.0)), (11, 10, 10), (10, 11, 10)),  # about W: D turns to H
        (only(shear=(0.5, 0.0, 0.0)), (10, 12, 10), (11, 12, 10)),  # D grows by half of H
    ],
)
def test_the_affine_part_moves_points_about_the_centre(
    deformation: Deformation, source: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    moved = output_points_mm(deformation, np.array([source], dtype=float))
    np.testing.assert_allclose(moved, [expected], atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_forward_undoes_backward_and_the_dense_field_is_the_scattered_one(seed: int) -> None:
    deformation = drawn(seed, max_displacement_fraction=MAX_INJECTIVE_FRACTION)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1).reshape(-1, 3)
    source = source_points_mm(deformation, index * np.array(SPACING_MM))
    np.testing.assert_allclose(output_points_mm(deformation, source), index * np.array(SPACING_MM), atol=0.01)
    dense = sampling_coordinates(deformation, SHAPE, SPACING_MM).reshape(3, -1).T
    np.testing.assert_allclose(dense, source / SPACING_MM, atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_no_field_folds_at_the_choi_lee_bound(seed: int) -> None:
    deformation = draw_deformation(
        MaskConfig(max_displacement_fraction=MAX_INJECTIVE_FRACTION), (200, 200, 200), (1.0, 1.0, 1.0), seed
    )
    smallest, largest = elastic_jacobian_range(deformation)
    assert 0 < smallest < 1 < largest


def test_the_jacobian_is_that_of_finite_differences() -> None:
    deformation = only(control_spacing_mm=20.0, max_displacement_mm=8.0, lattice_shape=(5, 5, 5), elastic_seed=3)
    points = np.stack(np.meshgrid(*3 * [np.linspace(0, 40, 17)], indexing="ij"), axis=-1).reshape(-1, 3)
    step = 1e-4
    columns = [
        (source_points_mm(deformation, points + step * axis) - source_points_mm(deformation, points - step * axis))
        / (2 * step)
        for axis in np.eye(3)
    ]
    determinants = np.linalg.det(np.stack(columns, axis=-1))
    assert elastic_jacobian_range(deformation) == pytest.approx((determinants.min(), determinants.max()), abs=1e-6)


def test_the_identity_returns_labels_and_image_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, SHAPE).astype(np.uint8)
    image = rng.normal(0, 300, SHAPE).astype(np.float32)
    identity = draw_deformation(MaskConfig(), SHAPE, SPACING_MM, 5, strength=0.0)
    assert identity.is_identity
    np.testing.assert_array_equal(deform_labels(labels, identity, SPACING_MM), labels)
    np.testing.assert_array_equal(deform_image(image[None], identity, SPACING_MM), image[None])


def test_labels_follow_a_shift_of_whole_voxels() -> None:
    labels = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    shift = dataclasses.replace(IDENTITY, translation_mm=(3.0, 0.0, -4.0))  # 2 voxels along D, -2 along W
    moved = deform_labels(labels, shift, SPACING_MM)
    np.testing.assert_array_equal(moved[2:, :, :-2], labels[:-2, :, 2:])
    np.testing.assert_array_equal(moved[0], moved[2])  # the border is repeated


def test_an_image_repeats_its_border() -> None:
    ramp = np.broadcast_to(np.arange(20, dtype=np.float32) * 10, SHAPE).copy()  # 10 HU a voxel of 2 mm along W
    moved = deform_image(ramp[None], dataclasses.replace(IDENTITY, translation_mm=(0.0, 0.0, 5.0)), SPACING_MM)[0, 4, 4]
    np.testing.assert_allclose(moved, np.maximum(np.arange(20) - 2.5, 0) * 10, atol=1)  # the spline bends at the ends
    np.testing.assert_allclose(moved[8:16], (np.arange(8, 16) - 2.5) * 10, atol=1e-2)


def test_a_thin_vessel_keeps_its_contrast_under_a_shift_of_half_a_voxel() -> None:
    """Cubic splines keep 287 of 300 HU of a vessel two voxels wide; linear interpolation would keep 252."""
    profile = np.exp(-0.5 * ((np.arange(20) - 9.5) / 0.85) ** 2).astype(np.float32)
    image = np.broadcast_to(300 * profile, SHAPE).copy()
    shift = dataclasses.replace(IDENTITY, translation_mm=(0.0, 0.0, SPACING_MM[2] / 2))
    peak = deform_image(image[None], shift, SPACING_MM)[0, 4, 4].max()
    wanted = 300.0  # the vessel's axis now lies on a voxel
    linear = image[4, 4, 9:11].mean()
    assert abs(peak - wanted) < 0.3 * abs(linear - wanted)


def test_image_and_labels_move_with_the_same_field() -> None:
    """A smooth image and its own rounded values, deformed apart, still agree."""
    d, h, w = np.meshgrid(*(np.linspace(0, 3, n) for n in SHAPE), indexing="ij")
    image = (100 * (2 + np.sin(d) + np.cos(h + w))).astype(np.float32)
    deformation = drawn(3)
    labels = deform_labels(np.rint(image).astype(np.int16), deformation, SPACING_MM)
    gradient = 1 + sum(np.abs(g).max() for g in np.gradient(image)) / 2  # half a voxel of nearest sampling
    assert np.abs(labels - deform_image(image[None], deformation, SPACING_MM)[0]).max() <= gradient


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, factors=st.tuples(*3 * [st.sampled_from([1, 2, 3])]))
def test_anisotropic_voxels_give_the_same_physical_deformation(seed: int, factors: tuple[int, int, int]) -> None:
    """A grid refined by whole factors holds the coarse grid's points: they come from the same places in mm."""
    deformation = drawn(seed)
    fine_shape = tuple((n - 1) * f + 1 for n, f in zip(SHAPE, factors, strict=True))
    fine_mm = np.array(SPACING_MM) / factors
    coarse = sampling_coordinates(deformation, SHAPE, SPACING_MM) * np.reshape(SPACING_MM, (3, 1, 1, 1))
    fine = sampling_coordinates(deformation, fine_shape, tuple(fine_mm)) * fine_mm.reshape(3, 1, 1, 1)
    np.testing.assert_allclose(fine[:, :: factors[0], :: factors[1], :: factors[2]], coarse, atol=1e-3)


def test_the_number_of_threads_changes_no_byte() -> None:
    rng = np.random.default_rng(1)
    shape, spacing_mm = (70, 81, 93), (1.1, 0.9, 0.8)  # no multiples of a vector's width
    labels = rng.integers(0, 9, shape).astype(np.uint8)
    image = rng.normal(0, 300, shape).astype(np.float32)
    deformation = draw_deformation(MaskConfig(), shape, spacing_mm, 11)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(
                (deform_labels(labels, deformation, spacing_mm), deform_image(image[None], deformation, spacing_mm))
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert other[0].tobytes() == results[0][0].tobytes()
        assert other[1].tobytes() == results[0][1].tobytes()


def test_centre_is_the_foregrounds_centroid() -> None:
    mask = np.zeros((10, 10, 10), np.uint8)
    mask[2:5, 4, 6:8] = 3
    assert mask_center_mm(mask, (2.0, 1.0, 0.5)) == (6.0, 4.0, 3.25)
    assert mask_center_mm(np.zeros_like(mask), (2.0, 1.0, 0.5)) == (9.0, 4.5, 2.25)


def test_bad_ranges_are_refused_all_at_once() -> None:
    with pytest.raises(
        ValueError,
        match=r"(?s)max_displacement_fraction: must be at most 0.403, got 0.8.*max_tries: must be at least 1",
    ):
        MaskConfig(max_displacement_fraction=0.8, max_tries=0)
