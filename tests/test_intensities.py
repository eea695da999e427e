"""Standard units of CT and of other modalities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import read_scan, read_volume
from fcas_nnunet.intensities import IntensityScale, unit_name


def mr(low: float, high: float, dtype: type) -> np.ndarray:
    """A scan with a zero background that was cut out, and one voxel of metal."""
    image = np.random.default_rng(0).uniform(low, high, (12, 14, 16))
    image[:3] = 0
    image[5, 5, 5] = 1000 * high
    return image.astype(dtype)


@pytest.mark.parametrize("name", ["CT", "ct"])
def test_ct_is_left_in_hu(name: str) -> None:
    image = np.array([-1024.4, 0.5, 3071.0], np.float32)
    scale = IntensityScale.of(image, name)
    assert np.array_equal(scale.to_standard(image), image)
    assert scale.to_own(image).tolist() == [-1024, 0, 3071]  # half to even
    assert scale.to_own(image).dtype == np.int16
    assert unit_name(name) == "HU"


def test_other_modalities_count_in_the_scans_own_spread() -> None:
    """Uniform in [a, b]: mean (a + b) / 2 is 0 units, one standard deviation (b − a) / √12 is 200."""
    image = mr(0.2, 0.8, np.float32)
    standard = IntensityScale.of(image, "MRI").to_standard(image)
    inside = (image > 0) & (image < 1)
    assert standard[inside].mean() == pytest.approx(0, abs=5)
    assert standard[inside].std() == pytest.approx(200, rel=0.02)
    assert unit_name("MRI") == "units"


@given(factor=st.floats(1e-3, 1e3), offset=st.floats(0, 1e3))
def test_a_scanners_gain_changes_no_standard_unit(factor: float, offset: float) -> None:
    image = mr(100, 900, np.float64)
    other = np.where(image == 0, 0, factor * (image + offset))
    one, two = (IntensityScale.of(each, "MRI").to_standard(each)[4:] for each in (image, other))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint16, np.uint8, np.int32])
def test_own_values_come_back_in_their_data_type(dtype: type) -> None:
    image = mr(0.0, 1.0, dtype) if dtype is np.float32 else mr(2, 60, dtype).clip(0, 200)
    scale = IntensityScale.of(image.astype(dtype), "MRI")
    back = scale.to_own(scale.to_standard(image.astype(dtype)))
    assert back.dtype == dtype
    np.testing.assert_allclose(back, image.astype(dtype), atol=1e-4 if dtype is np.float32 else 0)
    beyond = scale.to_own(np.array([-1e12, 1e12], np.float32))
    if dtype is not np.float32:
        assert beyond.tolist() == [np.iinfo(dtype).min, np.iinfo(dtype).max]
    assert IntensityScale.of(image.astype(np.int64), "MRI").dtype == "int32"


@pytest.mark.parametrize("image", [np.zeros((2, 3, 4), np.int16), np.full((2, 3, 4), 7.0), np.full((1, 1, 1), np.nan)])
def test_a_scan_without_spread_keeps_its_own_values_as_units(image: np.ndarray) -> None:
    scale = IntensityScale.of(image, "MRI")
    assert scale.unit == 1
    assert np.array_equal(scale.to_standard(np.array([scale.centre])), [0])


def test_a_set_of_floats_keeps_its_grey_levels(tmp_path) -> None:
    folder = tmp_path / "Dataset905_MR"
    image = mr(0.0, 1.0, np.float32).clip(0, 1)
    scale = IntensityScale.of(image, "MRI")
    write_case(folder, Case("a", image[None], (image > 0.5).astype(np.uint8), np.eye(4), scales=(scale,)))
    write_dataset_json(folder, {"background": 0, "heart": 1}, 1, channel_names={"0": "MRI"})
    dataset = RawDataset.open(folder)
    stored = read_volume(dataset.image_path("a")).array
    assert stored.dtype == np.float32
    assert np.array_equal(stored, image)
    case = dataset.load_case("a")
    assert case.scales == (scale,)
    assert np.array_equal(case.standard_image[0], read_scan(dataset.image_path("a"), "MRI").array)
    assert len(np.unique(scale.to_own(case.standard_image))) == len(np.unique(image))


def test_a_mask_as_a_channel_keeps_both_its_values() -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:6] = 1
    scale = IntensityScale.of(mask, "noNorm")
    assert np.ptp(scale.to_standard(mask)) == pytest.approx(400)  # half of the voxels: a deviation of 1/2
    assert np.array_equal(scale.to_own(scale.to_standard(mask)), mask)


def test_colours_are_counted_from_their_fixed_range_and_stay_within_it() -> None:
    image = np.random.default_rng(0).uniform(90, 130, (8, 8, 8)).astype(np.float32)
    scale = IntensityScale.of(image, "rgb_to_0_1")
    assert scale == IntensityScale.of(0 * image, "RGB_to_0_1"), "whatever the scan"
    assert scale.to_standard(np.array([0, 127.5, 255])).tolist() == [-1000, 0, 1000]
    assert scale.to_own(np.array([-2000, 2000], np.float32)).tolist() == [0, 255]


def test_what_is_rescaled_by_its_extremes_keeps_within_them() -> None:
    image = mr(0.2, 0.8, np.float32)
    beyond = np.array([-1e6, 1e6], np.float32)
    assert IntensityScale.of(image, "rescale_to_0_1").to_own(beyond).tolist() == [0, image.max()]
    assert IntensityScale.of(image, "MRI").to_own(beyond)[0] < 0
