"""fcas_convert: public data sets of the heart into nnU-Net's raw format."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.cli import command, make_parser, processes, whole_number
from fcas_nnunet.commands.convert.cases import label_values
from fcas_nnunet.commands.convert.conversion import convert
from fcas_nnunet.datasets import acdc, asoca, imagealcapa, imagecas, imagechd, la2018, mmwhs
from fcas_nnunet.datasets.layout import Layout, PublicSet
from fcas_nnunet.faults import InputError
from fcas_nnunet.geometry import Triple, triple
from fcas_nnunet.integration.dataset.folders import new_dataset_folder, parse_name
from fcas_nnunet.listing import MOST_NAMES, listed
from fcas_nnunet.machine import available_cores

_EXAMPLE = """
fcas_convert imagecas ImageCAS -d 910                     # coronary CTA, published split 1
fcas_convert imagechd ImageCHD_dataset -d 911 --spacing sizes.csv
fcas_convert imagealcapa ImageALCAPA_BIBM_Publish -d 912 --label-map labels.yaml
fcas_convert asoca ASOCA -d 913
fcas_convert mmwhs "MM-WHS 2017 Dataset" -d 914 --modality ct
fcas_convert acdc ACDC/database -d 915
fcas_convert la2018 2018_UTAH_MICCAI -d 916
"""
_NONE = "none"
_SPACING = "--spacing"


def build_parser() -> argparse.ArgumentParser:
    """The command line of fcas_convert, set by set."""
    parser = make_parser(
        "fcas_convert",
        "Convert a public data set of the heart, as it lies on disk after download, into an nnU-Net raw data set. "
        "Interrupted, the same command resumes.",
        _EXAMPLE,
    )
    sets = parser.add_subparsers(dest="set", required=True, metavar="SET")
    _add_imagecas(sets)
    _add_imagechd(sets)
    part = _add_set(sets, "imagealcapa", "ImageALCAPA: seven structures in CT of children", "imagealcapa DIR -d 912 "
                    "--label-map labels.yaml")  # fmt: skip
    part.add_argument("--label-map", type=Path, metavar="FILE.yaml",
                      help='which value in the files is which structure, "1: myocardium" a line; "background" drops a '
                      "value (needed: no public source says it)")  # fmt: skip
    _add_offset(part)
    _add_set(sets, "asoca", "ASOCA: coronary arteries in CT, the release of 2020 or the later one", "asoca DIR -d 913")
    part = _add_set(sets, "mmwhs", "MM-WHS 2017: seven structures in CT or MR", "mmwhs DIR -d 914 --modality ct")
    part.add_argument("--modality", required=True, choices=sorted(mmwhs.MODALITIES), help="scans of which kind")
    _add_set(sets, "acdc", "ACDC: ventricles and myocardium in cine MR, two phases a patient", "acdc DIR -d 915")
    _add_set(sets, "la2018", "2018 Atrial Segmentation Challenge: left atria in late-enhancement MR",
             "la2018 DIR -d 916")  # fmt: skip
    return parser


def _add_imagecas(sets: Any) -> None:
    part = _add_set(sets, "imagecas", "ImageCAS: coronary arteries in 1,000 CT scans", "imagecas DIR -d 910 --split 2")
    part.add_argument(
        "--split", choices=[*map(str, range(1, imagecas.NUM_SPLITS + 1)), _NONE], default="1",
        help="published split: its test cases go into imagesTs, its validation cases into fold 0 (default: 1); none: "
        "all cases into imagesTr",
    )  # fmt: skip
    part.add_argument(
        "--split-file", type=Path, metavar="FILE",
        help="imageCAS_data_split.xlsx, or its sheet as CSV (default: looked for in SRC)",
    )  # fmt: skip
    part.idle("--split-file", beside=f"--split {_NONE}")


def _add_imagechd(sets: Any) -> None:
    part = _add_set(sets, "imagechd", "ImageCHD: seven structures in CT of congenital heart disease",
                    "imagechd DIR -d 911 --spacing sizes.csv")  # fmt: skip
    part.add_argument(
        _SPACING, nargs="+", metavar="V",
        help="voxel size X Y Z in mm of all cases, or a CSV file with the columns case, x, y, z (default: the "
        "headers', which are not to be trusted)",
    )  # fmt: skip
    _add_offset(part)


def _add_set(sets: Any, key: str, description: str, example: str) -> Any:
    parsed = make_parser(f"fcas_convert {key}", description, f"fcas_convert {example}")
    part = sets.add_parser(key, help=description, description=parsed.description, epilog=parsed.epilog,
                           formatter_class=parsed.formatter_class)  # fmt: skip
    part.add_argument("source", type=Path, metavar="SRC", help="folder of the unpacked data set")
    part.add_argument("-d", required=True, metavar="ID", help="data set to write: an id or DatasetXXX_Name")
    part.add_argument("--name", help="name of a new data set when -d is an id (default: the public set's)")
    part.add_argument("--skip", nargs="+", default=[], metavar="CASE", help="cases to leave out, by their written ids")
    part.add_argument("-np", type=processes, default=available_cores(), metavar="P", help="processes (one per core)")
    part.set_defaults(offset=0)
    return part


def _add_offset(part: Any) -> None:
    part.add_argument(
        "--offset", type=whole_number(0, 100_000), default=1024, metavar="N",
        help="what stored values exceed HU by (default: 1024)",
    )  # fmt: skip


def find(args: argparse.Namespace) -> tuple[PublicSet, Layout]:
    """The set that a command line names, and its cases in the user's folder.

    Raises:
        MissingFileError: If a folder or file is missing.
        InputError: If no case is there, or an option is at fault.
    """
    source = args.source
    match args.set:
        case "imagecas":
            split = None if args.split == _NONE else int(args.split)
            return imagecas.IMAGECAS, imagecas.find(source, split, args.split_file)
        case "imagechd":
            return imagechd.IMAGECHD, imagechd.find(source, _spacing(args.spacing))
        case "imagealcapa":
            layout = imagealcapa.find(source)
            if args.label_map is None:
                raise InputError(_unmapped(layout))
            return imagealcapa.imagealcapa(args.label_map), layout
        case "asoca":
            return asoca.ASOCA, asoca.find(source)
        case "mmwhs":
            return mmwhs.mmwhs(args.modality), mmwhs.find(source, args.modality)
        case "acdc":
            return acdc.ACDC, acdc.find(source)
        case _:
            return la2018.LA2018, la2018.find(source)


def _spacing(words: Sequence[str] | None) -> Triple[float] | Path | None:
    """--spacing as voxel size along (D, H, W), or as the path of a table."""
    if words is None:
        return None
    if len(words) == 1:
        return Path(words[0])
    try:
        x, y, z = map(float, words)
        if all(imagechd.SMALLEST_VOXEL_MM < size < imagechd.LARGEST_VOXEL_MM for size in (x, y, z)):
            return triple((z, y, x))
    except ValueError:
        pass
    raise InputError(
        f"{_SPACING}: must be three voxel sizes in mm, X Y Z, or one CSV file, got {' '.join(words)}. Correct it."
    )


def _unmapped(layout: Layout) -> str:
    """Why ImageALCAPA cannot be converted without a label map, with the values that the user has to name."""
    label = next(scan.label for scan in layout.scans if scan.label is not None)
    values = listed([f"{value:g}" for value in label_values(label)], MOST_NAMES)
    return (
        f"--label-map: a YAML file must say which value is which structure, got none. {label.name} holds {values}; the "
        f"publishers name {', '.join(imagealcapa.STRUCTURES)}, and no public source says which is which. Look at a "
        'case, write a line "value: name" for each, and give the file with --label-map.'
    )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_convert."""
    args = build_parser().parse_args(argv)
    public, layout = find(args)
    layout = layout.without(args.skip, "--skip")
    folder = new_dataset_folder(args.d, default_name=public.name if args.name is None else args.name, by="-d")
    if args.name not in (None, parse_name(folder.name)[1]):
        raise InputError(
            f"--name: must be the name that -d has, got {args.name} for {folder.name}. Leave it out, or "
            "take a free id for -d."
        )
    lines = convert(folder, args.source, public, layout, args.offset, args.np)
    print("\n".join([str(folder), *lines]))


if __name__ == "__main__":
    main()
