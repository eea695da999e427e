"""What made each case: one line of JSON per case in `fcas_manifest.jsonl`, enough to make the case again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from fcas_nnunet.files import atomic_write_text

MANIFEST_FILE = "fcas_manifest.jsonl"
CASE_ID = "case_id"

_PACKAGES = ("fcas-nnunet", "torch", "monai", "diffusers", "nnunetv2", "numpy", "scipy", "SimpleITK", "nibabel")
_BLOCK_BYTES = 1 << 20


class Manifest:
    """The manifest of a data set. Records hold no time stamps: the same command writes the same bytes.

    Args:
        folder: the raw data set folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST_FILE

    def read(self) -> dict[str, dict[str, Any]]:
        """Every whole record by case id; of several for one case the last counts.

        A last line that a kill cut short is ignored.

        Raises:
            ValueError: if any other line is broken.
        """
        if not self.path.is_file():
            return {}
        lines = self.path.read_bytes().split(b"\n")
        whole = lines[:-1]  # a record ends with its line break
        records = {}
        for number, line in enumerate(whole, start=1):
            try:
                record = json.loads(line)
                records[record[CASE_ID]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.path}: line {number} must be a JSON record with a case_id, got {line[:60]!r}. "
                    "Remove that line; its case is then made again."
                ) from error
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Add a case's record; it is on disk when this returns.

        Args:
            record: JSON-able, with a `case_id`.
        """
        line = _line(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._drop_partial_line()
        with self.path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    def finalise(self, case_ids: Iterable[str] | None = None) -> None:
        """Rewrite the manifest sorted by case id, so that the order in which cases were made leaves no trace.

        Args:
            case_ids: keep only these, when given.
        """
        records = self.read()
        kept = sorted(records if case_ids is None else set(case_ids) & records.keys())
        atomic_write_text(self.path, b"".join(_line(records[case_id]) for case_id in kept).decode())

    def _drop_partial_line(self) -> None:
        """Cut off what a kill left of a last line, so that the next record starts on its own line."""
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(self.path, content.rfind(b"\n") + 1)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Package → installed version, of those that decide what a case looks like."""
    return {name: metadata.version(name) for name in _PACKAGES}


def _line(record: dict[str, Any]) -> bytes:
    assert CASE_ID in record, "a manifest record says which case it is about"
    return json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n"
