"""Case: one scan with its labels, passed from stage to stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcas_nnunet.geometry import triple
from fcas_nnunet.intensities import IntensityScale

#: Labels, and the codes of labels and surroundings together, are 8-bit numbers.
NUM_BITS = 8
NUM_CODES = 2**NUM_BITS


@dataclass(frozen=True)
class Case:
    """One scan with its labels on one voxel grid. Arrays are [D, H, W].

    Attributes:
        case_id: Case identifier of nnU-Net, without channel suffix or file ending.
        image: Values as in the data set, float32 or the stored type; None for a bare mask.
        mask: Label ids of `dataset.json`, uint8.
        affine: [4, 4] float64, array index (d, h, w, 1) → LPS position in mm.
        surroundings: Ids of `surroundings.json` (0 = none), uint8; None if the data set has none.
        confidence: Confidence of each voxel, float32 in [0, 1], or weights above where the data set allows them; None
            for a case without a map.
        scale: Conversion between the image's values and standard units.
    """

    case_id: str
    image: np.ndarray | None
    mask: np.ndarray
    affine: np.ndarray
    surroundings: np.ndarray | None = None
    confidence: np.ndarray | None = None
    scale: IntensityScale = IntensityScale()

    def __post_init__(self) -> None:
        for name in ("image", "surroundings", "confidence"):
            array = getattr(self, name)
            if array is not None and array.shape != self.mask.shape:
                raise ValueError(
                    f"{self.case_id}: shape of {name} must be that of the mask {self.mask.shape}, got {array.shape}."
                )

    @property
    def standard_image(self) -> np.ndarray:
        """The image in standard units, float32 [D, H, W]."""
        assert self.image is not None, f"{self.case_id} has a scan"
        return self.scale.to_standard(self.image)

    @property
    def stored_image(self) -> np.ndarray:
        """The image in its own values and the data type that they are stored in, [D, H, W]."""
        assert self.image is not None, f"{self.case_id} has a scan"
        return self.scale.stored(self.image)

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
