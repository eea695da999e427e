"""fcas_report reading: a blinded reading by experts, from the page to the statistics."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.cli import add_channel_argument, make_parser, number, positive, processes, seed_number

_EXAMPLE = """
fcas_report reading prepare --methods FCaS=902 MAISI=903 --real 901 -n 20 -o reading
fcas_report reading results -k reading/key.json scores_*.json -o results
"""
_PREPARE_EXAMPLE = """
fcas_report reading prepare --methods FCaS=902 MAISI=903 --real 901 -n 20 -o reading
fcas_report reading prepare --methods ours=folder_a theirs=folder_b --criteria criteria.yaml
"""
_RESULTS_EXAMPLE = """
fcas_report reading results -k reading/key.json scores_*.json -o results --csv scores.csv
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of fcas_report reading."""
    parser = make_parser(
        "fcas_report reading",
        "Experts score images of several methods side by side, without knowing which is which: a page for them, a key "
        "for you, and the statistics of what they send back.",
        _EXAMPLE,
    )
    parts = parser.add_subparsers(dest="what", required=True, metavar="{prepare,results}")
    _add_prepare(parts)
    _add_results(parts)
    return parser


def _add_prepare(parts: Any) -> None:
    description = (
        "Write reading.html, which goes to the readers, and key.json, which does not. If killed, it begins anew."
    )
    part = _add_part(parts, "prepare", description, _PREPARE_EXAMPLE)
    part.add_argument(
        "--methods", required=True, nargs="+", metavar="NAME=DATASET",
        help="a data set (id, name, folder), or a folder of scans, for each method",
    )  # fmt: skip
    part.add_argument(
        "--real", metavar="REAL", help="data set or folder of the real scans, one more method, 'real' in the key"
    )
    add_channel_argument(part)
    part.add_argument("-n", type=positive, default=20, metavar="N", help="references at most, a bag each (default: 20)")
    part.add_argument(
        "--seed", type=seed_number, metavar="S", help="seed of all shuffling (default: new, recorded in the key)"
    )
    part.add_argument(
        "--criteria", type=Path, metavar="FILE.yaml", help="other criteria, scale or words (docs/reading.md)"
    )
    part.add_argument(
        "--megabytes", type=number(0.1, 2000), default=55.0, metavar="MB", help="size of the page, about (default: 55)"
    )
    part.add_argument("-o", type=Path, default=Path("reading"), metavar="DIR", help="default: reading")
    part.add_argument(
        "-np",
        type=processes,
        metavar="N",
        help="most processes (default: nnUNet_def_n_proc, or the cores); fewer run where memory is short",
    )


def _add_results(parts: Any) -> None:
    description = "Check and unblind readers' files: scores, ranks, agreement, tests, box plots and a radar chart."
    part = _add_part(parts, "results", description, _RESULTS_EXAMPLE)
    part.add_argument("scores", nargs="+", type=Path, metavar="SCORES.json", help="what the readers' pages saved")
    part.add_argument("-k", required=True, type=Path, metavar="key.json", help="written by prepare")
    part.add_argument("-o", type=Path, metavar="DIR", help="default: the key's folder")
    part.add_argument("--csv", type=Path, metavar="FILE.csv", help="a row per reader, bag and method")
    part.add_argument("--partial", action="store_true", help="take readings that are not finished")


def _add_part(parts: Any, name: str, description: str, example: str) -> argparse.ArgumentParser:
    frame = make_parser(f"fcas_report reading {name}", description, example)
    part: argparse.ArgumentParser = parts.add_parser(
        name, help=description, description=description, epilog=frame.epilog, formatter_class=frame.formatter_class
    )
    return part


def run(argv: Sequence[str]) -> None:
    """Run `fcas_report reading ...`."""
    args = build_parser().parse_args(argv)
    import_module(f"fcas_nnunet.commands.reading.{args.what}").run(args)  # not before: --help stays quick
