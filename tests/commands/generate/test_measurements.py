"""What was measured, and what follows for more cases of other sizes."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from fcas_nnunet.commands.generate.measurements import (
    LATEST,
    MEASUREMENTS_FILE,
    Measurement,
    append_measurement,
    bytes_per_voxel,
    check_disk,
    estimate_time,
    read_measurements,
)
from fcas_nnunet.commands.runtime.durations import format_duration

SETTINGS = {"num_inference_steps": 25, "window": (32, 32, 32)}
ONE = Measurement("H100", 1, "mgm", SETTINGS, voxels=1000, seconds=4.0, num_bytes=1500, first=False)


def written(folder: Path, *measurements: Measurement) -> list[Measurement]:
    for measurement in measurements:
        append_measurement(folder, measurement)
    return read_measurements(folder)


def test_what_is_written_comes_back_without_broken_lines(tmp_path: Path) -> None:
    assert read_measurements(tmp_path) == []
    written(tmp_path, ONE)
    with (tmp_path / MEASUREMENTS_FILE).open("a") as stream:
        stream.write('{"device": "H1\n{"seconds": 3}\n')
    stored = replace(ONE, settings={"num_inference_steps": 25, "window": [32, 32, 32]})
    assert written(tmp_path, replace(ONE, seconds=5.0)) == [stored, replace(stored, seconds=5.0)]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    append_measurement(tmp_path / "absent", ONE)
    assert read_measurements(tmp_path / "absent") == []


def test_time_grows_with_voxels_and_shrinks_with_processes(tmp_path: Path) -> None:
    measured = written(tmp_path, ONE, replace(ONE, voxels=3000, seconds=8.0), replace(ONE, processes=2, seconds=6.0))
    cases = [("mgm", 2000), ("mgm", 6000)]
    assert estimate_time(cases, measured, "H100", 1, SETTINGS) == (8000 * 12 / 4000, 2)
    assert estimate_time(cases, measured, "H100", 2, SETTINGS) == (8000 * 6 / 1000 / 2, 1)


def test_a_process_first_case_counts_only_where_there_is_no_other(tmp_path: Path) -> None:
    slow = replace(ONE, seconds=40.0, first=True)
    assert estimate_time([("mgm", 1000)], written(tmp_path, slow), "H100", 1, SETTINGS) == (40.0, 1)
    assert estimate_time([("mgm", 1000)], written(tmp_path, ONE), "H100", 1, SETTINGS) == (4.0, 1)


def test_only_the_latest_cases_count(tmp_path: Path) -> None:
    measured = written(tmp_path, replace(ONE, seconds=1e6), *[ONE] * LATEST)
    assert estimate_time([("mgm", 1000)], measured, "H100", 1, SETTINGS) == (4.0, LATEST)
    assert bytes_per_voxel(measured) == 1.5


@pytest.mark.parametrize(
    ("case", "device", "settings"),
    [("given", "H100", SETTINGS), ("mgm", "A100", SETTINGS), ("mgm", "H100", SETTINGS | {"num_inference_steps": 30})],
)
def test_nothing_is_made_up(tmp_path: Path, case: str, device: str, settings: dict) -> None:
    assert estimate_time([(case, 1000)], written(tmp_path, ONE), device, 1, settings) is None
    assert bytes_per_voxel([]) is None


def test_a_disk_too_small_is_refused_before_the_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(5e9 if folder == tmp_path else 0))
    check_disk(tmp_path / "a" / "b", 4.9e9, 7)
    with pytest.raises(ValueError, match=r"must be at least 5\.1 GB for 7 cases, got 5\.0 GB"):
        check_disk(tmp_path / "a" / "b", 5.1e9, 7)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (91, "2 min"), (3600, "1 h 0 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
