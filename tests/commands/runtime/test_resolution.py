"""Whether the working grid is fine enough."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fcas_nnunet.case import Case
from fcas_nnunet.commands.runtime.resolution import say_grid
from fcas_nnunet.config.generator import FCaSConfig, GridConfig
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json

LABELS = {"background": 0, "aorta": 1, "coronary_arteries": 2}


def config(**grid: Any) -> FCaSConfig:
    return replace(TINY, grid=GridConfig(**grid, crop_size=(32, 32, 32)))


@pytest.fixture
def source(tmp_path: Path) -> RawDataset:
    """Scans of 0.5 mm stored along three orders of axes; an aorta of 8 mm, an artery of 2.5 mm."""
    folder = tmp_path / "Dataset901_Thin"
    mask = np.zeros((20, 40, 40), dtype=np.uint8)
    mask[:, 4:20, 4:20] = 1
    mask[:, 28:33, 28:33] = 2
    upright = np.zeros((4, 4))
    upright[[2, 1, 0, 3], range(4)] = 0.5, 0.5, 0.5, 1
    for number, axes in enumerate([(0, 1, 2), (1, 2, 0), (2, 0, 1)]):
        turned = mask.transpose(axes)
        write_case(folder, Case(f"c{number}", turned.astype(np.int16)[None], turned, upright[:, [*axes, 3]]))
    write_dataset_json(folder, LABELS, 3, description="")
    return RawDataset.open(folder)


def test_the_thinnest_structure_is_named_with_the_working_spacing(
    source: RawDataset, caplog: pytest.LogCaptureFixture
) -> None:
    say_grid(source, config(spacing_mm=(1, 1.25, 1.25)))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "coronary_arteries: about 2.0 voxels across on the working grid of 1 × 1.25 × 1.25 mm (median of 3 cases); "
    )


def test_the_spacing_is_the_median_before_training_and_the_generators_after(
    source: RawDataset, caplog: pytest.LogCaptureFixture
) -> None:
    say_grid(source, config())  # 0.5 mm: five voxels across
    assert not caplog.messages
    say_grid(source, config(max_voxels=4000))  # an eighth of the voxels: 1 mm
    assert "coronary_arteries: about 2.5 voxels across on the working grid of 1 × 1 × 1 mm" in caplog.text
    caplog.clear()
    record = SimpleNamespace(working_spacing_mm=(2.0, 2.0, 2.0))
    say_grid(source, config(), record)
    assert "about 1.2 voxels across on the working grid of 2 × 2 × 2 mm" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
