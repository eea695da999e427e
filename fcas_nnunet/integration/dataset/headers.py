"""Why ITK cannot read a volume, and where nibabel takes a NIfTI volume to lie: sentences for odd headers."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

NIFTI_ENDINGS = (".nii", ".nii.gz")

_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI2_HEADER = 540
_ORTHONORMAL = "orthonormal"  # in ITK's refusal of a header
_UNREADABLE = (
    OSError, EOFError, ValueError, zlib.error,
    nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
    nibabel.wrapstruct.WrapStructError,
)  # fmt: skip
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
#: Shift that nobody sees, in voxels: `same_grid` takes grids that are so close for the same.
_HARMLESS_VOXELS = 0.1


def reading_fault(path: Path, reason: str) -> str:
    """Return what is wrong with a file that ITK refused, and what to do: a sentence without the file's name.

    Args:
        path: the file.
        reason: the last line of ITK's message.
    """
    if path.name.endswith(NIFTI_ENDINGS):
        start = _first_bytes(path)
        if path.name.endswith(".nii") and start.startswith(_GZIP_MAGIC):
            return (
                "file must be uncompressed, as its name says, got one that gzip has compressed. "
                "Let its name end in .nii.gz, or unpack it."
            )
        if len(start) >= 4 and _NIFTI2_HEADER in (*struct.unpack("<i", start[:4]), *struct.unpack(">i", start[:4])):
            return "file must be NIfTI-1, got NIfTI-2, which ITK cannot read. Save it as NIfTI-1."
        if _ORTHONORMAL in reason and (header := _header(path)) is not None:
            return _slanted(lps_affine(header.affine), header.shape)
    return f"file must be a readable volume, got '{reason}'. Export or download it again."


def nibabel_affine(path: Path) -> np.ndarray | None:
    """Return where nibabel takes a NIfTI file to lie: [4, 4], array index (d, h, w, 1) → LPS mm; None if it cannot."""
    header = _header(path)
    return None if header is None else lps_affine(header.affine)


def nibabel_dimensions(path: Path) -> tuple[int, ...] | None:
    """Return the size of a NIfTI file along all of its stored dimensions, ones included; None if it cannot be read."""
    header = _header(path)
    return None if header is None else tuple(map(int, header.shape))


def lps_affine(ras_affine: np.ndarray) -> np.ndarray:
    """(x, y, z) → RAS becomes (d, h, w) → LPS, and the other way round; [4, 4]."""
    return (_LPS_FROM_RAS @ ras_affine)[:, [2, 1, 0, 3]]


def forms_read(path: Path) -> tuple[str, str]:
    """Name what ITK and what nibabel read the position of a NIfTI file from, when the two differ."""
    image = _header(path)
    assert image is not None, f"{path} was read before"
    header = image.header
    q, s = int(header["qform_code"]), int(header["sform_code"])
    if not (q or s):
        return "voxel sizes from the first voxel on", "voxel sizes from the middle on"
    by_nibabel = "sform" if s else "qform"
    if header["xyzt_units"] & 7 in (1, 3):  # metres and micrometres, which ITK takes into account
        return f"{by_nibabel} and its unit", by_nibabel
    return ("qform" if q else "voxel sizes alone"), by_nibabel


def _header(path: Path) -> Any:
    """Return nibabel's image of a NIfTI file, whose voxels are not read; None if it cannot read it."""
    try:
        return nibabel.load(path)
    except _UNREADABLE:
        return None


def _first_bytes(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            return stream.read(4)
    except (OSError, EOFError, zlib.error):
        return b""


def _slanted(affine: np.ndarray, shape: tuple[int, ...]) -> str:
    """Describe an affine [4, 4] whose axes are not perpendicular, of a volume of this shape, and what to do."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        return "axes of the header must have a length, got one of none. Correct the header's sform and qform."
    directions = affine[:3, :3] / lengths
    cosine = float(np.abs(directions.T @ directions - np.eye(3)).max())
    left, _, right = np.linalg.svd(directions)
    moved_mm = np.linalg.norm((left @ right - directions) * lengths @ (np.array(shape[2::-1]) / 2))
    moved = float(moved_mm / lengths.min())
    rule = f"axes of the header must be perpendicular for ITK to read it, got a cosine of {cosine:.2g} between two"
    if moved < _HARMLESS_VOXELS:
        return f"{rule}. Make them so: no voxel moves by more than {max(moved, 0.001):.1g} of its size (docs/files.md)."
    return f"{rule}. Resample it to a grid without shear (docs/files.md)."
