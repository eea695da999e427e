"""TotalSegmentator's names and sentences; its command is played by a stand-in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from merge_sources import LV, install_stand_in, path_with, write_map, write_multilabel

from fcas_nnunet.datasets.totalsegmentator import CLASSES, UnusableError, find_command, segment, table_in_header


def test_the_ids_are_those_of_version_2() -> None:
    assert {task: len(names) for task, names in CLASSES.items()} == {
        "total": 117, "total_mr": 50, "heartchambers_highres": 7, "coronary_arteries": 1, "body": 2,
        "lung_vessels": 4, "pleural_pericard_effusion": 3, "trunk_cavities": 4,
    }  # fmt: skip
    total = CLASSES["total"]
    assert [total[i] for i in (1, 26, 50, 51, 52, 79, 90, 92, 103, 104, 116, 117)] == [
        "spleen", "vertebrae_S1", "vertebrae_C1", "heart", "aorta", "spinal_cord", "brain", "rib_left_1",
        "rib_left_12", "rib_right_1", "sternum", "costal_cartilages",
    ]  # fmt: skip
    assert all(len(set(names.values())) == len(names) for names in CLASSES.values())
    assert CLASSES["heartchambers_highres"][3] == "heart_ventricle_left"


def test_names_are_read_from_the_header(tmp_path: Path) -> None:
    write_multilabel(tmp_path / "a.nii.gz", LV * 52, {0: "none", 52: "aorta", 5: "a & b"})
    assert table_in_header(tmp_path / "a.nii.gz") == {52: "aorta", 5: "a & b"}
    write_map(tmp_path / "b.nii.gz", LV)
    (tmp_path / "c.nii.gz").write_bytes(b"no volume")
    assert [table_in_header(tmp_path / name) for name in ("b.nii.gz", "c.nii.gz", "d.mha")] == [None, None, None]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install_stand_in(tmp_path)
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    write_map(tmp_path / "scan.nii.gz", LV, kind=np.int16)
    return tmp_path


def test_without_the_command_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr("fcas_nnunet.datasets.totalsegmentator.sys.executable", "/no/python")
    with pytest.raises(ValueError, match="--totalsegmentator total: .* got none. Run: pip install TotalSegmentator"):
        find_command("--totalsegmentator total")


@pytest.mark.parametrize(
    ("licence", "message"),
    [
        (None, r"must have a licence, got none\. .*license-academic/, run totalseg_set_license -l NUMBER"),
        ("aca_short", r"must have a valid licence, got one that TotalSegmentator refuses"),
        ("aca_12345678901234", None),
    ],
)
def test_a_missing_or_wrong_licence_is_said(state: Path, licence: str | None, message: str | None) -> None:
    if licence is not None:
        (state / "licence").write_text(licence)
    arguments = (find_command("x"), "heartchambers_highres", state / "scan.nii.gz", state / "out.nii.gz", [])
    if message is None:
        segment(*arguments, state / "log")
        assert table_in_header(state / "out.nii.gz") == {3: "heart_ventricle_left", 6: "aorta"}
        return
    with pytest.raises(UnusableError, match=message):
        segment(*arguments, state / "log")
    assert not (state / "out.nii.gz").exists()


def test_an_error_of_one_scan_and_of_all_are_told_apart(state: Path) -> None:
    (state / "fails").write_text("scan.nii.gz")
    command, log, out = find_command("x"), state / "log", state / "out.nii.gz"
    with pytest.raises(ValueError, match=r"got exit code 1, and it said: .*CUDA out of memory\.") as caught:
        segment(command, "total", state / "scan.nii.gz", out, [], log)
    assert not isinstance(caught.value, UnusableError)
    assert "Resampling..." in log.read_text()
    with pytest.raises(UnusableError, match="exit code 2, and it said: .*invalid choice: 'heartbeat'"):
        segment(command, "heartbeat", state / "scan.nii.gz", out, [], log)
