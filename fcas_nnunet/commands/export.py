"""fcas_export: export trained models for nnU-Net alone, and synthetic scans for MedSAM."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fcas_nnunet.commands.cli import add_channel_argument, command, finite, make_parser, voxels
from fcas_nnunet.commands.runtime.channels import showing
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.listing import listed

_EXAMPLE = """
fcas_export -i $nnUNet_results/Dataset901_Heart/nnUNetTrainerCALFinetune__nnUNetPlans__3d_fullres -o plain_model
nnUNetv2_predict_from_modelfolder -i INPUT_FOLDER -o OUTPUT_FOLDER -m plain_model -f 0   # no fcas-nnunet needed
fcas_export medsam -d 902 -o data/npy                                                    # slices for MedSAM
"""
_MEDSAM = "medsam"


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_export."""
    parser = make_parser(
        "fcas_export",
        "Write a trained model so that nnU-Net alone predicts with it (-i), or a data set's slices with boxes and "
        "confidence as MedSAM's training script reads them (medsam). Interrupted, it begins anew.",
        _EXAMPLE,
    )
    parser.add_argument("-i", type=Path, metavar="DIR", help="model: nnU-Net's <trainer>__<plans>__<configuration>")
    parser.add_argument(
        "-o", type=Path, metavar="DIR", help="folder to write (default: the model's folder with _plain added)"
    )
    medsam = parser.add_subparsers(dest="format", title="other formats").add_parser(
        _MEDSAM, help="slices of a raw data set", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    medsam.add_argument("-d", required=True, metavar="DATASET", help="id or name of a raw data set")
    medsam.add_argument("-o", dest="slices", type=Path, required=True, metavar="DIR", help="MedSAM's data_root")
    add_channel_argument(medsam)
    medsam.add_argument("--size", type=voxels, default=256, help="pixels an edge: 256 for LiteMedSAM, 1024 for MedSAM")
    medsam.add_argument("--window", type=finite, nargs=2, metavar=("LOW", "HIGH"), default=argparse.SUPPRESS,
                        help="values mapped to [0, 1] (default: -160 640 HU for CT; for other modalities 0.5 and "
                        "99.5 %% of what is not 0)")  # fmt: skip
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run fcas_export."""
    arguments = build_parser().parse_args(argv)
    if arguments.format == _MEDSAM:
        if arguments.i or arguments.o:
            raise InputError(
                "-i, -o: must not stand before medsam, which has -d and -o of its own, got one. Leave it out."
            )
        _export_medsam(arguments)
        return
    if arguments.i is None:
        raise InputError("-i: model folder must be given, got none. Or name a format: fcas_export medsam -d 902 -o DIR")
    from fcas_nnunet.integration.models.export import export_model

    model = arguments.i.resolve()
    target = arguments.o or model.with_name(f"{model.name}_plain")
    for path in export_model(model, target):
        print(f"wrote {path}")


def _export_medsam(arguments: argparse.Namespace) -> None:
    window = tuple(arguments.window) if "window" in arguments else None
    if window and window[0] >= window[1]:
        raise InputError(f"--window: LOW must be below HIGH, got {window[0]:g} and {window[1]:g}. Swap them.")
    if arguments.size < 16:
        raise InputError(
            f"--size: must be at least 16 pixels, got {arguments.size}. MedSAM takes 1024, LiteMedSAM 256."
        )
    from fcas_nnunet.integration.models.export import SliceSettings, export_slices

    dataset = showing(RawDataset.open(resolve_dataset(arguments.d, by="-d"), any_kind=True), arguments.channel)
    lacking = sorted(dataset.synthetic_cases() - set(dataset.mapped_cases()))
    if lacking:  # of a real case, a missing map means that it counts fully
        raise InputError(
            f"{dataset.name}: every synthetic case must have a confidence map, got none for {listed(lacking)}. "
            "Make these cases again: fcas_generate with the same arguments."
        )
    number = export_slices(dataset, arguments.slices, SliceSettings(arguments.size, window))
    print(f"{number} slices in {arguments.slices}")


if __name__ == "__main__":
    main()
