"""The scripts of the bench can be imported by its tests, and are forgotten after each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "experiments"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in ("stages", "design", "plan", "results", "sets", "network", "tables", "run", "trainers"):
        sys.modules.pop(name, None)
