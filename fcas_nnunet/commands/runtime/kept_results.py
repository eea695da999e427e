"""Keep the result of each case while a command works, so that the same command need not repeat it after a kill."""

from __future__ import annotations

import dataclasses
import functools
import pickle
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fcas_nnunet.files import atomic_path
from fcas_nnunet.integration.dataset.manifest import versions
from fcas_nnunet.integration.dataset.plain_files import PlainUnpickler
from fcas_nnunet.known_files import digest_of, file_stamp

Result = TypeVar("Result")

_PACKAGE = __name__.partition(".")[0]
#: Folders of the commands that are at work in this process; the last one's is used.
_folders: list[Path] = []


@contextmanager
def kept_results(output: Path | None) -> Iterator[None]:
    """Keep the results of `kept` in a hidden folder beside a command's output until the block ends without an error.

    Without an output there is no place for them. Two runs with one output share the folder; the first to end removes
    it, and the other one then keeps its results anew, or nowhere.
    """
    if output is None:
        yield
        return
    _folders.append(output.with_name(f".{output.name}.fcas_unfinished"))
    try:
        yield
        shutil.rmtree(_folders[-1], ignore_errors=True)
    finally:
        _folders.pop()


class Kept:
    """The kept result of one piece of work.

    Args:
        what: JSON, dataclasses, paths and functions that the result depends on. Of a path that is a file, size and
            times count, too; of a folder, the name alone.
    """

    def __init__(self, *what: Any) -> None:
        self._path = _folders[-1] / fingerprint(*what) if _folders else None

    def read(self, default: Any = None) -> Any:
        """Return the result; `default` if none was kept."""
        if self._path is None:
            return default
        try:
            with self._path.open("rb") as stream:
                return _Unpickler(stream).load()
        except Exception:  # the reader may raise any error for bytes that are no pickle
            return default

    def write(self, result: Any) -> None:
        """Keep a result; where that fails, it is computed again by a later run."""
        if self._path is not None:
            with suppress(OSError), atomic_path(self._path) as temporary:
                temporary.write_bytes(pickle.dumps(result))


def kept(compute: Callable[[], Result], *what: Any) -> Result:
    """Return the kept result of a piece of work, or else compute and keep it; `what` as for `Kept`."""
    place, missing = Kept(*what), object()
    result = place.read(missing)
    if result is missing:
        place.write(result := compute())
    return result


def fingerprint(*what: Any) -> str:
    """Hash what a result depends on, as `Kept` says, and the versions of this package and its libraries."""
    return digest_of([_versions(), _plain(what)])


_versions = functools.cache(versions)


def _plain(value: Any) -> Any:
    """Turn what a result depends on into JSON."""
    if isinstance(value, Path):
        return [str(value), *(() if value.is_dir() else file_stamp(value))]
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [type(value).__qualname__, fields]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(entry)] for key, entry in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    if value is None or isinstance(value, str | int | float):
        return value
    return secrets.token_hex()  # what it stands for is not known, so what depends on it is not found again


class _Unpickler(PlainUnpickler):
    """Reads plain values, NumPy arrays, and this package's dataclasses and enumerations."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == _PACKAGE:
            found = getattr(import_module(module), name)
            if isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, Enum)):
                return found
        return super().find_class(module, name)
