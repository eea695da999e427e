"""Locks on folders, between processes of this machine and, where the file system supports it, of other machines.

A hidden folder contains a file `lock`. Its text names the process that has the folder to itself. Bytes far behind the
text are locked: all processes that work in the folder share one, and the i-th after it belongs to the process that
makes case i. The operating system releases a lock when its process ends, however it ends, so none is ever stale.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import own_file
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER

try:
    import fcntl
except ImportError:  # Windows, which has no shared locks either
    fcntl = None  # type: ignore[assignment]
    import msvcrt

logger = logging.getLogger(__name__)

LOCK_FILE = "lock"

_PRESENCE = 1 << 20
_FIRST_CASE = _PRESENCE + 1
_POLL_S = 1.0  # how often a run that waits for another looks again
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_held: set[Path] = set()


class _Lock(IntEnum):
    """Kinds of locks under fcntl's numbers, which Windows lacks."""

    NONE = getattr(fcntl, "LOCK_UN", 0)
    SHARED = getattr(fcntl, "LOCK_SH", 1)
    EXCLUSIVE = getattr(fcntl, "LOCK_EX", 2)


class _LockFile:
    """A process' locks on a folder's lock file. A process must have only one object per folder at a time (POSIX)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / WORK_FOLDER
        self._grants_all = False
        self._file = -1

    @property
    def has_locks(self) -> bool:
        """True if the file system supports shared locks; else every claim is granted, and `alone` is not known."""
        return fcntl is not None and not self._grants_all

    def open(self) -> None:
        """Open the lock file; create it if needed."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # a process that finished has removed it
                self._file = own_file(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT)
                return

    def close(self) -> None:
        """Release all locks."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def is_current(self) -> bool:
        """Return whether the lock file is still the one that new processes open."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.folder / LOCK_FILE))
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the lock file, and the hidden folder if it is then empty; only a process that is alone may do so."""
        if fcntl is None:
            self.close()  # Windows removes no open file; where a newcomer has it open, it stays, and is locked next
        with suppress(PermissionError if fcntl is None else FileNotFoundError):
            (self.folder / LOCK_FILE).unlink()
        with suppress(OSError):  # a newcomer has put its own lock there, or something else is left to be done
            self.folder.rmdir()
        self.close()

    def holder(self) -> str:
        """Describe the process that has the folder to itself."""
        try:
            held = json.loads((self.folder / LOCK_FILE).read_text(encoding="utf-8"))
            return f"{held['command']} on {held['host']} (process {held['pid']}, since {held['since']})"
        except (OSError, ValueError, KeyError, TypeError):
            return "another run"

    def sign(self) -> None:
        """Record in the lock file that this process has the folder to itself."""
        command, since = Path(sys.argv[0]).stem, time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"command": command, "host": socket.gethostname(), "pid": os.getpid(), "since": since}
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, json.dumps(holder).encode())

    def lock(self, kind: _Lock, byte: int = _PRESENCE, *, wait: bool = False) -> bool:
        """Change the lock on a byte; return False if another process holds it."""
        if self._grants_all or (fcntl is None and kind is _Lock.SHARED):
            return True
        try:
            if fcntl is not None:
                flags = kind if wait or kind is _Lock.NONE else kind | fcntl.LOCK_NB
                fcntl.lockf(self._file, flags, 1, byte)
            else:
                os.lseek(self._file, byte, os.SEEK_SET)
                msvcrt.locking(self._file, msvcrt.LK_UNLCK if kind is _Lock.NONE else msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                return False
            if error.errno not in _NO_LOCKS:
                raise
            self._grants_all = True
            logger.warning(
                f"{self.folder.parent}: its file system has no locks ({error.strerror}), so start no second run there; "
                "of fcas_generate, give every worker its own --part"
            )
        return True


class Workplace(_LockFile):
    """The presence of one process in a data set folder in which several processes make cases.

    Args:
        folder: the raw data set folder; created if needed. Waits while another process has it to itself.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        while True:
            self.open()
            self.lock(_Lock.SHARED, wait=True)
            if self.is_current():
                break
            self.close()

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def claim(self, number: int) -> Iterator[bool]:
        """Lock the case of this number in the plan, from 0; yield False at once if another process makes it."""
        held = self.lock(_Lock.EXCLUSIVE, _FIRST_CASE + number)
        try:
            yield held
        finally:
            if held:
                self.lock(_Lock.NONE, _FIRST_CASE + number)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Lock the folder for this process; new ones wait. The process leaves the folder at the end, or at once.

        Yields:
            True if no other process was in the folder.
        """
        if fcntl is not None:
            self.lock(_Lock.NONE)  # if two processes end together, the later one finds itself alone
        try:
            yield self.lock(_Lock.EXCLUSIVE) and self.is_current()
        finally:
            self.close()


@contextmanager
def exclusive(folder: Path, *, refuse: Callable[[], None] = lambda: None, wait: bool = True) -> Iterator[None]:
    """Lock a folder for this process; no other process trains or writes there meanwhile.

    Args:
        folder: the folder; created with its parents if needed, and those removed again that stay empty.
        refuse: raises if the folder must not be written into; called before the lock is taken and again after it,
            because the process that was waited for may have begun something.
        wait: True waits for a process that is there, with a message that names it; False refuses.

    Raises:
        InputError: when another run is there, and must not be waited for.
    """
    refuse()
    folder = folder.resolve()
    assert folder not in _held, "to lock a folder twice would unlock it"
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    lock, announced = _LockFile(folder), ""
    while True:
        lock.open()
        if lock.lock(_Lock.EXCLUSIVE) and lock.is_current():
            break
        holder = lock.holder()
        lock.close()
        if not wait:
            raise InputError(f"{folder}: must have no other run at work, got {holder}. Wait for it, or stop it.")
        if holder != announced:
            logger.info(f"{folder}: {holder} is at work there, waiting for it")
            announced = holder
        time.sleep(_POLL_S)
    _held.add(folder)
    try:
        lock.sign()
        refuse()
        yield
    finally:
        _held.remove(folder)
        lock.remove()
        with suppress(OSError):  # it holds something, as a rule
            for path in new:
                path.rmdir()
