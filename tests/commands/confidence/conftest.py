"""A small network of three folds; its untrained weights are written once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from held_out_folds import write_folds
from nnunet_cases import Prepared


@pytest.fixture(scope="session")
def folds(prepared_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in prepared_once.environment.items():
            patch.setenv(name, value)
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        return write_folds(prepared_once.real)


@pytest.fixture
def model(folds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folds, tmp_path / "network" / folds.name))
