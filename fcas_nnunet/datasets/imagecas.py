"""ImageCAS: 1,000 coronary CT angiograms with the coronary tree, in four published splits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fcas_nnunet.datasets.layout import CT, TEST, TRAINING, Layout, Place, PublicSet, Split, find_scans
from fcas_nnunet.datasets.workbook import read_table
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.listing import listed

IMAGECAS = PublicSet.of_structures(
    {1: "coronary_arteries"},
    key="imagecas",
    name="ImageCAS",
    channel=CT,
    reference="Zeng et al., ImageCAS, Computerized Medical Imaging and Graphics 109, 2023 (arXiv 2211.01607)",
    licence="Apache-2.0",
)
NUM_SPLITS = 4

_WORKBOOK, _SHEET = "imageCAS_data_split", "v2-latest"
_TABLES = (".xlsx", ".csv")
_ID_COLUMN = "filename"
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
          "testing": "test"}  # fmt: skip


def find(source: Path, split: int | None = 1, split_file: Path | None = None) -> Layout:
    """Find `1-200/1.img.nii.gz`, `1-200/1.label.nii.gz`, ... and divide them as published.

    Args:
        source: The user's folder.
        split: Number of the published split; None for all cases in imagesTr.
        split_file: The published workbook, or its sheet as CSV; looked for in the folder where None.

    Raises:
        MissingFileError: If there is no such folder, or no workbook.
        InputError: If no case is there, or the workbook does not name all of them.
    """
    pattern = r"(?:^|/)(\d+)\.(img|label)\.nii(?:\.gz)?$"
    layout = find_scans(source, pattern, _place, "1.img.nii.gz, 1.label.nii.gz, ...")
    if split is None:
        return layout
    path = split_file or _workbook(source)
    parts = _read_split(path, split)
    unnamed = sorted({scan.case_id for scan in layout.scans} - parts.keys())
    if unnamed:
        raise InputError(
            f"{path}: Split-{split} must name every case, got none of {listed(unnamed)}. Take the published file, or "
            "give --split none."
        )
    scans = [replace(scan, split=TEST if parts[scan.case_id] == "test" else TRAINING) for scan in layout.scans]
    absent = sorted(parts.keys() - {scan.case_id for scan in scans})
    return replace(
        layout,
        scans=scans,
        folds=partial(_folds, parts),
        folds_origin=f"the published Split-{split} ({path.name})",
        notes=[f"{len(absent)} cases of the published split are not in SRC: {listed(absent)}"] if absent else [],
    )


def _place(match: re.Match[str]) -> Place:
    return Place(f"imagecas_{int(match[1]):04d}", is_label=match[2].lower() == "label")


def _folds(parts: Mapping[str, str], case_ids: Sequence[str]) -> list[Split]:
    """The published training and validation part as one fold; none where one of them is empty."""
    fold = {part: [case_id for case_id in case_ids if parts.get(case_id) == part] for part in ("train", "val")}
    return [fold] if all(fold.values()) else []


def _workbook(source: Path) -> Path:
    found = [
        path for path in sorted(source.rglob("*"))
        if path.stem.lower() == _WORKBOOK.lower() and path.suffix.lower() in _TABLES
    ]  # fmt: skip
    if not found:
        raise MissingFileError(
            f"{source}: the published split, {_WORKBOOK}.xlsx, must be in it, got none. Put it there, name it with "
            "--split-file, or give --split none for all cases in imagesTr."
        )
    return found[0]


def _read_split(path: Path, split: int) -> dict[str, str]:
    """Case id → train, val or test."""
    rows = read_table(path, _SHEET)
    header = next((i for i, row in enumerate(rows) if row and row[0].strip().lower() == _ID_COLUMN), None)
    columns = [] if header is None else [name.strip().lower() for name in rows[header]]
    if header is None or f"split-{split}" not in columns:
        raise InputError(
            f"{path}: table must have the columns FileName and Split-{split}, got {listed(rows[0] if rows else [])}. "
            "Take the published file, or give --split none."
        )
    column, parts, unread = columns.index(f"split-{split}"), {}, []
    for row in rows[header + 1 :]:
        part = _PARTS.get(row[column].strip().lower()) if len(row) > column else None
        number = re.fullmatch(r"(\d+)(?:\.0)?(?:\.img\.nii\.gz)?", row[0].strip()) if row else None
        if part is None or number is None:
            unread.append(" ".join(row))
        else:
            parts[f"imagecas_{int(number[1]):04d}"] = part
    if any(unread):
        raise InputError(
            f"{path}: every row must hold a number and Training, Val or Testing, got "
            f"{listed([row for row in unread if row])}. Take the published file, or give --split none."
        )
    return parts
