"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".part"
_BLOCK_BYTES = 1 << 20


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends without an exception.

    The temporary name is hidden and ends in `.part`, so a stray one is never taken for a case; it is the same for
    every attempt, so a killed run's stray is overwritten by the next.

    Args:
        path: the file to make or replace; its folder is made if needed.

    Yields:
        The path to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write a whole text file, or leave what was there; a file that holds the text already is not touched.

    Args:
        path: the file to make or replace.
        text: its content, written as UTF-8.
    """
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def atomic_write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, or leave what was there; key order is kept."""
    atomic_write_text(path, json.dumps(content, indent=4) + "\n")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
