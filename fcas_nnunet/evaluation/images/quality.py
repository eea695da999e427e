"""Measure how close a synthetic scan is to the real one under the same mask: SSIM and RMSE.

The intensity range is one for all cases, taken from the real data or stated, never from the image at hand: a range
per image would hide the differences in contrast that are to be measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity

from fcas_nnunet.faults import InputError

SSIM_SIGMA_VOXELS = 1.5
SSIM_WINDOW_VOXELS = 11  # width of the gaussian, cut off at 3.5 sigma
FOREGROUND_PERCENTILES = (0.5, 99.5)  # nnU-Net's percentiles for CT
_LOWEST, _HIGHEST = -(2**15), 2**15 - 1


@dataclass(frozen=True)
class IntensityRange:
    """Range of standard units that becomes [0, 1]; values outside are clipped."""

    low: float  # becomes 0
    high: float  # becomes 1
    source: str = "stated"  # origin of the two, for the reader of a result

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(
                f"intensity range: low must be below high, got {self.low} and {self.high}. "
                "State one with --range LOW HIGH."
            )

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """Standard units → [0, 1], float32, clipped."""
        scaled = (image.astype(np.float32) - self.low) / (self.high - self.low)
        return np.clip(scaled, 0.0, 1.0, dtype=np.float32)


@dataclass(frozen=True)
class ImageScores:
    """One real/synthetic pair."""

    ssim: float  # structural similarity of the normalised scans, at most 1
    rmse: float  # root mean square error of the normalised scans, in [0, 1]
    rmse_units: float  # root mean square error of the scans as they are, in standard units, not clipped


def score_pair(real: np.ndarray, synthetic: np.ndarray, intensity_range: IntensityRange) -> ImageScores:
    """Compute SSIM and RMSE of a pair of scans, standard units [D, H, W] on one grid.

    Raises:
        InputError: see `image_faults`.
    """
    faults = image_faults(real, synthetic)
    if faults:
        raise InputError("\n".join(faults))
    real_01, synthetic_01 = intensity_range.normalise(real), intensity_range.normalise(synthetic)
    return ImageScores(ssim(real_01, synthetic_01), rmse(real_01, synthetic_01), rmse(real, synthetic))


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Three-dimensional SSIM of two volumes in [0, 1].

    Gaussian window of σ 1.5 voxels with population covariance (Wang et al. 2004), the mean over all voxels whose
    11-voxel window lies inside the volume.
    """
    gaussian = {"gaussian_weights": True, "sigma": SSIM_SIGMA_VOXELS, "use_sample_covariance": False}
    return float(structural_similarity(first, second, data_range=1.0, **gaussian))


def rmse(first: np.ndarray, second: np.ndarray) -> float:
    """Root of the mean squared difference over all voxels, in the volumes' unit."""
    difference = first.astype(np.float32) - second.astype(np.float32)
    return float(np.sqrt(np.mean(np.square(difference), dtype=np.float64)))


def image_faults(real: np.ndarray, synthetic: np.ndarray) -> list[str]:
    """List what keeps two scans from being compared, a sentence each."""
    faults = []
    if real.shape != synthetic.shape:
        faults.append(
            f"synthetic scan: shape must be the real one's {real.shape}, got {synthetic.shape}. "
            "Pair scans under the same mask."
        )
    if min(real.shape) < SSIM_WINDOW_VOXELS:
        faults.append(
            f"scan: every side must be at least {SSIM_WINDOW_VOXELS} voxels, SSIM's window, got {real.shape}. "
            "Leave it out."
        )
    for name, image in (("real scan", real), ("synthetic scan", synthetic)):
        wrong = int(np.count_nonzero(~np.isfinite(image))) if image.dtype.kind == "f" else 0
        if wrong:
            faults.append(f"{name}: voxels must be finite, got {wrong} of {image.size} NaN or infinite. Repair it.")
    return faults


def foreground_histogram(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Share of a scan's labelled voxels at each whole standard unit from −32768 to 32767; all zero without labels."""
    foreground = np.rint(np.clip(image[mask > 0], _LOWEST, _HIGHEST)).astype(np.int64)
    counts = np.bincount(foreground - _LOWEST, minlength=_HIGHEST - _LOWEST + 1)
    return counts / max(foreground.size, 1)


def foreground_range(histograms: Iterable[np.ndarray], source: str) -> IntensityRange:
    """Compute nnU-Net's CT clip, 0.5 and 99.5 % of the labelled voxels, every case with equal weight.

    Args:
        histograms: One `foreground_histogram` per real case.
        source: Name of the real data set.

    Raises:
        InputError: if no voxel is labelled.
    """
    total = np.sum(list(histograms), axis=0)
    if not np.any(total):
        raise InputError(f"{source}: at least one voxel must be labelled, got none. State the range: --range LOW HIGH.")
    share = np.cumsum(total) / np.sum(total)
    low, high = (int(np.searchsorted(share, percent / 100)) + _LOWEST for percent in FOREGROUND_PERCENTILES)
    return IntensityRange(low, high, f"0.5 and 99.5 % of the labelled voxels of {source}")
