"""Run jobs in several processes, and make the missing cases of a folder."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.machine import end_with_parent

Job = TypeVar("Job")
Result = TypeVar("Result")

START_METHOD = "spawn"  # a forked process could not use CUDA, nor threads that were started before

_AHEAD = 2  # jobs handed over per process, so that none waits and a long list takes no memory


def as_finished(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    num_processes: int,
    *,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Generator[Result, None, None]:
    """Call `work` for every job; yield results in the order in which they are finished, and raise an error after them.

    The processes end with this one, even if it is killed.

    Args:
        work: A module-level function, or a partial of one.
        jobs: Its arguments.
        num_processes: Number of processes; with one, or one job, the work is done in the calling process, unless there
            is an initializer.
        initializer: Function that prepares a process for all its jobs.
        initargs: Arguments of the initializer.

    Raises:
        InputError: If a process was killed.
    """
    if not jobs:
        return
    if initializer is None and (num_processes == 1 or len(jobs) == 1):
        for job in jobs:
            yield work(job)
        return
    workers = min(num_processes, len(jobs))
    context = multiprocessing.get_context(START_METHOD)
    with ProcessPoolExecutor(workers, context, _start_process, (initializer, initargs)) as pool:
        waiting = iter(jobs)
        running = {pool.submit(work, job) for job in islice(waiting, _AHEAD * workers)}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, job) for job in islice(waiting, len(done))}
                for future in sorted(done, key=_has_failed):
                    yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "worker process: must run to its end, got killed, most likely for lack of memory. With fewer processes "
                "(-np), each has more."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)  # waits until the processes have ended


def write_missing(
    folder: Path,
    make: Callable[[Job], dict[str, Any]],
    missing: Sequence[Job],
    total: int,
    num_processes: int,
    what: str,
) -> None:
    """Make the missing cases of a folder's `total`, add the record of each to the manifest, and sort the manifest.

    `make` writes a case and returns its record; it is a module-level function, or a partial of one.
    """
    manifest = Manifest(folder)
    with closing(as_finished(make, missing, num_processes)) as records:
        for record in tqdm(records, total=total, initial=total - len(missing), desc=what, unit="case"):
            manifest.append(record)
    manifest.finalise()


def _has_failed(future: Future[Any]) -> bool:
    return future.exception() is not None


def _start_process(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    end_with_parent()
    if initializer is not None:
        initializer(*initargs)
