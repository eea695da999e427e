"""Check the files that users name for results: only earlier results of the same kind may be overwritten."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import PICTURE_METADATA, free_path
from fcas_nnunet.json_files import SCHEMA

_PAGE_MARK = b'<meta name="generator" content="fcas_report">'
_HEAD_BYTES = 8192


@dataclass(frozen=True)
class Output:
    """A file to write.

    Attributes:
        option: Name of the parsed argument with its path, which is None if the user named no file.
        what: Its content, for messages.
        ending: The ending that it must have.
        is_earlier: Function that returns whether an existing file is an earlier result of the same kind.
        remedy: Advice where to write it instead; by default another name after the same flag.
    """

    option: str
    what: str
    ending: str
    is_earlier: Callable[[Path], bool]
    remedy: str = ""


def holds_result(schema: str) -> Callable[[Path], bool]:
    """Make a function that returns whether a file is JSON of a schema."""

    def is_earlier(path: Path) -> bool:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):  # from the JSON, or from its encoding
            return False
        return isinstance(content, dict) and content.get(SCHEMA) == schema

    return is_earlier


def holds_table(columns: str) -> Callable[[Path], bool]:
    """Make a function that returns whether a file is CSV with this header, a regular expression of all columns."""
    return lambda path: re.fullmatch(columns, _head(path).split(b"\n")[0].decode(errors="replace").strip()) is not None


def is_page(path: Path) -> bool:
    """Return whether a file is a page of fcas_report."""
    return _PAGE_MARK in _head(path)


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture that this package drew."""
    return PICTURE_METADATA["Software"].encode() in _head(path)


def check_outputs(args: argparse.Namespace, outputs: Sequence[Output]) -> None:
    """Check, before the work, that only earlier results are overwritten; an InputError lists every fault.

    Existing files that `args` names besides the outputs are inputs.
    """
    written = {output.option: getattr(args, output.option, None) for output in outputs}
    others = _paths(value for option, value in vars(args).items() if option not in written)
    inputs = [path for path in others if path.exists()]
    faults = [
        f"{path}: {output.what} must go into {fault}"
        for output in outputs
        if (path := written[output.option]) is not None and (fault := _fault(path, output, inputs))
    ]
    if faults:
        raise InputError("\n".join(faults))


def check_picture_folder(folder: Path | None) -> None:
    """Check that a folder of pictures is new, or contains only pictures that this package drew."""
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: folder must be one, or be new, got a file. Name a folder.")
    others = [path.name for path in sorted(folder.glob("*.png")) if not is_picture(path)]
    if others:
        raise InputError(
            f"{folder}: folder must hold no pictures but earlier results, got {', '.join(others[:3])}. Name another."
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD_BYTES)


def _fault(path: Path, output: Output, inputs: Sequence[Path]) -> str:
    """Return the rule that a file breaks, with advice; empty if it may be written."""
    if path.is_dir():
        return "a file, got a folder. Add a file name."
    if path.suffix.lower() != output.ending:
        return f"a file that ends in {output.ending}, got another. Rename it."
    if not path.exists():
        return ""
    if any(path.samefile(other) for other in inputs):
        return f"another file than those that are read, got one of them. {_remedy(path, output)}"
    if not output.is_earlier(path):
        return f"a new file or an earlier one of its kind, got one that holds something else. {_remedy(path, output)}"
    return ""


def _remedy(path: Path, output: Output) -> str:
    flag = "-" * min(len(output.option), 2) + output.option
    return output.remedy or f"Choose another name: {flag} {free_path(path)}"


def _paths(values: Iterable[object]) -> Iterator[Path]:
    """Yield every path among a command's arguments; strings may be paths, too."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _paths(value)
        elif isinstance(value, (str, Path)) and str(value):
            yield Path(value)
