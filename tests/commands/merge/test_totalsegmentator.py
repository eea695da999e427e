"""fcas_merge --totalsegmentator, with a stand-in for its command: one case after another, resumed, kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from merge_sources import NAME, enter, install_stand_in, path_with, read, write_map

from fcas_nnunet.commands.merge.command import main
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

CASES = ["a", "b.1", "c"]
FOLDER = Path("raw") / NAME
RESULTS = FOLDER / "totalsegmentatorTr"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch, CASES)
    install_stand_in(tmp_path)
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin"))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> None:
    main(["-d", "901", *arguments, "-np", "1"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        run(*arguments)
    return capsys.readouterr().err


def calls(state: Path) -> list[str]:
    path = state / "calls.txt"
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def test_its_structures_become_surroundings_and_are_kept(state: Path) -> None:
    run("--masks", "predictions", "--totalsegmentator", "total", "--totalsegmentator_options=--fast")
    assert calls(state) == [f"total {case_id}_0000.nii.gz fast=True" for case_id in CASES]
    names = json.loads((FOLDER / "surroundings.json").read_text())["labels"]
    assert names == {
        "background": 0, "lung_upper_lobe_left": 1, "lung_lower_lobe_right": 2, "heart": 3, "aorta": 4,
    }  # fmt: skip
    labels, around = (read(FOLDER / f"{part}Tr" / "b.1.nii.gz") for part in ("labels", "surroundings"))
    expected = np.broadcast_to(np.repeat([1, 2, 3, 4], 2), labels.shape)  # the stand-in's stripes along x
    assert np.array_equal(around, np.where(labels > 0, 0, expected))
    assert sorted(path.name for path in (RESULTS / "total").iterdir()) == [
        *(f"{case_id}.nii.gz" for case_id in CASES), "fcas_totalsegmentator.jsonl",
    ]  # fmt: skip
    run("--masks", "predictions", "--totalsegmentator", "total", "--totalsegmentator_options=--fast")
    assert calls(state) == []
    run("-o", "905", "--masks", "predictions", "--totalsegmentator", "total")
    assert calls(state) == [f"total {case_id}_0000.nii.gz fast=False" for case_id in CASES]  # other options


def test_a_scan_that_changed_is_done_again_and_results_of_others_are_taken(state: Path) -> None:
    place = state / "mine"
    write_map(place / "body" / "a.nii.gz", np.ones((6, 7, 8)))
    (place / "body" / "dataset.json").write_text('{"labels": {"background": 0, "body_trunc": 1}}')
    flags = ["--masks", "predictions", "--totalsegmentator", "body", "--totalsegmentator_folder", str(place)]
    run(*flags)
    assert calls(state) == [f"body {case_id}_0000.nii.gz fast=False" for case_id in CASES[1:]]
    assert not RESULTS.exists()
    write_map(FOLDER / "imagesTr" / "c_0000.nii.gz", np.ones((6, 7, 8)), kind=np.int16)
    run(*flags)
    assert calls(state) == ["body c_0000.nii.gz fast=False"]


def test_results_that_are_there_need_no_command(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for case_id in CASES:
        write_map(RESULTS / "total" / f"{case_id}.nii.gz", np.full((6, 7, 8), 10))
    Path("total.yaml").write_text("names: total")
    monkeypatch.setenv("PATH", "")
    run("--masks", "predictions", "--totalsegmentator", "total:total.yaml")
    assert (read(FOLDER / "surroundingsTr" / "a.nii.gz")[read(FOLDER / "labelsTr" / "a.nii.gz") == 0] == 10).all()
    (RESULTS / "total" / "c.nii.gz").unlink()
    said = refused(capsys, "--masks", "predictions", "--totalsegmentator", "total:total.yaml")
    assert "--totalsegmentator total: the command TotalSegmentator must be on the PATH, got none" in said


def test_licensed_tasks_come_first_and_go_into_the_labels(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("chambers.yaml").write_text("structures: {heart_ventricle_left: left_ventricle}")
    flags = ["--totalsegmentator", "total", "heartchambers_highres:chambers.yaml"]
    said = refused(capsys, *flags)
    assert "error: --totalsegmentator: task heartchambers_highres must have a licence, got none" in said
    assert len(calls(state)) == 1  # not one scan of the other task was waited for
    (state / "licence").write_text("aca_12345678901234")
    run(*flags)
    assert [line.split()[0] for line in calls(state)] == ["heartchambers_highres"] * 3 + ["total"] * 3
    assert RawDataset.open(FOLDER).labels == {"background": 0, "left_ventricle": 1, "aorta": 2}
    assert "aorta" in RawDataset.open(FOLDER).surroundings  # what the label does not cover of it


def test_a_scan_that_fails_is_named_when_the_others_are_done(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "fails").write_text("b.1_0000.nii.gz")
    flags = ["--masks", "predictions", "--totalsegmentator", "total"]
    said = refused(capsys, *flags)
    assert "error: b.1: task total must end with a label map, got exit code 1" in said
    assert "CUDA out of memory" in said
    assert len(calls(state)) == 3
    assert "CUDA out of memory" in (RESULTS / "total" / "b.1.log").read_text()
    assert not (FOLDER / "labelsTr").exists()
    (state / "fails").unlink()
    run(*flags)
    assert calls(state) == ["total b.1_0000.nii.gz fast=False"]
    assert not (RESULTS / "total" / "b.1.log").exists()


def test_where_the_first_scan_fails_the_others_are_not_tried(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state / "fails").write_text("a_0000.nii.gz")
    assert "a: task total must end" in refused(capsys, "--masks", "predictions", "--totalsegmentator", "total")
    assert len(calls(state)) == 1
    said = refused(capsys, "--masks", "predictions", "--totalsegmentator", "heartbeat")
    assert "invalid choice: 'heartbeat'" in said and "Correct the task's name" in said


def test_wrong_sources_are_seen_before_it_is_run(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (Path("predictions") / "a.nii.gz").unlink()
    said = refused(capsys, "--masks", "predictions", "--totalsegmentator", "total")
    assert "a: every source must have the case" in said
    assert "it must be a task, or TASK:map.yaml" in refused(capsys, "--totalsegmentator", "../total")
    said = refused(capsys, "--totalsegmentator", "total", "--totalsegmentator_options=--device 'cpu")
    assert '--totalsegmentator_options: must be options as a shell takes them, got "--device \'cpu"' in said
    assert calls(state) == []


def test_scans_of_other_formats_are_handed_over_as_nifti(state: Path) -> None:
    import SimpleITK as sitk

    folder = Path("raw/Dataset903_Nrrd")
    (folder / "imagesTr").mkdir(parents=True)
    scan = sitk.ReadImage(str(FOLDER / "imagesTr" / "a_0000.nii.gz"))
    sitk.WriteImage(scan, str(folder / "imagesTr" / "a.x_0000.nrrd"))
    flags = ["--channels", "CT", "--totalsegmentator", "body:body.yaml"]
    Path("body.yaml").write_text("into: labels")
    main(["-d", "903", *flags])
    labels = sitk.ReadImage(str(folder / "labelsTr" / "a.x.nrrd"))
    assert set(np.unique(sitk.GetArrayFromImage(labels))) == {0, 1}
    assert labels.GetSize() == scan.GetSize()
