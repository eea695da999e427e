"""What can be wrong with sources: grids, numbers, files, maps. All of it is listed, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from merge_sources import (
    AFFINE,
    CORONARY,
    LV,
    NAME,
    RV,
    SHAPE,
    enter,
    read,
    write_map,
    write_masks,
)

from fcas_nnunet.commands.merge.command import main
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import write_volume

CASES = ["a", "b"]
FOLDER = Path("raw") / NAME


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter(tmp_path, monkeypatch, CASES)
    return tmp_path


def run(*arguments: str) -> None:
    main(["-d", "901", *arguments, "-np", "1"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        run(*arguments)
    assert not (FOLDER / "labelsTr").exists()
    return capsys.readouterr().err


def shifted(voxels: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, 3] += voxels * AFFINE[:3, 2]
    return affine


def test_other_grids_are_refused_all_at_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(Path("predictions/a.nii.gz"), LV[:, :, :-1])
    write_map(Path("predictions/b.nii.gz"), LV, shifted(0.2))
    said = refused(capsys, "--masks", "predictions")
    assert "a.nii.gz: grid must be that of the scan, (6, 7, 8) voxels, got (6, 7, 7) voxels" in said
    assert "b.nii.gz: grid must be that of the scan, (6, 7, 8) voxels, got another origin, spacing or direction" in said
    assert "--resample" in said


def test_scans_that_are_links_to_nothing_are_all_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case_id in CASES:
        (FOLDER / f"imagesTr/{case_id}_0000.nii.gz").unlink()
        (FOLDER / f"imagesTr/{case_id}_0000.nii.gz").symlink_to("nowhere.nii.gz")
    said = refused(capsys, "--masks", "predictions")
    assert all(f"{case_id}: {(FOLDER / 'imagesTr').resolve() / case_id}_0000.nii.gz: file must exist" in said
               for case_id in CASES)  # fmt: skip


def test_headers_that_differ_by_rounding_are_one_grid(home: Path) -> None:
    write_map(Path("predictions/a.nii.gz"), LV, shifted(0.05))
    run("--masks", "predictions")
    assert np.array_equal(read(FOLDER / "labelsTr" / "a.nii.gz"), LV)


def test_on_the_users_word_maps_are_resampled_to_the_nearest(home: Path) -> None:
    """A map of half the voxels along W, whose voxel w covers the scan's 2w and 2w + 1."""
    coarse = (LV * 1 + RV * 2)[:, :, ::2]
    affine = AFFINE.copy()
    affine[:3, 2] *= 2
    affine[:3, 3] += AFFINE[:3, 2] * 0.5
    write_map(Path("predictions/a.nii.gz"), coarse, affine)
    write_map(Path("predictions/b.nii.gz"), (LV * 1)[:, :, 2:], shifted(2))  # cropped: outside is background
    run("--masks", "predictions", "--resample")
    assert np.array_equal(read(FOLDER / "labelsTr" / "a.nii.gz"), np.repeat(coarse, 2, axis=2))
    cropped = np.where(np.arange(SHAPE[2]) >= 2, LV, 0)
    assert np.array_equal(read(FOLDER / "labelsTr" / "b.nii.gz"), cropped)


def test_a_map_beside_the_scan_is_another_scans(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(Path("predictions/a.nii.gz"), LV, shifted(100))
    said = refused(capsys, "--masks", "predictions", "--resample")
    assert "a.nii.gz: label map must lie on the scan, got one that lies beside it" in said


def test_labels_as_floats_or_scaled_are_whole_numbers(home: Path) -> None:
    write_map(Path("predictions/a.nii.gz"), LV * 1 + RV * 2, kind=np.float32)
    write_volume(Path("predictions/b.nii.gz"), (LV * 10 + RV * 20).astype(np.int16), AFFINE, slope=0.1)
    run("--masks", "predictions")
    for case_id in CASES:
        assert np.array_equal(read(FOLDER / "labelsTr" / f"{case_id}.nii.gz"), LV * 1 + RV * 2)


def test_probabilities_and_damaged_files_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(Path("predictions/a.nii.gz"), LV * 0.5, kind=np.float32)
    path = Path("predictions/b.nii.gz")
    write_map(path, np.random.default_rng(0).integers(0, 3, SHAPE))
    path.write_bytes(path.read_bytes()[:-20])
    said = refused(capsys, "--masks", "predictions")
    assert "a: predictions/a.nii.gz: labels must be whole numbers, got others. Take a label map" in said
    assert "b: predictions/b.nii.gz: file must be" in said


def test_files_that_are_no_volumes_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = nibabel.Nifti1Image(np.zeros((*SHAPE, 3), dtype=np.uint8), np.eye(4))
    nibabel.save(series, "predictions/a.nii.gz")
    Path("predictions/b.nii.gz").write_bytes(b"no volume")
    said = refused(capsys, "--masks", "predictions")
    assert "predictions/a.nii.gz: volume must have three dimensions, got" in said
    assert "predictions/b.nii.gz: file must be a readable volume, got '" in said


@pytest.mark.parametrize(("far", "kind"), [(-7, np.int16), (1 << 20, np.int32)])
def test_numbers_far_off_are_read(home: Path, far: int, kind: type) -> None:
    for case_id in CASES:
        write_map(Path(f"predictions/{case_id}.nii.gz"), LV * 1 + RV * far, kind=kind)
    Path("map.yaml").write_text(f'structures: {{"{far}": ignored, "*": ignored, 1: LV}}')
    run("--masks", "predictions:map.yaml")
    assert np.array_equal(read(FOLDER / "labelsTr" / "a.nii.gz"), LV)


def test_a_mask_of_one_structure_has_one_value(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_masks(Path("ts"), CASES)
    write_map(Path("ts/b/heart.nii.gz"), LV * 1 + RV * 2)
    said = refused(capsys, "--masks", "ts")
    assert "b: ts/b/heart.nii.gz: a mask must hold 0 and one other value, got 1, 2" in said


def test_names_of_cases_must_be_those_of_the_scans(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_map(Path("other/patient_a.nii.gz"), LV)
    Path("map.yaml").write_text("structures: {1: LV}")
    said = refused(capsys, "--masks", "other:map.yaml")
    assert "other: label maps must be called as the cases are, a, b, got patient_a.nii.gz" in said
    write_map(Path("other/a.nii.gz"), LV)
    write_map(Path("other/a/x.nii.gz"), LV)
    assert "a case must be one label map or a folder of masks, got both of a" in refused(
        capsys, "--masks", "other:map.yaml"
    )


def test_ids_without_names_are_refused_before_anything_is_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for case_id in CASES:
        write_map(Path(f"bare/deep/{case_id}.nii.gz"), LV)
    assert "ids of the label maps must have names, got none" in refused(capsys, "--masks", "bare/deep")
    Path("map.yaml").write_text("structures: {1: {into: surroundings}}")
    said = refused(capsys, "--masks", "bare/deep:map.yaml")
    assert "map.yaml: value 1 must have a name, got none. Write `1: aorta` under structures" in said


def test_more_structures_than_a_byte_holds_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "\n".join(f"  {number}: structure {number}" for number in range(1, 255))
    Path("many.yaml").write_text(f"into: surroundings\nstructures:\n{names}\n")
    said = refused(capsys, "--masks", "predictions", "predictions:many.yaml")
    assert "labels and surroundings must have 255 ids at most, got 256" in said


def test_wrong_maps_are_refused_with_all_that_is_wrong(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.yaml").write_text(
        "labels: {1: a}\ninto: label\npriority: high\nnames: totally\n"
        "structures: {1: 5, 2: {name: b, where: c}, 3: {into: nowhere}, 4: {name: b, priority: 1.5}, 2.5: b, "
        "'2': c, 6: Ignored}\n"
    )
    Path("typo.yaml").write_text("structures: {lung_*: lungs, left_ventricle: LV}")
    said = refused(capsys, "--masks", "predictions:wrong.yaml", "predictions:typo.yaml", "predictions:gone.YAML")
    for part in (
        "wrong.yaml: keys must be of names, into, priority, structures, got labels",
        "wrong.yaml: into must be one of labels, surroundings, ignored, got 'label'",
        "wrong.yaml: priority must be a whole number, got 'high'",
        "wrong.yaml: names must be a task of TotalSegmentator (total,",
        "wrong.yaml: name of 1 must be text, got 5",
        "wrong.yaml: 2 must have name, into, priority, got where",
        "wrong.yaml: into of 3 must be one of",
        "wrong.yaml: priority of 4 must be a whole number, got 1.5",
        "wrong.yaml: structures must be ids or names, got 2.5",
        "wrong.yaml: 2 must be there once under structures, got it twice",
        "typo.yaml: structures must be ids or names that the source has, RV, left_ventricle, got lung_*",
        "wrong.yaml: name of 6 must be written ignored, got 'Ignored'",
        "gone.YAML: the file must exist",
    ):
        assert part in said


def test_ids_of_regions_are_named_after_them(home: Path) -> None:
    Path("predictions/dataset.json").write_text('{"labels": {"background": 0, "heart": [1, 2], "LV": 2}}')
    Path("map.yaml").write_text("structures: {heart_1: RV}")
    run("--masks", "predictions:map.yaml")
    assert RawDataset.open(FOLDER).labels == {"background": 0, "RV": 1, "LV": 2}


def test_names_of_another_file_are_taken_on_the_users_word(home: Path) -> None:
    (home / "model").mkdir()
    Path("predictions/dataset.json").rename(home / "model" / "dataset.json")
    Path("maps").mkdir()
    Path("maps/map.yaml").write_text("names: ../model/dataset.json\nstructures: {RV: right_ventricle}")
    run("--masks", "predictions:maps/map.yaml")
    assert RawDataset.open(FOLDER).labels == {"background": 0, "right_ventricle": 1, "left_ventricle": 2}


def test_the_ignore_label_comes_last(home: Path) -> None:
    for case_id in CASES:
        write_map(Path(f"doubt/{case_id}.nii.gz"), CORONARY)
    Path("doubt.yaml").write_text("priority: 5\nstructures: {1: ignore}")
    run("--masks", "doubt:doubt.yaml", "predictions")
    assert RawDataset.open(FOLDER, any_kind=True).dataset_json["labels"] == {
        "background": 0, "left_ventricle": 1, "RV": 2, "ignore": 3,
    }  # fmt: skip
    labels = read(FOLDER / "labelsTr" / "a.nii.gz")
    assert np.array_equal(labels, np.where(CORONARY, 3, LV * 1 + RV * 2))
