"""Enumerations of the generator's settings."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

#: Key of a manifest record: the source of the scan.
SCAN = "scan"
#: Another: how a segmenter judged the case's labels, where fcas_confidence rewrote its map.
SEGMENTER = "segmenter"


class Conditioning(StrEnum):
    """Path of the condition into the denoiser: a ControlNet, or concatenation to its input."""

    CONTROLNET = "controlnet"
    CONCAT = "concat"


class Architecture(StrEnum):
    """Architecture of the denoiser: plain, or with the inputs and blocks of one of MAISI's two published UNets."""

    PLAIN = "plain"
    MAISI_DDPM = "maisi_ddpm"
    MAISI_RFLOW = "maisi_rflow"


class TemplateRegistration(StrEnum):
    """How a template comes to lie on a mask: centre on centre (the paper's way), or registered to its reference."""

    NONE = "none"
    DEFORMABLE = "deformable"


class ItemsPerEpoch(StrEnum):
    """Items of an epoch of the diffusion model's training; see `PairConfig`."""

    CASES = "cases"
    PAIRS = "pairs"


class PredictionType(StrEnum):
    """Quantity that the denoiser predicts, by diffusers' names; `flow` is x_0 − noise, for a straight line."""

    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"
    SAMPLE = "sample"
    FLOW = "flow"


class Solver(StrEnum):
    """Solver of the reverse diffusion."""

    DDPM = "ddpm"
    DPMSOLVER = "dpmsolver++"
    EULER = "euler"


class SnapshotSource(StrEnum):
    """Intermediate images that SSV compares: decoded noisy latents, or decoded predicted clean latents."""

    X_T = "x_t"
    X_0 = "x_0"


class ConfidenceEstimator(StrEnum):
    """Estimator of a voxel's reliability: SSV's spread, or the error model fitted with the generator."""

    SSV = "ssv"
    ERROR_MODEL = "error_model"


class ConfidenceNorm(StrEnum):
    """Norm(·) of Eq. 7, or the generator's calibration: one scale of expected error for all cases."""

    ROBUST_STD = "robust_std"
    MINMAX_VARIANCE = "minmax_variance"
    CALIBRATED = "calibrated"


class ConfidenceChoice(StrEnum):
    """Confidence maps by name; `own` takes the settings of the generator's configuration."""

    OWN = "own"
    ERROR_MODEL = "error_model"
    SSV = "ssv"
    SSV_CALIBRATED = "ssv_calibrated"
    PAPER = "paper"


class ReferenceSource(StrEnum):
    """Source of the reference masks: the given ones, MGM's new ones, or both."""

    GIVEN = "given"
    MGM = "mgm"
    BOTH = "both"


class ScanSource(StrEnum):
    """How the scan of a mask is made: by the generator, from a real scan, or at random; `mixed` is of a set alone."""

    DRAWN = "drawn"
    WARPED = "warped"
    REGISTERED = "registered"
    PAINTED = "painted"
    MIXED = "mixed"

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ScanSource:
        """The source of a manifest record's scan; records of earlier versions do not name it, and are of drawn ones."""
        return cls(record.get(SCAN, cls.DRAWN))

    @property
    def has_template(self) -> bool:
        """Whether a scan shows a template under the mask of a reference, not the reference alone."""
        return self in (ScanSource.DRAWN, ScanSource.REGISTERED)


class Precision(StrEnum):
    """Precision of a training; `auto` is bf16 where the hardware supports it."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
