"""The arguments of the reverse diffusion and of SSV, and the settings that they set."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from fcas_nnunet.commands.cli import finite, given, of_flags, positive, said_of_flags, voxels, whole_number
from fcas_nnunet.config.generator import ConfidenceConfig, FCaSConfig, SamplingConfig
from fcas_nnunet.config.options import ConfidenceChoice, ConfidenceNorm, Solver
from fcas_nnunet.faults import InputError

if TYPE_CHECKING:
    from fcas_nnunet.generator.confidence.calibration import Calibration

logger = logging.getLogger(__name__)

EVERYWHERE = "none"

_DRAWING_FLAGS = {
    "solver": "--solver",
    "num_inference_steps": "--steps",
    "strength": "--strength",
    "window": "--window",
    "overlap": "--overlap",
}


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of drawing and confidence; all default to the generator's settings."""
    group = parser.add_argument_group("drawing", "default: the settings of the preset or the configuration")
    group.add_argument("--solver", type=Solver, choices=list(Solver), help="reverse diffusion")
    group.add_argument(
        "--steps", dest="num_inference_steps", type=positive, metavar="K", help="steps of dpmsolver++ or euler"
    )
    group.add_argument(
        "--strength", type=finite, metavar="SHARE",
        help="share of the steps that run, in (0, 1]; below 1 they begin from the noised first guess: less freedom, "
        "more of the template's realism, less time",
    )  # fmt: skip
    group.add_argument(
        "--window", type=voxels, nargs=3, metavar=("D", "H", "W"),
        help="latents (4³ working voxels each) that are denoised at once; less memory, but seams are blended",
    )  # fmt: skip
    group.add_argument("--overlap", type=finite, metavar="SHARE", help="overlap of windows, in [0, 1)")
    group.add_argument(
        "--confidence", type=ConfidenceChoice, choices=list(ConfidenceChoice),
        help="where confidence comes from: error_model, fitted with the generator, says how far a voxel is off; "
        "ssv is the spread of intermediate images, scaled within each case; ssv_calibrated is that on the scale of "
        "expected error; paper is Eq. 7 as a variance (default: own, the error model where there is one, else ssv; "
        "ssv with either of the next two)",
    )  # fmt: skip
    group.add_argument(
        "--snapshots", dest="num_snapshots", type=whole_number(1, 1000), metavar="N",
        help="intermediate images the confidence comes from",
    )  # fmt: skip
    group.add_argument(
        "--box_margin", type=_margin, metavar="VOXELS",
        help="compare them only inside the structures' box and this many working voxels around; `none` = everywhere",
    )  # fmt: skip


def sampling_config(default: SamplingConfig, args: argparse.Namespace) -> SamplingConfig:
    """Replace the generator's settings by those of flags; an InputError names the flags of values out of range."""
    return of_flags(default, _DRAWING_FLAGS, args)


def check_drawing(config: FCaSConfig, sampling: SamplingConfig, args: argparse.Namespace) -> None:
    """Check that a model can draw with these settings; an InputError names the flags of those with which it cannot.

    `config` is the generator's configuration, with the settings of the model in use.
    """
    with said_of_flags({name: _DRAWING_FLAGS[name] for name in given(_DRAWING_FLAGS, args)}):
        replace(config, sampling=sampling)
        sampling.for_model(config.tcdm.prediction_type)


def confidence_config(default: ConfidenceConfig, args: argparse.Namespace) -> ConfidenceConfig:
    """Replace the generator's settings of SSV by those of flags; values out of range or without effect are refused."""
    margin = default.box_margin if args.box_margin is None else args.box_margin
    asked_for_ssv = any(value is not None for value in (args.num_snapshots, args.box_margin))
    if args.confidence in (ConfidenceChoice.OWN, ConfidenceChoice.ERROR_MODEL) and asked_for_ssv:
        raise InputError(
            "--snapshots, --box_margin: must go with a confidence that looks at intermediate "
            f"images, got --confidence {args.confidence}. Leave them out, or take --confidence ssv_calibrated."
        )
    choice = args.confidence or (ConfidenceChoice.SSV if asked_for_ssv else ConfidenceChoice.OWN)
    config = replace(default.chosen(choice), box_margin=None if margin == EVERYWHERE else margin)
    return of_flags(config, {"num_snapshots": "--snapshots"}, args)


def resolved_confidence(
    config: ConfidenceConfig, calibration: Calibration | None, sampling: SamplingConfig, name: str
) -> ConfidenceConfig:
    """Complete the settings that were left to the generator.

    A calibration holds for the solver, steps and snapshots that it was made with. If these differ, a confidence that
    was left open becomes SSV, which is logged.

    Args:
        config: The requested settings.
        calibration: Calibration of the generator; None if it has none.
        sampling: Complete settings of the reverse diffusion.
        name: Name of the generator, for messages.

    Raises:
        InputError: If a calibrated confidence is requested that the generator cannot give.
    """
    filled = config.for_generator(calibration is not None)
    if calibration is None or filled.norm != ConfidenceNorm.CALIBRATED:
        if calibration is None:
            logger.info(
                f"{name} is not calibrated: confidence is the spread of SSV (fcas_train --calibrate mends that)"
            )
        return filled
    made_for = calibration.fits(filled, sampling)
    if made_for is None:
        return filled
    if config.norm == ConfidenceNorm.CALIBRATED:
        raise InputError(
            f"{name}: a calibrated confidence must be drawn as it was calibrated ({made_for}), got other settings. "
            "Draw it so, or take --confidence ssv."
        )
    logger.info(f"{name} is calibrated for {made_for} alone: confidence is the spread of SSV")
    return config.for_generator(calibrated=False)


def _margin(text: str) -> int | str:
    return EVERYWHERE if text == EVERYWHERE else whole_number(0, 8192)(text)
