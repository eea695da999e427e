"""Every raw file that preprocessing reads is in the digest that decides whether it is kept."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.preprocessing.stamps import newest_scan_change, raw_digest, scans_digests


@pytest.fixture
def two_channels(tmp_path: Path) -> RawDataset:
    folder = tmp_path / "Dataset901_Two"
    for case_id in ("a", "b"):
        mask = np.ones((4, 4, 4), np.uint8)
        image = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
        write_case(folder, Case(case_id, image, mask, np.eye(4), confidence=mask.astype(np.float32)))
        first = folder / "imagesTr" / f"{case_id}_0000.nii.gz"
        first.with_name(f"{case_id}_0001.nii.gz").write_bytes(first.read_bytes())
    write_dataset_json(folder, {"background": 0, "aorta": 1}, 2)
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channel_names": {"0": "CT", "1": "PET"}}))
    return RawDataset.open(folder, any_kind=True)


@pytest.mark.parametrize(
    "name", ["imagesTr/b_0000", "imagesTr/b_0001", "labelsTr/b", "confidenceTr/b"], ids=lambda name: name
)
def test_a_changed_file_is_noticed(two_channels: RawDataset, name: str) -> None:
    before, scans = raw_digest(two_channels), scans_digests(two_channels)[0]
    assert raw_digest(two_channels) == before
    path = two_channels.folder / f"{name}.nii.gz"
    path.write_bytes(path.read_bytes() + b"0")
    assert raw_digest(two_channels) != before
    of_a_scan = not name.startswith("confidence")
    assert (scans_digests(two_channels)[0] != scans) == of_a_scan, "a map is no reason to preprocess the scans again"
    assert (newest_scan_change(two_channels) == path.stat().st_mtime) == of_a_scan


def test_files_that_dataset_json_places_elsewhere_are_looked_at(two_channels: RawDataset, tmp_path: Path) -> None:
    folder, scans, entries = two_channels.folder, tmp_path / "scans", {}
    scans.mkdir()
    for case_id in two_channels.case_ids:
        there = [*two_channels.image_paths(case_id), two_channels.mask_path(case_id)]
        moved = [scans / f"{case_id}{number}.nii.gz" for number in range(3)]
        for number, (old, new) in enumerate(zip(there, moved, strict=True)):
            os.utime(old.rename(new), (1000 + number, 1000 + number))
        entries[case_id] = {"images": [str(path) for path in moved[:2]], "label": str(moved[2])}
    shutil.rmtree(folder / "confidenceTr")
    (folder / "imagesTr" / "c_0007.nii.gz").touch()  # nobody's
    (folder / "dataset.json").write_text(json.dumps(two_channels.dataset_json | {"dataset": entries}))
    dataset = RawDataset.open(folder, any_kind=True)
    check_dataset(dataset)
    assert newest_scan_change(dataset) == 1002
    before = raw_digest(dataset)
    os.utime(scans / "b1.nii.gz", (2000, 2000))
    assert newest_scan_change(dataset) == 2000
    assert raw_digest(dataset) != before
