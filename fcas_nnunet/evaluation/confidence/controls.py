"""Control maps that a confidence map has to beat: they know nothing of the drawing, or nothing but its mask.

All are confidences: higher means more certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.ndimage import gaussian_gradient_magnitude

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.evaluation.confidence.error_maps import boundary_distance
from fcas_nnunet.labels.contrast import structure_means

#: Blur of the image whose gradient is taken, in voxels.
GRADIENT_SIGMA_VOXELS = 1.0
UNIFORM, SHUFFLED, INVERTED = "uniform", "shuffled", "inverted"
FOREGROUND, GRADIENT, BOUNDARY, CLASS_PRIOR = "foreground mask", "image gradient", "boundary distance", "class prior"
DEPARTURE = "departure from the mean"


def control_maps(
    confidence: np.ndarray,
    image: np.ndarray,
    mask: np.ndarray,
    codes: np.ndarray,
    spacing_mm: Sequence[float],
    prior: Mapping[int, float] | None,
    seed: int,
) -> dict[str, np.ndarray]:
    """Compute the control maps of one case.

    Args:
        confidence: Confidence map that they are compared with, [D, H, W].
        image: Synthetic scan, standard units [C, D, H, W]; what it says is averaged over the channels.
        mask: Label ids, uint8 [D, H, W].
        codes: Codes of labels and surroundings, uint8 [D, H, W].
        spacing_mm: Voxel size along (D, H, W).
        prior: Code → mean error over other cases (`means_by_code`); None leaves that control out.
        seed: Seed of the shuffle.

    Returns:
        name → float32 [D, H, W]: the same everywhere; the map's values shuffled over the volume; the map negated;
        1 inside the labels; −|∇ image|; −|image − mean of the voxel's label|; the distance to the nearest change of
        label; −prior of each voxel's code.
    """
    shuffled = np.random.default_rng(seed).permutation(confidence.ravel()).reshape(confidence.shape)
    gradient = _mean(
        gaussian_gradient_magnitude(channel.astype(np.float32), GRADIENT_SIGMA_VOXELS) for channel in image
    )
    departure = _mean(np.abs(channel - structure_means(channel, mask)[mask]) for channel in image)
    maps = {
        UNIFORM: np.ones_like(confidence),
        SHUFFLED: shuffled,
        INVERTED: -confidence,
        FOREGROUND: (mask > 0).astype(np.float32),
        GRADIENT: -gradient,
        DEPARTURE: -departure.astype(np.float32),
        BOUNDARY: boundary_distance(codes, spacing_mm),
    }
    if prior is not None:
        lookup = np.zeros(NUM_CODES, dtype=np.float32)
        lookup[list(prior)] = list(prior.values())
        maps[CLASS_PRIOR] = -lookup[codes]
    return maps


def _mean(channels: Iterable[np.ndarray]) -> np.ndarray:
    return np.mean(list(channels), axis=0)
