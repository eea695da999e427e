"""fcas_evaluate: score segmentations, compare two results, and measure synthetic scans: their likeness to real ones,
to their masks, and to what the generator was trained on.

A part is a module with `run` (arguments and number of processes → the report's own fields), `table` and `csv_rows`
(report → header and rows), `CSV_COLUMNS` (a regular expression for the header of `--csv`) and `notes` (report → lines
below the table). docs/evaluation.md describes the reports; a score that does not exist is NaN in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from fcas_nnunet.commands.cli import command
from fcas_nnunet.commands.evaluate.arguments import build_parser
from fcas_nnunet.commands.runtime.case_files import default_workers
from fcas_nnunet.commands.runtime.kept_results import kept_results
from fcas_nnunet.commands.runtime.outputs import (
    Output,
    check_outputs,
    check_picture_folder,
    holds_result,
    holds_table,
    is_picture,
)
from fcas_nnunet.evaluation.results import SCHEMAS, header, write_csv, write_result
from fcas_nnunet.evaluation.table import format_table
from fcas_nnunet.integration.dataset.manifest import versions


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_evaluate."""
    args = build_parser().parse_args(argv)
    part = import_module(f"fcas_nnunet.commands.evaluate.{args.what}")  # not before: --help stays quick
    schema = SCHEMAS[args.what]
    check_outputs(args, [
        Output("o", "result", ".json", holds_result(schema)),
        Output("csv", "table", ".csv", holds_table(part.CSV_COLUMNS)),
        Output("tsne", "map", ".png", is_picture), Output("picture", "picture", ".png", is_picture),
    ])  # fmt: skip
    check_picture_folder(getattr(args, "pictures", None))
    workers = getattr(args, "np", None) or default_workers()
    with kept_results(args.o or args.csv):
        report = {**header(schema), **part.run(args, workers), "versions": versions()}
        if args.o:
            write_result(args.o, report)
        if args.csv:
            write_csv(args.csv, *part.csv_rows(report))
    print(format_table(*part.table(report)))
    print("\n".join(part.notes(report)))
