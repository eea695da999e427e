"""Values out of any believable range, and flags that contradict each other, are refused by name before any work."""

from __future__ import annotations

import pytest
from fault_arguments import CONTRADICTORY, CROWDED, MISSING, OUT_OF_RANGE
from fault_world import World, judge, run


def rows(table: list[tuple[str, str]]) -> list[object]:
    return [pytest.param(line, named, id=line.replace(" ", "_")[:110]) for line, named in table]


@pytest.mark.parametrize(("line", "named"), rows(OUT_OF_RANGE))
def test_out_of_range(line: str, named: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    judge(run(line, world.folder, capsys), named)


@pytest.mark.parametrize(("line", "named"), rows(MISSING))
def test_missing(line: str, named: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    judge(run(line, world.folder, capsys), named)


@pytest.mark.parametrize(("line", "named"), rows(CONTRADICTORY))
def test_contradictory(line: str, named: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    judge(run(line, world.folder, capsys), named)


@pytest.mark.parametrize(("line", "named"), rows(CROWDED))
def test_crowded(line: str, named: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    judge(run(line, world.folder, capsys), named)
