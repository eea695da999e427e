"""Hash a data set's scans, and save the hashes beside nnU-Net's preprocessed cases, so that each file is read once."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.image_content import image_sha256
from fcas_nnunet.integration.dataset.folders import FIRST_CHANNEL, IMAGES, preprocessed_file, resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_all, read_volume
from fcas_nnunet.known_files import file_stamp

CONTENTS_FILE = "fcas_contents.json"

_TRAINING, _TEST = f"{IMAGES}Tr", f"{IMAGES}Ts"
_BAR_FROM = 10
_HASH, _STATE = "image_sha256", ("size", "mtime_ns", "ctime_ns")

logger = logging.getLogger(__name__)


def training_contents(dataset: RawDataset, case_ids: Sequence[str] | None = None) -> dict[str, str]:
    """Case id → hash of the scan's first channel by `image_sha256`; `case_ids` None means all cases.

    Only new or changed files are read.
    """
    wanted = dataset.case_ids if case_ids is None else case_ids
    return _contents(dataset, _TRAINING, {case_id: dataset.image_paths(case_id)[0] for case_id in wanted})


def held_out_contents(dataset: RawDataset) -> dict[str, str]:
    """File name in imagesTs → hash of the scan; empty where the data set has no test scans.

    A scan that cannot be read cannot be compared with others, so it is left out with a warning.
    """
    ending = f"{FIRST_CHANNEL}{dataset.file_ending}"
    paths = {path.name: path for path in sorted((dataset.folder / _TEST).glob(f"*{ending}")) if path.name[0] != "."}
    return _contents(dataset, _TEST, paths, skip_unreadable=True)


def contents_of(name: str, case_ids: Collection[str] | None = None) -> dict[str, str] | None:
    """Hash the training scans of a data set given by its full name; None if it does not exist or cannot be read.

    `case_ids` None means all cases; cases that the data set lacks are left out.
    """
    try:
        dataset = RawDataset.open(resolve_dataset(name), any_kind=True)
        return training_contents(dataset, [i for i in dataset.case_ids if case_ids is None or i in case_ids])
    except (FileNotFoundError, ValueError):
        return None


def known_contents(preprocessed: Path) -> dict[str, str]:
    """Load the hashes of training cases from `$nnUNet_preprocessed/DatasetNNN_Name`; the raw scans need not exist."""
    return {case_id: entry[_HASH] for case_id, entry in _read(preprocessed / CONTENTS_FILE)[_TRAINING].items()}


def _contents(
    dataset: RawDataset, part: str, paths: Mapping[str, Path], *, skip_unreadable: bool = False
) -> dict[str, str]:
    file = preprocessed_file(dataset.name, CONTENTS_FILE)
    states = {name: dict(zip(_STATE, file_stamp(path), strict=True)) for name, path in paths.items()}
    saved = _read(file)[part]
    found = {name: saved[name] for name, state in states.items() if state.items() <= saved.get(name, {}).items()}
    missing = [name for name in states if name not in found]
    if missing:
        work = partial(_hash, skip_unreadable=skip_unreadable)
        hashes = read_all(work, [paths[name] for name in missing], f"hashing {dataset.name}", bar_from=_BAR_FROM)
        found |= {n: states[n] | {_HASH: sha256} for n, sha256 in zip(missing, hashes, strict=True) if sha256}
        others = _read(file)  # another process may have added to it
        if file is not None:
            with suppress(OSError):  # where nothing can be written, the hashes are computed again next time
                atomic_write_json(file, others | {part: others[part] | found})
    return {name: found[name][_HASH] for name in paths if name in found}


def _hash(path: Path, skip_unreadable: bool) -> str | None:
    try:
        volume = read_volume(path)
    except (OSError, ValueError) as error:
        if not skip_unreadable:
            raise
        logger.warning(f"{error} Left out: whether it is a training scan is not known.")
        return None
    return image_sha256(volume.array, volume.affine)


def _read(file: Path | None) -> dict[str, dict[str, Any]]:
    """Load the saved hashes; a missing or broken file, or an entry without a hash, only means that scans are read."""
    empty: dict[str, dict[str, Any]] = {_TRAINING: {}, _TEST: {}}
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file else empty
    except (OSError, ValueError, RecursionError):
        return empty
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in empty):
        return empty
    return {
        part: {name: entry for name, entry in content[part].items() if isinstance(entry, dict) and _HASH in entry}
        for part in empty
    }
