"""Write files whole or not at all, also when several processes write the same one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".part"
#: Marks the PNGs that this package writes where users choose the path.
PICTURE_METADATA = {"Software": "fcas-nnunet"}
#: Age without a change after which a temporary file counts as left by a killed run.
STRAY_AGE_S = 24 * 3600.0

_BLOCK_BYTES = 1 << 20
_LONGEST_NAME = 50  # characters of a file's name in its temporary name: file systems take 255 bytes
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029"  # line breaks of any kind among them
_NO_FILE_NAME = re.compile(rf"^\.|[/\\:{_CONTROL}]|^$")
_NO_LINE = re.compile(rf"[{_CONTROL}]")
_SAFETENSORS_ERROR = re.compile(r"\(os error (\d+)\)")
_SHORT_WRITE = re.compile(r"^\d+ requested and \d+ written")
_FULL_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.part", re.DOTALL)


def is_file_name(name: object) -> bool:
    """Return whether text can name a file inside a folder, and none elsewhere, on every operating system."""
    return isinstance(name, str) and _NO_FILE_NAME.search(name) is None


def is_one_line(name: str) -> bool:
    """Return whether a name has no line breaks or other control characters, which would break messages and lists."""
    return _NO_LINE.search(name) is None


def what_is_at(path: Path) -> str:
    """Return what is at the path of a file that cannot be read, for messages; `none` if nothing is."""
    if path.is_dir():
        return "a folder"
    if path.exists():
        return "a pipe or device"
    return "a link that leads to no file" if path.is_symlink() else "none"


def free_path(path: Path) -> Path:
    """Return the path if nothing exists there, else the first free one: `dice_2.json` for `dice.json`."""
    others = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in count(2))
    return next(name for name in chain([path], others) if not name.exists())


def own_file(path: str | Path, flags: int) -> int:
    """Open a file that is written in place (an `opener`); a link is refused, since it could lead anywhere."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends without an exception.

    The temporary name is hidden and ends in `.part`, so a stray file is never taken for a case. Every call uses another
    name: if two processes write one file at once, the later one's whole file remains. Temporary files that killed runs
    left in the folder are removed after a day. If the operating system refuses to write, an `OSError` names the file,
    whatever exception the library raised. The file's folder is created if needed.
    """
    temporary = _temporary_beside(path)
    temporary.touch()
    mode = temporary.stat().st_mode
    temporary.unlink()
    try:
        yield temporary
        if temporary.is_file():
            temporary.chmod(mode)  # the umask's mode: some libraries write for the user alone
        os.replace(temporary, path)
    except BaseException as error:
        refused = _system_error(error, temporary, path)
        temporary.unlink(missing_ok=True)
        if refused is None:
            raise
        raise refused from error


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yield a new hidden folder beside `path`, and remove it with its content at the end.

    For results of several files, and for writers that choose the format by a file's ending.
    """
    folder = _temporary_beside(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_strays(folder: Path, *, deep: bool = False, age_s: float = 0.0) -> None:
    """Remove temporary files and folders of killed runs, with `deep` also in all subfolders.

    Only those are removed that have not changed for `age_s` seconds; with 0, no process may be writing there.
    """
    youngest = time.time() - age_s
    for stray in list(folder.rglob(f".*{TEMPORARY_SUFFIX}") if deep else folder.glob(f".*{TEMPORARY_SUFFIX}")):
        if _TEMPORARY.fullmatch(stray.name):
            with suppress(OSError):  # already finished or removed by another process, or owned by another user
                if stray.stat().st_mtime <= youngest:
                    shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def atomic_write_text(path: Path, text: str) -> None:
    """Write a whole text file in UTF-8, or leave the old file; a file that already holds the text is not touched."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def atomic_write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, or leave the old file; the order of keys is preserved."""
    atomic_write_text(path, json.dumps(content, indent=4) + "\n")


def files_sha256(paths: Sequence[Path]) -> str:
    """Hash the channels of a scan: of one file, its own hash; of several, the hash of theirs."""
    hashes = [file_sha256(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _system_error(error: BaseException, temporary: Path, path: Path) -> OSError | None:
    """Return the operating system's error on writing, with the final file's name; None for any other error."""
    number = None
    if isinstance(error, OSError):
        number = error.errno if error.filename in (None, str(temporary)) else None
        if _SHORT_WRITE.search(str(error)):  # numpy's, without a number
            number = errno.ENOSPC
    elif match := _SAFETENSORS_ERROR.search(str(error)):
        number = int(match[1])
    elif isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < _FULL_BYTES:
        number = errno.ENOSPC  # torch.save names no reason
    return None if number is None else OSError(number, os.strerror(number), str(path))


def _temporary_beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_old_strays(path.parent)
    return path.with_name(f".{path.name[:_LONGEST_NAME]}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


@cache
def _remove_old_strays(folder: Path) -> None:
    """Once a process: a listing for every file would make long lists of cases slow."""
    remove_strays(folder, age_s=STRAY_AGE_S)
