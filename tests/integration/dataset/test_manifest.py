"""The manifest survives a kill, and its bytes do not tell in which order cases were made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fcas_nnunet.integration.dataset.manifest import Manifest


def test_records_come_back_and_the_last_of_a_case_counts(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    assert manifest.read() == {}
    for seed in (1, 2):
        manifest.append({"case_id": "a", "seed": seed})
    assert manifest.read() == {"a": {"case_id": "a", "seed": 2}}


def test_a_line_cut_short_by_a_kill_is_ignored_and_overwritten(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.append({"case_id": "a", "seed": 1})
    with manifest.path.open("ab") as stream:
        stream.write(b'{"case_id": "b", "se')
    assert list(manifest.read()) == ["a"]
    manifest.append({"case_id": "c", "seed": 3})
    assert list(manifest.read()) == ["a", "c"]


def test_order_of_making_leaves_no_trace(tmp_path: Path) -> None:
    records = [{"case_id": i, "seed": ord(i)} for i in "cab"]
    for name, order in (("one", records), ("two", records[::-1])):
        for record in order:
            Manifest(tmp_path / name).append(record)
        Manifest(tmp_path / name).finalise()
    assert (tmp_path / "one/fcas_manifest.jsonl").read_bytes() == (tmp_path / "two/fcas_manifest.jsonl").read_bytes()
    assert list(Manifest(tmp_path / "one").read()) == ["a", "b", "c"]


def test_finalise_keeps_only_the_cases_asked_for(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    for case_id in "abc":
        manifest.append({"case_id": case_id})
    manifest.finalise(["c", "a", "unknown"])
    assert list(manifest.read()) == ["a", "c"]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.append({"case_id": "a"})
    manifest.path.write_bytes(b"nonsense\n" + manifest.path.read_bytes())
    with pytest.raises(ValueError, match="line 1 must be a JSON record with a case_id"):
        manifest.read()


def test_journals_are_read_with_the_manifest_and_taken_over(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)
    manifest.append({"case_id": "b", "seed": 1})
    first, second = manifest.new_journal(), manifest.new_journal()
    first.append({"case_id": "c", "seed": 2})
    second.append({"case_id": "a", "seed": 3})
    with second.path.open("ab") as stream:
        stream.write(b'{"case_id": "d", "se')  # killed
    assert {case_id: record["seed"] for case_id, record in manifest.read().items()} == {"a": 3, "b": 1, "c": 2}
    assert len(manifest.journals()) == 2
    manifest.finalise()
    assert [line[13] for line in manifest.path.read_text().splitlines()] == list("abc")
    assert manifest.journals() == []


def test_a_broken_journal_is_named(tmp_path: Path) -> None:
    journal = Manifest(tmp_path).new_journal()
    journal.append({"case_id": "a"})
    journal.path.write_bytes(b"nonsense\n")
    with pytest.raises(ValueError, match=re.escape(f"{journal.path}: line 1 must be a JSON record with a case_id")):
        Manifest(tmp_path).read()


@pytest.mark.parametrize("case_id", ["../evil", "a/b", "", ".hidden", "a\\b", "C:evil", 3, None])
def test_a_case_that_no_file_can_be_named_after_is_refused(tmp_path: Path, case_id: object) -> None:
    (tmp_path / "fcas_manifest.jsonl").write_text(json.dumps({"case_id": case_id}) + "\n")
    with pytest.raises(ValueError, match="line 1 must be a JSON record with a case_id"):
        Manifest(tmp_path).read()


def test_a_manifest_is_begun_without_losing_what_it_holds(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "new")
    manifest.begin()
    assert manifest.path.read_bytes() == b""
    manifest.append({"case_id": "a"})
    manifest.begin()
    assert list(manifest.read()) == ["a"]


def test_lines_of_earlier_versions_say_what_lines_made_now_say(tmp_path: Path) -> None:
    """Or a set that an earlier version began could not be gone on with, or made again."""
    manifest = Manifest(tmp_path)
    settings = {"confidence": {"num_snapshots": 9, "decoder": "full"}, "mask_config": {"padding": "border"}}
    manifest.append({"case_id": "old"} | settings)
    manifest.append({"case_id": "preview", "confidence": {"num_snapshots": 9, "decoder": "preview"}})
    assert manifest.read()["old"] == {"case_id": "old", "confidence": {"num_snapshots": 9}, "mask_config": {}}
    assert manifest.read()["preview"]["confidence"]["decoder"] == "preview"
