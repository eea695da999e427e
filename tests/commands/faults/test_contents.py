"""A value of another kind anywhere in a file that is read back is named or does no harm; none ends in a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_lines import LINES
from fault_world import GENERATOR, NETWORK, PLANS, PREPARED, REAL, SYNTHETIC, World, judge, run, write

#: A file of JSON, or of lines of it; lines that read it.
READ = [
    (f"{REAL}/dataset.json", "masks prepare"),
    (f"{REAL}/surroundings.json", "masks"),
    (f"{SYNTHETIC}/dataset.json", "report medsam"),
    (f"{SYNTHETIC}/fcas_manifest.jsonl", "report prepare confidence more replay"),
    (f"{GENERATOR}/measurements.jsonl", "dry"),
    (PLANS, "prepare"),
    (f"{PREPARED}/dataset_fingerprint.json", "prepare"),
    (f"{PREPARED}/fcas_prepared.json", "prepare"),
    (f"{PREPARED}/fcas_contents.json", "report"),
    (f"{PREPARED}/nnUNetPlansFrom901_3d_fullres/confidence/index.json", "prepare"),
    ("a.json", "compare results_of fidelity_of"),
    (f"{NETWORK}/plans.json", "confidence fidelity"),
    (f"{NETWORK}/dataset.json", "confidence fidelity"),
    ("reading/key.json", "results"),
    ("ada.json", "results"),
]
#: Rows that are run with the quick tests.
QUICK = {
    ("masks", "dataset.json"), ("medsam", "dataset.json"), ("dry", "measurements.jsonl"), ("prepare", "index.json"),
    ("prepare", "nnUNetPlans.json"), ("compare", "a.json"), ("results_of", "a.json"), ("results", "ada.json"),
    ("confidence", "fcas_manifest.jsonl"),
}  # fmt: skip
VALUES = (5, None, "text", [], {}, [5], {"a": 5}, -1.5)


def places(content: Any, depth: int) -> Iterator[tuple[Any, ...]]:
    """Every place in the content, to this depth; of lists the first item alone."""
    entries = content.items() if isinstance(content, dict) else list(enumerate(content))[:1]
    for key, value in entries:
        yield (key,)
        if depth > 1 and isinstance(value, dict | list):
            yield from ((key, *below) for below in places(value, depth - 1))


def replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = found = json.loads(json.dumps(content))
    for key in place[:-1]:
        found = found[key]
    found[place[-1]] = value
    return copy


def variants(path: Path, depth: int, every: bool) -> Iterator[tuple[str, str]]:
    """(what was done, text of the file); with `every` all values in each place, else one in turn."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else None
    content = json.loads(path.read_text()) if lines is None else lines[0]
    for number, place in enumerate(places(content, depth)):
        for value in VALUES if every else (VALUES[number % len(VALUES)],):
            changed = replaced(content, place, value)
            text = (
                json.dumps(changed) if lines is None else "".join(json.dumps(x) + "\n" for x in (changed, *lines[1:]))
            )
            yield f"{place} = {value!r}", text


def check(line: str, file: str, depth: int, every: bool, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for done, text in variants(world.folder / file, depth, every):
        write(world.folder / file, text)
        outcome = run(line, world.folder, capsys)
        if outcome.code != 0:
            try:
                judge(outcome, "")
            except AssertionError as error:
                wrong.append(f"{done}: {error}")
        world.restore()
    assert not wrong, "\n\n".join(wrong)


def rows(every: bool = False) -> Iterator[object]:
    for file, lines in READ:
        for line in lines.split():
            marks = () if (line, Path(file).name) in QUICK or every else pytest.mark.slow
            yield pytest.param(LINES[line], file, id=f"{line}-{Path(file).name}", marks=marks)


@pytest.mark.parametrize(("line", "file"), rows())
def test_another_kind_of_value(line: str, file: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    check(line, file, 1, False, world, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "file"), rows())
def test_every_kind_of_value_deep_within(
    line: str, file: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    check(line, file, 3, True, world, capsys)
