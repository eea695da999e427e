"""ConfidenceConfig and CalibrationConfig: settings of confidence maps, and of learning a generator's errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fcas_nnunet.config.options import ConfidenceChoice, ConfidenceEstimator, ConfidenceNorm, SnapshotSource
from fcas_nnunet.config.schema import Count, CountOrZero, Percentiles, Positive, Removed, Size, check, settings
from fcas_nnunet.faults import InputError

#: Standard deviation of confidence over the structures' voxels below which CAL weighs all of them alike.
FLAT_CONFIDENCE_STD = 0.05

_SSV, _ERROR_MODEL = ConfidenceEstimator.SSV, ConfidenceEstimator.ERROR_MODEL
_CALIBRATED = ConfidenceNorm.CALIBRATED
_CHOICES: dict[ConfidenceChoice, dict[str, Any]] = {
    ConfidenceChoice.OWN: {},
    ConfidenceChoice.ERROR_MODEL: {"estimator": _ERROR_MODEL, "norm": _CALIBRATED},
    ConfidenceChoice.SSV: {"estimator": _SSV, "norm": ConfidenceNorm.ROBUST_STD},
    ConfidenceChoice.SSV_CALIBRATED: {"estimator": _SSV, "norm": _CALIBRATED},
    ConfidenceChoice.PAPER: {"estimator": _SSV, "norm": ConfidenceNorm.MINMAX_VARIANCE, "source": SnapshotSource.X_T},
}


@settings
class ConfidenceConfig:
    """Settings of the confidence map.

    Attributes:
        estimator: Estimator of a voxel's reliability; None = the error model where the generator has been calibrated,
            else SSV.
        source: Intermediate images that SSV compares.
        num_snapshots: Number of these images, r + 1 of Eq. 7, evenly spread over all steps; the last is the final one.
        box_margin: Margin in working voxels of the bounding box of the reference structures, inside which images are
            compared; outside, the confidence is the surroundings' average. None = the whole volume.
        norm: Mapping from spread to confidence; None = calibrated with the error model, else `robust_std`.
        percentiles: Percentiles of the spread inside the reference structures that become confidence 1 and 0
            (`robust_std`).
        own_scale_outside: Give the surroundings a separate scale if confidence is calibrated: no mask describes them,
            so that on the structures' scale nearly all of them would have confidence 0.
    """

    REMOVED: ClassVar[Removed] = {"decoder": ("full",)}

    estimator: ConfidenceEstimator | None = None
    source: SnapshotSource = SnapshotSource.X_0
    num_snapshots: Annotated[int, Field(ge=2, le=10_000)] = 9
    box_margin: CountOrZero | None = None
    norm: ConfidenceNorm | None = None
    percentiles: Percentiles = (5.0, 95.0)
    own_scale_outside: bool = True

    def __post_init__(self) -> None:
        fits = self.estimator != _ERROR_MODEL or self.norm in (None, _CALIBRATED)
        check(self, (fits, "norm", "calibrated with the error model"))

    def chosen(self, choice: ConfidenceChoice) -> ConfidenceConfig:
        """Return a copy with the estimator and norm of a choice.

        `paper` reads Eq. 7 as a variance, over several decoded steps of one image's reverse diffusion.
        """
        return replace(self, **_CHOICES[choice])

    def for_generator(self, calibrated: bool) -> ConfidenceConfig:
        """Return a copy with estimator and norm filled in.

        Args:
            calibrated: Whether the generator has a calibration.

        Raises:
            InputError: If it needs one and has none.
        """
        default = _ERROR_MODEL if calibrated and self.norm in (None, _CALIBRATED) else _SSV
        estimator = self.estimator or default
        norm = self.norm or (_CALIBRATED if estimator == _ERROR_MODEL else ConfidenceNorm.ROBUST_STD)
        if norm == _CALIBRATED and not calibrated:
            raise InputError(
                f"confidence: must be ssv or paper for a generator that is not calibrated, got {estimator}, {norm}. "
                "Calibrate it with fcas_train --calibrate."
            )
        return replace(self, estimator=estimator, norm=norm)

    @property
    def needs_spread(self) -> bool:
        """True where confidence needs the intermediate images; for a configuration that is filled in."""
        return self.estimator != _ERROR_MODEL


@settings
class CalibrationConfig:
    """Settings of the calibration: training cases are drawn in new shapes and compared with their real scans.

    Attributes:
        num_drawings: Number of drawings; every fourth is held out, from validation cases where there are some.
        num_voxels: Voxels per drawing that the error model learns from, half of them inside structures.
        width: Features of the error model's hidden layers.
        num_steps: Training steps of the error model.
        batch_voxels: Voxels per training step.
        learning_rate: Learning rate of AdamW, decaying to zero (cosine).
        percentiles: Percentiles of the expected error that become confidence 1 and 0, over the held-out drawings'
            structures, and over their surroundings.
    """

    num_drawings: Annotated[int, Field(ge=4, le=100_000)] = 16
    num_voxels: Count = 60_000
    width: Size = 48
    num_steps: Count = 1500
    batch_voxels: Count = 8192
    learning_rate: Positive = 5e-3
    percentiles: Percentiles = (5.0, 95.0)
