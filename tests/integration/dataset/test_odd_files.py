"""Data sets of odd files: what is refused with a sentence, what is doubted with one, and what passes."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from fcas_nnunet.integration.dataset.checks import check_dataset, dataset_faults
from fcas_nnunet.integration.dataset.description import description_faults, reader_name
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

CONTENT = {
    "channel_names": {"0": "CT"}, "labels": {"background": 0, "aorta": 1}, "numTraining": 1, "file_ending": ".nii.gz",
}  # fmt: skip
PLACE = np.diag([2.0, 2.0, 2.0, 1.0])
ELSEWHERE = PLACE + [[0, 0, 0, 40], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
MASK = np.zeros((8, 9, 10), np.uint8)
MASK[2:6, 3:6, 4:7] = 1
SCAN = (MASK * 300.0 - 80).astype(np.int16)


def nifti(array: np.ndarray, *, s: int = 1, qform: np.ndarray = PLACE) -> nib.Nifti1Image:
    image = nib.Nifti1Image(array, PLACE)
    image.set_sform(PLACE, s)
    image.set_qform(qform, 1)
    return image


def write_set(
    raw: Path, files: dict[str, tuple[nib.Nifti1Image, nib.Nifti1Image]], ending: str = ".nii.gz", **entries: Any
) -> RawDataset:
    """A raw data set of images and labels by case."""
    folder = raw / "Dataset905_Odd"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case_id, (image, label) in files.items():
        nib.save(image, folder / "imagesTr" / f"{case_id}_0000{ending}")
        nib.save(label, folder / "labelsTr" / f"{case_id}{ending}")
    content = CONTENT | {"file_ending": ending, "numTraining": len(files)} | entries
    (folder / "dataset.json").write_text(json.dumps(content))
    return RawDataset.open(folder)


def test_plain_files_raise_no_doubt(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_dataset(write_set(raw, {"a": (nifti(SCAN), nifti(MASK)), "b": (nifti(SCAN), nifti(MASK))}))
    assert caplog.text == ""


@pytest.mark.parametrize(("ending", "reader"), [(".nii.gz", "ITK (SimpleITKIO)"), (".nii", "nibabel (NibabelIO)")])
def test_files_that_lie_elsewhere_for_nibabel_are_named_with_nnunets_reader(
    raw: Path, caplog: pytest.LogCaptureFixture, ending: str, reader: str
) -> None:
    odd = (nifti(SCAN, s=2, qform=ELSEWHERE), nifti(MASK, s=2, qform=ELSEWHERE))
    check_dataset(write_set(raw, {"odd": odd, "plain": (nifti(SCAN), nifti(MASK))}, ending))
    assert (
        f"Dataset905_Odd: 2 file(s) lie elsewhere for ITK than for nibabel: imagesTr/odd_0000{ending} (qform against "
        f"sform, up to 40 mm apart), labelsTr/odd{ending} (qform against sform, up to 40 mm apart). Synthetic scans "
        f"lie where ITK says; nnU-Net reads this data set by {reader}."
    ) in caplog.text
    assert "plain" not in caplog.text


def test_a_label_whose_other_form_is_read_is_refused(raw: Path) -> None:
    files = {"a": (nifti(SCAN, s=2, qform=ELSEWHERE), nifti(MASK))}
    (fault,) = dataset_faults(write_set(raw, files))
    assert fault.startswith("a: affine of label must be that of the image")


def test_ct_without_a_value_below_0_is_doubted_once(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    """HU + 1024 in uint16, as some sets store them; nnU-Net itself does not mind."""
    stored = nifti((SCAN + 1024).astype(np.uint16))
    check_dataset(write_set(raw, {i: (stored, nifti(MASK)) for i in "cab"} | {"d": (nifti(SCAN), nifti(MASK))}))
    (record,) = caplog.records
    assert "3 CT scan(s) have no value below 0" in record.message
    assert "in HU: a, b, c. If they hold HU + 1024, subtract 1024" in record.message


def test_an_mr_that_was_swapped_with_its_ct_is_doubted(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    mr = nifti(MASK.astype(np.uint16) * 300)
    dataset = write_set(raw, {"a": (nifti(SCAN), nifti(MASK))}, channel_names={"0": "CT", "1": "T2"})
    ct_path, mr_path = dataset.image_paths("a")
    nib.save(mr, mr_path)
    check_dataset(dataset)
    assert caplog.text == ""
    nib.save(mr, ct_path)
    nib.save(nifti(SCAN), mr_path)
    check_dataset(dataset)
    assert "HU: a. If they hold HU + 1024" in caplog.text
    assert "if they are no CT, correct channel_names, or the channel's number in their file names." in caplog.text


def test_mr_without_a_value_below_0_is_not_doubted(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = nifti((SCAN + 1024).astype(np.uint16))
    check_dataset(write_set(raw, {"a": (stored, nifti(MASK))}, channel_names={"0": "MRI"}))
    assert caplog.text == ""


@pytest.mark.parametrize("grey", [np.int16(-1024), np.float32(0), np.float32(0.25)])
def test_a_scan_of_one_grey_value_is_refused(raw: Path, grey: np.generic) -> None:
    dataset = write_set(raw, {"a": (nifti(np.full_like(MASK, grey, grey.dtype)), nifti(MASK))})
    assert dataset_faults(dataset) == [
        f"a: image must have more than one grey value, got {grey:g} in every voxel of {dataset.image_path('a')}. "
        "Export it again, or remove the case."
    ]


def test_an_empty_channel_is_refused_by_its_name(raw: Path) -> None:
    dataset = write_set(raw, {"a": (nifti(SCAN), nifti(MASK))}, channel_names={"0": "CT", "1": "T2"})
    nib.save(nifti(SCAN * 0), dataset.image_paths("a")[1])
    (fault,) = dataset_faults(dataset)
    assert fault.startswith("a: channel 1 (T2) must have more than one grey value, got 0 in every voxel of /")


_RAMP = np.arange(MASK.size, dtype=np.float64).reshape(MASK.shape)


@pytest.mark.parametrize("kind", ["int32", "uint32", "int64", "float64"])
@pytest.mark.parametrize("channel", ["CT", "MRI"])
def test_contrast_that_float32_loses_beside_its_offset_is_refused(raw: Path, kind: str, channel: str) -> None:
    values = (2.0**30 + _RAMP).astype(kind)
    values[0] = 0  # cut out
    image = nib.Nifti1Image(values, PLACE, dtype=kind)
    dataset = write_set(raw, {"a": (image, nifti(MASK))}, channel_names={"0": channel})
    assert dataset_faults(dataset) == [
        "a: image must keep its contrast in float32, in which nnU-Net computes, got values from 0 to "
        f"1.07374e+09 in {kind} in {dataset.image_path('a')}. Subtract their offset."
    ]


@pytest.mark.parametrize(
    "values",
    [
        (2**24 - MASK.size + _RAMP).astype(np.int32),  # whole numbers that float32 holds, in steps above a unit
        (2**20 * _RAMP).astype(np.int32),  # float32 rounds, but by nothing beside the contrast
        2.0**30 + _RAMP,  # as float32: what is lost was lost in the file
    ],
)
def test_large_values_whose_contrast_float32_holds_are_accepted(raw: Path, values: np.ndarray) -> None:
    stored = values.astype(np.float32) if values.dtype == np.float64 else values
    dataset = write_set(raw, {"a": (nifti(stored), nifti(MASK))}, channel_names={"0": "MRI"})
    assert dataset_faults(dataset) == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (MASK * np.float32(0.5), "a: label: values must be whole numbers from 0 on, got 0.5 in float32. Round"),
        (MASK * np.float32(1.0000001), "a: label: values must be whole numbers from 0 on, got 1.00000012 in float32"),
        (MASK.astype(np.int16) * -1, "a: label: values must be whole numbers from 0 on, got -1 in int16"),
        (MASK * 7, "a: label values must be those that dataset.json names, [0, 1], got 7"),
        (MASK.astype(np.uint16) * 300, "a: label values must be those that dataset.json names, [0, 1], got 300"),
    ],
)
def test_numbers_that_are_no_labels_are_refused(raw: Path, values: np.ndarray, sentence: str) -> None:
    (fault,) = dataset_faults(write_set(raw, {"a": (nifti(SCAN), nifti(values))}))
    assert fault.startswith(sentence)


@pytest.mark.parametrize("kind", ["uint16", "int64", "float32", "float64"])
def test_whole_numbers_of_any_type_are_labels(raw: Path, kind: str) -> None:
    label = nib.Nifti1Image(MASK.astype(kind), PLACE, dtype=kind)
    dataset = write_set(raw, {"a": (nifti(SCAN), label)})
    check_dataset(dataset)
    mask = dataset.load_case("a").mask
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK.T)


@pytest.mark.parametrize(("ending", "refused"), [(".nii.gz", False), (".nii", True)])
def test_a_fourth_dimension_of_one_is_read_where_nnunets_reader_reads_it(raw: Path, ending: str, refused: bool) -> None:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    dataset = write_set(raw, {"a": (nifti(SCAN[..., None]), nifti(MASK))}, ending)
    reader = determine_reader_writer_from_dataset_json(dataset.dataset_json, verbose=False)
    assert reader.__name__ == reader_name(dataset.dataset_json)
    faults = dataset_faults(dataset)
    if not refused:
        assert faults == []
        assert reader().read_images([str(dataset.image_path("a"))])[0].shape == (1, 10, 9, 8)
        assert dataset.load_case("a").shape == (10, 9, 8)
        return
    sentence = "a: a_0000.nii must have three dimensions for nnU-Net's NibabelIO, got 8 × 9 × 10 × 1. Save it"
    assert [fault.startswith(sentence) for fault in faults] == [True]
    with pytest.raises(AssertionError, match="only 3d images are supported"):
        reader().read_images([str(dataset.image_path("a"))])


def test_an_accent_that_is_spelled_in_two_ways_is_named(raw: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "José") for form in ("NFC", "NFD"))
    dataset = write_set(raw, {composed: (nifti(SCAN), nifti(MASK))})
    label = dataset.mask_path(composed)
    label.rename(label.with_name(f"{decomposed}.nii.gz"))
    faults = dataset_faults(RawDataset.open(dataset.folder))
    assert f"{composed}: id must be spelled in one way, got composed and decomposed accents" in "\n".join(faults)
    for form in ("imagesTr", "labelsTr"):
        for path in (dataset.folder / form).iterdir():
            path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    assert dataset_faults(RawDataset.open(dataset.folder)) == [], "one spelling, whichever it is"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"file_ending": "nrrd"}, "got 'nrrd'. Write .nrrd, and let the files' names end so."),
        ({"file_ending": ".NII.GZ"}, "got '.NII.GZ'. Write .nii.gz, and let the files' names end so."),
        ({"file_ending": ".tif"}, "got '.tif'. Convert the volumes."),
        ({"file_ending": ".mha", "overwrite_image_reader_writer": "NibabelIO"},
         "overwrite_image_reader_writer must name a reader of .mha files, got NibabelIO, which reads .nii, .nii.gz."),
        ({"file_ending": ".nii", "overwrite_image_reader_writer": "SimpleITKIO"},
         "must name a reader of .nii files, got SimpleITKIO, which reads .nii.gz, .nrrd, .mha, .gipl. Leave it out."),
        ({"overwrite_image_reader_writer": "NaturalImage2DIO"}, "got NaturalImage2DIO, which reads .png, .bmp, .tif"),
    ],
)  # fmt: skip
def test_endings_and_readers_that_do_not_fit_are_refused(entries: dict[str, str], message: str) -> None:
    (fault,) = description_faults(CONTENT | entries)
    assert message in fault


@pytest.mark.parametrize("any_kind", [True, False])
@pytest.mark.parametrize("channels", [5, ["CT"], {}, {"0": 5}, None])
def test_channels_that_are_no_names_are_refused_for_every_command(channels: object, any_kind: bool) -> None:
    (fault,) = description_faults(CONTENT | {"channel_names": channels}, any_kind=any_kind)
    assert (
        fault == f'channel_names must be an object of number and name, {{"0": "CT"}} say, got {channels}. Fix the file.'
    )


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"])
@pytest.mark.parametrize("named", [None, "None", "NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_the_reader_is_the_one_that_nnunet_takes(ending: str, named: str | None) -> None:
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    content = CONTENT | {"file_ending": ending} | ({} if named is None else {"overwrite_image_reader_writer": named})
    reader = determine_reader_writer_from_dataset_json(content, verbose=False)
    assert reader_name(content) == reader.__name__
    fits = ending in reader.supported_file_endings
    assert (description_faults(content) == []) == fits


def test_a_confidence_map_lies_on_the_label_for_nnunets_reader_too(raw: Path) -> None:
    """ITK takes the qform of both, nibabel the sform, which is moved in the map alone."""
    files = {"a": (nifti(SCAN), nifti(MASK))}
    dataset = write_set(raw, files, ".nii")
    dataset.confidence_path("a").parent.mkdir()
    nib.save(nifti(MASK.astype(np.float32)), dataset.confidence_path("a"))
    assert dataset_faults(dataset) == []
    moved = nifti(MASK.astype(np.float32))
    moved.set_sform(ELSEWHERE, 2)
    nib.save(moved, dataset.confidence_path("a"))
    assert dataset_faults(dataset) == [
        "a: affine of confidence must be that of the label for nnU-Net's NibabelIO, got another sform or qform. Copy "
        "the label's header."
    ]
    flat = nib.Nifti1Image(MASK.astype(np.float32)[..., None], PLACE)
    nib.save(flat, dataset.confidence_path("a"))
    assert [fault for fault in dataset_faults(dataset) if "a.nii must have three dimensions" in fault]
