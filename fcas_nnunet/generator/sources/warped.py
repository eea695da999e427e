"""Warped scans: a real scan under the deformation that made its new mask, in another contrast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fcas_nnunet.config.sources import WarpConfig
from fcas_nnunet.generator.data.contrasts import add_contrast, draw_contrasts
from fcas_nnunet.generator.mgm.deformation import Deformation
from fcas_nnunet.generator.mgm.resampling import deform_scan
from fcas_nnunet.geometry import Triple


def warp_scan(
    image: np.ndarray,
    codes: np.ndarray,
    num_labels: int,
    deformation: Deformation,
    spacing_mm: Triple[float],
    config: WarpConfig,
    seed: int,
    units: Sequence[float] = (1.0,),
) -> tuple[np.ndarray, np.ndarray]:
    """Warp a scan along with its mask.

    Args:
        image: The real scan, [C, D, H, W] in its own values.
        codes: The new mask, labels first and surroundings after them, uint8 [D, H, W].
        num_labels: Codes 1 … num_labels are labels, those above are surroundings.
        deformation: That gave the new mask from the scan's own.
        spacing_mm: Voxel size along (D, H, W).
        config: How strongly contrasts change.
        seed: Same seed, same contrast.
        units: Own values of each channel a standard unit, which the contrasts are counted in.

    Returns:
        The scan, float32 [C, D, H, W] in its own values; and whether a voxel comes from within the real scan, bool
        [D, H, W]. The identity without jitter returns the scan as it was.
    """
    warped, inside = deform_scan(image, deformation, spacing_mm)
    offsets = warp_offsets(config, len(image), num_labels, seed)
    return add_contrast(warped, codes, offsets * np.array(units, np.float32)[:, None]), inside


def warp_offsets(config: WarpConfig, num_channels: int, num_labels: int, seed: int) -> np.ndarray:
    """Draw how much each code's intensity changes in each channel, in standard units, for `add_contrast`."""
    return draw_contrasts(1, num_channels, num_labels, config.contrast_jitter, config.surroundings_jitter, seed)[0]
