"""Several processes at work in one data set folder: who makes which case, and who is there.

Of the folder's lock file, one byte is shared by all that work there, and the i-th behind it belongs to whoever makes
case i. Since one file serves for all cases, none has to be removed while others work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from fcas_nnunet.integration.dataset.locks import PRESENCE, Lock, LockFile

_FIRST_CASE = PRESENCE + 1


class Workplace:
    """One process' place in a data set folder. A process must have only one of a folder at a time (POSIX locks).

    Args:
        folder: the raw data set folder; made if needed. Waits while another process has it to itself.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = LockFile(folder)
        while True:
            self._lock.open()
            self._lock.lock(Lock.SHARED, PRESENCE, wait=True)
            if self._lock.is_current():
                break
            self._lock.close()

    def __enter__(self) -> Workplace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    @property
    def has_locks(self) -> bool:
        """Whether the file system knows locks; without them every claim is granted, and `alone` is not known."""
        return self._lock.has_locks and self._lock.can_share

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Hold a case, without waiting for it.

        Args:
            number: of the case in the plan, from 0.

        Yields:
            Whether it is held: False when another process makes it.
        """
        held = self._lock.lock(Lock.EXCLUSIVE, _FIRST_CASE + number)
        try:
            yield held
        finally:
            if held:
                self._lock.lock(Lock.NONE, _FIRST_CASE + number)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Have the folder to oneself; newcomers wait. This process leaves the folder at the end, or at once.

        Yields:
            Whether nobody else was there.
        """
        if self._lock.can_share:
            self._lock.lock(Lock.NONE, PRESENCE)  # of two that end together, the later one finds itself alone
        try:
            yield self._lock.lock(Lock.EXCLUSIVE, PRESENCE) and self._lock.is_current()
        finally:
            self.leave()

    def remove(self) -> None:
        """Remove the hidden folder, emptied by then; to be called alone."""
        self._lock.remove()

    def leave(self) -> None:
        """Let go of everything."""
        self._lock.close()
