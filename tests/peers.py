"""Another process at work in a folder, which does what it is told line by line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

#: Runs lines of Python that use `place` and `folder`, and answers each with the value of an expression.
_PEER = """
import sys
from pathlib import Path
from contextlib import ExitStack
from fcas_nnunet.files import atomic_path
from fcas_nnunet.integration.dataset.locks import Workplace, exclusive
folder, stack = Path(sys.argv[1]), ExitStack()
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Peer:
    """Another process.

    Args:
        folder: that it works in.
        begin: what it does first, before it answers.
    """

    def __init__(self, folder: Path, begin: str = "globals().update(place=Workplace(folder))") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PEER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tell(begin)
        self._unread = 1

    def tell(self, line: str) -> None:
        """Have a line done, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> str:
        """The value of an expression, as `repr` gives it."""
        self.tell(line)
        assert self.process.stdout is not None
        for _ in range(self._unread):
            self.process.stdout.readline()
        self._unread = 0
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it without letting it tidy up."""
        self.process.kill()
        self.process.wait()
