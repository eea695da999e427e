"""fcas_report reading results: turn readers' files into unblinded numbers and pictures."""

from __future__ import annotations

import argparse

from fcas_nnunet.commands.runtime.outputs import Output, check_outputs, holds_result, holds_table, is_picture
from fcas_nnunet.evaluation.reading.figures import write_box_plots, write_radar
from fcas_nnunet.evaluation.reading.protocol import load_key
from fcas_nnunet.evaluation.reading.results import (
    CSV_COLUMNS,
    RESULTS_SCHEMA,
    csv_rows,
    evaluate_reading,
    reading_table,
    tests_table,
)
from fcas_nnunet.evaluation.reading.scores import load_readers
from fcas_nnunet.evaluation.results import write_csv, write_result
from fcas_nnunet.evaluation.table import format_table
from fcas_nnunet.integration.dataset.manifest import versions

RESULTS_FILE, BOX_PLOTS_FILE, RADAR_FILE = "reading_results.json", "box_plots.png", "radar.png"


def run(args: argparse.Namespace) -> None:
    """Check and unblind the readers' files, compute the results, write and print them."""
    folder = args.o or args.k.parent
    files = {"results": folder / RESULTS_FILE, "box_plots": folder / BOX_PLOTS_FILE, "radar": folder / RADAR_FILE}
    remedy = "Name another folder: -o DIR"
    check_outputs(
        argparse.Namespace(**vars(args) | files),
        [
            Output("csv", "table", ".csv", holds_table(CSV_COLUMNS)),
            Output("results", "results", ".json", holds_result(RESULTS_SCHEMA), remedy),
            Output("box_plots", "box plots", ".png", is_picture, remedy),
            Output("radar", "radar chart", ".png", is_picture, remedy),
        ],
    )
    key = load_key(args.k)
    readers = load_readers(key, args.scores, partial=args.partial)
    report = evaluate_reading(key, readers) | {"versions": versions()}
    write_box_plots(report, files["box_plots"])
    write_radar(report, files["radar"])
    write_result(files["results"], report)
    if args.csv is not None:
        write_csv(args.csv, *csv_rows(report))
    print(format_table(*reading_table(report)))
    print()
    print(format_table(*tests_table(report)))
    print()
    for reader in readers:
        left = f", {len(reader.incomplete)} not complete" if reader.incomplete else ""
        print(f"{reader.name}: {len(key.bags) - len(reader.incomplete)} of {len(key.bags)} bags{left}")
    print("mean ± sd (median) over readers and bags; alpha: Krippendorff's, ordinal; tests on bags' means over readers")
    print(f"{files['results']}, {BOX_PLOTS_FILE}, {RADAR_FILE}")
