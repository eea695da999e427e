"""What confidence means: expected error in HU, on one scale for all cases of a generator."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field
from sklearn.isotonic import IsotonicRegression

from fcas_nnunet.config.generator import CalibrationConfig, ConfidenceConfig, SamplingConfig
from fcas_nnunet.config.options import ConfidenceEstimator
from fcas_nnunet.config.schema import NotNegative, check, settings

MAX_KNOTS = 64


@settings
class Curve:
    """A monotone curve from an estimator's doubt to the mean error it goes with, straight between its knots.

    Attributes:
        doubt: increasing; the spread of SSV or what the error model says, in HU.
        error_hu: mean absolute error after matching contrast, never falling.
    """

    doubt: Annotated[tuple[float, ...], Field(min_length=1)]
    error_hu: Annotated[tuple[NotNegative, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        knots = len(self.doubt), len(self.error_hu)
        check(self, (knots[0] == knots[1], "doubt, error_hu", "of one length", knots))

    def __call__(self, doubt: np.ndarray) -> np.ndarray:
        """Expected error in HU, float32; constant beyond the ends."""
        return np.interp(doubt, self.doubt, self.error_hu).astype(np.float32)


@settings
class Scale:
    """What is known of the error in one part of the volume: inside the structures, or outside.

    Attributes:
        ssv: curve of the spread.
        error_model: curve of what the error model says.
        certain_hu: expected error that is confidence 1, and what lies below.
        uncertain_hu: expected error that is confidence 0, and what lies above.
    """

    ssv: Curve
    error_model: Curve
    certain_hu: NotNegative
    uncertain_hu: NotNegative

    def expected_error(self, estimator: ConfidenceEstimator, doubt: np.ndarray) -> np.ndarray:
        """HU, float32, the shape of the doubt."""
        return (self.error_model if estimator == ConfidenceEstimator.ERROR_MODEL else self.ssv)(doubt)

    def to_confidence(self, error_hu: np.ndarray) -> np.ndarray:
        """Expected error in HU => confidence in [0, 1], float32; a straight line between the two ends of the scale."""
        span = self.uncertain_hu - self.certain_hu
        if not span > 0:
            return np.ones_like(error_hu, dtype=np.float32)
        return np.clip((self.uncertain_hu - error_hu) / span, 0, 1).astype(np.float32)


@settings
class Calibration:
    """What was learnt of a generator's errors; `calibration/config.yaml`, beside the error model's weights.

    Attributes:
        config: how it was learnt.
        sampling: of the drawings, filled in.
        confidence: of their SSV, filled in.
        inside: of the structures.
        outside: of all else, which no mask describes: its errors are several times as large.
        held_out: cases of the drawings that curves and scales were fitted to.
    """

    config: CalibrationConfig
    sampling: SamplingConfig
    confidence: ConfidenceConfig
    inside: Scale
    outside: Scale
    held_out: tuple[str, ...]

    def expected_error(self, estimator: ConfidenceEstimator, doubt: np.ndarray, structures: np.ndarray) -> np.ndarray:
        """Expected absolute error after matching contrast, from an estimator's doubt; both HU [D, H, W]."""
        inside, outside = (scale.expected_error(estimator, doubt) for scale in (self.inside, self.outside))
        return np.where(structures, inside, outside)

    def to_confidence(self, error_hu: np.ndarray, structures: np.ndarray, own_scale_outside: bool) -> np.ndarray:
        """Expected error => confidence, float32 [D, H, W] in [0, 1], on one scale or on two."""
        outside = self.outside if own_scale_outside else self.inside
        return np.where(structures, self.inside.to_confidence(error_hu), outside.to_confidence(error_hu))

    def fits(self, confidence: ConfidenceConfig, sampling: SamplingConfig) -> str | None:
        """What keeps the calibration from holding for other settings, which are filled in; None where it holds."""
        asked = (sampling.solver, sampling.num_inference_steps)
        if asked != (self.sampling.solver, self.sampling.num_inference_steps):
            return f"{self.sampling.solver} of {self.sampling.num_inference_steps} steps"
        own = self.confidence
        if confidence.needs_spread and (confidence.source, confidence.num_snapshots) != (own.source, own.num_snapshots):
            return f"{own.num_snapshots} snapshots {own.source}"
        return None


def fit_curve(doubt: np.ndarray, error_hu: np.ndarray) -> Curve:
    """The monotone curve that fits doubts and errors [N] best: isotonic regression over bins of equal size."""
    parts = np.array_split(np.argsort(doubt, kind="stable"), min(MAX_KNOTS, len(doubt)))
    knots = np.array([doubt[part].mean(dtype=np.float64) for part in parts])
    errors = np.array([error_hu[part].mean(dtype=np.float64) for part in parts])
    fitted = IsotonicRegression().fit_transform(knots, errors, sample_weight=[len(part) for part in parts])
    distinct = np.append(True, np.diff(knots) > 0)
    return Curve(tuple(knots[distinct].tolist()), tuple(np.asarray(fitted)[distinct].tolist()))
