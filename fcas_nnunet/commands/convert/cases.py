"""One case of a public data set: its scan in HU or as stored, its labels on the scan's grid under the written ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fcas_nnunet.case import spacing_of
from fcas_nnunet.datasets.layout import CT, PublicSet, Scan
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import file_sha256
from fcas_nnunet.integration.dataset.folders import FIRST_CHANNEL, IMAGES, LABELS
from fcas_nnunet.integration.dataset.ownership import COMMAND, CONVERT
from fcas_nnunet.integration.dataset.volumes import (
    FILE_ENDING,
    count_non_finite,
    read_grid,
    read_volume,
    same_grid,
    shear_fault,
    without_rounding,
    write_labels,
    write_volume,
)
from fcas_nnunet.labels.resampling import index_transform, labels_on_grid
from fcas_nnunet.listing import listed

#: Keys of a manifest's record that decide how a case is written: one that is there must have the same.
PLANNED = ("set", "split", "offset", "spacing_mm", "values")
RESAMPLED, OUTSIDE, OTHERS, MISPRINTS, LOWEST, DTYPE, IMAGE_HASH, LABEL_HASH = (
    "label_resampled", "label_outside", "other_values", "misprints", "lowest", "dtype", "image_sha256", "label_sha256",
)  # fmt: skip

_SKIP = "leave the case out with --skip"
_MOST_OUTSIDE = 0.1  # of a label's voxels, before its header and the scan's contradict each other
_AIR_HU = (-1000, -200)  # between air and soft tissue: every scan of a chest holds some of it
_MOST_AIR = 0.01

Content = TypeVar("Content")


@dataclass(frozen=True)
class Job:
    """A case to write.

    Attributes:
        folder: Of the raw data set.
        source: The user's folder.
        public: The set that the case belongs to.
        scan: The case.
        offset: What its stored intensities exceed HU by.
    """

    folder: Path
    source: Path
    public: PublicSet
    scan: Scan
    offset: int

    def record(self) -> dict[str, Any]:
        """What the manifest says about the case before it is written."""
        scan, label = self.scan, self.scan.label
        return {
            "case_id": scan.case_id,
            "patient": scan.patient,
            "split": scan.split,
            "set": self.public.key,
            "image": scan.image.relative_to(self.source).as_posix(),
            "label": None if label is None else label.relative_to(self.source).as_posix(),
            "offset": self.offset,
            "spacing_mm": None if scan.spacing_mm is None else list(scan.spacing_mm),
            "values": {str(value): label_id for value, label_id in self.public.values.items()},
            **scan.about,
        }

    def files(self) -> list[Path]:
        """What is written: the image, and the labels where there are any."""
        name, split = self.scan.case_id, self.scan.split
        image = self.folder / f"{IMAGES}{split}" / f"{name}{FIRST_CHANNEL}{FILE_ENDING}"
        label = self.folder / f"{LABELS}{split}" / f"{name}{FILE_ENDING}"
        return [image] if self.scan.label is None else [image, label]


@dataclass(frozen=True)
class LabelMap:
    """A label map on its scan's grid.

    Attributes:
        ids: Written ids, uint8 [D, H, W].
        resampled: Whether it lay on another grid.
        outside: Share of the labelled voxels of that grid that lie outside the scan.
        others: Unknown value, as text → voxels that became background.
        misprints: Misprinted value, as text → voxels.
    """

    ids: np.ndarray
    resampled: bool
    outside: float
    others: Mapping[str, int]
    misprints: Mapping[str, int]


def check_case(job: Job) -> None:
    """See that a case can be written, by its scan's header and its whole label file.

    Raises:
        InputError: Listing what is wrong.
    """
    shape, affine = _read(read_grid, job.scan.image)
    if fault := shear_fault(affine):
        raise InputError(f"{job.scan.image}: {fault}")
    if job.scan.label is not None:
        read_labels(job, job.scan.label, shape, affine)


def write_case(job: Job) -> dict[str, Any]:
    """Write one case, the label last.

    Returns:
        Its manifest record.

    Raises:
        InputError: If a file is damaged, or its intensities contradict what is known of the set.
    """
    volume = _read(read_volume, job.scan.image)
    if bad := count_non_finite(job.scan.image, volume.array):
        raise InputError(
            f"{job.scan.image}: voxels must be numbers, got {bad} NaN or infinite ones. Replace them, or {_SKIP}."
        )
    intensities = in_hu(job, volume.array) if job.public.channel == CT else volume.array
    affine = with_spacing(volume.affine, job.scan)
    image_path, *label_path = job.files()
    write_volume(image_path, intensities, affine)
    record = job.record() | {
        LOWEST: float(intensities.min()), DTYPE: str(intensities.dtype), IMAGE_HASH: file_sha256(image_path),
        COMMAND: CONVERT,
    }  # fmt: skip
    if job.scan.label is not None:
        labels = read_labels(job, job.scan.label, volume.array.shape, volume.affine)
        write_labels(label_path[0], labels.ids, affine)
        record |= {
            RESAMPLED: labels.resampled, OUTSIDE: labels.outside, OTHERS: dict(labels.others),
            MISPRINTS: dict(labels.misprints), LABEL_HASH: file_sha256(label_path[0]),
        }  # fmt: skip
    return record


def in_hu(job: Job, stored: np.ndarray) -> np.ndarray:
    """Stored CT intensities in HU: int16 where that holds them, floats with fractions as stored.

    Raises:
        InputError: If the set's values are said to exceed HU, and are HU already.
    """
    low, high = _AIR_HU
    if job.offset and np.count_nonzero((stored > low) & (stored < high)) > _MOST_AIR * stored.size:
        raise InputError(
            f"{job.scan.image}: stored values must be HU + {job.offset}, got air and lung between {low} and {high}, "
            f"as HU have them. If all cases are so, give --offset 0; otherwise {_SKIP}."
        )
    whole = np.issubdtype(stored.dtype, np.integer) or bool((stored == np.rint(stored)).all())
    lowest, highest = int(stored.min()) - job.offset, int(stored.max()) - job.offset
    for kind in (np.int16, np.int32):
        if whole and np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
            return (stored.astype(np.int64) - job.offset).astype(kind)
    return stored - stored.dtype.type(job.offset)


def with_spacing(affine: np.ndarray, scan: Scan) -> np.ndarray:
    """A grid with the voxel size that the user gave; origin and directions stay."""
    if scan.spacing_mm is None:
        return affine
    corrected = affine.copy()
    corrected[:3, :3] *= np.array(scan.spacing_mm) / np.array(spacing_of(affine))
    return corrected


def read_labels(job: Job, path: Path, shape: tuple[int, ...], affine: np.ndarray) -> LabelMap:
    """Read a label file onto a scan's grid.

    Args:
        job: The case.
        path: Its label file.
        shape: Of the scan, (D, H, W).
        affine: Of the scan, as stored.

    Raises:
        InputError: If it cannot be read, values are unknown, nothing is labelled, or the label lies outside the scan.
    """
    volume = _read(read_volume, path)
    if bad := count_non_finite(path, volume.array):
        raise InputError(
            f"{path}: label values must be numbers, got {bad} NaN or infinite ones. Correct the file, or {_SKIP}."
        )
    stored = without_rounding(volume.array)
    ids, known = np.zeros(stored.shape, np.uint8), np.zeros(stored.shape, bool)
    misprints = {}
    for value, label_id in job.public.values.items():
        hit = stored == value
        known |= hit
        ids[hit] = label_id
        if value in job.public.misprints and hit.any():
            misprints[str(value)] = int(hit.sum())
    values, counts = np.unique(stored[~known], return_counts=True)
    others = {f"{value:g}": int(count) for value, count in zip(values, counts, strict=True)}
    faults = []
    if others and not job.public.others_are_background:
        shown = listed([f"{value} ({count} voxels)" for value, count in others.items()])
        faults.append(
            f"{path}: label values must be {', '.join(map(str, sorted(job.public.values)))}, got {shown}. Correct the "
            f"file, or {_SKIP}."
        )
    elif not ids.any():
        faults.append(f"{path}: label must mark a voxel, got none. Download it again, or {_SKIP}.")
    resampled = stored.shape != tuple(shape) or not same_grid(volume.affine, affine, stored.shape)
    outside = 0.0
    if resampled and not faults:
        outside = _outside(ids, volume.affine, shape, affine)
        if outside > _MOST_OUTSIDE:
            faults.append(
                f"{path}: label must lie in its scan, got {outside:.0%} of it outside by the two headers. Correct one "
                f"of them, or {_SKIP}."
            )
        ids = labels_on_grid(ids, volume.affine, shape, affine)
    if faults:
        raise InputError("\n".join(faults))
    return LabelMap(ids, resampled, round(outside, 4), others, misprints)


def label_values(path: Path) -> list[int | float]:
    """The values of a label file besides 0."""
    values: list[int | float] = np.unique(read_volume(path).array).tolist()
    return [value for value in values if value]


def _read(read: Callable[[Path], Content], path: Path) -> Content:
    """Read a file; if that is impossible, the message says, too, how to go on without the case."""
    try:
        return read(path)
    except InputError as error:
        raise InputError(f"{error} Or {_SKIP}.") from error


def _outside(ids: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray) -> float:
    """Share of the labelled voxels whose middle lies in no voxel of another grid."""
    matrix, shift = index_transform(affine, target)
    positions = np.argwhere(ids) @ matrix.T + shift
    inside = ((positions >= -0.5) & (positions < np.array(shape) - 0.5)).all(axis=1)
    return 1 - float(inside.mean())
