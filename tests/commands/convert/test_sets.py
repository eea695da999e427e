"""Each public set, from small files of its layout, quirks included: values, units, grids, parts, folds, summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from public_files import ORIGIN, SHAPE, SPACING, ct, labels, load, save, save_workbook

from fcas_nnunet.commands.convert import command
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

HEART = ["left_ventricle", "right_ventricle", "left_atrium", "right_atrium"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "download of ä set"


def convert(*arguments: str | Path) -> None:
    command.main([*map(str, arguments), "-np", "1"])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        convert(*arguments)
    return capsys.readouterr().err


def description(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    return content


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def write_imagecas(source: Path, numbers: range) -> None:
    for n in numbers:
        save(source / f"{'1-200' if n < 3 else '201-400'}/{n}.img.nii.gz", ct(n))
        save(source / f"{'1-200' if n < 3 else '201-400'}/{n}.label.nii.gz", labels(n, [1]))


def write_split(source: Path, parts: list[str]) -> Path:
    rows: list[list[str | int | None]] = [["4-fold cross validation", None], ["FileName", "Split-1", "Split-2"]]
    rows += [[n, part, "Testing" if n == 1 else "Training"] for n, part in enumerate(parts, start=1)]
    return save_workbook(source / "imageCAS_data_split.xlsx", {"v1": [["FileName", "Split-1"]], "v2-latest": rows})


def test_imagecas(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_imagecas(source, range(1, 6))
    write_split(source, ["Training", "Val", "Testing", "Training", "Training", "Testing"])
    save(source / "1-200 (1)/1.img.nii.gz", ct(1))  # a second download
    shifted = labels(4, [1])
    shifted[..., 0] = 0  # what leaves the scan
    shifted[2, 2, 0] = 1
    save(source / "201-400/4.label.nii.gz", shifted, origin=(ORIGIN[0] - SPACING[0], *ORIGIN[1:]))
    convert("imagecas", source, "-d", "910")
    folder = raw / "Dataset910_ImageCAS"
    assert names(folder / "imagesTr") == [f"imagecas_000{n}_0000.nii.gz" for n in (1, 2, 4, 5)]
    assert names(folder / "imagesTs") == ["imagecas_0003_0000.nii.gz"]
    assert names(folder / "labelsTs") == ["imagecas_0003.nii.gz"]
    content = description(folder)
    assert content["channel_names"] == {"0": "CT"} and content["numTraining"] == 4
    assert content["labels"] == {"background": 0, "coronary_arteries": 1}
    image, spacing, origin = load(folder / "imagesTr/imagecas_0002_0000.nii.gz")
    assert image.dtype == np.int16 and spacing == pytest.approx(SPACING) and origin == pytest.approx(ORIGIN)
    np.testing.assert_array_equal(image, ct(2))
    np.testing.assert_array_equal(load(folder / "labelsTr/imagecas_0002.nii.gz")[0], labels(2, [1]))
    # case 4: its label lies a voxel to the left by its header, so the scan's voxel w holds the label's voxel w + 1
    moved, spacing, origin = load(folder / "labelsTr/imagecas_0004.nii.gz")
    np.testing.assert_array_equal(moved[..., :-1], shifted[..., 1:])
    assert not moved[..., -1].any()
    assert spacing == pytest.approx(SPACING) and origin == pytest.approx(ORIGIN)
    folds = [{"train": ["imagecas_0001", "imagecas_0004", "imagecas_0005"], "val": ["imagecas_0002"]}]
    read_by_nnunet = raw.parent / "nnUNet_preprocessed/Dataset910_ImageCAS/splits_final.json"
    assert json.loads(read_by_nnunet.read_text()) == json.loads((folder / "splits_final.json").read_text()) == folds
    check_dataset(RawDataset.open(folder))
    text = capsys.readouterr().out
    assert "converted: 4 cases into imagesTr and labelsTr" in text
    assert "1 cases into imagesTs, 1 of them with labels in labelsTs" in text
    assert "skipped:   1 copies of files that were taken: 1-200 (1)/1.img.nii.gz" in text
    assert "1 resampled onto their scan, whose header differs (imagecas_0004)" in text
    assert f"up to {1 / shifted.sum():.1%} of a label lay outside its scan (imagecas_0004)" in text
    assert f"1 fold of the published Split-1 (imageCAS_data_split.xlsx): {folder / 'splits_final.json'}" in text
    assert str(read_by_nnunet) in text
    assert "1 cases of the published split are not in SRC: imagecas_0006" in text


def test_imagecas_with_another_split_and_with_none(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_imagecas(source, range(1, 4))
    message = fails(capsys, "imagecas", source, "-d", "910")
    assert "the published split, imageCAS_data_split.xlsx, must be in it, got none" in message
    assert names(raw) == []
    convert("imagecas", source, "-d", "910", "--split", "none")
    assert len(names(raw / "Dataset910_ImageCAS/imagesTr")) == 3
    assert not (raw / "Dataset910_ImageCAS/splits_final.json").exists()
    split = source / "IMAGECAS_data_split.csv"
    split.write_text("FileName,Split-1\n1,Training\n2,Testing\n3,Val\n")
    convert("imagecas", source, "-d", "913")
    assert names(raw / "Dataset913_ImageCAS/labelsTs") == ["imagecas_0002.nii.gz"]
    split = source.parent / "own.csv"
    split.write_text("FileName,Split-1,Split-2\n1,Training,Testing\n2,Val,Training\n3,Training,Val\n")
    convert("imagecas", source, "-d", "911", "--split", "2", "--split-file", split)
    assert names(raw / "Dataset911_ImageCAS/labelsTs") == ["imagecas_0001.nii.gz"]
    assert "--split-file: must go without --split none, beside which it does nothing" in fails(
        capsys, "imagecas", source, "-d", "912", "--split", "none", "--split-file", split
    )
    split.write_text("FileName,Split-1\n1,Training\nx,Val\n")
    assert "own.csv: every row must hold a number and Training, Val or Testing, got x Val" in fails(
        capsys, "imagecas", source, "-d", "912", "--split-file", split
    )
    split.write_text("FileName,Split-1\n1,Training\n")
    assert "Split-1 must name every case, got none of imagecas_0002, imagecas_0003" in fails(
        capsys, "imagecas", source, "-d", "912", "--split-file", split
    )
    split.write_text("id,fold\n1,Training\n")
    assert "table must have the columns FileName and Split-1, got id, fold" in fails(
        capsys, "imagecas", source, "-d", "912", "--split-file", split
    )


def test_imagechd(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = labels(1, range(1, 8))
    stored[4, 5, 6] = 9
    save(source / "ct_1001_image.nii.gz", ct(1, offset=1024, dtype=np.uint16))
    save(source / "ct_1001_label.nii.gz", stored)
    save(source / "ct_1002_image.nii.gz", ct(2, offset=1024).astype(np.float32) + np.float32(0.25))
    save(source / "ct_1002_label.nii.gz", labels(2, range(1, 8), np.int16))
    (source / "imageCHD_dataset_info.xlsx").write_bytes(b"PK")
    sizes = source.parent / "sizes.csv"
    sizes.write_text("case,x,y,z\nct_1001,0.3,0.4,0.7\n1003,1,1,1\n")
    convert("imagechd", source, "-d", "911", "--spacing", sizes)
    folder = raw / "Dataset911_ImageCHD"
    image, spacing, origin = load(folder / "imagesTr/imagechd_1001_0000.nii.gz")
    assert image.dtype == np.int16
    np.testing.assert_array_equal(image, ct(1))
    assert spacing == pytest.approx((0.3, 0.4, 0.7)) and origin == pytest.approx(ORIGIN)
    mask, spacing, _ = load(folder / "labelsTr/imagechd_1001.nii.gz")
    assert spacing == pytest.approx((0.3, 0.4, 0.7))
    np.testing.assert_array_equal(mask, np.where(stored == 9, 0, stored))
    image, spacing, _ = load(folder / "imagesTr/imagechd_1002_0000.nii.gz")
    assert image.dtype == np.float32  # fractions are kept
    np.testing.assert_array_equal(image, ct(2) + np.float32(0.25))
    assert spacing == pytest.approx(SPACING)
    assert list(description(folder)["labels"]) == ["background", *HEART, "myocardium", "aorta", "pulmonary_artery"]
    check_dataset(RawDataset.open(folder))
    text = capsys.readouterr().out
    assert "unknown values became background: 9 (1 voxels) (imagechd_1001)" in text
    assert "stored values less 1024" in text
    assert "spacing:   corrected as --spacing says in 1 cases" in text
    assert "1 cases of sizes.csv are not in SRC: imagechd_1003" in text
    assert "1 cases are not in sizes.csv and keep their header's voxel size: imagechd_1002" in text
    assert "data type: float32 (1 cases), int16 (1 cases)" in text
    assert "CHD68 holds 63 scans of ImageCHD" in text
    assert "splits:    none are published" in text


def test_imagechd_with_one_voxel_size_for_all_and_with_the_headers(raw: Path, source: Path) -> None:
    save(source / "ct_1001_image.nii.gz", ct(1, offset=1024))
    save(source / "ct_1001_label.nii.gz", labels(1, range(1, 8)))
    convert("imagechd", source, "-d", "911", "--spacing", "0.3", "0.4", "0.7", "--name", "CHD")
    assert load(raw / "Dataset911_CHD/imagesTr/imagechd_1001_0000.nii.gz")[1] == pytest.approx((0.3, 0.4, 0.7))
    convert("imagechd", source, "-d", "912")
    assert load(raw / "Dataset912_ImageCHD/imagesTr/imagechd_1001_0000.nii.gz")[1] == pytest.approx(SPACING)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("id,x,y,z\n1001,1,1,1\n", "columns must be case, x, y, z, got id, x, y, z"),
        ("case,x,y,z\n1001,1,0,1\n", "a line must be a case and three voxel sizes in mm, got 1001, 1, 0, 1"),
        ("case,x,y,z\n1001,1,5,1,5,2,5\n", "three voxel sizes in mm, got 1001, 1, 5, 1, 5, 2, 5"),
        ("case,x,y,z\nct_1001,1,1,1\n1001,1,1,2\n", "case 1001 must be there once, got 1, 1, 2 besides"),
        ("case,x,y,z\n1001,1,1,\xbd\n", "sizes.csv: file must be a table, .xlsx or .csv, got an error: 'utf-8'"),
    ],
)
def test_a_table_of_voxel_sizes_that_is_at_fault_is_refused(
    raw: Path, source: Path, capsys: pytest.CaptureFixture[str], table: str, said: str
) -> None:
    save(source / "ct_1001_image.nii.gz", ct(1, offset=1024))
    save(source / "ct_1001_label.nii.gz", labels(1, range(1, 8)))
    sizes = source.parent / "sizes.csv"
    sizes.write_text(table, encoding="latin-1")
    assert said in fails(capsys, "imagechd", source, "-d", "911", "--spacing", sizes)
    assert names(raw) == []


def test_voxel_sizes_on_the_command_line_are_checked(
    raw: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(source / "ct_1001_image.nii.gz", ct(1, offset=1024))
    save(source / "ct_1001_label.nii.gz", labels(1, range(1, 8)))
    for words in (["1", "1"], ["1", "x", "1"], ["1", "-1", "1"]):
        assert f"--spacing: must be three voxel sizes in mm, X Y Z, or one CSV file, got {' '.join(words)}" in fails(
            capsys, "imagechd", source, "-d", "911", "--spacing", *words
        )
    assert "--spacing must name a table or be three numbers, got no file" in fails(
        capsys, "imagechd", source, "-d", "911", "--spacing", "nowhere.csv"
    )


def test_imagealcapa_needs_the_users_label_map(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in (1, 12):
        save(source / f"ImageALCAPA_BIBM_Publish/{n}_image.nii.gz", ct(n, offset=1024), spacing=(1, 1, 1))
        save(source / f"ImageALCAPA_BIBM_Publish/{n}_label.nii.gz", labels(n, [1, 2, 3, 9]), spacing=(1, 1, 1))
    (source / "ImageALCAPA_BIBM_Publish/._1_image.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    message = fails(capsys, "imagealcapa", source, "-d", "912")
    assert (
        "--label-map: a YAML file must say which value is which structure, got none. 1_label.nii.gz holds 1, 2, 3, 9"
        in message
    )
    assert names(raw) == []
    label_map = source.parent / "labels.yaml"
    label_map.write_text(
        "{0: background, 1: myocardium, 2: left_coronary_artery, 3: left_coronary_artery, 9: background}"
    )
    convert("imagealcapa", source, "-d", "912", "--label-map", label_map)
    folder = raw / "Dataset912_ImageALCAPA"
    assert description(folder)["labels"] == {"background": 0, "myocardium": 1, "left_coronary_artery": 2}
    mask = load(folder / "labelsTr/imagealcapa_12.nii.gz")[0]
    stored = labels(12, [1, 2, 3, 9])
    np.testing.assert_array_equal(mask, np.select([stored == 1, stored == 2, stored == 3], [1, 2, 2], 0))
    np.testing.assert_array_equal(load(folder / "imagesTr/imagealcapa_01_0000.nii.gz")[0], ct(1))
    assert "skipped:   1 macOS' own files: ImageALCAPA_BIBM_Publish/._1_image.nii.gz" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("myocardium: 1\n", "entries must be a whole number from 1 and a name, got 'myocardium': 1"),
        ("0: myocardium\n", "entries must be a whole number from 1 and a name, got 0: 'myocardium'"),
        ("1: ignore\n", "entries must be a whole number from 1 and a name, got 1: 'ignore'"),
        ("1: background\n", "map must name a structure, got none"),
        ("- 1\n", "content must be a mapping of settings, got a list"),
    ],
)
def test_a_label_map_that_is_none_is_refused(
    raw: Path, source: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    save(source / "1_image.nii.gz", ct(1, offset=1024))
    save(source / "1_label.nii.gz", labels(1, [1]))
    label_map = source.parent / "labels.yaml"
    label_map.write_text(content)
    assert said in fails(capsys, "imagealcapa", source, "-d", "912", "--label-map", label_map)
    assert names(raw) == []


def test_a_value_that_the_users_map_lacks_is_refused(
    raw: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in (1, 2):
        save(source / f"{n}_image.nii.gz", ct(n, offset=1024))
    save(source / "1_label.nii.gz", labels(1, [1, 2]))
    only_five = np.ones(SHAPE, np.uint8)
    only_five[0, 0, :3] = 5
    save(source / "2_label.nii.gz", only_five)
    label_map = source.parent / "labels.yaml"
    label_map.write_text("1: myocardium\n")
    message = fails(capsys, "imagealcapa", source, "-d", "912", "--label-map", label_map)
    assert "imagealcapa_01: " in message and "label values must be 0, 1, got 2 (" in message
    assert "2_label.nii.gz: label values must be 0, 1, got 5 (3 voxels). Correct the file, or leave the case" in message
    assert not (raw / "Dataset912_ImageALCAPA/imagesTr").exists()


def test_asoca_of_both_releases(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later, first = source / "ASOCA", source / "ASOCA2020Data"
    for cohort, number in (("Normal", 1), ("Diseased", 20)):
        save(later / f"{cohort}/CTCA/{cohort}_{number}.nrrd", ct(number, dtype=np.int32))
        save(later / f"{cohort}/Annotations/{cohort}_{number}.nrrd", labels(number, [1]))
    save(later / "Normal/Testset_Normal/0.nrrd", ct(50))
    save(later / "Diseased/Testset_Disease/10.nrrd", ct(51))
    (later / "Normal/Centerlines").mkdir()
    save(first / "Train/0.nrrd", ct(60))
    save(first / "Train_Masks/0.nrrd", labels(60, [1]))
    save(first / "Test/0.nrrd", ct(61))
    convert("asoca", later, "-d", "913")
    folder = raw / "Dataset913_ASOCA"
    assert names(folder / "imagesTr") == ["asoca_diseased_20_0000.nii.gz", "asoca_normal_01_0000.nii.gz"]
    assert names(folder / "imagesTs") == ["asoca_diseased_10_test_0000.nii.gz", "asoca_normal_00_test_0000.nii.gz"]
    assert names(folder / "labelsTs") == []
    image, spacing, origin = load(folder / "imagesTr/asoca_normal_01_0000.nii.gz")
    assert image.dtype == np.int16 and spacing == pytest.approx(SPACING) and origin == pytest.approx(ORIGIN)
    np.testing.assert_array_equal(image, ct(1))
    assert "2 cases into imagesTs, 0 of them with labels in labelsTs" in capsys.readouterr().out
    convert("asoca", first, "-d", "914")
    assert names(raw / "Dataset914_ASOCA/imagesTr") == ["asoca2020_00_0000.nii.gz"]
    assert names(raw / "Dataset914_ASOCA/imagesTs") == ["asoca2020_test_00_0000.nii.gz"]
    assert "must hold one release of ASOCA, got both" in fails(capsys, "asoca", source, "-d", "915")
    check_dataset(RawDataset.open(folder))


def test_mmwhs_of_both_modalities(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [205, 420, 500, 550, 600, 820, 850]
    mr = np.random.default_rng(3).random(SHAPE).astype(np.float32) * 3
    stored = labels(10, values, np.int16)
    stored[4, 5, 6] = 421
    save(source / "ct_train/ct_train_1001_image.nii.gz", ct(1))
    save(source / "ct_train/ct_train_1001_label.nii.gz", labels(1, values, np.uint16))
    save(source / "ct_test/ct_test_2001_image.nii.gz", ct(2))
    save(source / "mr_train/mr_train_1010_image.nii.gz", mr)
    save(source / "mr_train/mr_train_1010_label.nii.gz", stored)
    save(source / "mr_test/mr_test_2001_image.nii.gz", ct(4, offset=1024, dtype=np.uint16))
    convert("mmwhs", source, "-d", "914", "--modality", "mr")
    folder = raw / "Dataset914_MMWHSMR"
    assert description(folder)["channel_names"] == {"0": "MRI"}
    assert description(folder)["labels"] == {
        "background": 0, "left_myocardium": 1, "left_atrium": 2, "left_ventricle": 3, "right_atrium": 4,
        "right_ventricle": 5, "ascending_aorta": 6, "pulmonary_artery": 7,
    }  # fmt: skip
    mask = load(folder / "labelsTr/mmwhs_mr_1010.nii.gz")[0]
    for label_id, value in enumerate(values, start=1):
        np.testing.assert_array_equal(mask == label_id, (stored == value) | ((stored == 421) & (value == 420)))
    image = load(folder / "imagesTr/mmwhs_mr_1010_0000.nii.gz")[0]
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, mr)  # floats as floats, never rounded
    assert load(folder / "imagesTs/mmwhs_mr_2001_0000.nii.gz")[0].dtype == np.uint16
    text = capsys.readouterr().out
    assert "misprinted values corrected: 421 (1 voxels) (mmwhs_mr_1010)" in text
    assert "labels the great vessels in part only" in text
    convert("mmwhs", source, "-d", "915", "--modality", "ct")
    folder = raw / "Dataset915_MMWHSCT"
    assert names(folder / "imagesTr") == ["mmwhs_ct_1001_0000.nii.gz"]
    assert names(folder / "imagesTs") == ["mmwhs_ct_2001_0000.nii.gz"]
    assert names(folder / "labelsTs") == []
    assert description(folder)["channel_names"] == {"0": "CT"}
    check_dataset(RawDataset.open(folder))


def test_acdc(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patients = {1: (1, 12), 2: (1, 11), 3: (1, 15), 4: (1, 15), 5: (1, 13), 6: (1, 16), 101: (1, 14)}
    for number, frames in patients.items():
        folder = source / ("training" if number <= 100 else "testing") / f"patient{number:03d}"
        for frame in frames:
            scan = np.random.default_rng(number * 20 + frame).integers(0, 900, SHAPE).astype(np.uint16)
            save(folder / f"patient{number:03d}_frame{frame:02d}.nii.gz", scan, spacing=(1.5, 1.5, 10))
            save(folder / f"patient{number:03d}_frame{frame:02d}_gt.nii.gz", labels(number + frame, [1, 2, 3]),
                 spacing=(1.5, 1.5, 10))  # fmt: skip
        end_systole = frames[1] + (number == 2)  # of one patient, the labelled frame is another
        if number != 4:
            (folder / "Info.cfg").write_text(f"ED: {frames[0]}\nES: {end_systole}\nGroup: DCM\nWeight: 80.0\n")
        save(folder / f"patient{number:03d}_4d.nii.gz", np.zeros((2, *SHAPE), np.int16)[0])
        (folder / "MANDATORY_CITATION.md").write_text("cite")
    convert("acdc", source, "-d", "915")
    written = raw / "Dataset915_ACDC"
    assert len(names(written / "imagesTr")) == len(names(written / "labelsTr")) == 12
    assert names(written / "labelsTs") == ["patient101_frame01.nii.gz", "patient101_frame14.nii.gz"]
    content = description(written)
    assert content["labels"] == {"background": 0, "right_ventricle": 1, "left_myocardium": 2, "left_ventricle": 3}
    assert content["channel_names"] == {"0": "MRI"} and content["licence"] == "CC BY-NC-SA 4.0"
    image, spacing, _ = load(written / "imagesTr/patient003_frame15_0000.nii.gz")
    assert image.dtype == np.uint16 and spacing == pytest.approx((1.5, 1.5, 10))
    np.testing.assert_array_equal(load(written / "labelsTr/patient003_frame15.nii.gz")[0], labels(18, [1, 2, 3]))
    folds = json.loads((raw.parent / "nnUNet_preprocessed/Dataset915_ACDC/splits_final.json").read_text())
    assert len(folds) == 5
    for fold in folds:
        sides = [{case.partition("_")[0] for case in fold[key]} for key in ("train", "val")]
        assert not sides[0] & sides[1] and len(fold["train"]) + len(fold["val"]) == 12
    records = Manifest(written).read()
    assert records["patient003_frame15"]["patient"] == "patient003"
    said = {case_id: (record.get("phase"), record.get("group")) for case_id, record in records.items()}
    assert (said["patient003_frame01"], said["patient003_frame15"]) == (("ED", "DCM"), ("ES", "DCM"))
    assert (said["patient002_frame11"], said["patient004_frame01"]) == ((None, "DCM"), (None, None))
    text = capsys.readouterr().out
    assert "neither end-diastole nor end-systole by Info.cfg: patient002_frame11" in text
    assert "7 volumes that are neither scan nor label of this layout: testing/patient101/patient101_4d.nii.gz" in text
    assert "5 folds of patients, shuffled as nnU-Net's own converter of ACDC does" in text


def test_la2018(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, name, seed in (
        ("Training Set", "07LZBIRAN4", 1),
        ("Training Set", "08YB0EBE", 2),
        ("Testing Set", "4T3", 3),
    ):
        folder = source / "2018_UTAH_MICCAI" / part / name
        save(folder / "lgemri.nrrd", np.random.default_rng(seed).integers(0, 200, SHAPE).astype(np.uint8),
             spacing=(0.625,) * 3)  # fmt: skip
        cavity = labels(1 if seed == 2 else seed, [255])  # two cases have one label, as two of the challenge's have
        save(folder / "laendo.nrrd", cavity, spacing=(0.625,) * 3)
        save(folder / "lawall.nrrd", cavity, spacing=(0.625,) * 3)
    convert("la2018", source, "-d", "916")
    folder = raw / "Dataset916_LeftAtrium2018"
    assert names(folder / "labelsTr") == ["la2018_07LZBIRAN4.nii.gz", "la2018_08YB0EBE.nii.gz"]
    assert names(folder / "imagesTs") == ["la2018_4T3_0000.nii.gz"]
    assert names(folder / "labelsTs") == ["la2018_4T3.nii.gz"]
    np.testing.assert_array_equal(load(folder / "labelsTr/la2018_07LZBIRAN4.nii.gz")[0], labels(1, [255]) // 255)
    assert load(folder / "imagesTr/la2018_07LZBIRAN4_0000.nii.gz")[0].dtype == np.uint8
    assert description(folder)["labels"] == {"background": 0, "left_atrium": 1}
    text = capsys.readouterr().out
    assert "la2018_07LZBIRAN4 and la2018_08YB0EBE have the same label map: keep them on one side of every split" in text
    convert("la2018", source / "2018_UTAH_MICCAI/Testing Set", "-d", "917")  # the part is told from the folder's name
    assert names(raw / "Dataset917_LeftAtrium2018/imagesTs") == ["la2018_4T3_0000.nii.gz"]
