"""Preprocessed confidence maps on disk, with an index that records the map of each case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from fcas_nnunet.config.schema import check_form, form
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import atomic_write_json, file_sha256
from fcas_nnunet.integration.dataset.folders import KNOWN_FOLDER
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import CONFIDENCE_STEPS
from fcas_nnunet.integration.preprocessing.plans import preprocessed_folder
from fcas_nnunet.integration.preprocessing.stamps import Stamps, file_state
from fcas_nnunet.json_files import read_json
from fcas_nnunet.known_files import KnownFiles
from fcas_nnunet.listing import listed

#: Subfolder of nnU-Net's preprocessed cases; nnU-Net would read a file beside the cases as a case.
CONFIDENCE_FOLDER = "confidence"
CONFIDENCE_ENDING = ".b2nd"
INDEX_FILE = "index.json"

#: Label → its number of voxels, the sum of their weights, and that of what these lack of 1, both in steps of 1/255.
LabelSums = Mapping[str, Sequence[int]]

_HASHING_THREADS = 4
_AGAIN = "Run fcas_prepare again."
_SLAB = 32  # slices that are summed at once
_LISTED = "every case must be in the index of confidence maps"
_PRESENT = "every confidence map of the index must exist"
_UNCHANGED = "confidence maps must be those written for their cases"
_SHAPED = "confidence maps must have the shape of their segmentations"
#: Rules that `verify` checks → what the message says was found instead.
_RULES = {_LISTED: "no entry", _PRESENT: "none", _UNCHANGED: "truncated, swapped or altered ones", _SHAPED: "others"}


@form
class _Index:
    """What `write_index` writes."""

    sha256: dict[str, str | None]
    raw: dict[str, list[int]] = field(default_factory=dict)
    sums: dict[str, dict[str, list[int]]] = field(default_factory=dict)


def preprocessed_confidence_path(preprocessed_folder: Path, case_id: str) -> Path:
    """Return the path of a case's confidence map [1, D, H, W] in steps of 1/255, on its segmentation's grid.

    It is uint8, or uint16 in a data set that allows weights above 1.
    """
    return preprocessed_folder / CONFIDENCE_FOLDER / f"{case_id}{CONFIDENCE_ENDING}"


def open_confidence(path: Path) -> Any:
    """Open a confidence map on disk; only slices are read."""
    mmap = {} if os.name == "nt" else {"mmap_mode": "r"}
    return blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, **mmap)


@dataclass(frozen=True)
class ConfidenceStore:
    """The confidence maps of a folder of preprocessed cases, nnU-Net's `<data set>/<data identifier>`."""

    folder: Path
    sha256: Mapping[str, str | None]  # case id → hash of its map; None for a case without, which is trusted everywhere
    raw: Mapping[str, Sequence[int]]  # case id → size and time of change of its raw map; empty in earlier versions
    sums: Mapping[str, LabelSums]  # case id → `label_sums`, of the cases with a map; empty in earlier versions

    @classmethod
    def read(cls, folder: Path) -> ConfidenceStore:
        """Open the store whose index `write_index` wrote.

        Raises:
            MissingFileError: when there is none.
        """
        path = index_path(folder)
        if not path.is_file():
            raise MissingFileError(
                f"{path}: the index of confidence maps must exist, got none. Run fcas_prepare for this data set, "
                "alone (-d ID) if its scans are real and have maps of your own; without maps, train with "
                "nnUNetTrainer, and to fine-tune on real scans use nnUNetTrainerCALFinetune."
            )
        content = read_json(path, _AGAIN)
        check_form(_Index, content, f"{path}: ", _AGAIN)
        return cls(folder, content["sha256"], content.get("raw", {}), content.get("sums", {}))

    def open(self, case_id: str) -> Any | None:
        """Open a case's map, of which only slices are read; None for a case without."""
        if self.sha256[case_id] is None:
            return None
        return open_confidence(preprocessed_confidence_path(self.folder, case_id))

    def mean_weights(self, floor: float) -> dict[int, float]:
        """Return label → mean weight of its voxels over all cases with a map; [0, 1] is mapped to [floor, 1] first.

        Every process, and every fold, gets the same means. Cases without a map weigh 1 and have no share in them.

        Raises:
            InputError: when the index was written by an earlier version, which did not record them.
        """
        if any(sha256 is not None and case_id not in self.sums for case_id, sha256 in self.sha256.items()):
            raise InputError(
                f"{index_path(self.folder)}: index must hold the sums of every label's weights, got one of an earlier "
                "version. Run fcas_prepare again; it keeps the maps."
            )
        labels = sorted({int(label) for sums in self.sums.values() for label in sums})
        means = {}
        for label in labels:
            of_cases = [sums[str(label)] for sums in self.sums.values() if str(label) in sums]
            voxels, steps, doubt = map(sum, zip(*of_cases, strict=True))
            means[label] = (steps + floor * doubt) / (CONFIDENCE_STEPS * voxels)
        return means

    def verify(self, case_ids: Iterable[str], shape_of: Callable[[str], tuple[int, ...]]) -> None:
        """Check that every case's map is the one that was written for it, in its segmentation's shape [1, D, H, W].

        Raises:
            InputError: listing all faults, one a line.
        """
        wanted = sorted(set(case_ids))
        hashes = map_hashes(self.folder, wanted)
        problems = [self._problem(i, hashes.get(i), shape_of) for i in wanted]
        found = {rule: [i for i, problem in zip(wanted, problems, strict=True) if problem == rule] for rule in _RULES}
        faults = [
            f"{self.folder}: {rule}, got {got} for {listed(found[rule])}. Run fcas_prepare again."
            for rule, got in _RULES.items()
            if found[rule]
        ]
        if faults:
            raise InputError("\n".join(faults))

    def _problem(self, case_id: str, sha256: str | None, shape_of: Callable[[str], tuple[int, ...]]) -> str | None:
        """Return the rule that a case's map breaks, or None."""
        if case_id not in self.sha256:
            return _LISTED
        if self.sha256[case_id] is None:
            return None
        if sha256 != self.sha256[case_id]:
            return _PRESENT if sha256 is None else _UNCHANGED
        shape = open_confidence(preprocessed_confidence_path(self.folder, case_id)).shape
        return None if shape == shape_of(case_id) else _SHAPED


def map_hashes(folder: Path, case_ids: Iterable[str]) -> dict[str, str]:
    """Case id → hash of its preprocessed map, for the cases that have one; only new or changed maps are read."""
    paths = {case_id: preprocessed_confidence_path(folder, case_id) for case_id in case_ids}
    files = {case_id: [path] for case_id, path in paths.items() if path.is_file()}

    def hashed(missing: list[str]) -> Iterable[tuple[str, str]]:
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:  # hashing releases the interpreter lock
            return zip(missing, pool.map(file_sha256, [paths[case_id] for case_id in missing]), strict=True)

    return KnownFiles(folder.parent / KNOWN_FOLDER / f"{folder.name}_maps.json", files).ask(hashed)


def maps_step(data_identifier: str) -> str:
    """Return the name of the stamp of a folder's confidence maps."""
    return f"{data_identifier} confidence"


def maps_are_prepared(folder: Path) -> bool:
    """Return whether fcas_prepare has written confidence maps into a folder of preprocessed cases.

    That nnU-Net's own preprocessing has removed them since does not change the answer: they are then missed.
    """
    return index_path(folder).is_file() or maps_step(folder.name) in Stamps(folder.parent).read()


def outdated_maps(dataset: RawDataset) -> dict[str, list[str]]:
    """Folder of preprocessed cases → cases whose raw map was changed, added or removed since fcas_prepare."""
    raw = {case_id: list(file_state(dataset.confidence_path(case_id))) for case_id in dataset.mapped_cases()}
    found = {}
    for path in sorted(preprocessed_folder(dataset).glob(f"*/{CONFIDENCE_FOLDER}/{INDEX_FILE}")):
        known = ConfidenceStore.read(path.parents[1]).raw
        changed = [i for i in dataset.case_ids if raw.get(i) != known.get(i)]
        if known and changed:  # an earlier version did not record the raw maps
            found[path.parents[1].name] = changed
    return found


def index_path(folder: Path) -> Path:
    """Return the path of the index in a folder of preprocessed cases."""
    return folder / CONFIDENCE_FOLDER / INDEX_FILE


def label_sums(folder: Path, case_id: str) -> dict[str, list[int]]:
    """Sum a case's weights over the voxels of each label, those of its preprocessed label map; `LabelSums`."""
    confidence = open_confidence(preprocessed_confidence_path(folder, case_id))
    seg = open_confidence(folder / f"{case_id}_seg.b2nd")
    sums = np.zeros((0, 3), np.int64)
    for start in range(0, seg.shape[1], _SLAB):
        slab = (slice(None), slice(start, start + _SLAB))
        labels = np.maximum(seg[slab], 0).ravel()  # −1: background outside what nnU-Net cropped
        steps = confidence[slab].ravel().astype(np.int64)
        parts = [None, steps, np.maximum(CONFIDENCE_STEPS - steps, 0)]
        found = np.stack([np.bincount(labels, part) for part in parts], axis=1).astype(np.int64)
        grown = max(len(sums), len(found))
        sums, found = (np.pad(array, ((0, grown - len(array)), (0, 0))) for array in (sums, found))
        sums = sums + found
    return {str(label): sums[label].tolist() for label in np.flatnonzero(sums[:, 0])}


def write_index(
    folder: Path, case_ids: Sequence[str], raw: Mapping[str, Sequence[int]], sums: Mapping[str, LabelSums]
) -> None:
    """Write the index of all cases' maps, once all maps are written.

    Args:
        folder: the folder of preprocessed cases.
        case_ids: all of them.
        raw: case id → size and time of change of its raw map, for the cases that have one.
        sums: case id → `label_sums`, for the same cases.
    """
    hashes = map_hashes(folder, raw)
    content = {
        "sha256": {i: hashes[i] if i in raw else None for i in case_ids},
        "raw": {i: list(state) for i, state in raw.items()},
        "sums": dict(sums),
    }
    atomic_write_json(index_path(folder), content)
