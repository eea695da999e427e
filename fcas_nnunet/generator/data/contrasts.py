"""Random contrasts: one offset for every structure of a scan, as another phase of the contrast medium would give.

The channels of a scan get contrasts of their own, since two sequences of MR do not change alike.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import find_objects, gaussian_filter

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.geometry import triple
from fcas_nnunet.seeds import channel_seeds

#: Blur of an offset at the structures' boundaries, in voxels: about the partial volume of CT.
OFFSET_BLUR_VOXELS = 0.6
#: How far that blur reaches (scipy cuts its kernel off at four standard deviations).
_REACH_VOXELS = 3


def draw_contrasts(
    count: int, num_channels: int, num_labels: int, label_jitter: float, surroundings_jitter: float, seed: int
) -> np.ndarray:
    """Draw contrasts.

    Args:
        count: How many.
        num_channels: Of the scan.
        num_labels: Codes 1 … num_labels are labels, those above are surroundings.
        label_jitter: Standard deviation of a label's offset, in standard units.
        surroundings_jitter: The same for a structure of the surroundings.
        seed: Same seed, same contrasts; those of a smaller count, and of fewer channels, are the first of those of
            more.

    Returns:
        The offset of every code, float32 [count, C, 256]; 0 for code 0.
    """
    scale = np.full(NUM_CODES, surroundings_jitter)
    scale[0], scale[1 : num_labels + 1] = 0, label_jitter
    seeds = channel_seeds(seed, num_channels)
    drawn = [np.random.default_rng(each).standard_normal((count, NUM_CODES)) for each in seeds]
    return (np.stack(drawn, axis=1) * scale).astype(np.float32)


def add_contrast(image: np.ndarray, codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Give a scan another contrast.

    Args:
        image: [C, D, H, W].
        codes: Structure of every voxel, uint8 [D, H, W].
        offsets: Of every code, float32 [C, 256], 0 for code 0.

    Returns:
        A new array, float32 [C, D, H, W].
    """
    changed = image.astype(np.float32)
    found = find_objects((codes > 0).view(np.uint8))
    if found:
        box = triple(
            slice(max(s.start - _REACH_VOXELS, 0), min(s.stop + _REACH_VOXELS, size))
            for s, size in zip(found[0], codes.shape, strict=True)
        )
        for channel, of_codes in zip(changed, offsets, strict=True):
            channel[box] += gaussian_filter(of_codes[codes[box]], OFFSET_BLUR_VOXELS)
    return changed
