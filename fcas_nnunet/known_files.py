"""Remember what was found in files, so that files that stay as they are need not be read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fcas_nnunet.files import atomic_write_json

_STATE, _FOUND = "files", "found"

#: Size and times of the change of content and of the file's entry, in ns.
Stamp = tuple[int, int, int]


def file_stamp(path: Path) -> Stamp:
    """Return what changes with a file; values that no file has if there is none.

    A program that restores the time of change (`cp -p`, `rsync`, `touch -r`) is noticed by the entry's own time, which
    programs cannot set. On Windows, which has no such time, it is not.
    """
    try:
        status = path.stat()
    except OSError:
        return -1, -1, -1
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def digest_of(content: Any) -> str:
    """Hash JSON content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class KnownFiles:
    """What one inquiry found in the files of several cases; JSON on disk, so that later runs ask about new cases alone.

    Args:
        path: File of the findings; None where nothing can be saved.
        files: Name of a case → its files, existing or not. Their stamps are taken at once, before they are read.
        settings: JSON of all else that the findings depend on; name of a case → what concerns it alone.
        common: JSON of what concerns all cases.
    """

    def __init__(
        self,
        path: Path | None,
        files: Mapping[str, Sequence[Path]],
        common: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._path = path
        of_case, of_all = settings or {}, digest_of(common)
        self._states = {
            name: digest_of([of_all, of_case.get(name), [[str(file), *file_stamp(file)] for file in of_name]])
            for name, of_name in files.items()
        }
        saved = _read(path)
        self.found: dict[str, Any] = {
            name: saved[name][_FOUND]
            for name, state in self._states.items()
            if name in saved and saved[name][_STATE] == state
        }

    def save(self, found: Mapping[str, Any]) -> None:
        """Add findings, JSON as it comes back from a file, and save them; where that fails, they are found again."""
        self.found |= found
        if self._path is None or not found:
            return
        entries = {name: {_STATE: self._states[name], _FOUND: value} for name, value in found.items()}
        with suppress(OSError):
            atomic_write_json(self._path, _read(self._path) | entries)  # another process may have added to it

    def ask(self, find: Callable[[list[str]], Iterable[tuple[str, Any]]]) -> dict[str, Any]:
        """Return every finding in the order of the cases; `find` is asked about those that are not known, if any.

        Names that `find` leaves out are left out here, too, and asked about again next time.
        """
        if missing := [name for name in self._states if name not in self.found]:
            self.save(dict(find(missing)))
        return {name: self.found[name] for name in self._states if name in self.found}


def _read(path: Path | None) -> dict[str, dict[str, Any]]:
    """Load saved findings; of a missing or broken file, none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and entry.keys() >= {_STATE, _FOUND}}
