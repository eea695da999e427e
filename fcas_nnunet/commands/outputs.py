"""Files that users name for results: earlier results of the same kind may be written over, and nothing else."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcas_nnunet.files import PICTURE_METADATA

#: What stands at the head of what this package writes, by which it knows its own files again.
TABLE_MARKS = (
    b"case_id,label,", b"case_id,reference,", b"case_id,template,", b"label,first_mean,", b"drawing,error,",
    b"reader,bag_id,",
)  # fmt: skip
PAGE_MARKS = (b'<meta name="generator" content="fcas_report">',)
PICTURE_MARKS = (PICTURE_METADATA["Software"].encode(),)
_HEAD_BYTES = 8192


@dataclass(frozen=True)
class Output:
    """A file to write.

    Attributes:
        option: name under which the parser keeps its path, None where the user named none.
        what: it holds, for messages.
        ending: that it must have.
        marks: bytes, one of which stands at the head of such a file.
    """

    option: str
    what: str
    ending: str
    marks: Sequence[bytes]


def check_outputs(args: argparse.Namespace, outputs: Sequence[Output]) -> None:
    """See, before the work, that nothing but earlier results is written over.

    Args:
        args: the command's; what names an existing file besides the outputs is read.
        outputs: files to be written.

    Raises:
        ValueError: listing every fault.
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
        raise ValueError("\n".join(faults))


def check_picture_folder(folder: Path | None) -> None:
    """See that a folder of pictures is one, or new, and that no picture of somebody else's can be written over.

    Raises:
        ValueError: when it is a file, or holds other pictures.
    """
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: folder must be one, or be new, got a file. Name a folder.")
    others = [path.name for path in sorted(folder.glob("*.png")) if not _is_marked(path, PICTURE_MARKS)]
    if others:
        raise ValueError(
            f"{folder}: folder must hold no pictures but earlier results, got {', '.join(others[:3])}. Name another."
        )


def _is_marked(path: Path, marks: Sequence[bytes]) -> bool:
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    return any(mark in head for mark in marks)


def _fault(path: Path, output: Output, inputs: Sequence[Path]) -> str:
    """Where a file must go instead; empty when it may be written."""
    if path.is_dir():
        return "a file, got a folder. Add a file name."
    if path.suffix.lower() != output.ending:
        return f"a file that ends in {output.ending}, got another. Rename it."
    if not path.exists():
        return ""
    if any(path.samefile(other) for other in inputs):
        return "another file than those that are read, got one of them. Rename it."
    if not _is_marked(path, output.marks):
        return "a new file or an earlier one of its kind, got one that holds something else. Choose another name."
    return ""


def _paths(values: Iterable[object]) -> Iterator[Path]:
    """Every path among a command's arguments; text may name one, too."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _paths(value)
        elif isinstance(value, (str, Path)) and str(value):
            yield Path(value)
