"""SSIM and RMSE against closed forms and MONAI, and the intensity range against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import RMSEMetric, SSIMMetric
from scipy import ndimage

from fcas_nnunet.evaluation.images.quality import (
    IntensityRange,
    foreground_histogram,
    foreground_range,
    rmse,
    score_pair,
    ssim,
)

RANGE = IntensityRange(-100.0, 900.0, "stated")


def noisy_pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two related smooth volumes in HU, some of it outside RANGE."""
    generator = np.random.default_rng(seed)
    real = ndimage.gaussian_filter(generator.normal(size=(20, 24, 18)), 1.5) * 2500 + 300
    return real, real + generator.normal(size=real.shape) * 60


def test_ssim_of_two_constants() -> None:
    # (2ab + C1) / (a² + b² + C1) with C1 = 0.01²: variances and covariance are 0, so 0.3601 / 0.4501.
    assert ssim(np.full((16, 16, 16), 0.3), np.full((16, 16, 16), 0.6)) == pytest.approx(0.800044, abs=1e-6)


def test_ssim_of_a_volume_with_itself_is_one() -> None:
    real, _ = noisy_pair(0)
    assert score_pair(real, real, RANGE).ssim == pytest.approx(1.0)
    assert score_pair(real, real, RANGE).rmse == score_pair(real, real, RANGE).rmse_units == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_ssim_and_rmse_equal_monai(seed: int) -> None:
    real, synthetic = noisy_pair(seed)
    scores = score_pair(real, synthetic, RANGE)
    tensors = [torch.tensor(RANGE.normalise(volume))[None, None] for volume in (synthetic, real)]
    expected_ssim = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=11, kernel_sigma=1.5)(*tensors)
    assert scores.ssim == pytest.approx(expected_ssim.item(), abs=2e-5)
    assert 0.3 < scores.ssim < 0.99
    assert scores.rmse == pytest.approx(RMSEMetric()(*tensors).item(), rel=1e-5)


def test_rmse_in_hu_and_on_the_range() -> None:
    real = np.full((12, 12, 12), 100, dtype=np.int16)
    synthetic = real.copy()
    synthetic[::2] += 50  # half of the voxels: √(50²/2)
    scores = score_pair(real, synthetic, RANGE)
    assert scores.rmse_units == pytest.approx(50 / np.sqrt(2))
    assert scores.rmse == pytest.approx(50 / np.sqrt(2) / 1000, rel=1e-5)


def test_the_range_is_the_same_for_every_pair() -> None:
    """A shift in contrast shows: with a range per image it would vanish."""
    real, _ = noisy_pair(0)
    assert score_pair(real, real * 0.5, RANGE).ssim < 0.9
    assert rmse(RANGE.normalise(real), RANGE.normalise(real * 0.5)) > 0.05


def test_normalise_clips() -> None:
    np.testing.assert_allclose(RANGE.normalise(np.array([-1000, -100, 400, 900, 3000])), [0, 0, 0.5, 1, 1])


def test_range_equals_percentiles_of_the_labelled_voxels() -> None:
    generator = np.random.default_rng(0)
    image = np.rint(generator.normal(300, 120, size=(30, 30, 30))).astype(np.int16)
    mask = (generator.random(image.shape) < 0.4).astype(np.uint8)
    found = foreground_range([foreground_histogram(image, mask)], "Dataset901_Heart")
    expected = np.percentile(image[mask > 0], [0.5, 99.5], method="inverted_cdf")
    assert [found.low, found.high] == expected.tolist()
    assert "Dataset901_Heart" in found.source


def test_every_case_weighs_the_same_in_the_range() -> None:
    small, large = np.full((2, 2, 2), 500), np.full((40, 40, 40), 100)
    histograms = [foreground_histogram(volume, np.ones_like(volume)) for volume in (small, large)]
    found = foreground_range(histograms, "two cases")
    assert (found.low, found.high) == (100, 500)


def test_range_without_labelled_voxels_is_refused() -> None:
    histogram = foreground_histogram(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match="Dataset901_Heart: at least one voxel must be labelled, got none"):
        foreground_range([histogram], "Dataset901_Heart")


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="low must be below high, got 5.0 and 5.0\\."):
        IntensityRange(5.0, 5.0, "stated")


def test_every_fault_of_a_pair_is_named() -> None:
    synthetic = np.zeros((12, 8, 12))
    synthetic[0, 0, :3] = np.nan
    with pytest.raises(ValueError, match=r"shape must be(.|\n)*at least 11 voxels(.|\n)*got 3 of 1152 NaN"):
        score_pair(np.zeros((12, 10, 12)), synthetic, RANGE)
