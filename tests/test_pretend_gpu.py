"""Every check of `device_checks` on the pretend GPU, which lives in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from device_checks import CHECKS

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """The traceback that every check ends with, None where it ends well."""
    path = tmp_path_factory.mktemp("pretend_gpu") / "reports.json"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(TESTS / "pretend_gpu.py"), str(path)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-4000:]
    reports: dict[str, str | None] = json.loads(path.read_text())
    return reports


@pytest.mark.parametrize("name", [*CHECKS])
def test_runs_on_a_gpu(reports: dict[str, str | None], name: str) -> None:
    assert reports[name] is None, reports[name]


@pytest.mark.parametrize("name", ["sum", "index", "numpy"])
def test_the_pretend_gpu_refuses_what_a_gpu_does(reports: dict[str, str | None], name: str) -> None:
    assert reports[f"refused: {name}"] is not None
