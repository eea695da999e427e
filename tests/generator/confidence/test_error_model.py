"""The error model: what it measures, that tiles do not matter, and that it learns an error which is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcas_nnunet.config.generator import CalibrationConfig
from fcas_nnunet.generator.calibrate import CODES, ERROR, MEASURES, fit_error_model
from fcas_nnunet.generator.confidence.error_model import (
    CHANNEL_MEASURES,
    HALO,
    MASK_MEASURES,
    ErrorModel,
    local_measures,
    measured_slabs,
    measures_at,
)

NUM_MEASURES = CHANNEL_MEASURES + MASK_MEASURES
DEPARTURE, LOG_DEPARTURE, LOG_GRADIENT, WALL = 0, 1, 4, 7


def volume(seed: int, shape: tuple[int, int, int] = (23, 14, 15)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.zeros(shape, dtype=torch.uint8)
    codes[4:18, 3:11, 2:12], codes[8:13, 5:9, 5:9] = 1, 2
    return (200.0 * codes + 40 * torch.randn(shape, generator=generator))[None], codes


def whole(image: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    ((_, _, measures),) = measured_slabs(image, codes, slab_voxels=10**9)
    return measures


def test_departures_are_from_the_structures_own_means() -> None:
    image, codes = volume(0)
    measures = whole(image, codes)
    assert len(measures) == NUM_MEASURES
    for code in (0, 1, 2):
        assert measures[DEPARTURE][codes == code].mean().abs() < 1e-5
    inside = codes == 2
    expected = (image[0][inside] - image[0][inside].mean()) / 100
    torch.testing.assert_close(measures[DEPARTURE][inside], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(measures[LOG_DEPARTURE], torch.log(100 * measures[DEPARTURE].abs() + 5) - 3.5)


def test_measures_do_not_see_a_structures_contrast() -> None:
    """Only the gradient, which crosses walls, may."""
    image, codes = volume(1)
    brighter = image + 300 * (codes == 2)
    difference = (whole(brighter, codes) - whole(image, codes)).abs().amax(dim=(1, 2, 3))
    assert difference[LOG_GRADIENT] > 0.1
    assert np.delete(difference.numpy(), LOG_GRADIENT).max() < 1e-3


def test_each_channel_has_measures_of_its_own_and_the_mask_one_set_for_all() -> None:
    (one, codes), (two, _) = volume(5), volume(6)
    both = whole(torch.cat([one, 3 * two]), codes)
    assert torch.equal(both[:CHANNEL_MEASURES], whole(one, codes)[:CHANNEL_MEASURES])
    assert torch.equal(both[CHANNEL_MEASURES : 2 * CHANNEL_MEASURES], whole(3 * two, codes)[:CHANNEL_MEASURES])
    assert torch.equal(both[2 * CHANNEL_MEASURES :], whole(one, codes)[CHANNEL_MEASURES:])
    expected_error = ErrorModel(8, num_channels=2).expected_error(torch.cat([one, two]), codes)
    assert expected_error.shape == codes.shape
    assert expected_error.flatten() == pytest.approx(math.exp(3.5), rel=1e-5)


def test_walls_and_gradients_by_hand() -> None:
    codes = torch.zeros(1, 1, 6, dtype=torch.uint8)
    codes[..., 3:] = 1
    image = torch.tensor([[[[0.0, 0, 0, 90, 90, 90]]]])
    measures = local_measures(image, codes, torch.zeros(1, 256))
    assert measures[WALL].flatten().tolist() == [0, 0, 1, 1, 0, 0]
    assert measures[WALL + 1].flatten() == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1 / 3, 0])  # of 3 voxels in a row
    gradient = torch.exp(measures[LOG_GRADIENT] + 3.5) - 5
    assert gradient.flatten() == pytest.approx([0, 0, 45, 45, 0, 0], abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(slab_voxels=st.integers(1, 6000), seed=st.integers(0, 100))
def test_slabs_give_the_whole_volumes_measures(slab_voxels: int, seed: int) -> None:
    image, codes = volume(seed)
    slabs = list(measured_slabs(image, codes, slab_voxels))
    assert [start for start, _, _ in slabs] == [0, *(stop for _, stop, _ in slabs[:-1])]
    torch.testing.assert_close(torch.cat([m for _, _, m in slabs], dim=1), whole(image, codes), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slab_voxels", [1, 500, 10**9])
def test_some_voxels_measures_are_the_whole_volumes(slab_voxels: int) -> None:
    image, codes = volume(1)
    voxels = torch.from_numpy(np.sort(np.random.default_rng(0).choice(image.numel(), 50, replace=False)))
    expected = whole(image, codes).flatten(1)[:, voxels].T
    torch.testing.assert_close(measures_at(image, codes, voxels, slab_voxels), expected, atol=1e-5, rtol=1e-5)


def test_nothing_beyond_the_halo_is_seen() -> None:
    image, codes = volume(2)
    means = torch.zeros(1, 256)
    changed = image.clone()
    changed[0, 0] += 1000
    moved = (local_measures(changed, codes, means) - local_measures(image, codes, means)).abs().amax(dim=(0, 2, 3))
    assert torch.nonzero(moved > 1e-4).max() <= HALO - 1


def test_whole_volumes_go_through_in_slabs() -> None:
    image, codes = volume(3)
    torch.manual_seed(0)
    model = ErrorModel(8)
    torch.nn.init.normal_(model.last.weight)
    everything = model.expected_error(image, codes, slab_voxels=10**9)
    torch.testing.assert_close(model.expected_error(image, codes, slab_voxels=500), everything, atol=1e-4, rtol=1e-5)
    assert everything.min() > 0
    logs = model(whole(image, codes).flatten(1).T, codes.flatten().long())
    torch.testing.assert_close(everything.flatten(), logs.exp())


def test_an_untrained_model_expects_the_same_everywhere() -> None:
    image, codes = volume(4)
    assert ErrorModel(8).expected_error(image, codes).flatten() == pytest.approx(math.exp(3.5), rel=1e-5)


def test_it_learns_the_mean_absolute_error_and_not_its_median() -> None:
    """Exponential errors of mean 20, 60 and 120 HU by structure: their medians would be 14, 42 and 83."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 30_000)
    drawing = {
        MEASURES: torch.from_numpy(rng.normal(size=(len(codes), NUM_MEASURES)).astype(np.float32)),
        CODES: torch.from_numpy(codes),
        ERROR: torch.from_numpy(rng.exponential(np.array([20, 60, 120])[codes]).astype(np.float32)),
    }
    config = CalibrationConfig(width=8, num_steps=400, batch_voxels=4096)
    model = fit_error_model([drawing], config, seed=1)
    expected = model(drawing[MEASURES], drawing[CODES]).exp()
    means = [float(expected[drawing[CODES] == code].mean()) for code in range(3)]
    assert means == pytest.approx([20, 60, 120], rel=0.08)
    again = fit_error_model([drawing], config, seed=1)
    assert torch.equal(again.first.weight, model.first.weight)  # the same bytes for the same seed
    assert float(expected[drawing[CODES] == 2].std()) < 15
    unseen = model(drawing[MEASURES][:100], torch.full((100,), 77)).exp()
    assert 20 < float(unseen.mean()) < 130
