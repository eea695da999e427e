"""Which cases are whole, what is removed around them, and that their files are those that were written for them."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunet_cases import LABELS, random_case

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.synthetic_cases import (
    CONTENTS,
    case_bytes,
    case_contents,
    case_is_written,
    remove_leftovers,
    written_cases,
)
from fcas_nnunet.integration.dataset.volumes import read_volume, write_volume
from fcas_nnunet.intensities import IntensityScale


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """fcas_1 whole, fcas_2 without labels, two users' cases without confidence, strays of killed runs."""
    for name in (
        "imagesTr/fcas_1_0000.nii.gz", "confidenceTr/fcas_1.nii.gz", "labelsTr/fcas_1.nii.gz",
        "imagesTr/fcas_2_0000.nii.gz", "confidenceTr/fcas_2.nii.gz", "labelsTr/.fcas_2.nii.gz.0a1b2c3d.part",
        "imagesTr/fcas_4_0000.nii.gz", "labelsTr/fcas_4.nii.gz", "imagesTr/mine_0000.nii.gz", "labelsTr/mine.nii.gz",
        "imagesTr/.fcas_3_0000.nii.gz.0a1b2c3d.part", "notes.txt",
        ".dataset.json.0a1b2c3d.part", ".notes.txt.part",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_case_is_whole_with_image_confidence_and_labels(folder: Path) -> None:
    assert written_cases(folder, 1) == {"fcas_1"}
    assert [case_is_written(folder, case_id, 1) for case_id in ("fcas_1", "fcas_2", "mine")] == [True, False, False]
    assert case_bytes(folder, "fcas_1", 1) == 27 + 26 + 22
    assert written_cases(folder / "absent", 1) == set()


def test_a_case_of_several_channels_is_whole_with_all_of_them(folder: Path) -> None:
    assert written_cases(folder, 2) == set()
    for case_id in ("fcas_1", "fcas_2", "mine"):
        (folder / f"imagesTr/{case_id}_0001.nii.gz").write_text("second")
    assert written_cases(folder, 2) == {"fcas_1"}
    assert case_is_written(folder, "fcas_1", 2)
    assert not case_is_written(folder, "fcas_1", 3)
    assert case_bytes(folder, "fcas_1", 2) == 27 + 6 + 26 + 22
    remove_leftovers(folder, written_cases(folder, 2), re.compile(r"fcas_\d+"), 2)
    left = sorted(path.name for path in (folder / "imagesTr").glob("*_0001.nii.gz"))
    assert left == ["fcas_1_0001.nii.gz", "mine_0001.nii.gz"]


def test_leftovers_are_removed_and_nothing_else(folder: Path) -> None:
    remove_leftovers(folder, written_cases(folder, 1), re.compile(r"fcas_\d+"), 1)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert left == [
        ".notes.txt.part", "confidenceTr/fcas_1.nii.gz", "imagesTr/fcas_1_0000.nii.gz",
        "imagesTr/fcas_4_0000.nii.gz", "imagesTr/mine_0000.nii.gz",
        "labelsTr/fcas_1.nii.gz", "labelsTr/fcas_4.nii.gz", "labelsTr/mine.nii.gz", "notes.txt",
    ]  # fmt: skip


PARTS = {"image": "imagesTr/{}_0000.nii.gz", "label": "labelsTr/{}.nii.gz", "confidence": "confidenceTr/{}.nii.gz"}


def twin(case_id: str, seed: int) -> Case:
    """A case of one shape and place, so that nothing but the voxels tells it from another."""
    case, rng = random_case("place", 0, confidence=True), np.random.default_rng(seed)
    mask = rng.integers(0, 3, case.shape).astype(np.uint8)
    return Case(case_id, rng.normal(0, 99, (1, *case.shape)), mask, case.affine, confidence=rng.random(case.shape))


@pytest.fixture
def synthetic(tmp_path: Path) -> RawDataset:
    """Two synthetic cases on one grid, as fcas_generate leaves them."""
    folder = tmp_path / "Dataset902_HeartFCaS"
    for seed, case_id in enumerate(("a", "b")):
        case = twin(case_id, seed)
        write_case(folder, case)
        Manifest(folder).append({"case_id": case_id, "confidence": {}, CONTENTS: case_contents(case)})
    write_dataset_json(folder, LABELS, 2)
    return RawDataset.open(folder)


@pytest.mark.parametrize("part", PARTS)
def test_swapped_voxels_are_noticed(synthetic: RawDataset, part: str) -> None:
    check_dataset(synthetic)
    paths = [synthetic.folder / PARTS[part].format(case_id) for case_id in "ab"]
    images = [nibabel.load(path) for path in paths]
    stored = [np.asarray(image.dataobj.get_unscaled()) for image in images]
    for path, image, array in zip(paths, images, stored[::-1], strict=True):
        swapped = nibabel.Nifti1Image(array, image.affine)
        swapped.header.set_slope_inter(image.dataobj.slope, 0)
        nibabel.save(swapped, path)
    with pytest.raises(ValueError, match=f"a: {part} must be the one that was written for it") as caught:
        check_dataset(synthetic)
    assert len(str(caught.value).splitlines()) == 2


def test_another_data_type_and_compression_are_no_change(synthetic: RawDataset) -> None:
    for pattern in PARTS.values():
        path = synthetic.folder / pattern.format("a")
        image = nibabel.load(path)  # nibabel reads a confidence of 255/255 as 1.0000000591
        nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.float32), image.affine), path)
    check_dataset(synthetic)


@pytest.mark.parametrize(
    "image",
    [
        np.array([[[0.25, 0.5, 1.0]]]), np.array([[[0, 7, 60_000]]]), np.array([[[1e-7, 2e-7, 4e-7]]]),
        np.array([[[0, 2**31, 2**32 - 256]]], np.uint32), np.array([[[0, 1, 1e30]]]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_scans_of_other_units_have_contents_too(image: np.ndarray) -> None:
    def contents(image: np.ndarray) -> str:
        scale = IntensityScale.of(image, "MRI")
        return case_contents(Case("a", image[None], np.ones(image.shape, np.uint8), np.eye(4), scales=(scale,)))[
            "image"
        ]

    assert contents(image) == contents(image.astype(np.float32))
    assert contents(image) != contents(image * np.array([1, 1, 0.5]))


def test_confidence_of_one_that_nibabel_read_is_taken_and_clipped(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset902_HeartFCaS"
    case = twin("a", 0)
    write_case(folder, Case("a", case.image, case.mask, case.affine, confidence=np.ones(case.shape)))
    write_dataset_json(folder, LABELS, 1)
    path = folder / PARTS["confidence"].format("a")
    seen = nibabel.load(path).get_fdata()
    assert seen.max() > 1, "float32 holds no 1/255"
    write_volume(path, seen.transpose(2, 1, 0), case.affine)
    check_dataset(RawDataset.open(folder))
    confidence = RawDataset.open(folder).load_case("a").confidence
    assert confidence is not None
    assert (confidence == 1).all()
    write_volume(path, seen.transpose(2, 1, 0) + 0.002, case.affine)
    with pytest.raises(ValueError, match=r"a: confidence must lie in \[0, 1\], got 1.002 to 1.002"):
        check_dataset(RawDataset.open(folder))


def test_an_older_manifest_is_warned_of_once(synthetic: RawDataset, caplog: pytest.LogCaptureFixture) -> None:
    for case_id in ("a", "b"):
        Manifest(synthetic.folder).append({"case_id": case_id, "confidence": {}})
    with caplog.at_level(logging.WARNING):
        check_dataset(synthetic)
    assert len(caplog.messages) == 1
    assert "an older version wrote 2 of its cases, without hashes" in caplog.text


def test_a_map_that_was_changed_on_purpose_is_taken_without_its_hash(synthetic: RawDataset) -> None:
    path = synthetic.confidence_path("a")
    write_volume(path, np.float32(0.5) * read_volume(path).array, twin("a", 0).affine)
    record = Manifest(synthetic.folder).read()["a"]
    with pytest.raises(ValueError, match=f'a: confidence must be .* take "{CONTENTS}" out of its line'):
        check_dataset(synthetic)
    Manifest(synthetic.folder).append({key: value for key, value in record.items() if key != CONTENTS})
    check_dataset(synthetic)


def test_a_weight_above_1_in_a_synthetic_map_is_another_content(synthetic: RawDataset) -> None:
    """Even where the data set allows it: no synthetic case is written with one."""
    case = twin("a", 0)
    write_volume(synthetic.confidence_path("a"), np.full(case.shape, 3, np.float32), case.affine)
    with pytest.raises(ValueError, match=r"a: confidence must lie in \[0, 1\], got 3 to 3\..*\"fcas_max_weight\": 3"):
        check_dataset(synthetic)
    allowed = replace(synthetic, dataset_json=synthetic.dataset_json | {"fcas_max_weight": 3})
    with pytest.raises(ValueError, match=r"^a: confidence must be the one that was written for it, got other voxels"):
        check_dataset(allowed)
