"""Preprocessed confidence maps on disk, with an index that records the map of each case."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2

from fcas_nnunet.files import atomic_write_json, file_sha256
from fcas_nnunet.json_files import read_json
from fcas_nnunet.listing import listed

#: Subfolder of nnU-Net's preprocessed cases; nnU-Net would read a file beside the cases as a case.
CONFIDENCE_FOLDER = "confidence"
CONFIDENCE_ENDING = ".b2nd"
INDEX_FILE = "index.json"

_HASHING_THREADS = 4
_LISTED = "every case must be in the index of confidence maps"
_PRESENT = "every synthetic case must have a confidence map"
_UNCHANGED = "confidence maps must be those written for their cases"
_SHAPED = "confidence maps must have the shape of their segmentations"
#: Rules that `verify` checks → what the message says was found instead.
_RULES = {_LISTED: "no entry", _PRESENT: "none", _UNCHANGED: "truncated, swapped or altered ones", _SHAPED: "others"}


def preprocessed_confidence_path(preprocessed_folder: Path, case_id: str) -> Path:
    """Return the path of a case's confidence map, uint8 [1, D, H, W] in steps of 1/255, on its segmentation's grid."""
    return preprocessed_folder / CONFIDENCE_FOLDER / f"{case_id}{CONFIDENCE_ENDING}"


def open_confidence(path: Path) -> Any:
    """Open a confidence map on disk; only slices are read."""
    mmap = {} if os.name == "nt" else {"mmap_mode": "r"}
    return blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, **mmap)


@dataclass(frozen=True)
class ConfidenceStore:
    """The confidence maps of a folder of preprocessed cases, nnU-Net's `<data set>/<data identifier>`."""

    folder: Path
    sha256: Mapping[str, str | None]  # case id → hash of its map; None for a real case, which is trusted everywhere

    @classmethod
    def read(cls, folder: Path) -> ConfidenceStore:
        """Open the store whose index `write_index` wrote.

        Raises:
            FileNotFoundError: when there is none.
        """
        path = folder / CONFIDENCE_FOLDER / INDEX_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: the index of confidence maps must exist, got none. Run fcas_prepare for this data set; "
                "to fine-tune on real scans use nnUNetTrainerCALFinetune."
            )
        return cls(folder, read_json(path, "Run fcas_prepare again.")["sha256"])

    def open(self, case_id: str) -> Any | None:
        """Open a case's map, of which only slices are read; None for a real case."""
        if self.sha256[case_id] is None:
            return None
        return open_confidence(preprocessed_confidence_path(self.folder, case_id))

    def verify(self, case_ids: Iterable[str], shape_of: Callable[[str], tuple[int, ...]]) -> None:
        """Check that every case's map is the one that was written for it, in its segmentation's shape [1, D, H, W].

        Raises:
            ValueError: listing all faults, one a line.
        """
        wanted = sorted(set(case_ids))
        with ThreadPoolExecutor(_HASHING_THREADS) as pool:  # hashing releases the interpreter lock
            hashes = list(pool.map(self._hash, wanted))
        problems = [self._problem(i, sha256, shape_of) for i, sha256 in zip(wanted, hashes, strict=True)]
        found = {rule: [i for i, problem in zip(wanted, problems, strict=True) if problem == rule] for rule in _RULES}
        faults = [
            f"{self.folder}: {rule}, got {got} for {listed(found[rule])}. Run fcas_prepare again."
            for rule, got in _RULES.items()
            if found[rule]
        ]
        if faults:
            raise ValueError("\n".join(faults))

    def _hash(self, case_id: str) -> str | None:
        path = preprocessed_confidence_path(self.folder, case_id)
        return file_sha256(path) if path.is_file() else None

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


def write_index(folder: Path, case_ids: Sequence[str], real: Iterable[str]) -> None:
    """Write the index of all cases' maps, once all maps are written; real cases have none."""
    without = set(real)
    hashes = {i: None if i in without else file_sha256(preprocessed_confidence_path(folder, i)) for i in case_ids}
    atomic_write_json(folder / CONFIDENCE_FOLDER / INDEX_FILE, {"sha256": hashes})
