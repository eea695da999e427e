"""Work in processes: prepared, in any order, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, wait

import pytest

from fcas_nnunet.commands.runtime import pool
from fcas_nnunet.commands.runtime.pool import as_finished
from fcas_nnunet.faults import InputError

_LIMIT = "__import__('sys').getrecursionlimit()"


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "START_METHOD", "spawn")


@pytest.mark.parametrize(("jobs", "processes"), [([-1, -2, -3, -4, -5, -6, -7], 2), ([-1], 2), ([-1, -2], 1), ([], 2)])
def test_every_job_is_done_once(jobs: list[int], processes: int) -> None:
    assert sorted(as_finished(abs, jobs, processes)) == sorted(map(abs, jobs))


def test_an_initializer_prepares_other_processes_only() -> None:
    limit = sys.getrecursionlimit()
    results = as_finished(eval, [_LIMIT, _LIMIT], 1, initializer=sys.setrecursionlimit, initargs=(4321,))
    assert list(results) == [4321, 4321]
    assert sys.getrecursionlimit() == limit


def test_an_error_reaches_the_caller_and_no_process_stays() -> None:
    results = as_finished(eval, ["__import__('os').getpid()", "int('x')"], 1, initializer=sys.getrecursionlimit)
    pid = next(results)
    with pytest.raises(ValueError, match="invalid literal"):
        list(results)
    with pytest.raises(ProcessLookupError, match="No such process"):
        os.kill(pid, 0)


def test_what_is_finished_beside_an_error_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait_for_all(futures: set[Future[int]], return_when: str) -> tuple[list[Future[int]], set[Future[int]]]:
        done, running = wait(futures)
        return sorted(done, key=lambda future: future.exception() is None), running

    monkeypatch.setattr(pool, "wait", wait_for_all)
    results = pool.as_finished(eval, ["int('x')", "7"], 1, initializer=sys.getrecursionlimit)
    assert next(results) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        next(results)


def test_a_killed_process_is_named() -> None:
    with pytest.raises(InputError, match="worker process: must run to its end, got killed, most likely"):
        list(as_finished(eval, ["__import__('os').abort()", "1"], 2))


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks into /proc")
def test_a_killed_parent_takes_its_processes_along() -> None:
    code = (
        "from fcas_nnunet.commands.runtime.pool import as_finished\n"
        "job = \"print(__import__('os').getpid(), flush=True) or __import__('time').sleep(60)\"\n"
        "if __name__ == '__main__':\n    list(as_finished(eval, [job, job], 2))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(_is_alive, children)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
