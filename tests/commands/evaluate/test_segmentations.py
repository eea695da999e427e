"""fcas_evaluate from files to JSON, CSV and table, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_sets import assert_shown_by_the_report

from fcas_nnunet.case import Case
from fcas_nnunet.commands.evaluate import compare as evaluate_compare
from fcas_nnunet.commands.evaluate import segmentations as evaluate_segmentations
from fcas_nnunet.commands.evaluate.command import main
from fcas_nnunet.commands.evaluate.fidelity import real_dice
from fcas_nnunet.commands.runtime.outputs import holds_table
from fcas_nnunet.evaluation.results import SEGMENTATIONS, read_result
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import write_labels, write_volume

LABELS = {"background": 0, "left_ventricle": 1, "aorta": 2}
AFFINE = np.array([[0, 0, 0.7, 10], [0, 0.7, 0, -20], [1.5, 0, 0, 5], [0, 0, 0, 1.0]])
SHAPE = (14, 16, 18)


def cube(start: int, label: int = 1) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[2:10, 3:9, start : start + 8] = label
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two cases: one shifted by 2 of 8 voxels, one missed; the aorta is nowhere."""
    references, predictions = tmp_path / "heart" / "labelsTs", tmp_path / "predictions"
    for name, reference, prediction in (("a", cube(2), cube(4)), ("b", cube(3), cube(3) * 0)):
        write_labels(references / f"{name}.nii.gz", reference, AFFINE)
        write_labels(predictions / f"{name}.nii.gz", prediction, AFFINE)
    (references.parent / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    return references, predictions


def run_segmentations(folders: tuple[Path, Path], *more: str) -> None:
    main(["segmentations", "-r", str(folders[0]), "-p", str(folders[1]), "-np", "1", *more])


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *sentences: str) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    error = capsys.readouterr().err
    for sentence in sentences:
        assert sentence in error


def test_segmentations_to_json_csv_and_table(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out, table = folders[0] / "out.json", folders[0] / "out.csv"
    run_segmentations(folders, "-o", str(out), "--csv", str(table))
    report = json.loads(out.read_text())
    assert (report["schema"], report["schema_version"]) == ("fcas-nnunet/segmentations", 2)
    # Six of eight slabs overlap; one, two, two more lie within 1, 2, 3 voxels.
    assert report["cases"]["a"]["left_ventricle"]["dice"] == pytest.approx(0.75)
    assert report["cases"]["a"]["left_ventricle"]["rdice"] == pytest.approx({"1": 12 / 15, "2": 12 / 16, "3": 12 / 16})
    ventricle, aorta = report["summary"]["labels"]["left_ventricle"], report["summary"]["labels"]["aorta"]
    assert ventricle["dice"] == pytest.approx({"mean": 0.375, "std": 0.75 / math.sqrt(2), "count": 2})
    assert ventricle["only_prediction_empty"] == 1
    assert aorta["dice"] == {"mean": None, "std": None, "count": 0}
    assert aorta["both_empty"] == 2
    assert report["summary"]["foreground_mean"]["dice"] == pytest.approx(0.375)
    rows = list(csv.DictReader(table.open()))
    assert holds_table(evaluate_segmentations.CSV_COLUMNS)(table), "which the same command may write over"
    assert [(row["case_id"], row["label"]) for row in rows] == [
        ("a", "left_ventricle"), ("a", "aorta"), ("b", "left_ventricle"), ("b", "aorta"),
    ]  # fmt: skip
    assert_shown_by_the_report(out)
    found = real_dice(read_result(out, [SEGMENTATIONS]), LABELS)  # as fidelity --real_scores reads it
    assert found["left_ventricle"] == [0.75, 0.0]
    assert all(map(math.isnan, found["aorta"]))
    assert float(rows[0]["dice"]) == 0.75
    assert rows[1]["dice"] == ""
    printed = capsys.readouterr().out
    assert "37.50 ± 53.03" in printed
    assert "empty masks: both empty: no score" in printed
    assert "HD95 mm (n)" in printed
    assert f"{report['summary']['labels']['left_ventricle']['hd95_mm']['mean']:.2f} (2)" in printed  # as many as Dice


def test_surfaces_and_topology_are_in_mm_of_the_files(folders: tuple[Path, Path]) -> None:
    out = folders[0] / "out.json"
    run_segmentations(folders, "-o", str(out), "--tolerance_mm", "1.4")
    scores = json.loads(out.read_text())["cases"]["a"]["left_ventricle"]
    assert scores["hd95_mm"] == pytest.approx(1.4)  # shifted by two voxels of 0.7 mm along W
    assert scores["surface_dice"] == 1.0
    assert (scores["pieces_error"], scores["tunnels_error"], scores["centreline_dice"]) == (0, 0, None)
    missed = json.loads(out.read_text())["cases"]["b"]["left_ventricle"]
    diagonal = math.hypot(13 * 1.5, 15 * 0.7, 17 * 0.7)
    assert (missed["hd95_mm"], missed["surface_dice"], missed["pieces_error"]) == (pytest.approx(diagonal), 0, 1)
    run_segmentations(folders, "-o", str(out), "--overlap_only")
    assert json.loads(out.read_text())["cases"]["a"]["left_ventricle"]["hd95_mm"] is None


def test_vessels_are_those_that_dataset_json_says(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, description = folders[0] / "out.json", folders[0].parent / "dataset.json"
    description.write_text(json.dumps({"labels": LABELS, "fcas_roles": {"left_ventricle": ["thin"], "aorta": []}}))
    run_segmentations(folders, "-o", str(out))
    report = json.loads(out.read_text())
    assert report["settings"]["vessels"] == ["left_ventricle"]
    assert report["cases"]["a"]["left_ventricle"]["centreline_dice"] is not None
    description.write_text(json.dumps({"labels": LABELS, "fcas_roles": {"LV": ["thin"]}}))
    arguments = ["segmentations", "-r", str(folders[0]), "-p", str(folders[1]), "-o", str(out)]
    assert_refused(capsys, arguments, "dataset.json: fcas_roles must name labels of the data set, got LV")


def test_two_results_side_by_side(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    first, second, out = (folders[0] / name for name in ("first.json", "second.json", "out.json"))
    run_segmentations(folders, "-o", str(first))
    write_labels(folders[1] / "b.nii.gz", cube(3), AFFINE)
    run_segmentations(folders, "-o", str(second))
    capsys.readouterr()
    table = out.with_suffix(".csv")
    main(["compare", "-a", str(first), "-b", str(second), "-o", str(out), "--csv", str(table)])
    assert holds_table(evaluate_compare.CSV_COLUMNS)(table), "which the same command may write over"
    report = json.loads(out.read_text())
    ventricle = report["labels"]["left_ventricle"]
    assert (ventricle["first_mean"], ventricle["second_mean"]) == (0.375, 0.875)
    assert ventricle["difference"] == 0.5
    assert ventricle["interval"] == [0, 1]  # both cases, either twice
    assert report["labels"]["aorta"]["count"] == 0
    assert "left_ventricle" in capsys.readouterr().out
    main(["compare", "-a", str(first), "-b", str(second), "--measure", "rdice.1"])
    refused = (["compare", "-a", str(first), "-b", str(second), "--measure", "beauty"], "--measure: must be one of")
    assert_refused(capsys, *refused)
    assert_refused(capsys, ["compare", "-a", str(first), "-b", str(out)], "schema must be one of fcas-nnunet/segm")
    assert_shown_by_the_report(out)


def compared(folder: Path, measure: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out = folder / "comparison.json"
    main(["compare", "-a", str(folder / "a.json"), "-b", str(folder / "b.json"), "--measure", measure, "-o", str(out)])
    assert_shown_by_the_report(out)
    return json.loads(out.read_text())


def test_a_missed_structure_never_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A is off by 2 to 5 voxels throughout; B misses four of six cases, and finds the others a little better."""
    references = tmp_path / "heart" / "labelsTs"
    (tmp_path / "labels.json").write_text(json.dumps({"labels": LABELS}))
    for number in range(6):
        case = f"c{number}.nii.gz"
        write_labels(references / case, cube(2), AFFINE)
        write_labels(tmp_path / "a" / case, cube(2 + [5, 4, 5, 4, 3, 3][number]), AFFINE)
        write_labels(tmp_path / "b" / case, cube(4) * (number > 3), AFFINE)
    for name in "ab":
        run_segmentations((references, tmp_path / name), "--labels", str(tmp_path / "labels.json"), "-o",
                          str(tmp_path / f"{name}.json"))  # fmt: skip
    report = compared(tmp_path, "hd95_mm", capsys)
    ventricle = report["labels"]["left_ventricle"]
    assert (ventricle["count"], ventricle["first_missed"], ventricle["second_missed"]) == (6, 0, 4)
    assert ventricle["difference"] > 10  # mm: B is worse, though nearer where it finds anything
    assert "the largest distance between two voxels" in report["settings"]["empty_masks"]
    capsys.readouterr()
    compared(tmp_path, "pieces_error", capsys)
    assert "one result misses left_ventricle more often" in capsys.readouterr().out


def test_leaving_out_what_is_not_there_counts_as_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"labels": LABELS}))
    write_labels(tmp_path / "r" / "c.nii.gz", cube(2), AFFINE)
    write_labels(tmp_path / "a" / "c.nii.gz", cube(2), AFFINE)
    write_labels(tmp_path / "b" / "c.nii.gz", np.maximum(cube(2), np.roll(cube(2, 2), -7, 1)), AFFINE)
    for name in "ab":
        run_segmentations((tmp_path / "r", tmp_path / name), "--labels", str(tmp_path / "labels.json"), "-o",
                          str(tmp_path / f"{name}.json"))  # fmt: skip
    for measure, right in (("dice", 1), ("rdice.2", 1), ("hd95_mm", 0), ("centreline_dice", 1), ("pieces_error", 0)):
        aorta = compared(tmp_path, measure, capsys)["labels"]["aorta"]
        assert (aorta["count"], aorta["first_mean"]) == (1, right)
        assert aorta["second_mean"] != right


def other_tolerance(result: dict[str, Any]) -> None:
    result["settings"]["surface_dice_tolerance_mm"] = 3.0


def other_reference(result: dict[str, Any]) -> None:
    result["references_sha256"]["b"] = "0"


def other_cases(result: dict[str, Any]) -> None:
    del result["references_sha256"]["b"], result["cases"]["b"]


def other_ids(result: dict[str, Any]) -> None:
    result["settings"]["labels"] = {"left_ventricle": 2, "aorta": 1}


def other_policy(result: dict[str, Any]) -> None:
    result["settings"]["empty_masks"] = "left out"


def overlap_alone(result: dict[str, Any]) -> None:
    result["settings"]["overlap_only"] = True


def later_version(result: dict[str, Any]) -> None:
    result["schema_version"] = 7


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_tolerance, "surface_dice_tolerance_mm must be the same, got 1.0 and 3.0. Score both against the same"),
        (other_reference, "references must be the same, got others for b"),
        (other_cases, "cases must be the same, got b in one only"),
        (other_ids, "labels must be the same, got left_ventricle 1, aorta 2 and "),
        (other_policy, "empty_masks must be the same"),
        (overlap_alone, "must be one of dice, rdice.1, rdice.2, rdice.3 of"),
        (later_version, "schema_version of fcas-nnunet/segmentations must be 2, got 7"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], change: Any, sentence: str
) -> None:
    first, second = folders[0] / "first.json", folders[0] / "second.json"
    run_segmentations(folders, "-o", str(first))
    result = json.loads(first.read_text())
    change(result)
    second.write_text(json.dumps(result))
    assert_refused(capsys, ["compare", "-a", str(first), "-b", str(second), "--measure", "surface_dice"], sentence)
    if change is other_tolerance:  # of no matter for Dice
        main(["compare", "-a", str(first), "-b", str(second), "--measure", "dice"])


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_tolerance_is_a_finite_number(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], value: str
) -> None:
    arguments = ["segmentations", "-r", str(folders[0]), "-p", str(folders[1]), "--tolerance_mm", value]
    assert_refused(capsys, arguments, "argument --tolerance_mm: must be")


def test_workers_change_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run_segmentations(folders, "-o", str(tmp_path / "one.json"))
    run_segmentations(folders, "-np", "2", "-o", str(tmp_path / "two.json"))
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_every_missing_and_misplaced_prediction_is_listed(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    references, predictions = folders
    (predictions / "a.nii.gz").unlink()
    write_labels(predictions / "b.nii.gz", cube(3)[1:], AFFINE)
    write_labels(references / "c.nii.gz", cube(3), AFFINE)
    write_labels(predictions / "c.nii.gz", cube(3), np.diag([2.0, 1, 1, 1]) @ AFFINE)
    assert_refused(
        capsys,
        ["segmentations", "-r", str(references), "-p", str(predictions), "-o", str(tmp_path / "out.json")],
        f"a: prediction must be in {predictions}, got none",
        "(14, 16, 18), got (13, 16, 18)",
        f"c: {predictions / 'c.nii.gz'}: affine must be that of",
    )
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_unknown_values_are_listed_for_every_case(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    for name in "ab":
        write_labels(folders[1] / f"{name}.nii.gz", cube(3, label=9), AFFINE)
    assert_refused(
        capsys,
        ["segmentations", "-r", str(folders[0]), "-p", str(folders[1]), "-np", workers],
        "a: prediction: values must be label ids [0, 1, 2], got [9] as well",
        "b: prediction: values must be label ids [0, 1, 2], got [9] as well",
    )


def test_labels_are_looked_for_and_checked(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["segmentations", "-r", str(folders[0]), "-p", str(folders[1])]
    description = folders[0].parent / "dataset.json"
    description.write_text(json.dumps({"labels": {"background": 0, "heart": [1, -2], "valve": [], "ignore": [3]}}))
    assert_refused(capsys, arguments, "or lists of such (regions), got ['heart', 'valve', 'ignore']")
    description.write_text("{")
    assert_refused(capsys, arguments, "dataset.json: content must be JSON, got an error")
    description.write_text(json.dumps({"labels": ["background", "heart"]}))
    assert_refused(capsys, arguments, "labels must be a JSON object of names and ids, got ['background', 'heart']")
    description.unlink()
    assert_refused(capsys, arguments, "the labels' names must be there, got no file", "--labels FILE")
    gone, too = folders[0] / "gone", folders[0] / "too"
    arguments = ["segmentations", "-r", str(gone), "-p", str(too)]
    assert_refused(capsys, arguments, f"-r {gone}: folder must exist, got none", f"-p {too}: folder must exist")


def test_empty_and_missing_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tmp_path / "dataset.json"
    labels.write_text(json.dumps({"labels": LABELS}))
    arguments = ["segmentations", "-r", str(tmp_path), "-p", str(tmp_path / "none"), "--labels", str(labels)]
    empty = [word.replace("none", "") for word in arguments]
    assert_refused(capsys, empty, f"{tmp_path}: volumes (.nii.gz")
    write_labels(tmp_path / "a.nii.gz", cube(2), AFFINE)
    assert_refused(capsys, arguments, f"{tmp_path / 'none'}: folder must exist")
    assert_refused(capsys, [*arguments, "-o", str(tmp_path)], "result must go into a file, got a folder")


def scan(seed: int) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).normal(200, 80, size=SHAPE)).astype(np.int16)


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A real data set of two cases; a synthetic one with a given mask, a deformed one, and fewer labels."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    real, synthetic = tmp_path / "Dataset901_Heart", tmp_path / "Dataset902_HeartFCaS"
    masks = {"heart_0": cube(2), "heart_1": np.maximum(cube(5), cube(3, label=2))}
    for seed, (case_id, mask) in enumerate(masks.items()):
        write_case(real, Case(case_id, scan(seed)[None], mask, AFFINE))
    write_dataset_json(real, LABELS, 2)
    only_aorta = (masks["heart_1"] == 2).astype(np.uint8)  # the aorta has another id there, and the ventricle none
    write_case(synthetic, Case("syn_0", scan(1)[None] + 30, only_aorta, AFFINE))
    write_case(synthetic, Case("syn_1", scan(9)[None], np.roll(only_aorta, 1, axis=0), AFFINE))
    write_dataset_json(synthetic, {"background": 0, "ascending aorta": 1}, 2)
    for case_id in ("syn_0", "syn_1"):
        Manifest(synthetic).append({"case_id": case_id, "reference": "heart_1"})
    return real, synthetic


@pytest.mark.parametrize("named_by", ["id", "folder"])
def test_images_pair_by_the_manifest_under_equal_masks(
    datasets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], named_by: str
) -> None:
    real, synthetic = ("901", "902") if named_by == "id" else map(str, datasets)
    out = tmp_path / "quality.json"
    main(["images", "-r", real, "-s", synthetic, "-o", str(out), "--csv", str(tmp_path / "q.csv"), "-np", "1"])
    report = json.loads(out.read_text())
    assert (report["schema"], report["schema_version"]) == ("fcas-nnunet/image-quality", 1)
    assert list(report["cases"]) == ["syn_0"]
    assert report["cases"]["syn_0"]["reference"] == "heart_1"
    assert report["cases"]["syn_0"]["rmse_units"] == pytest.approx(30.0)
    assert "its mask is not its reference's" in report["left_out"]["syn_1"]
    assert_shown_by_the_report(out)
    used = report["settings"]["intensity_range"]
    assert "labelled voxels of Dataset901_Heart" in used["source"]
    assert -50 < used["low"] < 60 < 340 < used["high"] < 450
    assert list(report["structures"]) == ["aorta"]  # what both label, matched by structure
    aorta = report["structures"]["aorta"]
    assert (aorta["real"]["count"], aorta["synthetic"]["count"]) == (1, 2)  # over all cases, syn_1 as well
    assert 0 < aorta["wasserstein"] < 100
    assert (tmp_path / "q.csv").read_text().splitlines()[0] == "case_id,reference,ssim,rmse,rmse_units"
    printed = capsys.readouterr().out
    assert "30.0" in printed
    assert "1 synthetic cases left out" in printed


def test_images_in_bare_folders_pair_by_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, shift in (("real", 0), ("syn", 10)):
        write_volume(tmp_path / folder / "a_0000.nii.gz", scan(0) + np.int16(shift), AFFINE)
    arguments = ["images", "-r", str(tmp_path / "real"), "-s", str(tmp_path / "syn"), "-np", "1"]
    assert_refused(capsys, arguments, "the intensity range must come from a data set's labels", "--range LOW HIGH")
    assert_refused(capsys, [*arguments, "--range", "5", "5"], "low must be below high")
    out = tmp_path / "out.json"
    main([*arguments, "--range", "-1000", "1000", "-o", str(out)])
    case = json.loads(out.read_text())["cases"]["a"]
    assert case["rmse_units"] == pytest.approx(10.0)
    assert case["rmse"] == pytest.approx(10 / 2000, rel=1e-4)


def test_images_without_partners_are_refused(
    datasets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    against = ["images", "-s", "902", "-np", "1", "-r"]
    stranger = tmp_path / "Dataset903_Other"
    write_case(stranger, Case("other", scan(0)[None], cube(2), AFFINE))
    write_dataset_json(stranger, LABELS, 1)
    assert_refused(capsys, [*against, "903"], "cases must have a partner in Dataset903_Other")
    write_case(stranger, Case("heart_1", scan(0)[None], cube(6), AFFINE))
    write_dataset_json(stranger, LABELS, 2)
    assert_refused(
        capsys,
        [*against, "903"],
        "Dataset902_HeartFCaS: at least one mask must equal that of its reference in Dataset903_Other, voxel by voxel, "
        "got none: the masks of syn_0, syn_1 are deformed or labelled otherwise. Name the data set that the masks "
        "came from by -r, generate with --masks given",
    )
    assert_refused(capsys, [*against, "999"], "999")


def test_what_one_case_or_none_has_is_printed_without_nan() -> None:
    said = evaluate_segmentations._mean_and_spread
    assert said(0.5, 0.25) == "50.00 ± 25.00"
    assert said(0.5, float("nan")) == "50.00"
    assert said(float("nan"), float("nan")) == "–"
