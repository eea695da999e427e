"""Simulate a bright-blood MR scan of a patient: signal of the tissues, coils, point spread, noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from fcas_nnunet.datasets.phantom.acquisition import Acquisition, Tissue
from fcas_nnunet.datasets.phantom.fields import NoiseField

#: Signal of balanced steady-state free precession, as a part of the blood's; by order of magnitude.
_SIGNAL: dict[Tissue, float] = {tissue: 1.0 for tissue in Tissue} | {
    Tissue.AIR: 0.0,
    Tissue.AIRWAY: 0.0,
    Tissue.LUNG: 0.05,
    Tissue.LUNG_VESSEL: 0.6,
    Tissue.CALCIUM: 0.02,
    Tissue.BONE: 0.12,
    Tissue.MARROW: 0.5,
    Tissue.DISC: 0.55,
    Tissue.FAT: 0.85,
    Tissue.EPICARDIAL_FAT: 0.8,
    Tissue.MUSCLE: 0.28,
    Tissue.MYOCARDIUM: 0.35,
    Tissue.RV_MUSCLE: 0.33,
    Tissue.LIVER: 0.4,
    Tissue.ABDOMEN: 0.5,
    Tissue.SOFT: 0.45,
}
_COIL_MM = 90.0  # over which the coils' sensitivity changes
_HIGHEST = np.iinfo(np.int16).max


def draw_mr_acquisition(rng: np.random.Generator) -> Acquisition:
    """Draw a scan's parameters; what is in HU for CT is in the scan's own arbitrary units."""
    blood = float(np.exp(rng.uniform(np.log(150), np.log(1500))))  # no two scanners count alike
    signal = {tissue: blood * part * rng.uniform(0.88, 1.12) for tissue, part in _SIGNAL.items()}
    return Acquisition(
        hu=signal,
        texture_hu={tissue: 0.07 * value for tissue, value in signal.items()},
        fine=NoiseField.draw(rng, 3.5),
        coarse=NoiseField.draw(rng, 14.0),
        noise_hu=blood * rng.uniform(0.03, 0.07),
        noise_grain=0.0,
        psf_fwhm_mm=rng.uniform(1.2, 1.8),
        streak_hu=0.0,
        streak_phase=np.zeros(3),
        band_gain=np.ones(16, np.float32),
        noise_seed=int(rng.integers(2**32)),
    )


def scan_mr(tissue_map: np.ndarray, points: np.ndarray, spacing_mm: np.ndarray, settings: Acquisition) -> np.ndarray:
    """Simulate the magnitude image of a map of signals: point spread, sensitivity of the coils, Rician noise.

    Args:
        tissue_map: [D, H, W] float32, partial volume already in it.
        points: [3, D, H, W] mm LPS of the voxels.
        spacing_mm: [3], along D, H, W.
        settings: Parameters of the scan.

    Returns:
        [D, H, W] int16 in arbitrary units, at least 0.
    """
    image = gaussian_filter(tissue_map, settings.psf_fwhm_mm / 2.355 / spacing_mm)
    rng = np.random.Generator(np.random.PCG64(settings.noise_seed))
    image *= 1 + np.float32(0.12) * NoiseField.draw(rng, _COIL_MM)(points)
    real, imaginary = (rng.standard_normal(image.shape, np.float32) * settings.noise_hu for _ in range(2))
    return np.rint(np.clip(np.hypot(image + real, imaginary), 0, _HIGHEST)).astype(np.int16)
