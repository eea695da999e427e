"""Map doubt to expected error in standard units, and that to confidence, on one scale for all cases of a generator."""

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
        doubt: Knots, increasing: SSV's spread or the error model's prediction, in standard units.
        error: Mean absolute error after matching contrast, never falling.
    """

    doubt: Annotated[tuple[float, ...], Field(min_length=1)]
    error: Annotated[tuple[NotNegative, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        knots = len(self.doubt), len(self.error)
        check(self, (knots[0] == knots[1], "doubt, error", "of one length", knots))

    def __call__(self, doubt: np.ndarray) -> np.ndarray:
        """Expected error in standard units, float32; constant beyond the ends."""
        return np.interp(doubt, self.doubt, self.error).astype(np.float32)


@settings
class Scale:
    """Curves and ends of the scale in one part of the volume: inside the structures, or outside.

    Attributes:
        ssv: Curve of SSV's spread.
        error_model: Curve of the error model's prediction.
        certain: Expected error at and below which confidence is 1.
        uncertain: Expected error at and above which confidence is 0.
    """

    ssv: Curve
    error_model: Curve
    certain: NotNegative
    uncertain: NotNegative

    def expected_error(self, estimator: ConfidenceEstimator, doubt: np.ndarray) -> np.ndarray:
        """Expected error in standard units, float32, the shape of the doubt."""
        return (self.error_model if estimator == ConfidenceEstimator.ERROR_MODEL else self.ssv)(doubt)

    def to_confidence(self, error: np.ndarray) -> np.ndarray:
        """Expected error => confidence in [0, 1], float32; a straight line between the two ends of the scale."""
        span = self.uncertain - self.certain
        if not span > 0:
            return np.ones_like(error, dtype=np.float32)
        return np.clip((self.uncertain - error) / span, 0, 1).astype(np.float32)


@settings
class Calibration:
    """Calibration of a generator; `calibration/config.yaml`, beside the error model's weights.

    Attributes:
        config: Settings of the calibration.
        sampling: Solver and steps of the drawings, filled in.
        confidence: Settings of the drawings' SSV, filled in.
        inside: Scale of the structures.
        outside: Scale of all else, which no mask describes: its errors are several times as large.
        held_out: Cases of the drawings that curves and scales were fitted to.
    """

    config: CalibrationConfig
    sampling: SamplingConfig
    confidence: ConfidenceConfig
    inside: Scale
    outside: Scale
    held_out: tuple[str, ...]

    def expected_error(self, estimator: ConfidenceEstimator, doubt: np.ndarray, structures: np.ndarray) -> np.ndarray:
        """Expected absolute error after matching contrast, from an estimator's doubt; both standard units [D, H, W]."""
        inside, outside = (scale.expected_error(estimator, doubt) for scale in (self.inside, self.outside))
        return np.where(structures, inside, outside)

    def to_confidence(self, error: np.ndarray, structures: np.ndarray, own_scale_outside: bool) -> np.ndarray:
        """Expected error => confidence, float32 [D, H, W] in [0, 1], on one scale or on two."""
        outside = self.outside if own_scale_outside else self.inside
        return np.where(structures, self.inside.to_confidence(error), outside.to_confidence(error))

    def fits(self, confidence: ConfidenceConfig, sampling: SamplingConfig) -> str | None:
        """The calibrated settings that differ from others, which are filled in; None if the calibration applies."""
        requested, made = (
            (settings.solver, settings.num_inference_steps, settings.strength) for settings in (sampling, self.sampling)
        )
        if requested != made:
            strength = f", strength {made[2]:g}" if requested[2] != made[2] else ""
            return f"{made[0]} of {made[1]} steps{strength}"
        source, count = self.confidence.source, self.confidence.num_snapshots
        if confidence.needs_spread and (confidence.source, confidence.num_snapshots) != (source, count):
            return f"{count} snapshots {source}"
        return None


def fit_curve(doubt: np.ndarray, error: np.ndarray) -> Curve:
    """Fit a monotone curve to doubts and errors [N]: isotonic regression over bins of equal size."""
    parts = np.array_split(np.argsort(doubt, kind="stable"), min(MAX_KNOTS, len(doubt)))
    knots = np.array([doubt[part].mean(dtype=np.float64) for part in parts])
    errors = np.array([error[part].mean(dtype=np.float64) for part in parts])
    fitted = IsotonicRegression().fit_transform(knots, errors, sample_weight=[len(part) for part in parts])
    distinct = np.append(True, np.diff(knots) > 0)
    return Curve(tuple(knots[distinct].tolist()), tuple(np.asarray(fitted)[distinct].tolist()))
