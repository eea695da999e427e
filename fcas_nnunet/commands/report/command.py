"""fcas_report: a synthetic data set as a page to look at, and blinded readings by experts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from fcas_nnunet.commands.cli import add_channel_argument, command, make_parser, positive, processes

_EXAMPLE = """
fcas_report -d 902                                # Dataset902_HeartFCaS_report.html, opens in any browser
fcas_report -d 902 --against 901 -o report.html   # the real scans beside the synthetic ones
fcas_report -d 902 --against 901 --results quality.json dice.json
fcas_report reading --help                        # a blinded reading by experts
"""
_READING = "reading"


def build_parser() -> argparse.ArgumentParser:
    """Build the command line of fcas_report; `reading` has a parser of its own."""
    parser = make_parser(
        "fcas_report",
        "One self-contained HTML page about a synthetic data set: numbers, distributions, best and worst cases, and "
        "every case to scroll through with its mask and confidence. Interrupted, the same command measures and packs "
        "only the cases that are left.",
        _EXAMPLE,
    )
    parser.add_argument("-d", required=True, metavar="SYN", help="synthetic data set: id, name or folder")
    parser.add_argument("--against", metavar="REAL", help="real data set to compare it with: id, name or folder")
    add_channel_argument(parser)
    parser.add_argument(
        "-o", type=Path, metavar="FILE.html", help="the page (default: <data set>_report.html in this folder)"
    )
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="FILE.json",
        help="results of fcas_evaluate -o, shown as tables and used to pick best and worst cases",
    )  # fmt: skip
    parser.add_argument(
        "--cases", type=positive, default=20, metavar="N",
        help="how many cases can be scrolled through (default: 20); all are measured",
    )  # fmt: skip
    parser.add_argument(
        "-np",
        type=processes,
        metavar="P",
        help="most processes (default: nnUNet_def_n_proc, or the cores); fewer run where memory is short",
    )
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_report."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [_READING]:
        import_module("fcas_nnunet.commands.reading.command").run(arguments[1:])  # not before: --help stays quick
        return
    args = build_parser().parse_args(arguments)
    import_module("fcas_nnunet.commands.report.page").run(args)


if __name__ == "__main__":
    main()
