"""Case: one scan with its labels, passed from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcas_nnunet.faults import InputError
from fcas_nnunet.geometry import triple
from fcas_nnunet.intensities import IntensityScale

#: Labels, and the codes of labels and surroundings together, are 8-bit numbers.
NUM_BITS = 8
NUM_CODES = 2**NUM_BITS


@dataclass(frozen=True)
class Case:
    """One scan with its labels on one voxel grid. Arrays are [D, H, W], but for the image.

    Attributes:
        case_id: Case identifier of nnU-Net, without channel suffix or file ending.
        image: Values as in the data set, [C, D, H, W] of a type that holds those of all channels; None for a bare mask.
        mask: Label ids of `dataset.json`, uint8; 0 where it is ignored.
        affine: [4, 4] float64, array index (d, h, w, 1) → LPS position in mm.
        surroundings: Ids of `surroundings.json` (0 = none), uint8; None if the data set has none.
        confidence: Confidence of each voxel, float32 in [0, 1], or weights above where the data set allows them; None
            for a case without a map.
        scales: Conversion between the values of each channel and standard units, C of them.
        ignored: True where nnU-Net's ignore label says that no one has labelled the voxel; None if the data set has no
            such label.
    """

    case_id: str
    image: np.ndarray | None
    mask: np.ndarray
    affine: np.ndarray
    surroundings: np.ndarray | None = None
    confidence: np.ndarray | None = None
    scales: tuple[IntensityScale, ...] = (IntensityScale(),)
    ignored: np.ndarray | None = None

    def __post_init__(self) -> None:
        shapes = {"image": (len(self.scales), *self.mask.shape)}
        for name in ("image", "surroundings", "confidence", "ignored"):
            array, shape = getattr(self, name), shapes.get(name, self.mask.shape)
            if array is not None and array.shape != shape:
                raise InputError(
                    f"{self.case_id}: shape of {name} must be {shape}, got {array.shape}. "
                    "Resample it onto the mask's grid."
                )

    @property
    def standard_image(self) -> np.ndarray:
        """The image in standard units, float32 [C, D, H, W]."""
        return np.stack([scale.to_standard(channel) for scale, channel in self._channels()])

    @property
    def stored_channels(self) -> list[np.ndarray]:
        """Each channel in its own values and the data type that they are stored in, [D, H, W]."""
        return [scale.stored(channel) for scale, channel in self._channels()]

    def _channels(self) -> list[tuple[IntensityScale, np.ndarray]]:
        assert self.image is not None, f"{self.case_id} has a scan"
        return list(zip(self.scales, self.image, strict=True))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along (D, H, W)."""
        return triple(self.mask.shape)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (D, H, W) in mm."""
        return spacing_of(self.affine)


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size along (D, H, W) in mm of an affine [4, 4]."""
    return triple(map(float, np.linalg.norm(affine[:3, :3], axis=0)))
