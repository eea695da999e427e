"""Records how each case was made: a line of JSON in `fcas_manifest.jsonl`, from which it can be made again."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

from fcas_nnunet import __version__
from fcas_nnunet.config.confidence import ConfidenceConfig
from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.config.options import ReferenceSource, ScanSource
from fcas_nnunet.config.schema import check_form, form, up_to_date
from fcas_nnunet.earlier_names import RENAMED
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_text, is_file_name, own_file
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER

MANIFEST_FILE = "fcas_manifest.jsonl"
CASE_ID = "case_id"

_PACKAGES = ("torch", "monai", "diffusers", "nnunetv2", "numpy", "scipy", "SimpleITK", "nibabel")
_JOURNAL_ENDING = ".jsonl"
_SETTINGS: dict[str, type] = {"confidence": ConfidenceConfig, "mask_config": MaskConfig}


@form
class _Record:
    """Fields of a record that are read back, of whatever command."""

    case_id: str
    seed: int | None = None
    run_seed: int | None = None
    source: str | None = None
    reference: str | None = None
    template: str | None = None
    masks: ReferenceSource | None = None
    preset: str | None = None
    fold: int | None = None
    mgm: dict[str, Any] | None = None
    sampling: dict[str, Any] | None = None
    confidence: dict[str, Any] | None = None
    mask_config: dict[str, Any] | None = None
    expected_error: dict[str, float] | None = None
    versions: dict[str, str] | None = None
    contents: dict[str, str] | None = None
    parents_sha256: dict[str, str | None] | None = None
    label_map: dict[str, Any] | None = None
    shares: dict[str, float] | None = None
    weights_sha256: str | None = None
    mean_confidence_in_structures: float | None = None
    std_confidence_in_structures: float | None = None
    patient: str | None = None
    split: str | None = None


class Manifest:
    """The manifest of a raw data set folder. Records hold no time stamps: the same command writes the same bytes.

    Several processes may add to it, each in its own journal, so that no line is lost or broken on any file system.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST_FILE
        self._work_folder = folder / WORK_FOLDER

    def read(self) -> dict[str, dict[str, Any]]:
        """Read the records of the manifest and of the journals by case id; of several for one case, the last counts.

        A last line that a kill cut short is ignored.

        Raises:
            InputError: if any other line is broken.
        """
        records = Journal(self.path).read()
        for journal in self.journals():
            records |= journal.read()
        return records

    def begin(self) -> None:
        """Create an empty manifest if there is none; it marks the folder as one that this package writes into."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        os.close(own_file(self.path, os.O_WRONLY | os.O_CREAT))

    def append(self, record: dict[str, Any]) -> None:
        """Add a record to the manifest itself, as `Journal.append` does; for folders that one process writes."""
        Journal(self.path).append(record)

    def journals(self) -> list[Journal]:
        """Return the journals of processes whose records `finalise` has not merged yet."""
        return [Journal(path) for path in sorted(self._work_folder.glob(f"*{_JOURNAL_ENDING}"))]

    def new_journal(self) -> Journal:
        """Return a journal for this process alone; its file is created with the first record."""
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        return Journal(self._work_folder / f"{name}{_JOURNAL_ENDING}")

    def finalise(self, case_ids: Iterable[str] | None = None) -> None:
        """Rewrite the manifest sorted by case id, independent of which process made which case, and when.

        Merges the journals, so no process must be adding to one. If `case_ids` are given, other records are dropped. If
        the process is killed, calling it again finishes the work.
        """
        records = self.read()
        kept = records if case_ids is None else set(case_ids) & records.keys()
        self._rewrite({case_id: records[case_id] for case_id in kept})

    def update(self, records: Mapping[str, dict[str, Any]]) -> None:
        """Replace the records of these cases, and rewrite the manifest as `finalise` does."""
        self._rewrite({**self.read(), **records})

    def _rewrite(self, records: Mapping[str, dict[str, Any]]) -> None:
        atomic_write_text(self.path, b"".join(_line(records[case_id]) for case_id in sorted(records)).decode())
        for journal in self.journals():
            journal.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Journal:
    """Records in the order in which one process added them, a line of JSON each; the file need not exist."""

    path: Path

    def read(self) -> dict[str, dict[str, Any]]:
        """Read the records by case id; of several for one case, the last counts.

        Raises:
            InputError: if a line is broken, but for a last one that a kill cut short.
        """
        if not self.path.is_file():
            return {}
        records = {}
        whole = self.path.read_bytes().split(b"\n")[:-1]  # a record ends with its line break
        for number, line in enumerate(whole, start=1):
            try:
                record = {RENAMED.get(key, key): value for key, value in json.loads(line).items()}
                case_id = record[CASE_ID]
                if not is_file_name(case_id):
                    raise InputError(f"{case_id!r} cannot name a file")
                check_form(_Record, line, "", "")
                for name in _SETTINGS.keys() & record.keys():
                    record[name] = up_to_date(_SETTINGS[name], record[name])
                ScanSource.of(record)
                records[case_id] = record
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise InputError(
                    f"{self.path}: line {number} must be a JSON record with a case_id, got {line[:60]!r} "
                    f"({' '.join(str(error).split())}). Remove that line; its case is then made again."
                ) from error
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Add a record that JSON can hold and that has a `case_id`; it is on disk when this returns."""
        line = _line(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b", opener=own_file) as stream:
            _drop_partial_line(stream)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def versions() -> dict[str, str]:
    """Package → installed version, for the packages that affect a case's voxels."""
    return {"fcas-nnunet": __version__} | {name: metadata.version(name) for name in _PACKAGES}


def _drop_partial_line(stream: BinaryIO) -> None:
    """Cut off a last line that a kill left incomplete, so that the next record starts on its own line."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 1))
    if stream.read(1) not in (b"", b"\n"):
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)


def _line(record: dict[str, Any]) -> bytes:
    assert CASE_ID in record, "a manifest record says which case it is about"
    return json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n"
