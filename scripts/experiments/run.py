"""Run an experiment: does pretraining on synthetic scans help, from n labelled scans and nothing else?

    python scripts/experiments/run.py --list
    python scripts/experiments/run.py --experiment left_atrium --scale smoke
    python scripts/experiments/run.py --experiment left_atrium --scale cpu --scans DATA --forecast
    python scripts/experiments/run.py --experiment left_atrium --scale cpu --scans DATA --only 'n8/*'

DATA holds the real data sets in nnU-Net's raw format; FCAS_BENCH_SCANS names it as well. Killed and started again, the
same command goes on; what nothing has changed for is not run again. Results are lines of JSON in the run's folder; with
--record they are joined to those beside the experiments, and docs/results.md is written from them. In a new folder,
--missing leaves out the networks whose results were recorded.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from fnmatch import fnmatch
from pathlib import Path
from queue import SimpleQueue

sys.path.insert(0, str(Path(__file__).parent))

import torch
from design import HERE, Experiment, experiment_names
from plan import Layout, precision_of
from results import collect, joined, network_of, read_lines, write_lines
from stages import Stage, StageFailedError, Store
from tables import check_sizes, draw, report, short_report

from fcas_nnunet.commands.demo.scale import BF16_VARIABLE
from fcas_nnunet.files import atomic_write_text
from fcas_nnunet.generator.optimisation.precision import supports_bf16
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.environment.checks import cpu_settings
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, all_shim_folders, ext_trainer_value
from fcas_nnunet.machine import available_cores

RECORDS = HERE / "records"
DOCS = HERE.parents[1] / "docs"
_BEGIN, _END = "<!-- results -->", "<!-- end of results -->"
_HEAD = """# Results
Written by `scripts/experiments/run.py` from the lines in `scripts/experiments/records`; do not edit.

Every network of an experiment is nnU-Net's, with the same plans, number of optimiser steps and, for a seed, initial
weights. The first phase of training sees the arm's scans, the second the labelled scans ([design](bench.md)).
Generator, masks and templates have seen the labelled scans alone. Dice and RDice are means over labels, ± the standard
deviation over patients and seeds. Differences are paired by patient and seed; their 95 % intervals are for other seeds
*and* other patients (two-way random effects), and given from three seeds on; p values are corrected over the planned
comparisons of a table (Holm). *Detectable* is the difference that would be found with a probability of 80 % at 5 %,
without that correction. CPU seconds are those of all that a network needs, without what a kill has lost.
"""

#: One network of the bench's size leaves most of a GPU idle.
_JOBS_OF_GPU = 4

logger = logging.getLogger("bench")


def main() -> int:
    """Run what is asked for."""
    args = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.list:
        for name in experiment_names():
            print(f"{name:<14}{Experiment.read(name, 'smoke').title}")
        return 0
    experiment = Experiment.read(args.experiment, args.scale, args.device)
    if args.record and args.scale == "smoke":
        raise ValueError("--record: --scale must be cpu or gpu, got smoke, whose results say nothing.")
    if not experiment.scale.phantoms and not args.scans:
        raise ValueError(f"--scans: folder of {experiment.bank} must be given, got none.")
    folder = (args.o / experiment.name / experiment.scale_name).resolve()
    layout = Layout(experiment, folder, args.scans and args.scans.resolve())
    device = experiment.scale.device
    store = Store(folder, _environment(folder, device))
    kept = RECORDS / f"{experiment.name}.jsonl"
    earlier = read_lines(kept) if kept.is_file() else []
    done = {"/".join((f"n{labelled}", f"seed{seed}", arm)) for scale, labelled, arm, seed in map(network_of, earlier)
            if scale == args.scale} if args.missing else set()  # fmt: skip
    stages = _wanted(layout, args.only, done)
    jobs = args.jobs or (available_cores() if device == "cpu" else _JOBS_OF_GPU)
    if args.forecast:
        ended = store.done(stages)
        todo = [stage for stage in stages if stage.name not in ended]
        print(f"{len(todo)} of {len(stages)} stages, about {store.seconds_of(todo) / 3600 / jobs:.1f} h")
        return 0
    if args.scale == "cpu" and precision_of(device) == "float32":
        logger.warning("this CPU computes no bf16: networks train in float32, which takes several times as long")
    failed = {}
    if not args.report:
        with exclusive(folder):
            for root in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
                (folder / root).mkdir(parents=True, exist_ok=True)
            failed = _run(stages, store, jobs, device)
    records = collect(experiment, layout, store)
    write_lines(folder / "results.jsonl", records)
    print(report(experiment, records))
    if args.record:
        both = joined(earlier, records)
        check_sizes(experiment, [record for record in both if record["scale"] == args.scale])
        RECORDS.mkdir(exist_ok=True)
        write_lines(kept, both)
        write_pages()
    for name, error in failed.items():
        print(f"{name} failed: {error}", file=sys.stderr)
    return 1 if failed else 0


def write_pages() -> None:
    """Write docs/results.md, its figures, and README's short form, from all records."""
    sections, lines = [], []
    paths = [(path, scale) for path in sorted(RECORDS.glob("*.jsonl")) for scale in ("cpu", "gpu")]
    for path, scale in paths:
        records = [record for record in read_lines(path) if record["scale"] == scale]
        if not records:
            continue
        experiment = Experiment.read(path.stem, scale)
        figure = DOCS / "images" / f"results_{path.stem}{'_gpu' * (scale == 'gpu')}.png"
        draw(experiment, records, figure)
        sections.append(report(experiment, records, str(figure.relative_to(DOCS))))
        lines.append(short_report(experiment, records))
    atomic_write_text(DOCS / "results.md", "\n".join([_HEAD, *sections]))
    readme = DOCS.parent / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    table = "\n".join(
        ["| experiment | arm | seeds | Dice % | less real only [95 %] |", "|---|---|---|---|---|", *lines]
    )
    atomic_write_text(readme, f"{before}{_BEGIN}\n{table}\n{_END}{after}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the experiments and stop")
    parser.add_argument("--experiment", default="left_atrium", metavar="NAME")
    parser.add_argument("--scale", default="smoke", choices=("smoke", "cpu", "gpu"))
    parser.add_argument("--scans", type=Path, default=os.environ.get("FCAS_BENCH_SCANS"), metavar="DIR")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="instead of the scale's")
    parser.add_argument("-o", type=Path, default=Path("bench"), metavar="DIR", help="work folder (./bench)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PATTERN",
        default=["*"],
        help="networks to make, as n8/seed0/warped, those of the first pattern first; * is any",
    )
    parser.add_argument("--jobs", type=int, help="stages at once (one per core, each tied to its own; 4 on a GPU)")
    parser.add_argument("--forecast", action="store_true", help="say how long it would take, and stop")
    parser.add_argument("--missing", action="store_true", help="leave out networks whose results were kept before")
    parser.add_argument("--report", action="store_true", help="run nothing; also while another run is at work")
    parser.add_argument("--record", action="store_true", help="keep the results beside the experiments")
    args = parser.parse_args()
    args.scans = Path(args.scans) if args.scans else None
    return args


def _environment(folder: Path, device: str) -> dict[str, str]:
    roots = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    shims = [*all_shim_folders(), HERE / "nnunet_ext"]
    common = {**roots, EXT_TRAINER_VARIABLE: ext_trainer_value(folders=shims), "PYTHONUNBUFFERED": "1"}
    if device != "cpu":
        return common | {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "2"}  # minutes of compiling for minutes of training
    fast = {BF16_VARIABLE: str(int(supports_bf16(torch.device("cpu"))))}
    return common | cpu_settings() | fast | {"OMP_NUM_THREADS": "1"}


def _wanted(layout: Layout, patterns: Sequence[str], done: Collection[str]) -> list[Stage]:
    """The stages of the networks that a pattern names and that are not done, and all that they need.

    Those of an earlier pattern come first.
    """
    by_name = {stage.name: stage for stage in layout.stages()}
    ends = [f"{run.key}/score" for run in layout.runs() if run.key not in done]
    ends += [name for name in by_name if name.endswith("/picture")]
    found: dict[str, Stage] = {}

    def add(name: str) -> None:
        if name not in found:
            for needed in by_name[name].needs:
                add(needed)
            found[name] = by_name[name]

    for pattern in patterns:
        for end in ends:
            if fnmatch(end.removesuffix("/score"), pattern):
                add(end)
    return list(found.values())


def _run(stages: Sequence[Stage], store: Store, jobs: int, device: str) -> dict[str, str]:
    """Run stages, as many at once as there are jobs, each tied to a core; returns name → message of what failed."""
    ended: set[str] = set()
    failed: dict[str, str] = {}
    waiting = list(stages)
    cores: SimpleQueue[int | None] = SimpleQueue()
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None] * jobs
    for number in range(jobs):
        cores.put(usable[number % len(usable)] if device == "cpu" else None)

    def work(stage: Stage) -> None:
        core = cores.get()
        try:
            if not store.is_done(stage):
                start = time.monotonic()
                store.run(stage, core)
                left = store.seconds_of([other for other in stages if other.name not in ended | {stage.name}])
                logger.info(
                    f"{len(ended) + 1}/{len(stages)} {stage.name} ({time.monotonic() - start:.0f} s); at most "
                    f"{left / jobs / 60:.0f} min left"
                )
        finally:
            cores.put(core)

    running: dict[Future[None], Stage] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for stage in list(waiting):
                if failed.keys() & set(stage.needs):
                    failed[stage.name] = "what it needs failed"
                    waiting.remove(stage)
                elif set(stage.needs) <= ended and len(running) < jobs:
                    waiting.remove(stage)
                    running[pool.submit(work, stage)] = stage
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                stage = running.pop(future)
                try:
                    future.result()
                    ended.add(stage.name)
                except StageFailedError as error:
                    failed[stage.name] = str(error)
                    logger.error(str(error))
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
