"""Find the files of cases, compare their grids, and process cases in parallel, for commands that compare cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from fcas_nnunet.commands.runtime.kept_results import Kept, fingerprint
from fcas_nnunet.commands.runtime.memory import MemoryNeed, workers_carried
from fcas_nnunet.commands.runtime.pool import as_finished
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.integration.dataset.folders import channel_suffix
from fcas_nnunet.integration.dataset.volumes import READABLE_FILE_ENDINGS, read_grid, same_grid
from fcas_nnunet.integration.environment.checks import nnunet_processes
from fcas_nnunet.machine import available_cores

Job = TypeVar("Job")
Result = TypeVar("Result")

_MISSING = object()


def case_files(folder: Path, channel: int = 0, num_channels: int = 1) -> dict[str, Path]:
    """Case id → path of every volume in a folder; nnU-Net's channel suffix is not part of the id.

    Args:
        folder: Folder of label maps or scans.
        channel: Channel of the scans whose files are listed.
        num_channels: Channels of the scans; of several, all names have a suffix.

    Raises:
        MissingFileError: If the folder is missing.
        InputError: If it holds no volume, or several for one case.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: folder must exist, got none. Fix the path.")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((ending for ending in READABLE_FILE_ENDINGS if path.name.endswith(ending)), None)
        if ending is None or path.name.startswith("."):
            continue
        stem, suffix = path.name.removesuffix(ending), channel_suffix(channel)
        if num_channels > 1 and not stem.endswith(suffix):
            continue
        case_id = stem.removesuffix(suffix)
        if case_id in files:
            raise InputError(
                f"{folder}: {case_id} must be one file, got {files[case_id].name} and {path.name}. Remove one."
            )
        files[case_id] = path
    if not files:
        raise InputError(
            f"{folder}: volumes ({', '.join(READABLE_FILE_ENDINGS)}) must be there, got none. Fix the path."
        )
    return files


def grid_faults(first: Path, second: Path) -> list[str]:
    """List the difference of two volumes' grids, from their headers alone; at most one sentence."""
    try:
        (shape, affine), (other_shape, other_affine) = read_grid(first), read_grid(second)
    except InputError as error:
        return [str(error)]
    if shape != other_shape:
        return [f"{second}: shape must be that of {first}, {shape}, got {other_shape}. Compare on one grid."]
    if not same_grid(affine, other_affine, shape):
        return [
            f"{second}: affine must be that of {first}, got another origin, spacing or direction. Compare on one grid."
        ]
    return []


def run_cases(
    work: Callable[[Job], Result],
    jobs: Mapping[str, Job],
    *,
    workers: int,
    description: str,
    need: MemoryNeed | None = None,
    depends_on: Any = None,
) -> dict[str, Result]:
    """Call `work` for every case in several processes, with a progress bar; within `kept_results`, each only once.

    Args:
        work: A module-level function; its InputErrors are collected over all cases.
        jobs: Case id → its argument.
        workers: Number of processes; with one, the work is done in the calling process.
        description: Text of the progress bar.
        need: Memory that a case takes; the number of processes is limited to those that fit into the free memory.
        depends_on: What results depend on beside `work` and the files that a job names, as for `Kept`.

    Returns:
        Case id → result, in the order of `jobs`.

    Raises:
        InputError: With every case's faults, one a line.
    """
    found = stream_cases(work, jobs, workers=workers, description=description, need=need, depends_on=depends_on)
    results = dict(found)
    return {case_id: results[case_id] for case_id in jobs}


def stream_cases(
    work: Callable[[Job], Result],
    jobs: Mapping[str, Job],
    *,
    workers: int,
    description: str,
    need: MemoryNeed | None = None,
    depends_on: Any = None,
) -> Iterator[tuple[str, Result]]:
    """Do the same as `run_cases`, but yield (case id, result) in the order in which they are finished."""
    faults: dict[str, list[str]] = {}
    common = fingerprint(depends_on)
    places = {case_id: Kept(work, case_id, job, common) for case_id, job in jobs.items()}
    missing = {}
    for case_id, job in jobs.items():
        if (result := places[case_id].read(_MISSING)) is _MISSING:
            missing[case_id] = job
        else:
            yield case_id, result
    workers = workers if need is None else workers_carried(min(workers, max(1, len(missing))), need)
    settled = as_finished(partial(_settled, work), list(missing.items()), workers)
    bar = tqdm(settled, description, len(jobs), initial=len(jobs) - len(missing), unit="case", disable=None)
    for case_id, result, fault in bar:
        if fault is None:
            places[case_id].write(result)
            yield case_id, result
        else:
            faults[case_id] = [f"{case_id}: {line}" for line in fault.splitlines()]
    if faults:
        raise InputError("\n".join(line for case_id in jobs for line in faults.get(case_id, [])))


def _settled(work: Callable[[Job], Result], item: tuple[str, Job]) -> tuple[str, Any, str | None]:
    """Return a case's id, and its result or the text of its InputError; that a file is missing is one, too."""
    case_id, job = item
    try:
        return case_id, work(job), None
    except InputError as error:
        return case_id, None, str(error)


def default_workers() -> int:
    """Return nnU-Net's number of processes if it is set, else the number of cores that this process may use."""
    return nnunet_processes() or available_cores()
