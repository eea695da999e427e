"""A whole data set or an unfinished one, never a half case; the same bytes however it was made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from public_files import ct, digests, labels, save

from fcas_nnunet.commands.convert import command, conversion
from fcas_nnunet.integration.dataset.manifest import Manifest

FRAMES = [f"patient{n:03d}_frame{frame}" for n in range(1, 6) for frame in ("01", "12")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "acdc"
    write_cases(folder, FRAMES)
    return folder


def write_cases(folder: Path, frames: list[str]) -> None:
    for name in frames:
        seed = int(name[7:10]) * 100 + int(name[-2:])
        save(folder / f"training/{name[:10]}/{name}.nii.gz", ct(seed, offset=1024, dtype=np.uint16))
        save(folder / f"training/{name[:10]}/{name}_gt.nii.gz", labels(seed, [1, 2, 3]))


def convert(source: Path, dataset: str, *more: str, processes: int = 1) -> None:
    command.main(["acdc", str(source), "-d", dataset, "-np", str(processes), *more])


def fails(capsys: pytest.CaptureFixture[str], source: Path, dataset: str, *more: str, code: int = 2) -> str:
    with pytest.raises(SystemExit, match=f"^{code}$"):
        convert(source, dataset, *more)
    return capsys.readouterr().err


def without_name(folder: Path) -> dict[str, str]:
    """Hashes of all files but dataset.json, which holds the data set's name."""
    return {name: digest for name, digest in digests(folder).items() if name != "dataset.json"}


def interrupting(at: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is interrupted at a call, as by Ctrl-C."""
    calls = 0

    def work(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return real(*arguments)

    return work


def test_two_processes_write_the_bytes_of_one(raw: Path, source: Path) -> None:
    convert(source, "Dataset001_One")
    convert(source, "Dataset002_Two", processes=2)
    one = without_name(raw / "Dataset001_One")
    assert len(one) == 2 * len(FRAMES) + 2  # the manifest and the folds
    assert without_name(raw / "Dataset002_Two") == one


@pytest.mark.parametrize("at", [1, 3])
def test_interrupted_run_is_unfinished_and_goes_on_to_the_same_bytes(
    raw: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    convert(source, "Dataset001_ACDC")
    whole = without_name(raw / "Dataset001_ACDC")
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "write_case", interrupting(at, conversion.write_case))
        assert "resumes from here" in fails(capsys, source, "Dataset002_ACDC", code=130)
    folder = raw / "Dataset002_ACDC"
    assert not (folder / "dataset.json").exists()
    assert sorted(Manifest(folder).read()) == FRAMES[: at - 1]
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    convert(source, "Dataset002_ACDC")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert without_name(folder) == whole


def test_a_case_killed_between_its_files_is_written_again(
    raw: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(source, "Dataset001_ACDC")
    with monkeypatch.context() as patch:
        patch.setattr("fcas_nnunet.commands.convert.cases.write_labels", interrupting(1, print))
        fails(capsys, source, "Dataset002_ACDC", code=130)
    folder = raw / "Dataset002_ACDC"
    assert [path.name for path in folder.rglob("*.nii.gz")] == [f"{FRAMES[0]}_0000.nii.gz"]
    convert(source, "Dataset002_ACDC")
    assert without_name(folder) == without_name(raw / "Dataset001_ACDC")


def test_finished_set_is_left_alone_and_a_lost_file_is_made_again(
    raw: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(source, "901")
    first = capsys.readouterr().out
    folder = raw / "Dataset901_ACDC"
    whole = digests(folder)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "check_case", None)  # a call would fail
        convert(source, "901")
    assert capsys.readouterr().out == first  # the summary is that of the whole set
    assert digests(folder) == whole
    (folder / "labelsTr" / f"{FRAMES[3]}.nii.gz").unlink()
    convert(source, "901")
    assert digests(folder) == whole


def test_cases_that_come_later_are_added_and_the_folds_follow(
    raw: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(source, "901")
    content = json.loads((raw / "Dataset901_ACDC/dataset.json").read_text())
    (raw / "Dataset901_ACDC/dataset.json").write_text(json.dumps(content | {"release": "mine"}))
    write_cases(source, ["patient006_frame01", "patient006_frame12"])
    convert(source, "901")
    folder = raw / "Dataset901_ACDC"
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTraining"] == 12 and content["release"] == "mine"
    read_by_nnunet = raw.parent / "nnUNet_preprocessed/Dataset901_ACDC/splits_final.json"
    for path in (folder / "splits_final.json", read_by_nnunet):
        assert all(len(fold["train"]) + len(fold["val"]) == 12 for fold in json.loads(path.read_text()))
    own = [{"train": FRAMES[:8], "val": FRAMES[8:]}]
    read_by_nnunet.write_text(json.dumps(own))
    capsys.readouterr()
    convert(source, "901")
    assert json.loads(read_by_nnunet.read_text()) == own
    assert f"nnU-Net reads other folds, {read_by_nnunet}, which were there and are kept" in capsys.readouterr().out


def test_without_nnunets_folder_the_summary_says_where_the_folds_belong(
    raw: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    convert(source, "901")
    assert "copy it to $nnUNet_preprocessed/Dataset901_ACDC, where nnU-Net reads it" in capsys.readouterr().out


def test_every_fault_is_named_before_anything_is_written(
    raw: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ((FRAMES[0], 4), (FRAMES[5], 7)):
        save(source / f"training/{name[:10]}/{name}_gt.nii.gz", labels(1, [1, value]))
    (source / f"training/patient002/{FRAMES[2]}.nii.gz").write_bytes(b"\x1f\x8bcut")
    message = fails(capsys, source, "901")
    assert f"{FRAMES[0]}: " in message and "label values must be 0, 1, 2, 3, got 4 (" in message
    assert f"{FRAMES[5]}: " in message and "got 7 (" in message
    assert f"{FRAMES[2]}: " in message and "file must be a readable volume" in message
    assert list(raw.iterdir()) == []


def test_a_damaged_scan_keeps_the_set_unfinished_until_it_is_left_out(
    raw: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = source / f"training/patient002/{FRAMES[2]}.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    message = fails(capsys, source, "901")
    assert f"{FRAMES[2]}: {damaged}: file must" in message
    folder = raw / "Dataset901_ACDC"
    assert not (folder / "dataset.json").exists()
    assert len(list((folder / "labelsTr").iterdir())) == len(FRAMES) - 1
    convert(source, "901", "--skip", FRAMES[2])
    assert f"skipped:   1 left out by --skip: {FRAMES[2]}" in capsys.readouterr().out
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == len(FRAMES) - 1
    records = (folder / "fcas_manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["case_id"] for line in records] == [name for name in FRAMES if name != FRAMES[2]]
    assert f"{FRAMES[4]}: case must be left out, got one that is converted" in fails(
        capsys, source, "901", "--skip", FRAMES[4]
    )


def test_other_arguments_for_the_same_cases_are_refused_and_change_nothing(
    raw: Path, tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chd = tmp_path / "chd"
    save(chd / "ct_1001_image.nii.gz", ct(1, offset=1024))
    save(chd / "ct_1001_label.nii.gz", labels(1, [1]))
    command.main(["imagechd", str(chd), "-d", "911"])
    folder = raw / "Dataset911_ImageCHD"
    before = digests(folder)
    for more in (["--spacing", "1", "1", "1"], ["--offset", "1000"]):
        with pytest.raises(SystemExit, match="^2$"):
            command.main(["imagechd", str(chd), "-d", "911", *more])
        assert "imagechd_1001: case must be converted with" in capsys.readouterr().err
    assert "must hold cases of one set, got some of imagechd" in fails(capsys, source, "911")
    assert digests(folder) == before


def test_another_data_set_is_not_overwritten(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = raw / "Dataset901_Heart/dataset.json"
    other.parent.mkdir()
    other.write_text("{}")
    assert "must be new, empty or begun by fcas_convert" in fails(capsys, source, "901")
    assert digests(raw) == {"Dataset901_Heart/dataset.json": digests(raw / "Dataset901_Heart")["dataset.json"]}


def test_wrong_usage_is_refused(raw: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--name: must be the name that -d has, got Mine" in fails(
        capsys, source, "Dataset901_Heart", "--name", "Mine"
    )
    assert "--skip: cases must be among those that were found" in fails(capsys, source, "901", "--skip", "x")
    for arguments in (["mmwhs", str(source), "-d", "1"], ["heart", str(source), "-d", "1"], ["acdc", "-d", "1"]):
        with pytest.raises(SystemExit, match="^2$"):
            command.main(arguments)
    assert list(raw.iterdir()) == []
