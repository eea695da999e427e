"""Cases that were found sound are not read again until their files, their description or the rules change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from nnunet_cases import random_case

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset import checks
from fcas_nnunet.integration.dataset.checks import check_dataset, dataset_faults
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case
from fcas_nnunet.integration.dataset.volumes import read_volume, write_labels, write_volume


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the volumes that are read."""
    names: list[str] = []
    monkeypatch.setattr(checks, "read_volume", lambda path: names.append(path.name) or read_volume(path))
    return names


def of_case(case_id: str) -> list[str]:
    return [f"{case_id}.nii.gz", f"{case_id}.nii.gz", f"{case_id}_0000.nii.gz"]


def test_a_second_check_reads_nothing_and_a_third_what_has_changed(dataset: RawDataset, read: list[str]) -> None:
    check_dataset(dataset)
    assert sorted(read) == of_case("a") + of_case("b")
    read.clear()
    check_dataset(RawDataset.open(dataset.folder))
    assert read == []
    write_case(dataset.folder, random_case("b", 7, confidence=True))
    check_dataset(dataset)
    assert sorted(read) == of_case("b")
    read.clear()
    assert dataset_faults(dataset, anew=True) == []
    assert sorted(read) == of_case("a") + of_case("b")


def test_a_fault_is_found_though_the_file_keeps_its_size_and_time(dataset: RawDataset) -> None:
    path = dataset.mask_path("a")
    labels = read_volume(path)
    write_volume(path, labels.array * 0, labels.affine)
    size = path.stat().st_size
    write_volume(path, labels.array, labels.affine)
    check_dataset(dataset)
    status = path.stat()
    content = path.read_bytes()
    path.write_bytes(bytes(byte ^ 255 for byte in content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert size > 0
    with pytest.raises(InputError, match=r"^a: .*a\.nii\.gz"):
        check_dataset(dataset)


def test_faults_are_found_each_time_and_sound_cases_are_not_read_for_them(dataset: RawDataset, read: list[str]) -> None:
    labels = read_volume(dataset.mask_path("b"))
    write_labels(dataset.mask_path("b"), labels.array * 0, labels.affine)
    for _ in range(2):
        read.clear()
        with pytest.raises(InputError, match="^b: label must mark at least one voxel"):
            check_dataset(dataset)
    assert sorted(read) == of_case("b")


def test_other_labels_and_other_rules_are_a_reason_to_read_all(
    dataset: RawDataset, read: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_dataset(dataset)
    content = json.loads((dataset.folder / "dataset.json").read_text())
    content["labels"]["aorta"] = 3
    (dataset.folder / "dataset.json").write_text(json.dumps(content))
    read.clear()
    check_dataset(changed := RawDataset.open(dataset.folder))
    assert sorted(read) == of_case("a") + of_case("b")
    content["description"] = "says nothing that a case is held against"
    (dataset.folder / "dataset.json").write_text(json.dumps(content))
    read.clear()
    check_dataset(RawDataset.open(dataset.folder))
    assert read == []
    monkeypatch.setattr(checks, "file_sha256", lambda path: "another version")
    check_dataset(changed)
    assert sorted(read) == of_case("a") + of_case("b")


def test_doubts_are_told_each_time(dataset: RawDataset, caplog: pytest.LogCaptureFixture) -> None:
    case = random_case("b", 7, confidence=True)
    assert case.image is not None
    write_volume(dataset.image_path("b"), np.abs(case.image[0]).astype(np.int16), case.affine)
    write_labels(dataset.mask_path("b"), case.mask, case.affine)
    dataset.confidence_path("b").unlink()
    for _ in range(2):
        caplog.clear()
        check_dataset(dataset)
        assert "1 CT scan(s) have no value below 0, as fat, lung and air have in HU: b" in caplog.text
