"""The check of kills runs, finds nothing, goes on where it stopped, and would find a difference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_check.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import kill_check

    return kill_check


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_every_command_is_killed_once_and_started_twice_at_once(tmp_path: Path) -> None:
    result = tmp_path / "kills.json"
    argv = [sys.executable, str(SCRIPT), "--folder", str(tmp_path / "work"), "-o", str(result), "--crowds", "2"]
    for more in (["--kills", "1"], ["--kills", "2", "--commands", "convert"]):
        run = subprocess.run([*argv, *more], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads(result.read_text())
    assert {name: len(entry["kills"]) for name, entry in report.items()} == {
        name: 1 + (name == "convert") for name in ("train", "generate", "prepare", "convert", "evaluate images",
                                                   "evaluate confidence", "report")
    }  # fmt: skip
    for entry in report.values():
        assert [trial["runs"] for trial in entry["crowds"]] == [2]
        assert not [trial["fault"] for trial in (*entry["kills"], *entry["crowds"]) if trial["fault"]]


def test_differences_are_named_and_files_with_times_compared_by_name_alone(script: Any, tmp_path: Path) -> None:
    for name, text in (("a/same", "1"), ("a/other", "1"), ("gone", "1"), ("fcas_contents.json", "time 1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = script._tree(tmp_path)
    assert script._difference(before, before) == ""
    (tmp_path / "a" / "other").write_text("2")
    (tmp_path / "gone").unlink()
    (tmp_path / "a" / ".stray.part").mkdir()
    (tmp_path / "fcas_contents.json").write_text("time 2")
    assert (
        script._difference(before, script._tree(tmp_path)) == "missing: gone; too much: a/.stray.part; other: a/other"
    )
