"""Where merged cases wait until all are ready, how they get to their places, and the record of what they are."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.merge.jobs import FINGERPRINT, SHA256
from fcas_nnunet.commands.merge.scans import Target
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json, atomic_write_text, file_sha256, own_file, remove_strays
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.manifest import CASE_ID, Journal
from fcas_nnunet.integration.dataset.raw_dataset import (
    DATASET_JSON,
    SURROUNDINGS_JSON,
    reopen_dataset,
)
from fcas_nnunet.labels.anatomy import BACKGROUND
from fcas_nnunet.labels.merging import Part

logger = logging.getLogger(__name__)

RECORD_FILE = "fcas_merge.jsonl"


class Stage:
    """What is merged of a data set: in place, by its record, and waiting, by a journal.

    Args:
        folder: of the data set that is written.
    """

    def __init__(self, folder: Path) -> None:
        self.record = folder / RECORD_FILE
        self.folder = folder / WORK_FOLDER / "merge"
        self._journal = Journal(self.folder / RECORD_FILE)
        self._in_place, self._waiting = Journal(self.record).read(), self._journal.read()

    def begin(self) -> None:
        """Mark the folder as one that this command writes, and clear what a killed run left."""
        os.close(own_file(self.record, os.O_WRONLY | os.O_CREAT))
        remove_strays(self.record.parent, deep=True)

    def path(self, case_id: str, part: Part, ending: str) -> Path:
        """Where a part of a case waits."""
        return self.folder / f"{part.value}Tr" / f"{case_id}{ending}"

    def add(self, record: dict[str, Any]) -> None:
        """Note that a case waits."""
        self._journal.append(record)
        self._waiting[record[CASE_ID]] = record

    def foreign(self, target: Target, case_ids: Iterable[str]) -> dict[str, list[Part]]:
        """Case id → parts that have a file which is not of this command, or was changed since."""
        found: dict[str, list[Part]] = {}
        for case_id in case_ids:
            for part in target.parts:
                path = target.path(case_id, part)
                if path.is_file() and not self._is_ours(path, case_id, part):
                    found.setdefault(case_id, []).append(part)
        return found

    def refuse_outdated(self, target: Target, prints: Mapping[str, Mapping[Part, str]], *, overwrite: bool) -> None:
        """See that what is in place is what would be written, or may be replaced.

        Raises:
            InputError: listing the cases whose files were made of something else.
        """
        faults = [
            f"{case_id}: {part} must be those of these sources, got earlier ones of others, "
            f"{target.path(case_id, part)}. Replace them (--overwrite), or write a new data set (-o ID)."
            for case_id, wanted in prints.items()
            for part, fingerprint in wanted.items()
            if target.path(case_id, part).is_file() and not self._fits(target, case_id, part, fingerprint)
        ]
        if faults and not overwrite:
            raise InputError("\n".join(faults))

    def has(self, target: Target, case_id: str, prints: Mapping[Part, str]) -> bool:
        """Whether all parts of a case are in place, or wait."""
        return all(self._fits(target, case_id, part, fingerprint) for part, fingerprint in prints.items())

    def record_of(self, target: Target, case_id: str, part: Part, fingerprint: str) -> dict[str, Any] | None:
        """The record of a part that is in place, or waits; None when neither holds."""
        staged = self.path(case_id, part, target.scans.file_ending)
        for records in (self._waiting, self._in_place):
            found = records.get(case_id, {}).get(part.value, {})
            if found.get(FINGERPRINT) == fingerprint and any(
                place.is_file() and file_sha256(place) == found[SHA256]
                for place in (staged, target.path(case_id, part))
            ):
                return dict(found)
        return None

    def finish(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the record of all cases, and remove what waited.

        Args:
            records: of the cases in place, in any order; a part that they do not have keeps its earlier record.
        """
        merged = self._in_place | {
            case_id: {**self._in_place.get(case_id, {}), **new} for case_id, new in records.items()
        }
        lines = [json.dumps(merged[case_id], sort_keys=True) + "\n" for case_id in sorted(merged)]
        atomic_write_text(self.record, "".join(lines))
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fits(self, target: Target, case_id: str, part: Part, fingerprint: str) -> bool:
        return self.record_of(target, case_id, part, fingerprint) is not None

    def _is_ours(self, path: Path, case_id: str, part: Part) -> bool:
        known = {found.get(case_id, {}).get(part.value, {}).get(SHA256) for found in (self._waiting, self._in_place)}
        return file_sha256(path) in known


def publish(
    target: Target, stage: Stage, prints: Mapping[str, Mapping[Part, str]]
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Put what waits into its place, then say what it is: a file at a time, each replaced whole.

    Args:
        target: data set that is written.
        stage: where all cases wait, or are in place.
        prints: case id → part → fingerprint, of the cases that are written.

    Returns:
        Case id → part → record.
    """
    records: dict[str, dict[str, Mapping[str, Any]]] = {}
    for case_id, wanted in prints.items():
        found = {part: stage.record_of(target, case_id, part, fingerprint) for part, fingerprint in wanted.items()}
        records[case_id] = {part.value: record for part, record in found.items() if record is not None}
    has_labels = Part.LABELS in target.parts
    if has_labels:
        reopen_dataset(target.folder)
    for case_id, parts in prints.items():
        for part in parts:
            place = target.path(case_id, part)
            place.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # it is in place
                os.replace(stage.path(case_id, part, target.scans.file_ending), place)
    stage.finish({case_id: {CASE_ID: case_id, **parts} for case_id, parts in records.items()})
    if Part.SURROUNDINGS in target.parts:
        named = {BACKGROUND: 0, **target.ids[Part.SURROUNDINGS]}
        atomic_write_json(target.folder / SURROUNDINGS_JSON, {"labels": named})
    if has_labels:
        case_ids = prints if target.is_new else target.scans.case_ids
        labelled = [case_id for case_id in case_ids if target.path(case_id, Part.LABELS).is_file()]
        if len(labelled) < len(case_ids):
            logger.warning(
                f"{target.folder.name}: {len(case_ids) - len(labelled)} of {len(case_ids)} scans have no labels; "
                "nnU-Net trains on the set when they do, or are moved out of imagesTr"
            )
        atomic_write_json(target.folder / DATASET_JSON, target.description(len(labelled)))
        (target.folder / WORK_FOLDER / DATASET_JSON).unlink(missing_ok=True)
    return records
