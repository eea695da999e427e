"""fcas_evaluate: numbers for segmentations, for two results side by side, and for synthetic scans: their likeness to
real ones, to their masks, and to what the generator was trained on."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.cli import command
from fcas_nnunet.commands.evaluate.arguments import build_parser
from fcas_nnunet.commands.runtime.case_files import default_workers
from fcas_nnunet.commands.runtime.outputs import (
    Output,
    check_outputs,
    check_picture_folder,
    holds_result,
    holds_table,
    is_picture,
)
from fcas_nnunet.evaluation.results import SCHEMAS
from fcas_nnunet.evaluation.table import format_table
from fcas_nnunet.files import atomic_path, atomic_write_text


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report; a score that does not exist (NaN) becomes null."""
    atomic_write_text(path, json.dumps(_without_nan(report), indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table; a score that does not exist (NaN) becomes an empty cell."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _notes(report: dict[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    notes = []
    if "empty_masks" in report["settings"]:
        notes.append(f"empty masks: {report['settings']['empty_masks']}")
    if report.get("ignored_predictions"):
        notes.append(f"{len(report['ignored_predictions'])} predictions without a reference ignored")
    return notes


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_evaluate."""
    args = build_parser().parse_args(argv)
    part = import_module(f"fcas_nnunet.commands.evaluate.{args.what}")  # not before: --help stays quick
    check_outputs(args, [
        Output("o", "result", ".json", holds_result(SCHEMAS[args.what])),
        Output("csv", "table", ".csv", holds_table(part.CSV_COLUMNS)),
        Output("tsne", "map", ".png", is_picture), Output("picture", "picture", ".png", is_picture),
    ])  # fmt: skip
    check_picture_folder(getattr(args, "pictures", None))
    workers = args.np or default_workers()
    report = part.run(args, workers)
    if args.o:
        write_json(args.o, report)
    if args.csv:
        write_csv(args.csv, *part.csv_rows(report))
    print(format_table(*part.table(report)))
    print("\n".join(getattr(part, "notes", _notes)(report)))


if __name__ == "__main__":
    main()
