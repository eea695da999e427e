"""Reading volumes: a file that lost a part is refused, an odd one that is whole is not."""

from __future__ import annotations

import errno
import gzip
from itertools import count
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fcas_nnunet.integration.dataset import whole_files
from fcas_nnunet.integration.dataset.volumes import Volume, read_grid, read_volume, write_confidence, write_volume

SHAPE = (12, 20, 24)
SEEDS = count(1)


def noise(dtype: type = np.int16, seed: int = 0) -> np.ndarray:
    """Values that do not compress, so that a part of the file is a part of the voxels."""
    return np.random.default_rng(seed).integers(0, 250, SHAPE).astype(dtype)


def written(folder: Path, ending: str, compressed: bool, array: np.ndarray) -> Path:
    """The array as ITK writes it."""
    path = folder / f"scan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path), compressed)
    return path


def cut(content: bytes) -> bytes:
    """Without its last third: a copy that was interrupted."""
    return content[: 2 * len(content) // 3]


def padded(content: bytes) -> bytes:
    """The last third is zero: a download into a file of full length that was interrupted."""
    return cut(content).ljust(len(content), b"\0")


FORMATS = [(".nii.gz", True), (".nii", False), (".nrrd", False), (".nrrd", True), (".mha", False), (".mha", True)]
FORMATS += [(".gipl", False)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize(("ending", "compressed"), FORMATS)
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, ending: str, compressed: bool, dtype: type) -> None:
    path = written(tmp_path, ending, compressed, noise(dtype))
    assert np.array_equal(read_volume(path).array, noise(dtype))
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path}: file must .*, got .*Export or download it again"):
        read_volume(path)


@pytest.mark.parametrize(
    "damage", [padded, lambda b: b[:-1], lambda b: b[:-9], lambda b: b[:900] + b"\0" * 99 + b[999:]]
)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_damaged_compressed_data_are_refused(tmp_path: Path, ending: str, damage: object) -> None:
    # a volume that no test has read: where ITK fails to decompress, the array holds what its memory held before
    path = written(tmp_path, ending, True, noise(seed=next(SEEDS)))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ValueError, match="file must"):
        read_volume(path)


def nifti(array: np.ndarray, dtype: str = "int16") -> nibabel.Nifti1Image:
    """A NIfTI image of an array [D, H, W], stored in a data type."""
    return nibabel.Nifti1Image(array.transpose(2, 1, 0).astype(dtype), np.eye(4), dtype=dtype)


def with_extension(array: np.ndarray) -> nibabel.Nifti1Image:
    """An image whose header is followed by a long comment."""
    image = nifti(array)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"so" * 50_000))
    return image


def big_endian(array: np.ndarray) -> nibabel.Nifti1Image:
    """An image as a big-endian machine writes it."""
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    return nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4), header)


@pytest.mark.parametrize(
    "image",
    [
        nifti(noise()), nifti(noise(), "float64"), nifti(noise(), "int64"),
        with_extension(noise()), big_endian(noise()),
    ],
    ids=["plain", "float64", "int64", "extension", "big-endian"],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_odd_files_that_are_whole_are_read(tmp_path: Path, ending: str, image: nibabel.Nifti1Image) -> None:
    path = tmp_path / f"scan{ending}"
    nibabel.save(image, path)
    assert np.array_equal(read_volume(path).array, noise())
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ValueError, match="file must"):
        read_volume(path)


def test_several_gzip_members_and_padding_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, ".nii.gz", True, noise())
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]) + bytes(512))
    assert np.array_equal(read_volume(path).array, noise())


def test_scaled_and_missing_values_are_read(tmp_path: Path) -> None:
    confidence = noise() / 250
    write_confidence(tmp_path / "confidence.nii.gz", confidence, np.eye(4))
    assert np.allclose(read_volume(tmp_path / "confidence.nii.gz").array, confidence, atol=1 / 255)
    image = noise(np.float32)
    image[0, 0, 0] = np.nan  # which ITK turns into 0, so that the checksum of what it read is another
    path = written(tmp_path, ".nii.gz", True, image)
    assert read_volume(path).array[0, 0, 1] == image[0, 0, 1]


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_content_that_is_not_gzip_is_named(tmp_path: Path, dtype: type) -> None:
    written(tmp_path, ".nii", False, noise(dtype)).rename(tmp_path / "scan.nii.gz")
    with pytest.raises(ValueError, match="scan.nii.gz: file must .*, got other content"):
        read_volume(tmp_path / "scan.nii.gz")


def test_what_is_written_needs_no_second_decompression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_volume(tmp_path / "scan.nii.gz", noise(), np.eye(4))
    monkeypatch.setattr(whole_files, "_decompressed_size", None)
    volume = read_volume(tmp_path / "scan.nii.gz")
    assert isinstance(volume, Volume)
    assert np.array_equal(volume.array, noise())


def test_a_file_without_the_right_to_read_it_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, ".nii.gz", True, noise())

    def refused(*_: object) -> None:  # tests may run as root, who may read all
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    for read in (read_volume, read_grid):
        with pytest.raises(ValueError, match="scan.nii.gz: file must be yours to read, got 'Permission denied'"):
            read(path)
