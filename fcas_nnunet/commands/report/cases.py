"""Reading cases for the report: measured, packed for the viewer, drawn; one at a time in each process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcas_nnunet.case import spacing_of
from fcas_nnunet.evaluation.report.measures import CaseMeasures, measure_case
from fcas_nnunet.evaluation.report.packing import PackedScan, pack_scan
from fcas_nnunet.evaluation.viewing.pictures import Pictures, case_pictures
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import (
    Volume,
    count_non_finite,
    read_grid,
    read_scan,
    read_volume,
    same_grid,
)
from fcas_nnunet.intensities import IntensityScale, unit_name
from fcas_nnunet.labels.matching import id_table, match_labels

_AIR = -1024


@dataclass(frozen=True)
class CaseFiles:
    """Where a case lies, and what its labels mean here."""

    case_id: str
    image: Path
    mask: Path
    confidence: Path | None  # its map; None where it has none
    labels: Mapping[str, int]  # structure → id in `mask`, under the synthetic set's names
    becomes: Mapping[int, int]  # id in `mask` → the synthetic set's id
    channel_name: str = "CT"  # of the scan, which says what its values are


@dataclass(frozen=True)
class PackJob:
    """A scan to pack."""

    files: CaseFiles
    budget: int  # bytes
    colours: Mapping[int, str]  # label id → colour, for pictures; none are drawn without
    thin: Sequence[int]  # ids of thin structures, the synthetic set's


def synthetic_files(dataset: RawDataset) -> dict[str, CaseFiles]:
    """The cases of a data set under its own labels."""
    ids = dataset.with_ignored({label: label for label in dataset.labels.values()})
    named = {name: label for name, label in dataset.labels.items() if label}
    return {
        case_id: CaseFiles(
            case_id, dataset.image_path(case_id), dataset.mask_path(case_id),
            path if (path := dataset.confidence_path(case_id)).is_file() else None, named, ids, dataset.channel_name,
        )
        for case_id in dataset.case_ids
    }  # fmt: skip


def real_files(real: RawDataset, labels: Mapping[str, int]) -> dict[str, CaseFiles]:
    """The cases of a real data set under the names and ids of a synthetic one.

    Raises:
        InputError: when no label matches.
    """
    becomes = real.with_ignored(match_labels(real.labels, labels))
    named = {name: label for name, label in labels.items() if label in set(becomes.values()) - {0}}
    return {
        case_id: CaseFiles(
            case_id, real.image_path(case_id), real.mask_path(case_id), None, named, becomes, real.channel_name
        )
        for case_id in real.case_ids
    }


def measure(files: CaseFiles) -> tuple[CaseMeasures | None, list[str]]:
    """A case's measures, None where a file is missing, unreadable or of another grid, and its faults in sentences."""
    faults: list[str] = []
    image = _read(files, "image", files.image, faults)
    mask = _read(files, "label", files.mask, faults)
    confidence = None if files.confidence is None else _read(files, "confidence", files.confidence, faults)
    if image is None or mask is None:
        return None, faults
    for what, other in (("image", image), ("confidence", confidence)):
        if other is not None and not _on_grid(mask.array.shape, mask.affine, other.array.shape, other.affine):
            faults.append(
                f"{files.case_id}: grid of {what} must be that of the label, {mask.array.shape}, got "
                f"{other.array.shape} or another affine. Make the case again."
            )
            return None, faults
    unknown = sorted({value for plane in mask.array for value in np.unique(plane).tolist()} - set(files.becomes))
    if unknown:
        faults.append(
            f"{files.case_id}: label values must be those of dataset.json, got {unknown[:5]} as well. Correct the mask."
        )
        return None, faults
    trust = None if confidence is None else _finite(confidence.array)
    labels, spacing_mm = _translated(mask.array, files.becomes), spacing_of(mask.affine)
    scan = IntensityScale.of(image.array, files.channel_name).to_standard(_finite(image.array))
    return measure_case(scan, labels, trust, files.labels, spacing_mm), faults


def _read(files: CaseFiles, what: str, path: Path, faults: list[str]) -> Volume | None:
    """The volume, or None with a fault noted; voxels that are no numbers are a fault of a volume that is there."""
    try:
        volume = read_volume(path)
    except FileNotFoundError:
        faults.append(f"{files.case_id}: {what} must exist, got no file {path.name}. Make the case again.")
        return None
    except InputError as error:
        faults.append(f"{files.case_id}: {error}")
        return None
    bad = count_non_finite(path, volume.array)
    if bad:
        faults.append(f"{files.case_id}: {what} must be finite, got {bad} NaN or infinite voxels. Make the case again.")
    return volume


def pack(job: PackJob) -> tuple[PackedScan, Pictures | None]:
    """Pack a case for the page: its scan, and pictures where the job has colours."""
    files = job.files
    image, mask = read_scan(files.image, files.channel_name), read_volume(files.mask)
    labels = _translated(mask.array, files.becomes)
    confidence = None if files.confidence is None else _finite(read_volume(files.confidence).array)
    values = _finite(image.array)
    unit = unit_name(files.channel_name)
    scan = pack_scan(values, labels, confidence, mask.affine, budget=job.budget, thin=job.thin, unit=unit)
    return scan, case_pictures(values, labels, confidence, mask.affine, job.colours, unit) if job.colours else None


def _translated(mask: np.ndarray, becomes: Mapping[int, int]) -> np.ndarray:
    """A label map under the synthetic set's ids."""
    return id_table(becomes)[mask.astype(np.uint8)]


def on_one_grid(first: Path, second: Path) -> bool:
    """Return whether two volumes lie on one grid, by their headers."""
    return _on_grid(*read_grid(first), *read_grid(second))


def _on_grid(shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other: np.ndarray) -> bool:
    return shape == other_shape and same_grid(affine, other, shape)


def _finite(array: np.ndarray) -> np.ndarray:
    """NaN and infinity, which are named elsewhere, shown as air."""
    if array.dtype.kind != "f" or math.isfinite(float(array.sum(dtype=np.float64))):
        return array
    return np.nan_to_num(array, nan=_AIR, posinf=_AIR, neginf=_AIR)
