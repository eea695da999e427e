"""The check of a GPU reports what its parts do, whatever that is."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # where its dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("print('result: {\"seconds\": 2}')", "ok", "seconds"),
        ("raise SystemExit('out of memory')", "failed", "out of memory"),
        ("import time; print('begun'); time.sleep(60)", "timed out", "begun"),
    ],
)
def test_however_a_part_ends_it_is_reported(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, code: str, status: str, told: str
) -> None:
    monkeypatch.setattr(gpu_check, "LEAST_S", 0)
    part = gpu_check.Part("a part", ("-S", "-c", code), 1 if status == "timed out" else 30, {})
    report = gpu_check.run(part, "cpu", time.monotonic() + 60)
    assert report["status"] == status
    assert told in report["tail"]
    assert report.get("results") == ([{"seconds": 2}] if status == "ok" else None)


def test_without_time_nothing_is_begun(gpu_check: ModuleType) -> None:
    part = gpu_check.Part("a part", ("-c", "raise SystemExit(1)"), 60, {})
    assert gpu_check.run(part, "cpu", time.monotonic() + 1)["status"] == "skipped"


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_part_runs_something_that_is_there(gpu_check: ModuleType, device: str, tmp_path: Path) -> None:
    parts = gpu_check.parts(tmp_path, device)
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        if part.command[0] == "-m":
            assert importlib.util.find_spec(part.command[1]) is not None, part.name
        for word in part.command:
            if str(word).startswith("tests/"):
                assert (SCRIPT.parent.parent / word).is_file()
