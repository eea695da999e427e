"""Every raw file that preprocessing reads is in the digest that decides whether it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fcas_nnunet.case import Case
from fcas_nnunet.integration.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.stamps import newest_raw_change, raw_digest


@pytest.fixture
def two_channels(tmp_path: Path) -> RawDataset:
    folder = tmp_path / "Dataset901_Two"
    for case_id in ("a", "b"):
        mask = np.ones((4, 4, 4), np.uint8)
        write_case(folder, Case(case_id, mask.astype(np.float32), mask, np.eye(4), confidence=mask.astype(np.float32)))
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
    before = raw_digest(two_channels)
    assert raw_digest(two_channels) == before
    path = two_channels.folder / f"{name}.nii.gz"
    path.write_bytes(path.read_bytes() + b"0")
    assert raw_digest(two_channels) != before
    assert newest_raw_change(two_channels) == path.stat().st_mtime
