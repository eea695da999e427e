"""The scripts of docs/weights.md, run as they are printed, make maps that fcas_prepare accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from nnunet_cases import LABELS

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.checks import dataset_faults, stray_maps
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import read_volume, write_labels

PAGE = Path(__file__).parents[1] / "docs" / "weights.md"
AFFINE = np.array([[0, 0, 0.5, 3.0], [0, 0.7, 0, -4], [-0.9, 0, 0, 5], [0, 0, 0, 1]])  # spacing 0.9, 0.7, 0.5


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data set of the page with two cases: label 1 for w ≥ 8, and in it label 2 for h < 2."""
    monkeypatch.chdir(tmp_path)
    labels = np.zeros((5, 6, 16), np.uint8)
    labels[:, :, 8:] = 1
    labels[:, :2, 8:] = 2
    folder = tmp_path / "nnUNet_raw" / "Dataset101_Heart"
    for case_id in ("case_1", "case_2"):
        write_case(folder, Case(case_id, labels.astype(np.int16)[None], labels, AFFINE))
    write_dataset_json(folder, LABELS, 2)
    return folder


def run_script(heading: str) -> None:
    """The only Python block of a section."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(compile(block, f"{PAGE.name}: {heading}", "exec"), {})


def maps_of(folder: Path) -> list[np.ndarray]:
    dataset = RawDataset.open(folder)
    assert dataset.mapped_cases() == ["case_1", "case_2"]
    assert dataset_faults(dataset) + stray_maps(dataset) == []
    return [read_volume(dataset.confidence_path(case_id)).array for case_id in dataset.case_ids]


def test_every_script_of_the_page_is_run_here() -> None:
    blocks = re.findall(r"^```python$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(blocks) == len([name for name in globals() if name.startswith("test_script_")])


def test_script_from_several_raters(folder: Path, tmp_path: Path) -> None:
    label = read_volume(folder / "labelsTr" / "case_1.nii.gz").array
    other = label.copy()
    other[0] = 0  # the third rater begins a slice later
    for rater, drawn in (("anna", label), ("ben", label), ("clara", other)):
        for case_id in ("case_1", "case_2"):
            write_labels(tmp_path / "raters" / rater / f"{case_id}.nii.gz", drawn, AFFINE)
    run_script("From several raters")
    for confidence in maps_of(folder):
        np.testing.assert_allclose(confidence[0, :, 8:], 2 / 3)
        assert (confidence[0, :, :8] == 1).all()
        assert (confidence[1:] == 1).all()


def test_script_doubtful_borders(folder: Path) -> None:
    """Along w at h = 5, 2.8 mm from label 2: 0.5, 1, 1.5, … mm to the other label, divided by 2 mm, 0.3 at least."""
    run_script("Doubtful borders")
    rising = [0.3, 0.5, 0.75, 1, 1, 1, 1, 1]
    for confidence in maps_of(folder):
        np.testing.assert_allclose(confidence[2, 5, 8:], rising, rtol=1e-6)
        np.testing.assert_allclose(confidence[2, 5, 7::-1], rising, rtol=1e-6)
        np.testing.assert_allclose(confidence[2, 2, 15], 0.7 / 2, rtol=1e-6)


def test_script_weights_above_1(folder: Path) -> None:
    run_script("Weights above 1")
    assert json.loads((folder / "dataset.json").read_text())["fcas_max_weight"] == 3
    label = read_volume(folder / "labelsTr" / "case_1.nii.gz").array
    for weights in maps_of(folder):
        np.testing.assert_array_equal(weights, np.where(label == 2, 3, 1))
