"""fcas_merge as users call it: what lands where, on numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from merge_sources import (
    AFFINE,
    CORONARY,
    HEART,
    LUNG_LEFT,
    LUNG_RIGHT,
    LV,
    NAME,
    RV,
    SHAPE,
    enter,
    read,
    write_map,
    write_masks,
    write_multilabel,
)

from fcas_nnunet.commands.merge.command import main
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.checks import dataset_faults
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume, same_grid

CASES = ["a", "b.1 ü"]  # dots, spaces and accents


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch, CASES)
    for case_id in CASES:
        write_map(Path("coronaries") / f"{case_id}.nii.gz", CORONARY * 255)  # a mask of 0 and 255
    Path("coronaries.yaml").write_text("structures: {255: coronary_arteries}")
    write_masks(Path("totalseg"), CASES)
    Path("totalseg.yaml").write_text("into: surroundings\nstructures:\n  lung_*: lungs\n")
    return tmp_path


ALL = ["--masks", "predictions", "totalseg:totalseg.yaml", "coronaries:coronaries.yaml"]
FOLDER = Path("raw") / NAME


def run(*arguments: str) -> None:
    main(["-d", "901", "-np", "1", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a refused call says."""
    with pytest.raises(SystemExit, match="^2$"):
        run(*arguments)
    return capsys.readouterr().err


def test_three_sources_become_labels_and_surroundings(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*ALL)
    labels, around = read(FOLDER / "labelsTr" / "a.nii.gz"), read(FOLDER / "surroundingsTr" / "a.nii.gz")
    expected = np.where(CORONARY, 3, np.where(LV, 1, np.where(RV, 2, 0)))  # thin vessels win, though named last
    assert np.array_equal(labels, expected)
    beside = np.where(HEART, 2, 0)  # `lungs` come first in the map and so win; labels lie on all of them
    beside[LUNG_LEFT | LUNG_RIGHT] = 1
    assert np.array_equal(around, np.where(expected > 0, 0, beside))
    assert json.loads((FOLDER / "surroundings.json").read_text()) == {
        "labels": {"background": 0, "lungs": 1, "heart": 2}
    }
    dataset = RawDataset.open(FOLDER)
    assert dataset.labels == {"background": 0, "left_ventricle": 1, "RV": 2, "coronary_arteries": 3}
    assert dataset.case_ids == CASES
    faults = dataset_faults(dataset)
    assert [fault for fault in faults if "mm long" not in fault] == []
    volume = read_volume(FOLDER / "labelsTr" / "a.nii.gz")
    assert volume.array.dtype == np.uint8
    assert same_grid(volume.affine, AFFINE, SHAPE)
    assert not (FOLDER / ".fcas_unfinished").exists()
    said = capsys.readouterr().out
    for line in (
        "2 cases merged",
        "left_ventricle      1      2      92  predictions",  # 2 · (48 - 2)
        "RV                  2      2      44  predictions",
        "coronary_arteries   3      2       8  coronaries",
        "4 in 2 case(s): coronary_arteries has them, not left_ventricle",
        "4 in 2 case(s): coronary_arteries has them, not RV",
    ):
        assert line in said, said
    record = json.loads((FOLDER / "fcas_merge.jsonl").read_text().splitlines()[0])
    assert record["labels"]["voxels"] == {"left_ventricle": 46, "RV": 22, "coronary_arteries": 4}
    overlap = int((HEART & (LUNG_LEFT | LUNG_RIGHT)).sum())
    assert record["surroundings"]["met"] == [["lungs", "heart", overlap]]
    lost = {(winner, loser): count for winner, loser, count in record["surroundings"]["covered"]}
    assert lost["left_ventricle", "lungs"] == int((LV & ~CORONARY & (LUNG_LEFT | LUNG_RIGHT)).sum())


def test_the_source_named_first_wins_unless_a_map_says_otherwise(home: Path) -> None:
    for case_id in CASES:
        write_map(Path("other") / f"{case_id}.nii.gz", HEART)
    Path("other.yaml").write_text("structures: {1: pericardium}")
    Path("strong.yaml").write_text("priority: 1\nstructures: {1: pericardium}")
    Path("weak.yaml").write_text("structures: {255: {name: coronary_arteries, priority: -1}}")
    run("-o", "905", "--masks", "predictions", "other:other.yaml")
    run("-o", "906", "--masks", "other:other.yaml", "predictions")
    run("-o", "907", "--masks", "predictions", "other:strong.yaml")
    run("-o", "908", "--masks", "predictions", "coronaries:weak.yaml")
    first, second, third, fourth = (
        read(next(Path("raw").glob(f"Dataset{number}_HeartMerged")) / "labelsTr" / "a.nii.gz")
        for number in (905, 906, 907, 908)
    )
    assert np.array_equal(first, np.where(LV, 1, np.where(RV, 2, np.where(HEART, 3, 0))))
    assert set(np.unique(second)) == {0, 1}
    assert set(np.unique(third)) == {0, 3}
    assert np.array_equal(fourth, np.where(LV, 1, np.where(RV, 2, 0)))


def test_one_structure_of_several_sources_is_joined(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case_id in CASES:
        write_map(Path("other") / f"{case_id}.nii.gz", LV | HEART)
    Path("other.yaml").write_text("structures: {1: left_ventricle}")
    run("-o", "905", "--masks", "predictions", "other:other.yaml")
    said = capsys.readouterr().out
    joined = read(Path("raw/Dataset905_HeartMerged/labelsTr/a.nii.gz"))
    assert np.array_equal(joined, np.where(RV, 2, np.where(HEART | LV, 1, 0)))
    assert f"{48} in 2 case(s): RV has them, not left_ventricle" in said  # 2 · 24; LV with LV is no overlap
    Path("other.yaml").write_text("structures: {1: LV}")
    said = refused(capsys, "-o", "906", "--masks", "predictions", "other:other.yaml")
    assert "must have one name in all sources, got LV for what is called left_ventricle in predictions" in said


def test_tables_in_headers_name_ids_file_by_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version 1 of TotalSegmentator has other ids than version 2: a folder may hold results of both."""
    write_multilabel(Path("ts") / "a.nii.gz", LV * 7 + RV * 49, {7: "aorta", 49: "pulmonary_artery"})
    write_multilabel(Path("ts") / "b.1 ü.nii.gz", LV * 52 + RV * 53, {52: "aorta", 53: "pulmonary_artery"})
    run("-o", "905", "--masks", "ts")
    folder = Path("raw/Dataset905_HeartMerged")
    assert RawDataset.open(folder).labels == {"background": 0, "aorta": 1, "pulmonary_artery": 2}
    for case_id in CASES:
        assert np.array_equal(read(folder / "labelsTr" / f"{case_id}.nii.gz"), LV * 1 + RV * 2)
    Path("ts.yaml").write_text("names: total")
    said = refused(capsys, "-o", "906", "--masks", "ts:ts.yaml")
    assert "b.1" in said and "ts/a.nii.gz: ids must be called as names in ts.yaml says" in said


def test_the_users_word_names_the_ids_of_a_task(home: Path) -> None:
    for case_id in CASES:
        write_map(Path("ts") / f"{case_id}.nii.gz", LUNG_LEFT * 10 + LUNG_RIGHT * 14)
    Path("ts.yaml").write_text('names: total\ninto: surroundings\nstructures: {"lung_*_left": lung_left}')
    run("--masks", "predictions", "ts:ts.yaml")
    names = json.loads((FOLDER / "surroundings.json").read_text())["labels"]
    assert len(names) == 1 + 117 - 1  # background; both left lobes are one
    assert names["lung_left"] == 1
    around = read(FOLDER / "surroundingsTr" / "a.nii.gz")
    assert around[LUNG_LEFT & ~LV].tolist() == [1] * int((LUNG_LEFT & ~LV).sum())
    assert set(around[LUNG_RIGHT & ~(LV | RV)]) == {names["lung_lower_lobe_right"]}


def test_a_number_that_nothing_names_is_refused_and_nothing_changes(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stray = LV * 1 + RV * 2
    stray[0, 0, 0] = 421
    write_map(Path("predictions") / "a.nii.gz", stray, kind=np.int16)
    before = (FOLDER / "dataset.json").read_bytes()
    said = refused(capsys, *ALL)
    assert "a.nii.gz: values must be named, got 421 without a name. Name them under structures of a map.yaml" in said
    assert (FOLDER / "dataset.json").read_bytes() == before
    assert not (FOLDER / "labelsTr").exists() and not (FOLDER / "surroundingsTr").exists()
    Path("stray.yaml").write_text("structures: {421: left_atrium}")
    run(*ALL[:1], "predictions:stray.yaml", *ALL[2:])
    labels = read(FOLDER / "labelsTr" / "a.nii.gz")
    assert RawDataset.open(FOLDER).labels["left_atrium"] == 1  # structures of a map come first
    assert (labels == 1).sum() == 1 and labels[0, 0, 0] == 1


def test_everything_else_can_be_ignored_or_joined(home: Path) -> None:
    for case_id in CASES:
        write_map(Path("branches") / f"{case_id}.nii.gz", LV * 3 + RV * 9)
    Path("joined.yaml").write_text('structures: {"*": coronary_arteries}')
    Path("some.yaml").write_text('structures: {9: right_coronary, "*": ignored}')
    run("-o", "905", "--masks", "branches:joined.yaml")
    run("-o", "906", "--masks", "branches:some.yaml")
    assert np.array_equal(read(Path("raw/Dataset905_HeartMerged/labelsTr/a.nii.gz")), LV | RV)
    assert np.array_equal(read(Path("raw/Dataset906_HeartMerged/labelsTr/a.nii.gz")), RV)


def test_scans_without_a_description_need_the_users_word(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (FOLDER / "dataset.json").unlink()
    assert "got no such file and 0 of --channels. Give them: --channels CT" in refused(capsys, *ALL)
    run(*ALL, "--channels", "CT")
    dataset = RawDataset.open(FOLDER)
    assert dataset.dataset_json["channel_names"] == {"0": "CT"}
    assert dataset.dataset_json["numTraining"] == 2
    assert "--channels: must go without" in refused(capsys, *ALL, "--channels", "CT")


def test_other_formats_and_modalities_are_written_as_the_scans_are(home: Path) -> None:
    import SimpleITK as sitk

    folder = Path("raw/Dataset903_MR")
    (folder / "imagesTr").mkdir(parents=True)
    scan = sitk.ReadImage(str(FOLDER / "imagesTr" / "a_0000.nii.gz"))
    for channel in range(2):
        sitk.WriteImage(sitk.Cast(scan, sitk.sitkFloat32), str(folder / "imagesTr" / f"a_{channel:04d}.nrrd"))
    main(["-d", "903", "-np", "1", "--masks", "predictions", "--channels", "T1", "T2"])
    written = (folder / "labelsTr" / "a.nrrd").read_bytes()
    labels = sitk.ReadImage(str(folder / "labelsTr" / "a.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(labels), LV * 1 + RV * 2)
    assert np.allclose(labels.GetDirection(), scan.GetDirection(), atol=1e-6)
    content = json.loads((folder / "dataset.json").read_text())
    assert (content["channel_names"], content["file_ending"]) == ({"0": "T1", "1": "T2"}, ".nrrd")
    (folder / "labelsTr" / "a.nrrd").unlink()
    main(["-d", "903", "-np", "1", "--masks", "predictions"])
    assert (folder / "labelsTr" / "a.nrrd").read_bytes() == written


def test_a_new_set_has_copies_of_the_scans_and_the_old_labels_as_a_source(home: Path) -> None:
    run("--masks", "predictions")
    content = json.loads((FOLDER / "dataset.json").read_text())
    content |= {"fcas_roles": {"RV": ["wide"]}, "licence": "mine"}
    atomic_write_json(FOLDER / "dataset.json", content)
    run("-o", "Dataset905_All", "--masks", str(FOLDER / "labelsTr"), "coronaries:coronaries.yaml")
    new = Path("raw/Dataset905_All")
    for case_id in CASES:
        name = f"{case_id}_0000.nii.gz"
        assert (new / "imagesTr" / name).read_bytes() == (FOLDER / "imagesTr" / name).read_bytes()
    dataset = RawDataset.open(new)
    assert list(dataset.labels) == ["background", "left_ventricle", "RV", "coronary_arteries"]
    assert (dataset.dataset_json["licence"], dataset.dataset_json["name"]) == ("mine", "Dataset905_All")
    assert set(dataset.roles) == {"RV"}


def test_a_scan_that_changed_is_copied_again_on_the_users_word(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("-o", "905", *ALL)
    write_map(FOLDER / "imagesTr" / "a_0000.nii.gz", np.ones(SHAPE), kind=np.int16)
    said = refused(capsys, "-o", "905", *ALL)
    assert "a: labels must be those of these sources, got earlier ones of others" in said
    run("-o", "905", *ALL, "--overwrite")
    copy = Path("raw/Dataset905_HeartMerged/imagesTr/a_0000.nii.gz")
    assert copy.read_bytes() == (FOLDER / "imagesTr" / "a_0000.nii.gz").read_bytes()


def test_a_new_set_without_labels_or_in_a_foreign_folder_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "-o", "905", "--masks", "totalseg:totalseg.yaml")
    assert "a new data set must get labels, got sources of surroundings alone" in said
    assert "-o: must be another data set than -d" in refused(capsys, "-o", "901", *ALL)
    (home / "raw/Dataset906_Mine/imagesTr").mkdir(parents=True)
    assert "must be new, empty or begun by fcas_merge, got other files: imagesTr" in refused(capsys, "-o", "906", *ALL)


def test_without_a_source_nothing_is_done(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a source must be named" in refused(capsys)
    assert "no: --masks must be a folder, got none" in refused(capsys, "--masks", "no", "predictions")
    assert "must go with --totalsegmentator" in refused(capsys, *ALL, "--totalsegmentator_options=--fast")
