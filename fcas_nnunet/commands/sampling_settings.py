"""The arguments of the reverse diffusion and of SSV, and the settings they stand for."""

from __future__ import annotations

import argparse
from dataclasses import replace

from fcas_nnunet.choices import SnapshotDecoder, Solver
from fcas_nnunet.config import ConfidenceConfig, SamplingConfig

EVERYWHERE = "none"


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """How an image is drawn, and how its confidence is found; all default to the generator's own settings."""
    group = parser.add_argument_group("drawing", "default: the settings of the preset or the configuration")
    group.add_argument("--solver", type=Solver, choices=list(Solver), help="reverse diffusion")
    group.add_argument("--steps", type=int, metavar="K", help="steps of dpmsolver++ or euler")
    group.add_argument(
        "--window", type=int, nargs=3, metavar=("D", "H", "W"),
        help="latents (4³ working voxels each) that are denoised at once; less memory, but seams are blended",
    )  # fmt: skip
    group.add_argument("--overlap", type=float, metavar="SHARE", help="by which windows overlap, in [0, 1)")
    group.add_argument("--snapshots", type=int, metavar="N", help="intermediate images the confidence comes from")
    group.add_argument(
        "--snapshot_decoder", type=SnapshotDecoder, choices=list(SnapshotDecoder),
        help="what decodes them; `preview` is a small decoder made by fcas_train --preview",
    )  # fmt: skip
    group.add_argument(
        "--box_margin", type=_margin, metavar="VOXELS",
        help="look at them only inside the structures' box and so many working voxels around; `none` = everywhere",
    )  # fmt: skip


def sampling_config(default: SamplingConfig, args: argparse.Namespace) -> SamplingConfig:
    """The generator's settings, changed as asked.

    Raises:
        ValueError: when a value is out of range.
    """
    window = default.window if args.window is None else tuple(args.window)
    return replace(
        default,
        solver=args.solver or default.solver,
        num_inference_steps=args.steps or default.num_inference_steps,
        window=window,
        overlap=default.overlap if args.overlap is None else args.overlap,
    )


def confidence_config(default: ConfidenceConfig, args: argparse.Namespace) -> ConfidenceConfig:
    """The generator's settings of SSV, changed as asked.

    Raises:
        ValueError: when a value is out of range.
    """
    margin = default.box_margin if args.box_margin is None else args.box_margin
    return replace(
        default,
        num_snapshots=args.snapshots or default.num_snapshots,
        decoder=args.snapshot_decoder or default.decoder,
        box_margin=None if margin == EVERYWHERE else margin,
    )


def _margin(text: str) -> int | str:
    return EVERYWHERE if text == EVERYWHERE else int(text)
