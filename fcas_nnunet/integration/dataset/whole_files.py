"""Check that a volume's file contains all of its voxels: ITK reads missing ones as 0 without a message."""

from __future__ import annotations

import gzip
import os
import re
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

_GZIP, _ZLIB, _NONE = "gzip", "zlib", ""
_GZIP_MAGIC = b"\x1f\x8b"
_TEXT_HEADER = 1 << 16
_NIFTI_HEADER = 348  # ITK does not read NIfTI-2
_GIPL_HEADER = 256
_CHUNK = 1 << 20


class _Layout(NamedTuple):
    """The position of the voxels in a file."""

    start: int  # first byte of the voxels, or of the compressed stream that contains them
    compression: str = _NONE
    before: int = 0  # decompressed bytes in front of the voxels
    itemsize: int | None = None  # bytes of a stored voxel; None = as in the array that was read


def file_fault(path: Path, array: np.ndarray) -> str | None:
    """Return the fault of a truncated or damaged file, "file must be ..., got ..." without the path, or None.

    The checksum at the file's end is compared with that of the array. Only where the two differ (values that reading
    has scaled or byte-swapped, several gzip members) is the file decompressed a second time.

    Args:
        path: a file that ITK could read.
        array: voxels [D, H, W] that ITK has read, C-contiguous.
    """
    with path.open("rb") as stream:
        if path.name.endswith(".gz") and stream.read(2) != _GZIP_MAGIC:
            return "file must be compressed by gzip, as its name says, got other content"
        try:
            layout = _layout(path.name, stream)
            if layout is None:
                return None
            size = layout.before + array.size * (layout.itemsize or array.itemsize)
            if layout.compression == _NONE:
                got = os.fstat(stream.fileno()).st_size - layout.start
            elif _checksum_fits(stream, layout, array):
                return None
            else:
                got = _decompressed_size(stream, layout)
        except (EOFError, OSError, struct.error, zlib.error) as error:
            return f"file must be whole, got '{error}' on reading it"
    return None if got >= size else f"file must hold {size} bytes, got {got}"


def _layout(name: str, stream: BinaryIO) -> _Layout | None:
    """Return the layout of a file; None if it is not known, or another file contains the voxels."""
    stream.seek(0)
    if name.endswith(".nii.gz"):
        before, itemsize = _nifti_voxels(gzip.GzipFile(fileobj=stream).read(_NIFTI_HEADER))
        return _Layout(0, _GZIP, before, itemsize)
    head = stream.read(_TEXT_HEADER)
    if name.endswith(".nii"):
        start, itemsize = _nifti_voxels(head)
        return _Layout(start, itemsize=itemsize)
    if name.endswith(".nrrd"):
        return _nrrd_layout(head)
    if name.endswith(".mha"):
        end = re.search(rb"^ElementDataFile *= *LOCAL *\r?\n", head, re.MULTILINE)
        compressed = re.search(rb"^CompressedData *= *True", head, re.MULTILINE)
        return end and _Layout(end.end(), _ZLIB if compressed else _NONE)
    return _Layout(_GIPL_HEADER) if name.endswith(".gipl") else None


def _nifti_voxels(head: bytes) -> tuple[int, int]:
    """Read from a NIfTI-1 header the offset of the voxels and the size of a voxel, in bytes."""
    order = "<" if struct.unpack_from("<i", head)[0] == _NIFTI_HEADER else ">"
    bits = struct.unpack_from(f"{order}h", head, 72)[0]
    offset = struct.unpack_from(f"{order}f", head, 108)[0]
    return int(offset), bits // 8


def _nrrd_layout(head: bytes) -> _Layout | None:
    end = re.search(rb"\r?\n\r?\n", head)
    encoding = re.search(rb"^encoding: *(\w+)", head, re.MULTILINE)
    if end is None or encoding is None or re.search(rb"^data ?file:", head[: end.start()], re.MULTILINE):
        return None
    compressions = {b"raw": _NONE, b"gzip": _GZIP, b"gz": _GZIP}
    name = encoding[1].lower()
    return _Layout(end.end(), compressions[name]) if name in compressions else None


def _checksum_fits(stream: BinaryIO, layout: _Layout, array: np.ndarray) -> bool:
    """Return whether the bytes before the voxels, and the array, have the checksum at the end of the file."""
    stream.seek(layout.start)
    before = gzip.GzipFile(fileobj=stream).read(layout.before) if layout.before else b""
    stream.seek(-8, os.SEEK_END)
    trailer = stream.read()
    if layout.compression == _ZLIB:
        return trailer[4:] == struct.pack(">I", zlib.adler32(array.data))
    return trailer[:4] == struct.pack("<I", zlib.crc32(array.data, zlib.crc32(before)))


def _decompressed_size(stream: BinaryIO, layout: _Layout) -> int:
    """Count the bytes of a compressed stream; a truncated or damaged one raises the errors of zlib and gzip."""
    stream.seek(layout.start)
    if layout.compression == _GZIP:
        return sum(map(len, iter(partial(gzip.GzipFile(fileobj=stream).read, _CHUNK), b"")))
    decompressor = zlib.decompressobj()
    size = sum(len(decompressor.decompress(chunk)) for chunk in iter(partial(stream.read, _CHUNK), b""))
    if not decompressor.eof:
        raise EOFError("compressed data end too early")
    return size
