"""The check of a GPU reports what its parts do, whatever that is."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

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


def check(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """Run the whole check in a rehearsal; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--device", "cpu", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        gpu_check.main()
    return end.value.code


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("failed", 1), ("timed out", 0), ("skipped", 0)])
def test_only_a_failed_part_fails_the_check(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: str, code: int
) -> None:
    monkeypatch.setattr(gpu_check, "run", lambda *_: {"status": status, "tail": ""})
    report = tmp_path / "report.json"
    assert check(gpu_check, monkeypatch, "-o", report, "--only", "fcas_phantom") == code
    assert json.loads(report.read_text())["parts"]["fcas_phantom"]["status"] == status


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "missing/report.json"), "-o: must be a file that can be written, got"),
        (("-o", "."), "-o: must be a file that can be written, got"),
        (("--only", "fcas_phantom", "nonsense"), "--only: must begin names of parts, got nonsense. Take tests; fcas_"),
    ],
)
def test_wrong_arguments_are_refused_before_the_first_part(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_check, "run", lambda *_: pytest.fail("a part is run"))
    assert check(gpu_check, monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nnunet_goes_on_with_the_scans_that_were_drawn(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The part of `tiny` fails, that of `gpu` finishes its set."""
    seen: dict[str, list[str]] = {}

    def run(part: Any, *_: object) -> dict[str, Any]:
        seen[part.name] = [str(word) for word in part.command]
        if part.name == "fcas_generate gpu":
            drawn = Path(part.environment["nnUNet_raw"]) / "Dataset903_PhantomFCaS"
            drawn.mkdir()
            (drawn / "dataset.json").touch()
        return {"status": "failed" if part.name == "fcas_generate" else "ok", "tail": ""}

    monkeypatch.setattr(gpu_check, "run", run)
    report = tmp_path / "report.json"
    assert check(gpu_check, monkeypatch, "-o", report) == 1
    assert seen["fcas_generate"][seen["fcas_generate"].index("-o") + 1] == "902"
    for name in ("fcas_prepare", "a step of CAL beside nnU-Net's", "fcas_train in half precision"):
        assert seen[name][seen[name].index("-d") + 1] == "903"
    assert "903" in seen["nnUNetTrainerCAL_demo"]
    assert "Dataset903_PhantomFCaS" in seen["nnUNetTrainerCALFinetune_demo"][-1]
    assert json.loads(report.read_text())["synthetic"] == "Dataset903_PhantomFCaS"


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
