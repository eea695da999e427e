"""Find the complete synthetic cases of a data set folder, remove leftovers of killed runs, detect swapped files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from fcas_nnunet.case import Case
from fcas_nnunet.files import remove_strays
from fcas_nnunet.integration.dataset.folders import CONFIDENCE, IMAGES, LABELS, channel_suffix
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE
from fcas_nnunet.integration.dataset.volumes import (
    CONFIDENCE_TOLERANCE,
    FILE_ENDING,
    LARGEST_WEIGHT,
    compact_labels,
    quantise_confidence,
)

_LABELS, _CONFIDENCE, _IMAGES = f"{LABELS}Tr", f"{CONFIDENCE}Tr", f"{IMAGES}Tr"

#: Key of a manifest record: part of the case → SHA-256 of its voxels as they are stored.
CONTENTS = "contents"
IMAGE, LABEL, CONFIDENCE_MAP = "image", "label", "confidence"

_Part = tuple[str, str]  # folder, and what its files' names have after the case's id
_ROUNDING = 1e-3  # what a header's slope and intercept may change


def _canonical(image: np.ndarray) -> np.ndarray:
    """The values of a scan in one data type, whatever they are stored in: int16, int32 where that is too small, or
    float32 where they are not whole numbers, span less than 1, or exceed int32."""
    whole = np.rint(image)
    low, high = float(whole.min(initial=0)), float(whole.max(initial=0))
    if np.abs(whole - image).max(initial=0) > _ROUNDING or low == high == 0:
        return image.astype(np.float32)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return whole.astype(kind)
    return image.astype(np.float32)


def _steps(confidence: np.ndarray) -> np.ndarray:
    """A confidence map as it is written; weights above 1, which no synthetic case is written with, stay apart."""
    above = confidence.max(initial=0) > 1 + CONFIDENCE_TOLERANCE
    return quantise_confidence(confidence, LARGEST_WEIGHT if above else 1)


#: Part → its voxels as they are stored; all others are channels.
_STORED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    LABEL: compact_labels,
    CONFIDENCE_MAP: _steps,
}


#: Part → advice for a run that was killed while it changed that part.
_AFTER_A_KILL = {CONFIDENCE_MAP: ", if fcas_confidence was interrupted, run it again, or"}


def image_part(channel: int) -> str:
    """Name of a channel among the parts of a case."""
    return f"{IMAGE}{channel_suffix(channel)}" if channel else IMAGE


def case_is_written(folder: Path, case_id: str, num_channels: int) -> bool:
    """Return whether a synthetic case is complete: image, confidence map and labels."""
    return all(path.is_file() for path in _files(folder, case_id, num_channels))


def label_path(folder: Path, case_id: str) -> Path:
    """Return the path of a synthetic case's label map, which is written last."""
    return folder / _LABELS / f"{case_id}{FILE_ENDING}"


def case_bytes(folder: Path, case_id: str, num_channels: int) -> int:
    """Return the size of a complete synthetic case on disk, in bytes."""
    return sum(path.stat().st_size for path in _files(folder, case_id, num_channels))


def written_cases(folder: Path, num_channels: int) -> set[str]:
    """Return the ids of all complete cases, as `case_is_written` defines them; lists three folders, not every case."""
    return set.intersection(*_cases_of_parts(folder, num_channels).values())


def remove_case(folder: Path, case_id: str, num_channels: int, more: Collection[str] = ()) -> None:
    """Remove the files of a case, its label first, also those of further folders; the record is the caller's."""
    others = [folder / part / f"{case_id}{FILE_ENDING}" for part in more]
    for path in (*reversed(_files(folder, case_id, num_channels)), *others):
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path, complete: Collection[str], pattern: re.Pattern[str], num_channels: int) -> None:
    """Remove the leftovers of killed runs: temporary files, and the files of cases that are not complete.

    A killed run leaves no label without the rest of its case, so a case with a label is not a leftover, and stays.

    Args:
        folder: the raw data set folder, in which no process is at work.
        complete: ids of the cases to keep.
        pattern: pattern of the ids that this package gives; files of other ids are not removed.
        num_channels: of the scans.
    """
    for part in (".", _IMAGES, _CONFIDENCE, _LABELS):
        remove_strays(folder / part)
    cases = _cases_of_parts(folder, num_channels)
    labelled = cases[_LABELS, FILE_ENDING]
    for (part, ending), case_ids in cases.items():
        for case_id in sorted(case_ids - labelled - set(complete)):
            if pattern.fullmatch(case_id):
                (folder / part / f"{case_id}{ending}").unlink(missing_ok=True)


def case_contents(case: Case) -> dict[str, str]:
    """Hash the parts of a case as they will be written: part → SHA-256 of its voxels, not of header or compression."""
    channels = [] if case.image is None else case.stored_channels
    parts = {
        **{image_part(number): channel for number, channel in enumerate(channels)},
        LABEL: case.mask,
        CONFIDENCE_MAP: case.confidence,
    }
    return {part: _sha256(part, array) for part, array in parts.items() if array is not None}


def contents_faults(case_id: str, part: str, array: np.ndarray, contents: Mapping[str, str]) -> list[str]:
    """Return a sentence if a part of a case, read with scaling applied, has other voxels than were written, else none.

    `contents` are those of the manifest's record; parts without a hash are not checked.
    """
    if part not in contents or _sha256(part, array) == contents[part]:
        return []
    return [
        f"{case_id}: {part} must be the one that was written for it, got other voxels, as when files of two cases are "
        f"swapped. Generate the case again, or{_AFTER_A_KILL.get(part, '')}, if you changed it yourself, take "
        f'"{CONTENTS}" out of its line in {MANIFEST_FILE}.'
    ]


def _parts(num_channels: int) -> list[_Part]:
    """List the files that every synthetic case has; the label is the last to be written."""
    images = [(_IMAGES, f"{channel_suffix(channel)}{FILE_ENDING}") for channel in range(num_channels)]
    return [*images, (_CONFIDENCE, FILE_ENDING), (_LABELS, FILE_ENDING)]


def _files(folder: Path, case_id: str, num_channels: int) -> list[Path]:
    return [folder / part / f"{case_id}{ending}" for part, ending in _parts(num_channels)]


def _cases_of_parts(folder: Path, num_channels: int) -> dict[_Part, set[str]]:
    """Part → ids of the cases that have it."""
    parts = _parts(num_channels)
    names = {part: os.listdir(folder / part) if (folder / part).is_dir() else [] for part, _ in parts}
    return {
        (part, ending): {name.removesuffix(ending) for name in names[part] if name.endswith(ending) and name[0] != "."}
        for part, ending in parts
    }


def _sha256(part: str, array: np.ndarray) -> str:
    stored = np.ascontiguousarray(_STORED.get(part, _canonical)(array))
    digest = hashlib.sha256(str(stored.shape).encode())
    digest.update(stored.data)
    return digest.hexdigest()
