"""A real data set of two cases in nnU-Net's folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from nnunet_cases import write_set

from fcas_nnunet.integration.dataset.raw_dataset import RawDataset


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path / "raw"


@pytest.fixture
def dataset(raw: Path) -> RawDataset:
    return write_set(raw / "Dataset901_Heart", ["a", "b"], 0, confidence=True)
