"""Read and write a volume [D, H, W] with its affine into LPS mm, as nnU-Net does; equal input gives equal bytes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from fcas_nnunet.case import NUM_CODES, spacing_of
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import atomic_path, what_is_at
from fcas_nnunet.integration.dataset.headers import NIFTI_ENDINGS, lps_affine, reading_fault
from fcas_nnunet.integration.dataset.whole_files import file_fault
from fcas_nnunet.intensities import IntensityScale, is_ct
from fcas_nnunet.listing import listed
from fcas_nnunet.machine import available_cores

FILE_ENDING = ".nii.gz"
#: Endings that are read: 3D formats that hold spacing and origin, all but `.gipl` direction, too.
READABLE_FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
CONFIDENCE_STEPS = 255
#: Largest weight that a data set may allow; uint16 holds it in steps of 1/255.
LARGEST_WEIGHT = 100
#: Distance beyond its limits that confidence may have, from rounding in float32. It is clipped wherever it is used.
CONFIDENCE_TOLERANCE = 1e-4
#: Distance from a whole number that labels may have which are stored as floats, or scaled.
WHOLE_TOLERANCE = 1e-3

FINITE_REMEDY = "Replace them by numbers, in an image by the value of air, say."

_COMPRESSION_LEVEL = 3
_MAX_SHEAR = 1e-4
_MAX_THREADS = 4
sitk.ProcessObject.SetGlobalWarningDisplay(False)  # of headers, whose faults are named in sentences

Key = TypeVar("Key")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Volume:
    """An array [D, H, W] with its position in space."""

    array: np.ndarray  # the values as stored, scaling applied
    affine: np.ndarray  # [4, 4] float64, array index (d, h, w, 1) → LPS position in mm


def read_volume(path: Path) -> Volume:
    """Read one 3D volume (`READABLE_FILE_ENDINGS`) with SimpleITK, as nnU-Net does, in its stored data type.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it cannot be read, has been cut short or damaged, or is not a 3D volume of scalars.
    """
    image = _opened(path, lambda: sitk.ReadImage(str(path)))
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1:
        raise InputError(f"{path}: voxels must have one value, got {components} each. Keep one channel a file.")
    array = sitk.GetArrayFromImage(image)
    if array.dtype.kind == "c":
        raise InputError(f"{path}: voxels must be real numbers, got {array.dtype}. Save the magnitude.")
    fault = file_fault(path, array)
    if fault:
        raise InputError(f"{path}: {fault}. Export or download it again.")
    return Volume(array, _affine_of(image))


def read_label_map(path: Path) -> Volume:
    """Read a label map of any data type as uint8, or as uint16 where an id is above 255; raises as `read_volume` does.

    Raises:
        InputError: if a voxel is no whole number from 0 on.
    """
    volume = read_volume(path)
    if fault := label_fault(volume.array):
        raise InputError(f"{path}: {fault}")
    kind = np.min_scalar_type(volume.array.max(initial=0).astype(np.uint64))
    return Volume(volume.array.astype(kind, copy=False), volume.affine)


def label_fault(array: np.ndarray) -> str | None:
    """Return a sentence, without the file's name, if an array [D, H, W] holds other values than label ids, or None."""
    if array.dtype.kind == "u":
        return None
    unfit = array[(array < 0) | (array != np.rint(array))]
    if not unfit.size:
        return None
    values = listed([f"{value:.9g}" for value in np.unique(unfit).tolist()])
    return (
        f"values must be whole numbers from 0 on, got {values} in {array.dtype}. Round the mask, and save it as uint8."
    )


def without_rounding(labels: np.ndarray) -> np.ndarray:
    """Return label values with those that miss a whole number by rounding alone, as scaled floats do, set to it."""
    if np.issubdtype(labels.dtype, np.integer):
        return labels
    whole = np.rint(labels)
    return np.where(np.abs(labels - whole) <= WHOLE_TOLERANCE, whole, labels)


def read_channels(case_id: str, paths: Sequence[Path], affine: np.ndarray) -> list[np.ndarray]:
    """Read the channels of a case, [D, H, W] each in its stored data type; raises what `read_finite` does.

    Raises:
        InputError: if their shapes differ, or their places from that of the label map, its `affine`.
    """
    channels = [read_finite(path) for path in paths]
    if len(shapes := {channel.array.shape for channel in channels}) > 1:
        raise InputError(f"{case_id}: channels must have one shape, got {sorted(shapes)}. Resample them onto one grid.")
    for path, channel in zip(paths, channels, strict=True):
        refuse_other_place(path, channel, affine)
    return [channel.array for channel in channels]


def refuse_other_place(path: Path, volume: Volume, affine: np.ndarray) -> None:
    """Raise an InputError if a volume lies elsewhere than its label map, whose affine is given."""
    if not same_grid(volume.affine, affine, volume.array.shape):
        raise InputError(
            f"{path}: place must be that of its label map, got another origin, spacing or direction. Run fcas_doctor "
            "-d on the data set."
        )


def read_labelled_scan(image: Path, mask: Path, channel_name: str) -> tuple[Volume, np.ndarray]:
    """Read a scan in standard units, and its label map [D, H, W]; raises what `read_scan` and `read_label_map` do.

    Raises:
        InputError: if their shapes or places differ.
    """
    scan, labels = read_scan(image, channel_name), read_label_map(mask)
    if scan.array.shape != labels.array.shape:
        got = f"{scan.array.shape}, got {labels.array.shape}"
        raise InputError(f"{mask}: shape must be that of {image.name}, {got}. Run fcas_doctor -d on the data set.")
    refuse_other_place(image, scan, labels.affine)
    return scan, labels.array


def read_all(work: Callable[[Key], Result], keys: Sequence[Key], label: str, *, bar_from: int = 0) -> list[Result]:
    """Call `work`, which reads a file, for each key in threads, since reading releases the interpreter lock.

    `bar_from` keys or more get a progress bar.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, available_cores())) as pool:
        hidden = True if len(keys) < bar_from else None
        return list(tqdm(pool.map(work, keys), label, len(keys), leave=False, disable=hidden))


def read_finite(path: Path) -> Volume:
    """Read a volume whose voxels are all numbers; raises what `read_volume` does.

    Raises:
        InputError: if a voxel is NaN or infinite.
    """
    volume = read_volume(path)
    if bad := count_non_finite(path, volume.array):
        raise InputError(f"{path}: voxels must be finite, got {bad} NaN or infinite. {FINITE_REMEDY}")
    return volume


def read_scan(path: Path, channel_name: str) -> Volume:
    """Read a scan in standard units: CT as stored, else float32 (`IntensityScale`). Raises what `read_finite` does."""
    volume = read_finite(path)
    if is_ct(channel_name):
        return volume
    return Volume(IntensityScale.of(volume.array, channel_name).to_standard(volume.array), volume.affine)


def read_grid(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    """Read shape (D, H, W) and affine of a volume, as `read_volume` gives them, from its header alone.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it cannot be read, or is not 3D.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))

    def read_header() -> sitk.ImageFileReader:
        reader.ReadImageInformation()
        return reader

    _opened(path, read_header)
    return tuple(reversed(reader.GetSize())), _affine_of(reader)


_Opened = TypeVar("_Opened", sitk.Image, sitk.ImageFileReader)


def _opened(path: Path, read: Callable[[], _Opened]) -> _Opened:
    """Return what ITK reads of a 3D file, or raise a sentence."""
    if not path.is_file():
        raise MissingFileError(f"{path}: file must exist, got {what_is_at(path)}. Put it there or fix the path.")
    try:  # before ITK, which takes such a file for a damaged one
        path.open("rb").close()
    except PermissionError as error:
        raise InputError(
            f"{path}: file must be yours to read, got '{error.strerror}'. Have its rights changed."
        ) from error
    try:
        image = read()
    except RuntimeError as error:
        raise InputError(f"{path}: {reading_fault(path, last_line(error))}") from error
    if image.GetDimension() != 3:
        size = " × ".join(map(str, image.GetSize()))
        raise InputError(
            f"{path}: volume must have three dimensions, got {size}. Keep one channel, one time and all slices a file."
        )
    return image


def _affine_of(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    xyz_affine = np.eye(4)
    xyz_affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    xyz_affine[:3, 3] = image.GetOrigin()
    return xyz_affine[:, [2, 1, 0, 3]]


def write_volume(path: Path, array: np.ndarray, affine: np.ndarray, *, slope: float = 1.0) -> None:
    """Write one `.nii.gz`; equal input gives equal bytes.

    Args:
        path: the file to create or replace.
        array: [D, H, W] in the data type to store, before scaling.
        affine: [4, 4], array index (d, h, w, 1) → LPS position in mm, without shear.
        slope: factor by which a reader multiplies the stored values.

    Raises:
        InputError: if the affine has shear, which NIfTI's quaternion and ITK cannot hold.
    """
    fault = shear_fault(affine)
    if fault:
        raise InputError(f"{path}: {fault}")
    ras_affine = lps_affine(affine)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), ras_affine, dtype=array.dtype)
    image.set_qform(ras_affine, code="scanner")
    image.set_sform(ras_affine, code="scanner")
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, 0)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        # neither file name nor time stamp in gzip's header
        with gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, stream, mtime=0) as zipped:
            zipped.write(image.to_bytes())


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray) -> None:
    """Write label ids as uint8, or as uint16 where 255 labels and the ignore label need it."""
    write_volume(path, compact_labels(labels), affine)


def compact_labels(labels: np.ndarray) -> np.ndarray:
    """Label ids as they are stored: uint8, or uint16 where an id is above 255."""
    return labels.astype(np.uint8 if labels.max(initial=0) < NUM_CODES else np.uint16)


def write_confidence(path: Path, confidence: np.ndarray, affine: np.ndarray) -> None:
    """Write confidence in [0, 1] as uint8 with slope 1/255: 0 and 1 are exact."""
    write_volume(path, quantise_confidence(confidence), affine, slope=1 / CONFIDENCE_STEPS)


def quantise_confidence(confidence: np.ndarray, max_weight: float = 1) -> np.ndarray:
    """[0, max_weight] → uint8, or uint16 for weights above 1, in steps of 1/255; whole numbers are exact."""
    steps = np.rint(np.clip(confidence, 0, max_weight) * CONFIDENCE_STEPS)
    return steps.astype(np.uint8 if max_weight <= 1 else np.uint16)


def dequantise_confidence(quantised: np.ndarray) -> np.ndarray:
    """Steps of 1/255 → float32; the inverse of `quantise_confidence`."""
    return quantised.astype(np.float32) / np.float32(CONFIDENCE_STEPS)


def count_non_finite(path: Path, array: np.ndarray) -> int:
    """Count the voxels of a file that are NaN or infinite.

    ITK, and so nnU-Net, reads such voxels of a NIfTI file as 0 without a message, so the file itself is read, not only
    the array from `read_volume`.
    """
    if np.issubdtype(array.dtype, np.integer):
        return 0
    if path.name.endswith(NIFTI_ENDINGS):
        stored: Any = nibabel.load(path)
        if np.issubdtype(stored.get_data_dtype(), np.integer):
            return 0
        array = np.asanyarray(stored.dataobj)
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def same_grid(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether two affines [4, 4] place every voxel of a volume of this shape within a tenth of a voxel.

    The eight corners are compared.
    """
    corners = np.array([[d, h, w, 1] for d in (0, shape[0]) for h in (0, shape[1]) for w in (0, shape[2])])
    distance_mm = np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1)
    return bool(distance_mm.max() < 0.1 * min(spacing_of(affine)))


def shear_fault(affine: np.ndarray) -> str | None:
    """Return a sentence, without the file's name, if a grid cannot be written; None if its axes are perpendicular."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear < _MAX_SHEAR:
        return None
    return (
        f"axes of the affine must be perpendicular, got a cosine of {shear:.3g} between two of them. "
        "Resample the scan to a grid without shear."
    )


def last_line(error: RuntimeError) -> str:
    """Return the last line of SimpleITK's message, which names the error."""
    return str(error).strip().splitlines()[-1].strip()
