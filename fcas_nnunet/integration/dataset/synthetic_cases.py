"""Which synthetic cases a data set folder holds whole, and what killed runs left there besides."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from fcas_nnunet.files import remove_strays
from fcas_nnunet.integration.dataset.folders import CONFIDENCE, IMAGES, LABELS
from fcas_nnunet.integration.dataset.volumes import FILE_ENDING

#: Folder → ending of the files that every synthetic case has; the label is the last to be written.
_PARTS = {
    f"{IMAGES}Tr": f"_0000{FILE_ENDING}",
    f"{CONFIDENCE}Tr": FILE_ENDING,
    f"{LABELS}Tr": FILE_ENDING,
}


def case_is_written(folder: Path, case_id: str) -> bool:
    """Whether a synthetic case is there whole: image, confidence map and labels."""
    return all((folder / part / f"{case_id}{suffix}").is_file() for part, suffix in _PARTS.items())


def label_path(folder: Path, case_id: str) -> Path:
    """Where a synthetic case's labels lie, which are the last of it to be written."""
    return folder / f"{LABELS}Tr" / f"{case_id}{FILE_ENDING}"


def case_bytes(folder: Path, case_id: str) -> int:
    """What a whole synthetic case takes on disk."""
    return sum((folder / part / f"{case_id}{suffix}").stat().st_size for part, suffix in _PARTS.items())


def written_cases(folder: Path) -> set[str]:
    """Ids of all cases that are there whole, as `case_is_written` has it; three listings, however many they are."""
    return set.intersection(*(ids for _, ids in _listed_parts(folder)))


def remove_leftovers(folder: Path, complete: Collection[str], pattern: re.Pattern[str]) -> None:
    """Remove what killed runs left: temporary files, and the files of cases that are not complete.

    A killed run leaves no label without the rest of its case, so what has one is somebody else's, and stays.

    Args:
        folder: the raw data set folder, in which nobody is at work.
        complete: ids of the cases to keep.
        pattern: of the ids whose files may be removed; others are not ours.
    """
    for part in (".", *_PARTS):
        remove_strays(folder / part)
    parts = dict(_listed_parts(folder))
    kept = {*complete, *parts[f"{LABELS}Tr"]}
    for part, ids in parts.items():
        for case_id in sorted(ids - kept):
            if pattern.fullmatch(case_id):
                (folder / part / f"{case_id}{_PARTS[part]}").unlink(missing_ok=True)


def _listed_parts(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """Every part of synthetic cases with the ids that have it."""
    for part, suffix in _PARTS.items():
        names = os.listdir(folder / part) if (folder / part).is_dir() else []
        yield part, {n[: -len(suffix)] for n in names if n.endswith(suffix) and not n.startswith(".")}
