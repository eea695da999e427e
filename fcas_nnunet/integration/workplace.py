"""Several processes at work in one data set folder: who makes which case, and who is there.

A hidden folder holds a file `lock`, whose bytes are locked by range: byte 0 is shared by all that work there, byte
1 + i belongs to whoever makes case i. The operating system lets go of a lock when its process ends, however it ends, so
nothing stale is ever left; and since one file serves for all cases, none has to be removed while others work.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path
from types import TracebackType

from fcas_nnunet.integration.folders import WORK_FOLDER

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"

_PRESENCE, _FIRST_CASE = 0, 1
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class _Lock(IntEnum):
    """fcntl's numbers, which Windows lacks."""

    NONE = getattr(fcntl, "LOCK_UN", 0)
    SHARED = getattr(fcntl, "LOCK_SH", 1)
    EXCLUSIVE = getattr(fcntl, "LOCK_EX", 2)


class Workplace:
    """One process' place in a data set folder. A process must have only one of a folder at a time (POSIX locks).

    Args:
        folder: the raw data set folder; made if needed. Waits while another process is finishing the data set.

    Attributes:
        has_locks: whether the file system knows locks; without them every claim is granted, and `alone` is not known.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / WORK_FOLDER
        self.has_locks = fcntl is not None
        self._file = self._enter()

    def __enter__(self) -> Workplace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Hold a case, without waiting for it.

        Args:
            number: of the case in the plan, from 0.

        Yields:
            Whether it is held: False when another process makes it.
        """
        held = self._lock(_Lock.EXCLUSIVE, _FIRST_CASE + number)
        try:
            yield held
        finally:
            if held:
                self._lock(_Lock.NONE, _FIRST_CASE + number)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Have the folder to oneself; newcomers wait. This process leaves the folder at the end, or at once.

        Yields:
            Whether nobody else was there.
        """
        self._lock(_Lock.NONE, _PRESENCE)  # of two that end together, the later one finds itself alone
        try:
            yield self._lock(_Lock.EXCLUSIVE, _PRESENCE) and self._is_current(self._file)
        finally:
            self.leave()

    def remove(self) -> None:
        """Remove the hidden folder, emptied by then; to be called alone."""
        (self.folder / LOCK_FILE).unlink(missing_ok=True)
        with suppress(OSError):  # a newcomer has put its own lock there: it will remove the folder
            self.folder.rmdir()

    def leave(self) -> None:
        """Let go of everything."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _enter(self) -> int:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._file = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # removed by one that finished
                continue
            self._lock(_Lock.SHARED, _PRESENCE, wait=True)
            if self._is_current(self._file):
                return self._file
            self.leave()

    def _is_current(self, file: int) -> bool:
        """Whether the lock is still the one that newcomers find."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.folder / LOCK_FILE))
        except FileNotFoundError:
            return False

    def _lock(self, kind: _Lock, byte: int, *, wait: bool = False) -> bool:
        """Change the lock on a byte; False when another process is in the way."""
        if not self.has_locks:
            return True
        try:
            if kind is _Lock.NONE or wait:
                fcntl.lockf(self._file, kind, 1, byte)
            else:
                fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, byte)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                return False
            if error.errno not in _NO_LOCKS:
                raise
            self.has_locks = False
            logger.warning(
                f"{self.folder.parent}: its file system has no locks ({error.strerror}), so give every worker its own "
                "--part, and start none twice"
            )
        return True
