"""Simulate one scan of a patient: contrast bolus, HU of the tissues, texture, noise, point spread, streaks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.ndimage import gaussian_filter

from fcas_nnunet.datasets.phantom.fields import NoiseField

HU_MIN, HU_MAX = -1024, 3071


class Tissue(StrEnum):
    """Material of a voxel."""

    AIR = "air"
    FAT = "fat"
    EPICARDIAL_FAT = "epicardial_fat"
    MUSCLE = "muscle"
    LUNG = "lung"
    LUNG_VESSEL = "lung_vessel"
    LIVER = "liver"
    ABDOMEN = "abdomen"
    BONE = "bone"
    MARROW = "marrow"
    DISC = "disc"
    SOFT = "soft"
    AIRWAY = "airway"
    MYOCARDIUM = "myocardium"
    RV_MUSCLE = "rv_muscle"
    LV_BLOOD = "lv_blood"
    LA_BLOOD = "la_blood"
    RV_BLOOD = "rv_blood"
    RA_BLOOD = "ra_blood"
    SUPERIOR_BLOOD = "superior_blood"
    INFERIOR_BLOOD = "inferior_blood"
    AORTIC_BLOOD = "aortic_blood"
    PULMONARY_BLOOD = "pulmonary_blood"
    DESCENDING_BLOOD = "descending_blood"
    CORONARY_BLOOD = "coronary_blood"
    CORONARY_VEIN = "coronary_vein"
    CALCIUM = "calcium"


class Bolus(StrEnum):
    """The state of the right heart when the scan was taken."""

    BRIGHT = "bright"
    WASHED_OUT = "washed_out"
    MIXED = "mixed"


@dataclass(frozen=True)
class Acquisition:
    """A scan's parameters."""

    hu: dict[Tissue, float]  # mean of each tissue
    texture_hu: dict[Tissue, float]  # standard deviation of each tissue's own texture
    fine: NoiseField  # detail of the texture, of 3.5 mm
    coarse: NoiseField  # drift of the texture, of 14 mm
    noise_hu: float  # standard deviation of the noise
    noise_grain: float  # correlation length of the noise in voxels
    psf_fwhm_mm: float  # point spread
    streak_hu: float  # amplitude of the streaks around the superior caval vein
    streak_phase: np.ndarray  # direction of the streaks
    band_gain: np.ndarray  # [16] factors on contrast along z, as when the bolus changes between heart beats
    noise_seed: int

    def tissue_hu(self, tissue: Tissue, points: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> np.ndarray:
        """HU of a tissue at [3, ...] mm, given the two texture fields there."""
        amplitude = self.texture_hu[tissue]
        hu = np.float32(self.hu[tissue]) + np.float32(0.75 * amplitude) * coarse + np.float32(0.6 * amplitude) * fine
        if tissue in _LEFT_BLOOD:
            slab = np.clip(points[2] / 12 + 8, 0, 15).astype(np.intp)
            hu *= self.band_gain[slab]
        return hu


_LEFT_BLOOD = frozenset(
    {Tissue.LV_BLOOD, Tissue.LA_BLOOD, Tissue.AORTIC_BLOOD, Tissue.CORONARY_BLOOD, Tissue.DESCENDING_BLOOD}
)


def draw_acquisition(rng: np.random.Generator) -> Acquisition:
    """Draw a scan's parameters."""
    bolus = Bolus(str(rng.choice([bolus.value for bolus in Bolus], p=[0.4, 0.35, 0.25])))
    hu = _resting_hu(rng) | _blood_hu(bolus, rng)
    # the right heart holds a streaky mixture of opacified and plain blood
    mixing = {Bolus.BRIGHT: (10, 30), Bolus.WASHED_OUT: (5, 12), Bolus.MIXED: (40, 90)}[bolus]
    texture = {tissue: 6.0 for tissue in Tissue} | {
        Tissue.AIR: 0.0,
        Tissue.AIRWAY: 4.0,
        Tissue.LUNG: rng.uniform(25, 60),
        Tissue.MARROW: rng.uniform(40, 80),
        Tissue.BONE: rng.uniform(60, 130),
        Tissue.ABDOMEN: 30.0,
        Tissue.FAT: 10.0,
        Tissue.EPICARDIAL_FAT: 14.0,
        Tissue.SOFT: 14.0,
        Tissue.MYOCARDIUM: rng.uniform(6, 14),
        Tissue.CALCIUM: 80.0,
        Tissue.RA_BLOOD: 1.0 * rng.uniform(*mixing),
        Tissue.RV_BLOOD: 0.7 * rng.uniform(*mixing),
        Tissue.SUPERIOR_BLOOD: 1.3 * rng.uniform(*mixing),
        Tissue.INFERIOR_BLOOD: 1.0 * rng.uniform(*mixing),
        Tissue.PULMONARY_BLOOD: 0.2 * rng.uniform(*mixing),
    }
    return Acquisition(
        hu=hu,
        texture_hu=texture,
        fine=NoiseField.draw(rng, 3.5),
        coarse=NoiseField.draw(rng, 14.0),
        noise_hu=rng.uniform(15, 40),
        noise_grain=rng.uniform(0.45, 0.75),
        psf_fwhm_mm=rng.uniform(0.8, 1.3),
        streak_hu=rng.uniform(10, 60) if bolus != Bolus.WASHED_OUT else rng.uniform(0, 15),
        streak_phase=rng.uniform(0, 2 * np.pi, 3),
        band_gain=(1 + rng.normal(0, 0.025, 16)).astype(np.float32),
        noise_seed=int(rng.integers(2**32)),
    )


def _resting_hu(rng: np.random.Generator) -> dict[Tissue, float]:
    """Tissues that contrast does not fill."""
    myocardium = rng.uniform(80, 140)
    return {
        Tissue.AIR: -1000.0,
        Tissue.FAT: rng.uniform(-115, -85),
        Tissue.EPICARDIAL_FAT: rng.uniform(-100, -70),
        Tissue.MUSCLE: rng.uniform(45, 75),
        Tissue.LUNG: rng.uniform(-880, -790),
        Tissue.LIVER: rng.uniform(60, 110),
        Tissue.ABDOMEN: rng.uniform(-60, 40),
        Tissue.BONE: rng.uniform(450, 800),
        Tissue.MARROW: rng.uniform(130, 280),
        Tissue.DISC: rng.uniform(70, 110),
        Tissue.SOFT: rng.uniform(35, 70),
        Tissue.AIRWAY: -970.0,
        Tissue.MYOCARDIUM: myocardium,
        Tissue.RV_MUSCLE: myocardium - rng.uniform(0, 20),
        Tissue.CALCIUM: rng.uniform(700, 1300),
    }


def _blood_hu(bolus: Bolus, rng: np.random.Generator) -> dict[Tissue, float]:
    """Blood: the left heart rises and falls as one, the right heart by the bolus."""
    left = rng.uniform(310, 490)
    if bolus == Bolus.BRIGHT:
        right = min(left * rng.uniform(0.6, 1.05), 450.0)
        caval = right + rng.uniform(50, 400)
    elif bolus == Bolus.WASHED_OUT:
        right = rng.uniform(60, 150)
        caval = right + rng.uniform(-10, 30)
    else:
        right = rng.uniform(130, 300)
        caval = right + rng.uniform(100, 500)
    pulmonary = 0.55 * right + 0.45 * left + rng.normal(0, 20)
    veins = 0.45 * left + rng.normal(0, 25)
    return {
        Tissue.LV_BLOOD: left + rng.normal(0, 12),
        Tissue.LA_BLOOD: left + rng.normal(5, 15),
        Tissue.AORTIC_BLOOD: left + rng.normal(0, 10),
        Tissue.DESCENDING_BLOOD: left + rng.normal(-10, 15),
        Tissue.CORONARY_BLOOD: left + rng.normal(-10, 10),
        Tissue.RV_BLOOD: right + rng.normal(0, 10),
        Tissue.RA_BLOOD: right + rng.normal(0, 20),
        Tissue.SUPERIOR_BLOOD: caval,
        Tissue.INFERIOR_BLOOD: rng.uniform(0.3, 0.6) * right + rng.uniform(30, 80),
        Tissue.PULMONARY_BLOOD: pulmonary,
        Tissue.LUNG_VESSEL: 0.5 * (pulmonary + left),
        Tissue.CORONARY_VEIN: veins,
    }


def scan(
    tissue_map: np.ndarray, points: np.ndarray, spacing_mm: np.ndarray, caval_vein: np.ndarray, settings: Acquisition
) -> np.ndarray:
    """Simulate the scanner's image of a map of tissue HU: point spread, streaks, noise, rounding.

    Args:
        tissue_map: [D, H, W] float32 HU, partial volume already in it.
        points: [3, D, H, W] mm LPS of the voxels.
        spacing_mm: [3], along D, H, W.
        caval_vein: [2], x and y of the superior caval vein in mm.
        settings: Parameters of the scan.

    Returns:
        [D, H, W] int16 HU.
    """
    image = gaussian_filter(tissue_map, settings.psf_fwhm_mm / 2.355 / spacing_mm)
    image += _streaks(points, caval_vein, settings)
    rng = np.random.Generator(np.random.PCG64(settings.noise_seed))
    white = rng.standard_normal(image.shape, dtype=np.float32)
    # reconstruction kernels leave grain: correlated between neighbours, without slow drift
    grain = gaussian_filter(white, settings.noise_grain) - gaussian_filter(white, 2.5)
    image += grain * np.float32(settings.noise_hu / grain.std())
    return np.rint(np.clip(image, HU_MIN, HU_MAX)).astype(np.int16)


def _streaks(points: np.ndarray, caval_vein: np.ndarray, settings: Acquisition) -> np.ndarray:
    """Rays of alternating sign out of dense contrast in the caval vein, fading with distance."""
    x, y = points[0] - np.float32(caval_vein[0]), points[1] - np.float32(caval_vein[1])
    distance = np.sqrt(x**2 + y**2)
    angle = np.arctan2(y, x)
    first, second, third = settings.streak_phase.astype(np.float32)
    rays = np.sin(7 * angle + first + np.sin(points[2] / 9 + third)) * np.sin(4 * angle + second)
    return np.float32(settings.streak_hu) * rays * np.exp(-np.maximum(distance - 8, 0) / 18)
