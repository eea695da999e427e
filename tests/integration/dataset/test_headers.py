"""Odd headers: what ITK refuses is said in a sentence with a remedy, and readers that disagree are named."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from fcas_nnunet.integration.dataset.headers import lps_affine, nibabel_affine
from fcas_nnunet.integration.dataset.odd_files import position_difference
from fcas_nnunet.integration.dataset.volumes import read_grid, read_label_map, read_volume

SHAPE = (9, 8, 7)
VALUES = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
PLACE = np.diag([1.0, 1.5, 2.0, 1.0])
PLACE[:3, 3] = (10, 20, 30)
ELSEWHERE = np.diag([1.0, 1.5, 2.0, 1.0])


def nifti(sform: np.ndarray = PLACE, s: int = 1, qform: np.ndarray = PLACE, q: int = 1) -> nib.Nifti1Image:
    """An image with two forms and their codes."""
    image = nib.Nifti1Image(VALUES, PLACE)
    image.set_sform(sform, s)
    image.set_qform(qform, q)
    return image


def slanted(shear: float) -> np.ndarray:
    affine = PLACE.copy()
    affine[0, 1] = shear
    return affine


def saved(folder: Path, image: nib.Nifti1Image, name: str = "scan.nii.gz") -> Path:
    nib.save(image, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (nifti(slanted(0.3), q=0), r"axes of the header must be perpendicular .*, got a cosine of 0\.2 .* Resample it"),
        (nifti(slanted(0.01), q=0), r"got a cosine of 0\.00[67].* no voxel moves by more than 0\.0[23] of its size"),
        (nifti(np.diag([1.0, 1.5, 0.0, 1.0]), q=0), "axes of the header must have a length, got one of none"),
        (nib.Nifti2Image(VALUES, PLACE), "file must be NIfTI-1, got NIfTI-2, .* Save it as NIfTI-1"),
        (nib.Nifti1Image(np.stack([VALUES] * 2, -1), PLACE), "three dimensions, got 9 × 8 × 7 × 2"),
        (nib.Nifti1Image(VALUES[..., 0], PLACE), "three dimensions, got 9 × 8"),
        (nib.Nifti1Image(VALUES.astype(np.complex64), PLACE), "voxels must be real numbers, got complex64"),
        (nib.Nifti1Image(np.zeros(SHAPE, [(c, "u1") for c in "RGB"]), PLACE), "voxels must have one value, got 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path: Path, image: nib.Nifti1Image, sentence: str) -> None:
    path = saved(tmp_path, image)
    with pytest.raises(ValueError, match=rf"^{path}: .*{sentence}"):
        read_volume(path)


@pytest.mark.parametrize("shear", [0.3, 0.01])
def test_a_header_is_refused_as_the_whole_file_is(tmp_path: Path, shear: float) -> None:
    path = saved(tmp_path, nifti(slanted(shear), q=0))
    with pytest.raises(ValueError, match="must be perpendicular") as of_volume:
        read_volume(path)
    with pytest.raises(ValueError, match="must be perpendicular") as of_header:
        read_grid(path)
    assert str(of_volume.value) == str(of_header.value)
    with pytest.raises(FileNotFoundError, match="none.nii.gz: file must exist"):
        read_grid(tmp_path / "none.nii.gz")


def test_the_shift_of_straightened_axes_is_the_one_that_is_said(tmp_path: Path) -> None:
    """By the remedy of docs/files.md, which nibabel's quaternion carries out."""
    path = saved(tmp_path, nifti(slanted(0.02), q=0))
    with pytest.raises(ValueError, match=r"no voxel moves by more than 0\.05 of its size"):
        read_volume(path)
    image = nib.load(path)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.get_qform(), code=1)
    nib.save(image, tmp_path / "straight.nii.gz")
    straight = lps_affine(nib.load(path).affine) - read_volume(tmp_path / "straight.nii.gz").affine
    corners = np.array([[d, h, w, 1] for d in (0, 7) for h in (0, 8) for w in (0, 9)])
    assert np.linalg.norm((corners @ straight.T)[:, :3], axis=1).max() < 0.1


@pytest.mark.parametrize(
    ("name", "packed", "sentence"),
    [
        ("scan.nii", True, "must be uncompressed, as its name says"),
        ("scan.nii.gz", False, "must be compressed by gzip"),
    ],
)
def test_a_name_that_lies_about_compression(tmp_path: Path, name: str, packed: bool, sentence: str) -> None:
    saved(tmp_path, nifti(), "true.nii")
    content = (tmp_path / "true.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=f"{name}: file {sentence}"):
        read_volume(tmp_path / name)


def axis_of_one(image: nib.Nifti1Image) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.asanyarray(image.dataobj)[..., None], PLACE)


def scaled(kind: str, slope: float, inter: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = nib.Nifti1Image(VALUES.astype(kind), PLACE, dtype=kind)
        image.header.set_slope_inter(slope, inter)
        path.write_bytes(gzip.compress(image.to_bytes()))

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda path: nib.save(axis_of_one(nifti()), path),
        *(lambda path, kind=kind: nib.save(nib.Nifti1Image(VALUES.astype(kind), PLACE, dtype=kind), path)
          for kind in ("uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")),
        scaled("uint16", 1, -1024), scaled("int16", 0.5, 0), scaled("int64", 0.1, 3), scaled("float64", 0.1, 3),
    ],
)  # fmt: skip
def test_odd_types_scalings_and_dimensions_have_nibabels_values_and_place(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "scan.nii.gz"
    write(path)
    stored, volume = nib.load(path), read_volume(path)
    wanted = np.asanyarray(stored.dataobj).reshape(SHAPE).T
    np.testing.assert_allclose(volume.array, wanted, rtol=1e-6)
    np.testing.assert_allclose(volume.affine, lps_affine(stored.affine), atol=1e-5)


NRRD = (
    "NRRD0005\ntype: short\ndimension: 3\nsizes: 9 8 7\nencoding: raw\nendian: little\n"
    "{}space directions: (1,0,0) (0,1.5,0) (0,0,2)\nspace origin: (10,20,30)\n\n"
)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (-1, -1, 1)),
        ("left-anterior-superior", (1, -1, 1)),
        ("left-posterior-superior", (1, 1, 1)),
    ],
)
def test_the_space_of_a_nrrd_is_followed(tmp_path: Path, space: str, signs: tuple[int, ...]) -> None:
    path = tmp_path / "scan.nrrd"
    path.write_bytes(NRRD.format(f"space: {space}\n").encode() + VALUES.T.tobytes())
    expected = np.diag([*signs, 1.0]) @ PLACE
    np.testing.assert_allclose(read_volume(path).affine, expected[:, [2, 1, 0, 3]])


def test_a_nrrd_without_directions_has_voxels_of_a_millimetre(tmp_path: Path) -> None:
    path = tmp_path / "scan.nrrd"
    head = NRRD.format("").split("space")[0]
    path.write_bytes(head.encode() + b"\n" + VALUES.T.tobytes())
    np.testing.assert_allclose(read_volume(path).affine, np.eye(4)[:, [2, 1, 0, 3]])
    np.testing.assert_array_equal(read_volume(path).array, VALUES.T)


MHA = "ObjectType = Image\nNDims = {}\nDimSize = {}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"


def test_an_mha_without_spacing_has_voxels_of_a_millimetre_and_has_three_dimensions(tmp_path: Path) -> None:
    plain, more = tmp_path / "plain.mha", tmp_path / "more.mha"
    plain.write_bytes(MHA.format(3, "9 8 7").encode() + VALUES.T.tobytes())
    more.write_bytes(MHA.format(4, "9 8 7 1").encode() + VALUES.T.tobytes())
    np.testing.assert_allclose(read_volume(plain).affine, np.eye(4)[:, [2, 1, 0, 3]])
    np.testing.assert_array_equal(read_volume(plain).array, VALUES.T)
    with pytest.raises(ValueError, match="more.mha: volume must have three dimensions, got 9 × 8 × 7 × 1"):
        read_volume(more)


def test_links_are_followed_and_a_dead_one_is_named(tmp_path: Path) -> None:
    link = tmp_path / "link.nii.gz"
    link.symlink_to(saved(tmp_path, nifti()))
    np.testing.assert_array_equal(read_volume(link).array, VALUES.T)
    (tmp_path / "scan.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="link.nii.gz: file must exist"):
        read_volume(link)


@pytest.mark.parametrize(
    ("image", "read", "millimetres"),
    [
        (nifti(qform=ELSEWHERE), "sform", None),
        (nifti(qform=ELSEWHERE, s=0), "qform", None),
        (nifti(qform=ELSEWHERE, q=0, s=2), "sform", None),
        (nifti(qform=ELSEWHERE, s=2), "qform", "qform against sform, up to 37.4 mm apart"),
        (nifti(qform=ELSEWHERE, s=4, q=2), "qform", "qform against sform, up to 37.4 mm apart"),
        (nifti(slanted(0.3), qform=PLACE), "qform", "qform against sform, up to 2.4 mm apart"),
        (nifti(s=0, q=0), "", "voxel sizes from the first voxel on against voxel sizes from the middle on, up to"),
    ],
)  # fmt: skip
def test_itk_and_nibabel_follow_one_form_or_the_difference_is_named(
    tmp_path: Path, image: nib.Nifti1Image, read: str, millimetres: str | None
) -> None:
    """The rule of ITK, which nnU-Net reads .nii.gz with: the sform if its code is 1 or there is no qform."""
    path = saved(tmp_path, image)
    if read:
        np.testing.assert_allclose(read_volume(path).affine, lps_affine(getattr(image, f"get_{read}")()), atol=1e-5)
    difference = position_difference(path)
    assert (difference is None) == (millimetres is None)
    assert difference is None or difference.startswith(str(millimetres))


def test_a_unit_is_taken_into_account_and_named(tmp_path: Path) -> None:
    image = nifti(PLACE / [[1000], [1000], [1000], [1]], qform=PLACE / [[1000], [1000], [1000], [1]])
    image.header.set_xyzt_units("meter")
    path = saved(tmp_path, image)
    np.testing.assert_allclose(read_volume(path).affine, lps_affine(PLACE), atol=1e-3)
    assert "sform and its unit against sform" in str(position_difference(path))


def test_a_file_that_is_no_nifti_has_no_header(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VALUES.T), str(tmp_path / "scan.mha"), True)
    shutil.copy(tmp_path / "scan.mha", tmp_path / "scan.nii")
    assert nibabel_affine(tmp_path / "scan.nii") is None
    assert position_difference(tmp_path / "none.nii") is None
    np.testing.assert_array_equal(read_volume(tmp_path / "scan.mha").array, VALUES.T)


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "int32", "int64", "float32", "float64"])
def test_labels_of_any_type_are_whole_numbers(tmp_path: Path, kind: str) -> None:
    labels = (VALUES % 4).astype(kind)
    path = saved(tmp_path, nib.Nifti1Image(labels, PLACE, dtype=kind))
    read = read_label_map(path).array
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, labels.T)


def test_labels_with_a_slope_have_the_scaled_values(tmp_path: Path) -> None:
    image = nib.Nifti1Image((VALUES % 3 * 2).astype(np.int16), PLACE)
    image.header.set_slope_inter(0.5, 0)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.nii.gz").array, (VALUES % 3).T)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(nib.Nifti1Image(VALUES % 300, PLACE).to_bytes()))
    assert read_label_map(tmp_path / "b.nii.gz").array.dtype == np.uint16


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (1.0000001, "1.00000012"), (-1, "-1")])
def test_other_numbers_are_no_labels(tmp_path: Path, value: float, shown: str) -> None:
    path = saved(tmp_path, nib.Nifti1Image((VALUES % 2 * value).astype(np.float32), PLACE))
    sentence = rf"{path}: values must be whole numbers from 0 on, got {shown} in float32. Round the mask"
    with pytest.raises(ValueError, match=sentence):
        read_label_map(path)
