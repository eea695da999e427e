"""Files from strangers: no code runs, no path or link leads out of the tree, no bomb is expanded, markup stays text."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from damages import line_with
from fault_lines import KEEPS, LINES
from fault_strangers import DEEP, EVIL, HOSTILE, LINKS
from fault_world import GENERATOR, PREPARED, REAL, SYNTHETIC, World, judge, run, write


@pytest.mark.parametrize(
    ("line", "file", "damage", "named"),
    [pytest.param(*row, id=f"{number:02d}-{row[0]}-{Path(row[1]).name}") for number, row in enumerate(HOSTILE)],
)
def test_a_file_from_a_stranger(
    line: str, file: str, damage: Callable[[Path], None], named: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(world.folder / file)
    before = sorted(world.folder.parent.iterdir())
    judge(run(LINES[line], world.folder, capsys), named, keeps=line in KEEPS)
    assert sorted(world.folder.parent.iterdir()) == before, "nothing beside the tree"
    assert not (world.folder / "unpickled").exists(), "no code ran"


@pytest.mark.parametrize(
    ("line", "folder", "name", "target"),
    [pytest.param(*row, id=f"{row[0]}-{row[2]}-{row[3]}") for row in LINKS],
)
def test_no_link_is_followed_to_write(
    line: str, folder: str, name: str, target: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    where = world.folder / folder
    where.mkdir(exist_ok=True)
    found = where / name
    if found.is_dir():
        found.rename(world.folder / "moved")
    found.unlink(missing_ok=True)
    found.symlink_to(world.folder / target)
    judge(run(LINES[line].replace(" --dry-run", ""), world.folder, capsys), "link", keeps=line in KEEPS)
    assert not (world.folder / "gone").exists()


@pytest.mark.parametrize("name", ["lock", "fcas_manifest.jsonl"])
def test_a_link_that_is_opened_in_place_is_refused(name: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """A lock or journal behind a link would be emptied or lengthened."""
    work = world.folder / SYNTHETIC / ".fcas_unfinished"
    work.mkdir(exist_ok=True)
    (work / name).symlink_to(world.folder / "note.txt")
    outcome = run(LINES["more"].replace(" --dry-run", ""), world.folder, capsys)
    assert (world.folder / "note.txt").read_text() == "a file of the user's\n"
    assert outcome.code in (0, 2)


def test_names_and_paths_are_text_on_the_pages(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label names, case ids, values of the manifest and the folder's own path stand there as text, never as markup."""
    for file in (f"{REAL}/dataset.json", f"{SYNTHETIC}/dataset.json"):
        content = json.loads((world.folder / file).read_text())
        content["labels"] = {EVIL if name == "left_ventricle" else name: i for name, i in content["labels"].items()}
        write(world.folder / file, json.dumps(content))
    line_with("preset", EVIL)(world.folder / SYNTHETIC / "fcas_manifest.jsonl")
    case_id = "<img src=x onerror=alert(2)>"
    for part, ending in (("imagesTr", "_0000"), ("labelsTr", ""), ("confidenceTr", "")):
        (world.folder / SYNTHETIC / part / f"fcas_00000{ending}.nii.gz").rename(
            world.folder / SYNTHETIC / part / f"{case_id}{ending}.nii.gz"
        )
    lines = (world.folder / SYNTHETIC / "fcas_manifest.jsonl").read_text()
    write(world.folder / SYNTHETIC / "fcas_manifest.jsonl", lines.replace('"fcas_00000"', json.dumps(case_id)))
    elsewhere = world.folder / "<b onclick=alert(3)>"
    (world.folder / "nnUNet_raw").rename(elsewhere)
    monkeypatch.setenv("nnUNet_raw", str(elsewhere))
    os.mkdir(world.folder / "nnUNet_raw")
    for line, page in (("report", "page.html"), ("reading", "reading2/reading.html")):
        outcome = run(LINES[line], world.folder, capsys)
        assert outcome.code == 0, outcome.said
        written = (world.folder / page).read_text(encoding="utf-8")
        for markup in ("<img src=x", "<b onclick"):
            assert markup not in written
    assert html.escape(case_id) in (world.folder / "page.html").read_text(encoding="utf-8")
    (world.folder / "nnUNet_raw").rmdir()
    elsewhere.rename(world.folder / "nnUNet_raw")


@pytest.mark.parametrize("file", [f"{PREPARED}/fcas_prepared.json", f"{PREPARED}/fcas_contents.json"])
@pytest.mark.parametrize("content", ["", DEEP, '{"a": {"b": 5}}'])
def test_a_broken_cache_does_no_harm(file: str, content: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    write(world.folder / file, content)
    assert run(LINES["prepare"], world.folder, capsys).code == 0


@pytest.mark.parametrize("content", [DEEP + "\n", '{"voxels": 0}\n', "\x00\xff\n"])
def test_broken_measurements_do_no_harm(content: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    write(world.folder / GENERATOR / "measurements.jsonl", content)
    assert run(LINES["dry"], world.folder, capsys).code == 0
