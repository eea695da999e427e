"""A generator does not depend on how many cases were deformed at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config

from fcas_nnunet.config.generator import CalibrationConfig
from fcas_nnunet.generator import train
from fcas_nnunet.generator.data.training_data import TrainingData

CALIBRATION = CalibrationConfig(num_drawings=4, num_voxels=2000, width=8, num_steps=10, batch_voxels=512)


def test_threads_change_nothing_of_a_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TrainingData([f"p{i}" for i in range(4)], load_small_case, LABELS, SURROUNDINGS)
    files = []
    for threads in (1, 3):
        monkeypatch.setattr(train, "_threads", lambda *_, threads=threads: threads)
        folder = tmp_path / str(threads)
        train.train_generator(data, replace(short_config(2), calibration=CALIBRATION), folder, Accelerator(cpu=True))
        written = [path for path in folder.rglob("*") if path.suffix in {".safetensors", ".yaml"}]
        files.append({path.relative_to(folder): path.read_bytes() for path in written})
    assert files[0] == files[1]
    assert len(files[0]) >= 8  # weights, records and the run of three parts


@pytest.mark.parametrize(
    ("device", "free", "cores", "threads"),
    [("cpu", 1e12, 16, 1), ("cuda", 1e12, 8, 8), ("cuda", 1e12, 64, 16), ("cuda", 32e9, 64, 3), ("cuda", 1e9, 64, 1)],
)
def test_threads_are_those_that_memory_and_cores_carry(
    device: str, free: float, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case of 512 × 512 × 256 takes 4 GB."""
    monkeypatch.setattr(train, "available_bytes", lambda: free)
    monkeypatch.setattr(train, "available_cores", lambda: cores)
    accelerator = SimpleNamespace(device=torch.device(device), num_processes=1)
    assert train._threads({"a": SimpleNamespace(shape=(256, 512, 512))}, accelerator) == threads
