"""Findings about files: kept while the files stay as they are, found again when anything about them changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcas_nnunet.known_files import KnownFiles, file_stamp


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    """Two cases of two files each; the second file of `b` does not exist."""
    paths = {name: [tmp_path / f"{name}_image", tmp_path / f"{name}_map"] for name in ("a", "b")}
    for path in (*paths["a"], paths["b"][0]):
        path.write_text("first")
    return paths


def sizes(known: KnownFiles, files: dict[str, list[Path]], asked: list[str]) -> dict[str, Any]:
    """The sizes of all cases' files; those that had to be asked about are added to `asked`."""

    def find(missing: list[str]) -> list[tuple[str, int]]:
        asked.extend(missing)
        return [(name, sum(path.stat().st_size for path in files[name] if path.exists())) for name in missing]

    return known.ask(find)


def replaced_with_its_time(path: Path) -> None:
    status = path.stat()
    path.write_text("other")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda _: None, []),
        (lambda files: files["a"][1].write_text("other"), ["a"]),
        (lambda files: replaced_with_its_time(files["a"][0]), ["a"]),
        (lambda files: files["b"][1].write_text("new"), ["b"]),
        (lambda files: files["a"][0].unlink(), ["a"]),
    ],
    ids=["nothing", "a file", "a file of the same size and time", "a file that was missing", "a file is removed"],
)
def test_only_cases_whose_files_have_changed_are_asked_about(
    tmp_path: Path, files: dict[str, list[Path]], change: Callable[[dict[str, list[Path]]], object], again: list[str]
) -> None:
    record, asked = tmp_path / "record.json", list[str]()
    assert sizes(KnownFiles(record, files), files, asked) == {"a": 10, "b": 5}
    assert asked == ["a", "b"]
    change(files)
    found = sizes(KnownFiles(record, files), files, asked)
    assert asked[2:] == again
    assert found == {name: sum(p.stat().st_size for p in paths if p.exists()) for name, paths in files.items()}


def test_other_settings_ask_again_those_of_one_case_about_that_one(
    tmp_path: Path, files: dict[str, list[Path]]
) -> None:
    record, asked = tmp_path / "record.json", list[str]()
    sizes(KnownFiles(record, files, ["x"], {"a": 1, "b": 1}), files, asked)
    sizes(KnownFiles(record, files, ["x"], {"a": 1, "b": 2}), files, asked)
    sizes(KnownFiles(record, files, ["y"], {"a": 1, "b": 2}), files, asked)
    assert asked == ["a", "b", "b", "a", "b"]


def test_findings_of_other_cases_are_kept_and_a_broken_record_is_none(
    tmp_path: Path, files: dict[str, list[Path]]
) -> None:
    record, asked = tmp_path / "record.json", list[str]()
    for name in ("a", "b", "a", "b"):
        sizes(KnownFiles(record, {name: files[name]}), files, asked)
    assert asked == ["a", "b"]
    record.write_text('{"a": 1, "b": ')
    sizes(KnownFiles(record, files), files, asked)
    assert asked[2:] == ["a", "b"]


def test_without_a_place_to_save_it_is_found_every_time(tmp_path: Path, files: dict[str, list[Path]]) -> None:
    asked: list[str] = []
    for record in (None, None, tmp_path / "a_image" / "no folder" / "record.json"):
        sizes(KnownFiles(record, files), files, asked)
    assert asked == ["a", "b"] * 3


def test_a_change_while_files_are_read_is_noticed_next_time(tmp_path: Path, files: dict[str, list[Path]]) -> None:
    record, asked = tmp_path / "record.json", list[str]()
    known = KnownFiles(record, files)
    files["a"][0].write_text("while it is read")
    sizes(known, files, asked)
    sizes(KnownFiles(record, files), files, asked)
    assert asked == ["a", "b", "a"]


def test_a_copy_with_its_times_is_another_file(files: dict[str, list[Path]]) -> None:
    original = files["a"][0]
    before = file_stamp(original)
    shutil.copy2(original, copy := original.with_name("copy"))
    os.replace(copy, original)
    assert file_stamp(original)[:2] == before[:2]
    assert file_stamp(original) != before
