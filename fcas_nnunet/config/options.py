"""What the settings of the generator can be, where they are one of a few."""

from __future__ import annotations

from enum import StrEnum


class Conditioning(StrEnum):
    """How the condition enters the denoiser."""

    CONTROLNET = "controlnet"
    CONCAT = "concat"


class Architecture(StrEnum):
    """What the denoiser is built like: bare, or with the inputs and blocks of one of MAISI's two published UNets."""

    PLAIN = "plain"
    MAISI_DDPM = "maisi_ddpm"
    MAISI_RFLOW = "maisi_rflow"


class ItemsPerEpoch(StrEnum):
    """What an epoch of the diffusion model's training is."""

    CASES = "cases"
    PAIRS = "pairs"


class PredictionType(StrEnum):
    """What the denoiser predicts; diffusers' names, and `flow`: x_0 − noise on the straight line between the two."""

    EPSILON = "epsilon"
    V_PREDICTION = "v_prediction"
    SAMPLE = "sample"
    FLOW = "flow"


class Solver(StrEnum):
    """How the reverse diffusion is run."""

    DDPM = "ddpm"
    DPMSOLVER = "dpmsolver++"
    EULER = "euler"


class SnapshotSource(StrEnum):
    """Which intermediate images SSV compares: decoded noisy latents, or decoded predicted clean latents."""

    X_T = "x_t"
    X_0 = "x_0"


class ConfidenceEstimator(StrEnum):
    """What says how far a voxel can be trusted: SSV's spread, or the error model fitted with the generator."""

    SSV = "ssv"
    ERROR_MODEL = "error_model"


class ConfidenceNorm(StrEnum):
    """Norm(·) of Eq. 7, or the generator's own calibration: one scale of expected error for all cases."""

    ROBUST_STD = "robust_std"
    MINMAX_VARIANCE = "minmax_variance"
    CALIBRATED = "calibrated"


class ConfidenceChoice(StrEnum):
    """Ways to a confidence map by name; `own` is what the generator's configuration says."""

    OWN = "own"
    ERROR_MODEL = "error_model"
    SSV = "ssv"
    SSV_CALIBRATED = "ssv_calibrated"
    PAPER = "paper"


class ReferenceSource(StrEnum):
    """Where reference masks come from."""

    GIVEN = "given"
    MGM = "mgm"
    BOTH = "both"


class Precision(StrEnum):
    """The arithmetic of a training; `auto` is bf16 where the hardware has it."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
