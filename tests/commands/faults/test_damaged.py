"""Whatever is wrong with a file that a command reads, the command names it, says what to do, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fault_files import SWAPPED, Damaged, damaged
from fault_lines import KEEPS, LINES
from fault_world import World, judge, run, write


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, id=fault.id, marks=() if fault.is_quick else pytest.mark.slow) for fault in damaged()]
)
def test_a_damaged_file_is_named(fault: Damaged, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    fault.damage(world.folder / fault.file)
    name = Path(fault.file).name
    case_id = name.partition(".")[0].removesuffix("_0000")
    outcome = run(LINES[fault.line], world.folder, capsys)
    judge(outcome, rf"{re.escape(name)}|{re.escape(case_id)}\b", keeps=fault.line in KEEPS)


@pytest.mark.parametrize(
    ("line", "file", "other", "named"),
    [pytest.param(*row, id=f"{row[0]}-{Path(row[1]).name}-{Path(row[2]).name}") for row in SWAPPED],
)
def test_another_file_in_its_place_is_named(
    line: str, file: str, other: str, named: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    write(world.folder / file, (world.folder / other).read_bytes())
    judge(run(LINES[line], world.folder, capsys), named, keeps=line in KEEPS)
