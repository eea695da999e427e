"""fcas_merge: label maps of several sources joined into the labels and surroundings of a data set."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fcas_nnunet.commands.cli import command, make_parser, processes
from fcas_nnunet.commands.merge.finishing import RECORD_FILE, publish
from fcas_nnunet.commands.merge.jobs import BYTES_PER_VOXEL, look_at, merge_case
from fcas_nnunet.commands.merge.plan import AS_BACKGROUND, REFUSE, SKIP, plan_merge
from fcas_nnunet.commands.merge.rules import SourceMap, check_folders, read_map, split_argument
from fcas_nnunet.commands.merge.scans import open_scans
from fcas_nnunet.commands.merge.sources import Source, open_source
from fcas_nnunet.commands.merge.summary import summary_lines
from fcas_nnunet.commands.merge.totalsegmentator import plan_runs
from fcas_nnunet.commands.runtime.case_files import default_workers, run_cases, stream_cases
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import new_dataset_folder, parse_name
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.ownership import refuse_foreign_folder, refuse_links
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

logger = logging.getLogger(__name__)

MERGE = "fcas_merge"

_EXAMPLE = """
fcas_merge -d 901 --masks predictions totalseg:surroundings.yaml coronaries:coronaries.yaml
fcas_merge -d 901 -o 905 --masks $nnUNet_raw/Dataset901_Heart/labelsTr coronaries:coronaries.yaml
fcas_merge -d 901 --masks predictions --totalsegmentator total:surroundings.yaml   # runs TotalSegmentator
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of fcas_merge."""
    parser = make_parser(
        MERGE,
        "Join label maps of several sources, by the names of their structures, into labelsTr and surroundingsTr of a "
        "raw data set, whose own labels may be missing. Where structures meet, thin vessels win, then the source "
        "that is named first. Nothing is changed before all cases are ready. Interrupted, the same command resumes.",
        _EXAMPLE,
    )
    parser.add_argument("-d", required=True, metavar="ID", help="data set with the scans: an id or DatasetXXX_Name")
    parser.add_argument(
        "-o", metavar="ID", help="write a new data set, with copies of the scans (default: into -d itself)"
    )
    parser.add_argument(
        "--masks", nargs="+", default=[], metavar="DIR[:map.yaml]",
        help="folders with CASE.nii.gz, or CASE/STRUCTURE.nii.gz; the map says what their ids or files are called and "
        "where they go (default: names of the files' headers or of a dataset.json in the folder or above, all labels)",
    )  # fmt: skip
    parser.add_argument(
        "--totalsegmentator", nargs="+", default=[], metavar="TASK[:map.yaml]",
        help="run these tasks of TotalSegmentator on the scans, and take their results as further sources: total into "
        "the surroundings; heartchambers_highres, coronary_arteries (licensed) into the labels",
    )  # fmt: skip
    parser.add_argument(
        "--totalsegmentator_folder", type=Path, metavar="DIR",
        help="where its results are kept, and looked for (default: totalsegmentatorTr in -d)",
    )  # fmt: skip
    parser.add_argument(
        "--totalsegmentator_options",
        default="",
        metavar="TEXT",
        help="further options for it, after =: '--fast --device cpu'",
    )
    parser.add_argument(
        "--channels", nargs="+", metavar="NAME", help="what the scans' channels are, where -d has no dataset.json: CT"
    )
    parser.add_argument(
        "--missing", choices=[REFUSE, SKIP, AS_BACKGROUND], default=REFUSE,
        help="what becomes of cases that a source lacks: they get no labels (skip), or nothing of that source "
        "(background; default: refuse)",
    )  # fmt: skip
    parser.add_argument("--resample", action="store_true", help="take label maps on other grids, by nearest neighbour")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--overwrite", action="store_true", help="replace labels and surroundings that are there")
    existing.add_argument("--keep", action="store_true", help="leave labels and surroundings that are there alone")
    parser.add_argument(
        "-np", type=processes, default=None, metavar="P", help="processes (default: one a core); the result is the same"
    )
    for flag in ("--totalsegmentator_folder", "--totalsegmentator_options"):
        parser.idle(flag, without="--totalsegmentator")
    return parser


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_merge."""
    args = build_parser().parse_args(argv)
    if not args.masks and not args.totalsegmentator:
        raise InputError("--masks: a source must be named, by it or by --totalsegmentator, got none. Name a folder.")
    scans = open_scans(args.d, args.channels)
    folder = scans.folder
    if args.o is not None:
        folder = new_dataset_folder(args.o, default_name=f"{parse_name(scans.name)[1]}Merged", by="-o")
        if folder == scans.folder:
            raise InputError("-o: must be another data set than -d, got the same. Leave -o out to write into -d.")
    try:
        options = shlex.split(args.totalsegmentator_options)
    except ValueError as error:
        raise InputError(
            f"--totalsegmentator_options: must be options as a shell takes them, got {args.totalsegmentator_options!r} "
            f"({error}). Correct it."
        ) from error
    runs = plan_runs(scans, args.totalsegmentator, args.totalsegmentator_folder, options)
    sources = open_sources(scans, args.masks)
    if runs and sources:  # seen before hours of TotalSegmentator
        plan_merge(scans, folder, sources, args, final=False)
    for run in sorted(runs, key=lambda run: not run.is_licensed):
        run.do()
    sources += [run.source() for run in runs]
    is_new = folder != scans.folder
    refuse = partial(refuse_foreign_folder, folder, MERGE, RECORD_FILE) if is_new else partial(refuse_links, folder)
    with exclusive(folder, refuse=refuse):
        print("\n".join(merge(scans, folder, sources, args)))


def open_sources(scans: RawDataset, arguments: Sequence[str]) -> list[Source]:
    """The sources of `--masks`.

    Raises:
        ValueError, FileNotFoundError: listing what is wrong with all of them.
    """
    pairs = [split_argument(argument) for argument in arguments]
    check_folders([folder for folder, _ in pairs])
    sources, faults = [], []
    for folder, path in pairs:
        default = SourceMap(str(folder), roles=scans.roles)
        try:
            source_map = default if path is None else read_map(path, default)
            sources.append(open_source(folder, source_map, scans.case_ids))
        except InputError as error:
            faults += str(error).splitlines()
    if faults:
        raise InputError("\n".join(faults))
    return sources


def merge(scans: RawDataset, folder: Path, sources: Sequence[Source], args: argparse.Namespace) -> list[str]:
    """Merge all cases, then put them where they belong.

    Args:
        scans: data set of the scans.
        folder: of the raw data set that is written; nobody else is at work there.
        sources: in the user's order.
        args: of the command.

    Returns:
        The lines of the summary.
    """
    plan = plan_merge(scans, folder, sources, args, final=True)
    workers = default_workers() if args.np is None else args.np
    prints = run_cases(look_at, plan.jobs, workers=workers, description="looking at the sources")
    plan.stage.refuse_outdated(plan.target, prints, overwrite=args.overwrite)
    plan.stage.begin()
    waiting = {case_id: (job, prints[case_id]) for case_id, job in plan.jobs.items()
               if not plan.stage.has(plan.target, case_id, prints[case_id])}  # fmt: skip
    logger.info(f"{folder.name}: {len(plan.jobs) - len(waiting)} of {len(plan.jobs)} cases are there")
    need = MemoryNeed.of((job.image for job, _ in waiting.values()), BYTES_PER_VOXEL)
    for _, record in stream_cases(merge_case, waiting, workers=workers, description="merging", need=need):
        plan.stage.add(record)
    return summary_lines(plan.target, sources, publish(plan.target, plan.stage, prints))


if __name__ == "__main__":
    main()
