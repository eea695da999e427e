"""Painted scans: random contrast, texture, bias field, blur and resolution for every structure of a new mask.

Source: SynthSeg (arXiv 2107.09559). What the labels leave over is not one structure here: it is clustered by intensity
in the real scan, carried along by the deformation, and painted cluster by cluster. The channels of a scan share mask
and clusters alone: they come from acquisitions of their own, in slices and with a coil of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import vq
from scipy.ndimage import gaussian_filter
from sklearn.cluster import KMeans

from fcas_nnunet.config.sources import PaintConfig
from fcas_nnunet.generator.sources.resolution import in_thick_slices
from fcas_nnunet.seeds import channel_seeds

_SMOOTHING_VOXELS = 1.0  # before the background is clustered
_SAMPLE = 20_000  # voxels that the clusters are fitted on
_BIAS_POINTS = 4  # of the bias field along each axis
_RANGE_PERCENT = (0.5, 99.5)  # nnU-Net's own, of the labelled voxels


def tissues_of(image: np.ndarray, mask: np.ndarray, num_tissues: int) -> np.ndarray:
    """Part a real scan by the intensities of all its channels.

    Args:
        image: [C, D, H, W] in units that are alike for all channels.
        mask: Label ids [D, H, W]; the clusters are fitted on the background, and every voxel is given to one.
        num_tissues: How many clusters at most.

    Returns:
        Cluster of every voxel, 0 … num_tissues − 1 from dark to bright in the first channel, uint8 [D, H, W].
    """
    smooth = np.stack([gaussian_filter(channel.astype(np.float32), _SMOOTHING_VOXELS) for channel in image])
    background = smooth[:, mask == 0].T
    if background.size == 0:  # the labels fill the scan
        return np.zeros(mask.shape, np.uint8)
    sample = background[:: -(-len(background) // _SAMPLE)]
    clusters = min(num_tissues, len(np.unique(sample, axis=0)))
    centres = KMeans(clusters, n_init=1, random_state=0).fit(sample).cluster_centers_
    centres = centres[np.lexsort(centres.T[::-1])]
    if len(smooth) == 1:  # in order, so that the nearest one follows from the borders between them
        return np.searchsorted((centres[1:, 0] + centres[:-1, 0]) / 2, smooth[0]).astype(np.uint8)
    return vq(smooth.reshape(len(smooth), -1).T, centres)[0].reshape(mask.shape).astype(np.uint8)


def contrast_ranges(image: np.ndarray, mask: np.ndarray, margin: float) -> list[tuple[float, float]]:
    """Range of each channel's contrasts: that of the labelled voxels, as nnU-Net clips CT, widened on either side."""
    labelled = image[:, mask > 0]
    low, high = np.percentile(labelled if labelled.size else image.reshape(len(image), -1), _RANGE_PERCENT, axis=1)
    return [(a - margin * (b - a), b + margin * (b - a)) for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def paint_scan(
    mask: np.ndarray, tissues: np.ndarray, between: Sequence[tuple[float, float]], config: PaintConfig, seed: int
) -> np.ndarray:
    """Paint a mask, in every channel.

    Args:
        mask: Label ids, uint8 [D, H, W].
        tissues: Cluster of every voxel, uint8 [D, H, W], on the mask's grid.
        between: What the contrasts of each channel are drawn from, in any unit (`contrast_ranges`).
        config: What else is drawn.
        seed: Same seed, same scan.

    Returns:
        float32 [C, D, H, W] in the unit of `between`.
    """
    seeds = channel_seeds(seed, len(between))
    return np.stack([_painted(mask, tissues, of_it, config, each) for of_it, each in zip(between, seeds, strict=True)])


def _painted(
    mask: np.ndarray, tissues: np.ndarray, between: tuple[float, float], config: PaintConfig, seed: int
) -> np.ndarray:
    """One channel, float32 [D, H, W]."""
    rng = np.random.default_rng(seed)
    low, high = between
    num_tissues = int(tissues.max()) + 1
    regions = np.where(mask > 0, mask.astype(np.int16) + num_tissues - 1, tissues)
    num_regions = int(regions.max()) + 1
    levels = rng.uniform(low, high, num_regions).astype(np.float32)
    strengths = (rng.uniform(*config.texture, num_regions) * (high - low)).astype(np.float32)
    texture = gaussian_filter(rng.standard_normal(mask.shape, np.float32), 1.0)
    painted = levels[regions] + strengths[regions] * (texture / texture.std())
    painted = low + (painted - low) * _bias_field(mask.shape, rng.uniform(*config.bias), rng)
    painted = gaussian_filter(painted, rng.uniform(*config.blur_voxels))
    painted += np.float32(rng.uniform(*config.noise) * (high - low)) * rng.standard_normal(mask.shape, np.float32)
    axis, thickness = int(rng.integers(3)), rng.uniform(*config.thickness)
    if rng.random() < config.thickness_probability:
        painted = in_thick_slices(painted, axis, thickness)
    return painted


def _bias_field(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth factor within 1 ± strength, float32 [D, H, W]."""
    points = torch.from_numpy(rng.uniform(1 - strength, 1 + strength, (_BIAS_POINTS,) * 3).astype(np.float32))
    return F.interpolate(points[None, None], shape, mode="trilinear", align_corners=True)[0, 0].numpy()
