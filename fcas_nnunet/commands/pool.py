"""Work in several processes, results as they come."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def as_finished(
    work: Callable[[Job], Result], jobs: Sequence[Job], num_processes: int
) -> Generator[Result, None, None]:
    """Do `work` for every job; yields results in the order in which they get finished.

    Args:
        work: a module-level function, or a partial of one.
        jobs: its arguments.
        num_processes: with one, or one job, the work is done in this process.
    """
    if num_processes == 1 or len(jobs) == 1:
        for job in jobs:
            yield work(job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
