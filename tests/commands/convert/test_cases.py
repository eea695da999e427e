"""One case: units, data types, grids, and what contradicts itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from public_files import ORIGIN, SHAPE, SPACING, ct, labels, load, save

from fcas_nnunet.commands.convert.cases import Job, LabelMap, check_case, in_hu, read_labels, write_case
from fcas_nnunet.datasets.imagechd import IMAGECHD
from fcas_nnunet.datasets.layout import PublicSet, Scan
from fcas_nnunet.datasets.mmwhs import mmwhs
from fcas_nnunet.integration.dataset.volumes import read_volume

CORONARIES = PublicSet.of_structures({1: "coronary_arteries"}, key="x", name="X", channel="CT")
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def job(folder: Path, public: PublicSet = CORONARIES, offset: int = 0) -> Job:
    scan = Scan("case_1", folder / "image.nii.gz", folder / "label.nii.gz", "Tr", "case_1")
    return Job(folder / "written", folder, public, scan, offset)


def on_scan(work: Job) -> LabelMap:
    """The labels of a case on the grid of its scan."""
    scan = read_volume(work.scan.image)
    assert work.scan.label is not None
    return read_labels(work, work.scan.label, scan.array.shape, scan.affine)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_whole_ct_values_become_int16(tmp_path: Path, dtype: type) -> None:
    hu = in_hu(job(tmp_path, offset=1024), ct(1, offset=1024, dtype=dtype))
    assert hu.dtype == np.int16
    np.testing.assert_array_equal(hu, ct(1))


def test_fractions_and_values_beyond_int16_are_kept(tmp_path: Path) -> None:
    fractions = ct(1).astype(np.float64) + 0.125
    assert in_hu(job(tmp_path), fractions) is not None
    np.testing.assert_array_equal(in_hu(job(tmp_path), fractions), fractions)
    np.testing.assert_array_equal(in_hu(job(tmp_path, offset=1024), fractions + 1024), fractions)
    assert in_hu(job(tmp_path, offset=1024), (fractions + 1024).astype(np.float32)).dtype == np.float32
    metal = ct(1, offset=1024, dtype=np.uint16)
    metal[2, 2, 2] = 60000
    hu = in_hu(job(tmp_path, offset=1024), metal)
    assert hu.dtype == np.int32 and hu[2, 2, 2] == 60000 - 1024
    np.testing.assert_array_equal(np.delete(hu, 2, axis=0), np.delete(ct(1), 2, axis=0))


def test_a_scan_in_hu_is_not_offset_once_more(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stored values must be HU \+ 1024, got air and lung .* give --offset 0"):
        in_hu(job(tmp_path, offset=1024), ct(1))
    padded = ct(1, offset=1024)
    padded[:2] = -1024  # outside the scanner's circle
    assert in_hu(job(tmp_path, offset=1024), padded).min() == -2048


def test_a_label_on_a_finer_grid_is_sampled_in_the_middle_of_each_voxel(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", np.zeros((1, 1, 3), np.int16), spacing=(3, 1, 1), origin=(1, 0, 0))
    # the label's voxels 0…8 of 1 mm are centred on 0…8 mm, the scan's on 1, 4 and 7 mm
    save(
        tmp_path / "label.nii.gz",
        np.array([[[0, 1, 0, 0, 0, 0, 1, 1, 1]]], np.uint8),
        spacing=(1, 1, 1),
        origin=(0, 0, 0),
    )
    found = on_scan(job(tmp_path))
    assert found.ids.tolist() == [[[1, 0, 1]]]
    assert found.resampled and found.outside == 0


def test_a_label_that_runs_the_other_way_is_turned(tmp_path: Path) -> None:
    stored = labels(1, [1])
    save(tmp_path / "image.nii.gz", ct(1))
    end = (ORIGIN[0] + SPACING[0] * (SHAPE[2] - 1), *ORIGIN[1:])
    save(tmp_path / "label.nii.gz", stored[..., ::-1], origin=end, direction=(-1, *IDENTITY[1:]))
    found = on_scan(job(tmp_path))
    np.testing.assert_array_equal(found.ids, stored)
    assert found.resampled


def test_headers_that_differ_by_rounding_alone_are_taken_as_one(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    save(tmp_path / "label.nii.gz", labels(1, [1]), origin=(ORIGIN[0] + 0.04 * SPACING[0], *ORIGIN[1:]))
    found = on_scan(job(tmp_path))
    assert not found.resampled
    np.testing.assert_array_equal(found.ids, labels(1, [1]))
    record = write_case(job(tmp_path))
    written = tmp_path / "written"
    assert load(written / "labelsTr/case_1.nii.gz")[2] == load(written / "imagesTr/case_1_0000.nii.gz")[2]
    assert record["label_resampled"] is False


def test_a_label_far_from_its_scan_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    save(tmp_path / "label.nii.gz", labels(1, [1]), origin=(0, 0, 0))
    with pytest.raises(ValueError, match="label must lie in its scan, got 100% of it outside by the two headers"):
        check_case(job(tmp_path))


def test_a_voxel_size_of_the_user_goes_onto_scan_and_label_after_they_are_matched(tmp_path: Path) -> None:
    stored = labels(1, [1])
    stored[..., 0] = 0
    save(tmp_path / "image.nii.gz", ct(1))
    save(tmp_path / "label.nii.gz", stored, origin=(ORIGIN[0] - SPACING[0], *ORIGIN[1:]))
    plain = job(tmp_path)
    write_case(replace(plain, scan=replace(plain.scan, spacing_mm=(1.25, 0.3, 0.35))))
    written = tmp_path / "written"
    for path in (written / "imagesTr/case_1_0000.nii.gz", written / "labelsTr/case_1.nii.gz"):
        _, spacing, origin = load(path)
        assert spacing == pytest.approx((0.35, 0.3, 1.25)) and origin == pytest.approx(ORIGIN)
    np.testing.assert_array_equal(load(written / "labelsTr/case_1.nii.gz")[0][..., :-1], stored[..., 1:])


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.full(SHAPE, 2, np.uint8), "label values must be 0, 1, got 2 (210 voxels)"),
        (np.full(SHAPE, 0.5, np.float32), "label values must be 0, 1, got 0.5 (210 voxels)"),
        (np.full(SHAPE, -1, np.int16), "label values must be 0, 1, got -1 (210 voxels)"),
        (np.zeros(SHAPE, np.uint8), "label must mark a voxel, got none"),
    ],
)
def test_labels_of_unknown_meaning_and_empty_ones_are_refused(tmp_path: Path, stored: np.ndarray, said: str) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    save(tmp_path / "label.nii.gz", stored)
    with pytest.raises(ValueError, match="leave the case out with --skip") as error:
        check_case(job(tmp_path))
    assert said in str(error.value)


def test_float_labels_of_whole_values_are_read(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    save(tmp_path / "label.nii.gz", labels(1, [1], np.float64))
    np.testing.assert_array_equal(on_scan(job(tmp_path)).ids, labels(1, [1]))


def test_labels_that_scaling_has_moved_a_little_are_whole_numbers(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    save(tmp_path / "label.nii.gz", labels(1, [1], np.float32) * np.float32(1.0000153))
    found = on_scan(job(tmp_path))
    assert found.others == {}
    np.testing.assert_array_equal(found.ids, labels(1, [1]))


def test_labels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    holes = labels(1, [1], np.float32)
    holes[1, 1, :2] = np.nan  # which ITK reads as 0
    save(tmp_path / "label.nii.gz", holes)
    with pytest.raises(ValueError, match="label values must be numbers, got 2 NaN or infinite ones. .* with --skip"):
        check_case(job(tmp_path))


@pytest.mark.parametrize("lost", ["image", "label"])
def test_a_link_to_nothing_is_a_fault_of_its_case(tmp_path: Path, lost: str) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    save(tmp_path / "label.nii.gz", labels(1, [1]))
    (tmp_path / f"{lost}.nii.gz").unlink()
    (tmp_path / f"{lost}.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    with pytest.raises(ValueError, match=f"{lost}.nii.gz: file must exist, got a link .* Or leave the case out with"):
        check_case(job(tmp_path))


def test_what_became_background_and_what_was_misprinted_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "image.nii.gz", ct(1))
    stored = np.ones(SHAPE, np.int16)
    stored[0, 0, :3], stored[0, 1, :2] = 8, 300
    save(tmp_path / "label.nii.gz", stored)
    found = on_scan(job(tmp_path, IMAGECHD))
    assert found.others == {"8": 3, "300": 2} and found.misprints == {}
    np.testing.assert_array_equal(found.ids, (stored == 1).astype(np.uint8))
    stored = np.full(SHAPE, 420, np.int16)
    stored[0, 0, :4] = 421
    save(tmp_path / "label.nii.gz", stored)
    found = on_scan(job(tmp_path, mmwhs("mr")))
    assert found.misprints == {"421": 4} and found.others == {}
    assert (found.ids == mmwhs("mr").labels["left_atrium"]).all()


def test_scans_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    work = job(tmp_path)
    save(tmp_path / "label.nii.gz", labels(1, [1]))
    work.scan.image.write_text("no volume")
    with pytest.raises(ValueError, match="image.nii.gz: file must be a readable volume, got"):
        check_case(work)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 3), np.int16), np.eye(4)), work.scan.image)
    with pytest.raises(ValueError, match="image.nii.gz: volume must have three dimensions, got 4 × 4 × 4 × 3"):
        check_case(work)
    holes = ct(1).astype(np.float32)
    holes[1, 1, 1] = np.nan
    save(work.scan.image, holes)
    with pytest.raises(ValueError, match="voxels must be numbers, got 1 NaN or infinite ones"):
        write_case(work)
    assert not work.folder.exists()
