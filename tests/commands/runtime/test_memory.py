"""How many worker processes the memory carries."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretend_card import pretend_card

from fcas_nnunet.commands.generate import workers as generation
from fcas_nnunet.commands.runtime import memory
from fcas_nnunet.commands.runtime.case_files import run_cases
from fcas_nnunet.commands.runtime.memory import WORKER_BYTES, MemoryNeed, available_bytes, workers_carried
from fcas_nnunet.config.presets import GPU, TINY
from fcas_nnunet.integration.dataset.volumes import write_volume


@pytest.fixture
def volumes(tmp_path: Path) -> list[Path]:
    """Files of 20³ and 10³ voxels, and one that is missing."""
    for name, size in (("large", 20), ("small", 10)):
        write_volume(tmp_path / f"{name}.nii.gz", np.zeros((size,) * 3, np.uint8), np.eye(4))
    return [tmp_path / "small.nii.gz", tmp_path / "large.nii.gz", tmp_path / "none.nii.gz"]


def test_a_case_takes_what_the_largest_volume_takes(volumes: list[Path]) -> None:
    assert MemoryNeed.of(volumes, 100).num_bytes() == WORKER_BYTES + 100 * 20**3
    assert MemoryNeed.of([], 100).num_bytes() == WORKER_BYTES


def test_sixteen_workers_of_five_gigabytes_do_not_start_in_sixteen(
    volumes: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(memory, "available_bytes", lambda: 16e9)
    need = MemoryNeed.of(volumes, 4.5e9 / 20**3)
    assert workers_carried(16, need) == 2  # 0.8 · 16 / 5
    assert caplog.messages == ["processes: 2, not 16; each takes about 5.0 GB, and 16.0 GB of memory are free"]
    assert workers_carried(2, need) == 2
    monkeypatch.setattr(memory, "available_bytes", lambda: 1e9)
    assert workers_carried(16, need) == 1
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert workers_carried(16, need) == 16


def test_cases_are_run_by_as_many_as_memory_carries(
    volumes: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1e9)
    need = MemoryNeed.of(volumes, 1e6)
    found = run_cases(len, {"a": "x", "b": "yy"}, workers=8, description="lengths", need=need)
    assert found == {"a": 1, "b": 2}
    assert "processes: 1, not 2" in caplog.text  # no more than there are cases


def test_memory_is_that_of_the_machine_or_of_its_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       32000000 kB\nMemAvailable:   8000000 kB\n")
    assert available_bytes(meminfo, tmp_path / "none") == 8000000 * 1024
    for name, text in (("max", "3000"), ("current", "2500"), ("stat", "anon 1500\ninactive_file 700\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_bytes(meminfo, tmp_path) == 1200
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 8000000 * 1024
    assert available_bytes(tmp_path / "none", tmp_path / "none") is not None or not hasattr(memory.os, "sysconf")


def test_generation_keeps_few_large_cases_and_starts_few_processes(
    volumes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SimpleNamespace(num_channels=1)
    cases = SimpleNamespace(references=["a"], mask_path=lambda name: volumes[1], source=source)
    assert generation.kept_cases(cases) == 8
    monkeypatch.setattr(MemoryNeed, "largest_voxels", lambda self: 512 * 512 * 256)
    assert generation.kept_cases(cases) == 2  # 0.4 GB each
    monkeypatch.setattr(memory, "available_bytes", lambda: 32e9)
    monkeypatch.setattr(generation, "available_cores", lambda: 16)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert generation.processes_for(cpu, None, cases) == 2  # 8.6 GB each
    assert [generation.processes_for(device, 5, cases) for device in (cpu, gpu)] == [5, 5]
    assert generation.processes_for(gpu, None, cases) == 1
    assert generation.processes_on_gpu("cpu", GPU, cases) is None
    pretend_card(monkeypatch, 24)
    assert generation.processes_on_gpu("cuda", GPU, cases) == 2  # that memory of the machine carries
    monkeypatch.setattr(memory, "available_bytes", lambda: 256e9)
    assert generation.processes_on_gpu("auto", GPU, cases) == 6  # 0.8 · 24 / (1 + 1.15 · 1.7)
    with monkeypatch.context() as patch:  # the cores and the memory are four processes'
        patch.setenv("RANK", "0")
        patch.setenv("LOCAL_WORLD_SIZE", "4")
        assert generation.processes_on_gpu("auto", GPU, cases) == 4
        patch.setattr(memory, "available_bytes", lambda: 96e9)
        assert generation.processes_on_gpu("auto", GPU, cases) == 2
    assert generation.processes_on_gpu("auto", replace(GPU, tcdm=TINY.tcdm), cases) == 1  # nobody has counted that
    monkeypatch.setattr(memory, "available_bytes", lambda: 32e9)
    source.num_channels = 4
    assert generation.kept_cases(cases) == 1  # 1.3 GB each
    assert generation.processes_for(cpu, None, cases) == 1  # 16.6 GB each
