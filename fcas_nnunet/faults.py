"""The errors that a user can mend, and the words for those of the operating system; all others are faults of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator

_REPORT = (
    "This is a fault of fcas-nnunet, not of what you gave it. Please report it where you have the package from, with "
    "the command and all lines below."
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_MEMORY = (errno.ENOMEM, errno.EAGAIN)  # EAGAIN: no further process may be started
_MANY_FILES = (errno.EMFILE, errno.ENFILE)
#: What torch says, in a RuntimeError, if the machine gives it no memory.
_MEMORY_WORDS = ("DefaultCPUAllocator: ", "can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


class InputError(ValueError):
    """Something given to this package is wrong, and whoever gave it can mend it.

    The message has a line for each fault: `<case, file or flag>: <what> must be <rule>, got <value>. <what to do>.`
    A command prints it and ends with `exit_code`; an error that is not mended so keeps its traceback.
    """

    exit_code = 2


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that must exist does not."""


def in_words(error: BaseException) -> str | None:
    """Return what a user can mend, a line for each fault; None for any other error, which is a fault of this package.

    Bad input, files that the operating system refuses, a full disk and a lack of memory can be mended. The latter
    three are found behind errors that were raised for them, too.
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and error.errno not in (None, *_FULL, *_NO_MEMORY, *_MANY_FILES):
        return None if error.filename is None else _of_a_file(error)
    return next((words for cause in _causes(error) if (words := _of_the_machine(cause))), None)


def report_request() -> str:
    """Return the sentence that stands above the traceback of an unforeseen error."""
    return _REPORT


def _of_a_file(error: OSError) -> str:
    where, got = error.filename, f"got '{error.strerror}'"
    if error.errno in _FORBIDDEN:
        return f"{where}: must be yours to read and to write, {got}. Choose another folder, or have its rights changed."
    if error.errno == errno.EISDIR:
        return f"{where}: must be a file, got a folder. Name a file, or move the folder away."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{where}: must be a folder or be new, {got}. Name another, or move the file away."
    if error.errno == errno.ELOOP:
        return f"{where}: must be a file of its own, got a link, which is not followed to write. Remove the link."
    return f"{where}: must be a path that can be used, {got}. Check it, and the disk that it is on."


def _of_the_machine(error: BaseException) -> str | None:
    """Return the words for a lack of room on a disk, of memory or of open files; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and number in _FULL:
        where, got = error.filename or "disk", f"got '{error.strerror}'"
        return f"{where}: its disk must have room, {got}. Free some, and start again."
    if number in _MANY_FILES:
        return "open files: as many as this run needs must be allowed, got fewer. Raise the limit: ulimit -n 4096."
    got = f"got '{(str(error).strip().splitlines() or ['no more'])[0]}'"
    if isinstance(error, RuntimeError) and _no_memory(error) and "CU" in str(error):  # of CUDA, cuBLAS, cuDNN
        advice = "Close what else uses the GPU, or take a smaller preset or micro_batch_size, or -device cpu."
        return f"GPU: its memory must hold this run, {got}. {advice}"
    if isinstance(error, MemoryError) or number in _NO_MEMORY or _no_memory(error):
        advice = "Close other programs, start fewer processes (-np), or take smaller scans or a smaller preset."
        return f"memory: the machine's must hold this run, {got}. {advice}"
    return None


def _no_memory(error: BaseException) -> bool:
    """Return whether torch says that it got no memory: its OutOfMemoryError is a RuntimeError, too."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY_WORDS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised for."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
