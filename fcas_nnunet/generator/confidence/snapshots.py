"""Accumulate SSV's variance while an image is drawn, one decoded step at a time (paper §3.2.1, Eq. 7)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fcas_nnunet.config.generator import LATENT_DOWNSAMPLING
from fcas_nnunet.generator.confidence.ssv import Welford
from fcas_nnunet.geometry import Box, grown, triple
from fcas_nnunet.labels.components import bounding_box

Decode = Callable[[torch.Tensor], torch.Tensor]


class SnapshotVariance:
    """Variance over the decoded intermediate images; two volumes are held, however many snapshots there are.

    Args:
        decode: Function from scaled latents [1, 4 · C, d, h, w] to an image [C, 4d, 4h, 4w] in [0, 1].
        box: Latents to decode; None = all. The decoder sees nothing beyond the box.
    """

    def __init__(self, decode: Decode, box: Box | None = None) -> None:
        self._decode = decode
        self._box = box
        self._welford = Welford()

    def update(self, latents: torch.Tensor) -> None:
        """Add one snapshot."""
        self._welford.update(self._decode(latents if self._box is None else latents[(..., *self._box)]))

    def update_with_image(self, latents: torch.Tensor, image: torch.Tensor) -> None:
        """Add the last snapshot, the image itself; it is decoded again only if the others were decoded in a box."""
        if self._box is None:
            self._welford.update(image)
        else:
            self.update(latents)

    def variance(self, shape: torch.Size, structures: np.ndarray) -> torch.Tensor:
        """Unbiased variance, the mean over the channels; fp32.

        Args:
            shape: Size of the image, [D, H, W].
            structures: Where the reference structures are, bool [D, H, W].

        Returns:
            [D, H, W]; outside the box, the mean over the box's voxels outside structures.
        """
        inside = self._welford.variance.mean(dim=0)
        if self._box is None:
            return inside
        voxels = voxel_box(self._box)
        surroundings = inside[~torch.from_numpy(structures[voxels]).to(inside.device)]
        around = surroundings.mean() if len(surroundings) else inside.mean()
        volume = around.expand(shape).clone()
        volume[voxels] = inside
        return volume


def structure_box(structures: np.ndarray, margin: int) -> Box | None:
    """The latents that hold the bounding box of structures, bool [D, H, W] of sizes divisible by 4, and a margin.

    The margin is in voxels; None where there is no structure.
    """
    box = bounding_box(structures)
    if box is None:
        return None
    ends = zip(grown(box, (margin,) * 3), structures.shape, strict=True)
    return triple(
        slice(s.start // LATENT_DOWNSAMPLING, -(-min(s.stop, size) // LATENT_DOWNSAMPLING)) for s, size in ends
    )


def voxel_box(box: Box) -> Box:
    """A box of latents in voxels."""
    return triple(slice(s.start * LATENT_DOWNSAMPLING, s.stop * LATENT_DOWNSAMPLING) for s in box)
