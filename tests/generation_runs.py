"""Runs of fcas_generate and fcas_train that start in a moment: forked from a process that has imported everything.

A run's workers are forked, too. All else is as users have it: own process group, own exit code, real files and locks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Runs:
    """Starts, kills and waits for runs.

    Args:
        environment: of the runs, on top of this process' own.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=dict(os.environ) | environment | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._ask() == "ready"

    def close(self) -> None:
        """End the process that runs are forked from."""
        self._process.communicate()

    def start(self, argv: Sequence[str], log: Path, *, command: str = "generate", **folders: Path) -> int:
        """Start a run in a process group of its own.

        Args:
            argv: of the command.
            log: gets its output.
            command: `generate` or `train`.
            folders: nnUNet_raw and others, where they are not the environment's.

        Returns:
            Its process id.
        """
        own = {name: str(folder) for name, folder in folders.items()}
        return int(self._ask({"start": list(argv), "command": command, "folders": own, "log": str(log)}))

    def wait(self, pid: int) -> int:
        """The exit code of a run; -9 when it was killed."""
        return int(self._ask({"wait": pid}))

    def kill(self, pid: int, *, group: bool) -> bool:
        """SIGKILL for a run with all its workers, or for its first process alone.

        Returns:
            Whether that is what ended it.
        """
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)  # not waited for yet, its id is still its own
        return self.wait(pid) == -signal.SIGKILL

    def _ask(self, question: dict[str, Any] | None = None) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if question is not None:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    from fcas_nnunet.commands import train  # noqa: F401
    from fcas_nnunet.commands.generate import command as generate  # noqa: F401
    from fcas_nnunet.commands.generate import workers as generation
    from fcas_nnunet.commands.runtime import pool  # noqa: F401
    from fcas_nnunet.generator import train as fitting  # noqa: F401
    from fcas_nnunet.integration.dataset import locks

    pool.START_METHOD = "fork"
    generation.POLL_S = locks._POLL_S = 0.05
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            pid = os.fork()
            if pid == 0:
                _run({"generate": generate, "train": train}[question["command"]].main, question)
            while os.getpgid(pid) != pid:  # else a kill of the group could come before there is one
                time.sleep(0.001)
            answer: Any = pid
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(question["wait"], 0)[1])
        print(json.dumps(answer), flush=True)


def _run(main: Any, question: dict[str, Any]) -> None:
    """In the forked process: the command, to its end."""
    os.setsid()
    log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ |= question["folders"]
    code = 0
    try:
        main(question["start"])
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
