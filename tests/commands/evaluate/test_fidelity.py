"""fcas_evaluate fidelity with nnU-Net's own predictor and with predictions at hand, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_cases import CPU, REAL, Prepared, save_untrained
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from report_sets import assert_shown_by_the_report

from fcas_nnunet.commands.evaluate.command import main
from fcas_nnunet.commands.evaluate.fidelity import Comparison, comparison
from fcas_nnunet.evaluation.results import SEGMENTATIONS, header
from fcas_nnunet.files import atomic_write_json, file_sha256
from fcas_nnunet.integration.dataset.manifest import Journal, Manifest
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume, write_labels, write_volume
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, ext_trainer_value
from fcas_nnunet.integration.models.prediction import JOURNAL_FILE, find_model, fingerprint
from fcas_nnunet.integration.preprocessing.splits import make_splits

MODEL_LABELS = {"background": 0, "coronary": 1, "pulmonary_artery": 2, "LV": 3}  # ids and names of another data set
TO_MODEL = np.array([0, 3, 1], dtype=np.uint8)  # left_ventricle 1 → 3, coronary_arteries 2 → 1


@pytest.fixture(scope="module")
def untrained(prepared_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in prepared_once.environment.items():
            patch.setenv(name, value)
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        return save_untrained(prepared_once.real)


@pytest.fixture
def model(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untrained, tmp_path / untrained.name))


@pytest.fixture
def synthetic(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """Two of the synthetic cases, to be changed."""
    dataset = prepared.synthetic
    folder = tmp_path / "raw" / dataset.name
    for case_id in dataset.case_ids[:2]:
        for path in (dataset.image_path(case_id), dataset.mask_path(case_id)):
            copied = folder / path.relative_to(dataset.folder)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
        Manifest(folder).append({"case_id": case_id, "template": "real_0", "reference": "real_1"})
    shutil.copyfile(dataset.folder / "dataset.json", folder / "dataset.json")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return RawDataset.open(folder)


def evaluate(synthetic: RawDataset, model: Path, tmp_path: Path, *more: str) -> dict[str, Any]:
    out = tmp_path / "drawn.json"
    main(["fidelity", "-d", synthetic.name, "-m", str(model), "-device", "cpu", "-np", "1", "-o", str(out), *more])
    assert_shown_by_the_report(out)
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *sentences: str) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(["fidelity", *arguments])
    error = capsys.readouterr().err
    for sentence in sentences:
        assert sentence in error


def relabel(model: Path, labels: dict[str, int]) -> None:
    description = json.loads((model / "dataset.json").read_text())
    atomic_write_json(model / "dataset.json", description | {"labels": labels})


def put_predictions(synthetic: RawDataset, model: Path, folder: Path, erased: set[int]) -> None:
    """Perfect ones under the model's ids, but for labels that are erased, with what they were made from."""
    for case_id in synthetic.case_ids:
        mask = read_volume(synthetic.mask_path(case_id))
        kept = np.where(np.isin(mask.array, list(erased)), 0, mask.array)
        write_labels(folder / f"{case_id}.nii.gz", TO_MODEL[kept], mask.affine)
        sha256 = file_sha256(synthetic.image_path(case_id))
        found = find_model(model, None, "checkpoint_final.pth")
        Journal(folder / JOURNAL_FILE).append(fingerprint(case_id, sha256, found))


def test_predictions_are_nnunets_own_and_are_redone_only_where_something_changed(
    synthetic: RawDataset, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = evaluate(synthetic, model, tmp_path)
    folder = model / "fcas_predictions" / "Dataset902_HeartFCaS__fold_0__checkpoint_final"
    files = [folder / f"{case_id}.nii.gz" for case_id in synthetic.case_ids]
    assert report["segmentations"]["predictions"] == str(folder)

    monkeypatch.setenv(EXT_TRAINER_VARIABLE, ext_trainer_value())
    predictor = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",))
    image, properties = SimpleITKIO().read_images([str(synthetic.image_path(synthetic.case_ids[0]))])
    wanted = predictor.predict_single_npy_array(image, properties)
    found = read_volume(files[0])
    np.testing.assert_array_equal(found.array, wanted)
    assert found.array.any()
    np.testing.assert_allclose(found.affine, read_volume(synthetic.image_path(synthetic.case_ids[0])).affine, atol=1e-4)

    made = [path.stat().st_mtime_ns for path in files]
    assert evaluate(synthetic, model, tmp_path) == report
    assert [path.stat().st_mtime_ns for path in files] == made

    scan = read_volume(synthetic.image_path(synthetic.case_ids[1]))
    write_volume(synthetic.image_path(synthetic.case_ids[1]), scan.array + np.int16(1), scan.affine)
    evaluate(synthetic, model, tmp_path)
    again = [path.stat().st_mtime_ns for path in files]
    assert again[0] == made[0]
    assert again[1] > made[1]

    checkpoint = read_checkpoint(model / "fold_0" / "checkpoint_final.pth")
    checkpoint["current_epoch"] = 7
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    changed = evaluate(synthetic, model, tmp_path)
    assert all(path.stat().st_mtime_ns > before for path, before in zip(files, again, strict=True))
    assert changed["model"]["sha256"] != report["model"]["sha256"]


def test_the_structure_that_was_not_drawn_is_named(
    synthetic: RawDataset, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A perfect network under other ids that finds no coronary arteries in any synthetic scan."""
    atomic_write_json(
        model / "dataset.json", json.loads((model / "dataset.json").read_text()) | {"labels": MODEL_LABELS}
    )
    predictions = tmp_path / "predictions"
    put_predictions(synthetic, model, predictions, erased={2})
    table = tmp_path / "drawn.csv"
    report = evaluate(synthetic, model, tmp_path, "--predictions", str(predictions), "--csv", str(table))
    assert (report["schema"], report["schema_version"]) == ("fcas-nnunet/fidelity", 2)
    verdicts = {name: entry["verdict"] for name, entry in report["labels"].items()}
    assert verdicts == {"left_ventricle": "drawn", "coronary_arteries": "not drawn"}
    ventricle, coronaries = report["labels"]["left_ventricle"], report["labels"]["coronary_arteries"]
    assert ventricle["dice"] == {"mean": 1, "std": 0, "count": 2}
    assert ventricle["ratio"] == pytest.approx(1 / 0.88)
    assert coronaries["dice"]["mean"] == coronaries["ratio"] == 0
    assert (coronaries["missed"], coronaries["cases_not_drawn"]) == (2, synthetic.case_ids)
    assert coronaries["real_dice_is"] == "assumed"
    assert report["not_compared"] == {"unknown_to_the_model": [], "not_in_the_data_set": ["pulmonary_artery"]}
    worst = report["worst_cases"][0]
    assert (worst["mean_dice"], worst["worst_label"], worst["template"]) == (0.5, "coronary_arteries", "real_0")
    assert report["segmentations"]["cases"][synthetic.case_ids[0]]["left_ventricle"]["hd95_mm"] == 0
    assert len(table.read_text().splitlines()) == 1 + 2 * 2
    masks = synthetic.mask_path(worst["case_id"]).parent
    entries = {
        i: {"images": [str(synthetic.image_path(i))], "label": f"elsewhere/{i}.nii.gz"} for i in synthetic.case_ids
    }
    atomic_write_json(synthetic.folder / "dataset.json", synthetic.dataset_json | {"dataset": entries})
    masks.rename(synthetic.folder / "elsewhere")
    again = evaluate(synthetic, model, tmp_path, "--predictions", str(predictions), "--csv", str(table))
    assert again["labels"] == report["labels"], "where dataset.json places the masks"
    printed = capsys.readouterr().out
    assert "not drawn" in printed
    assert "the Dice in real scans is assumed" in printed


def test_verdicts_are_relative_to_what_the_network_finds_in_real_scans(
    synthetic: RawDataset, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    atomic_write_json(
        model / "dataset.json", json.loads((model / "dataset.json").read_text()) | {"labels": MODEL_LABELS}
    )
    predictions, scores = tmp_path / "predictions", tmp_path / "real.json"
    put_predictions(synthetic, model, predictions, erased={2})
    real = {
        **header(SEGMENTATIONS),
        "settings": {"labels": MODEL_LABELS},
        "cases": {
            "a": {"LV": {"dice": 0.75}, "coronary": {"dice": 0.2}, "pulmonary_artery": {"dice": 0.9}},
            "b": {"LV": {"dice": 0.85}, "coronary": {"dice": None}, "pulmonary_artery": {"dice": 0.9}},
        },
    }
    scores.write_text(json.dumps(real))
    more = ("--predictions", str(predictions), "--real_scores", str(scores), "--overlap_only")
    report = evaluate(synthetic, model, tmp_path, *more)
    ventricle, coronaries = report["labels"]["left_ventricle"], report["labels"]["coronary_arteries"]
    assert (ventricle["real_dice"], ventricle["real_dice_is"]) == (pytest.approx(0.8), "measured")
    assert ventricle["ratio"] == pytest.approx(1.25)
    assert ventricle["ratio_interval"] == pytest.approx([1 / 0.85, 1 / 0.75])
    assert coronaries["verdict"] == "undecided"  # the network does not find them in real scans either
    assert coronaries["ratio"] is None
    assert report["settings"]["real_cases"] == 2
    real["settings"] = {"labels": {"liver": 1}}
    scores.write_text(json.dumps(real))
    arguments = ["-d", synthetic.name, "-m", str(model), *more]
    assert_refused(capsys, arguments, "--real_scores: labels must be some of", "got liver")


def test_scans_made_from_what_the_network_knows_are_held_against_what_it_knows(
    synthetic: RawDataset, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both were made from cases that fold 0 was trained on; a network finds more in those than in new ones."""
    relabel(model, MODEL_LABELS)
    splits = make_splits([f"real_{i}" for i in range(5)], feeds_cascade=False)
    (held_out,), trained = splits[0]["val"], splits[0]["train"]
    for case_id in synthetic.case_ids:
        Manifest(synthetic.folder).append(
            {"case_id": case_id, "source": REAL, "template": trained[0], "reference": trained[1]}
        )
    predictions, scores = tmp_path / "predictions", tmp_path / "real.json"
    put_predictions(synthetic, model, predictions, erased={2})
    more = ("--predictions", str(predictions), "--overlap_only")
    report = evaluate(synthetic, model, tmp_path, *more)
    assert {name: entry["verdict"] for name, entry in report["labels"].items()} == {
        "left_ventricle": "undecided",  # a Dice of 1 proves nothing here
        "coronary_arteries": "not drawn",  # and one of 0 everything
    }
    assert "nothing is called drawn" in capsys.readouterr().out
    entry = {"coronary": {"dice": 0.9}, "pulmonary_artery": {"dice": 0.9}}
    dice = {held_out: 0.5, trained[0]: 0.95, trained[3]: 0.97}
    scores.write_text(json.dumps({
        **header(SEGMENTATIONS), "settings": {"labels": MODEL_LABELS},
        "cases": {case_id: entry | {"LV": {"dice": value}} for case_id, value in dice.items()},
    }))  # fmt: skip
    report = evaluate(synthetic, model, tmp_path, *more, "--real_scores", str(scores))
    ventricle = report["labels"]["left_ventricle"]
    assert (ventricle["verdict"], ventricle["real_dice"]) == ("drawn", pytest.approx(0.96))  # without the held-out case
    settings = report["settings"]
    assert (settings["learnt_from"], settings["flattered"]) == (True, False)
    assert (settings["judged_cases"], settings["left_out_cases"], settings["real_cases"]) == (2, 0, 2)


def test_like_is_compared_with_like() -> None:
    cases, real = ["own1", "own2", "new"], ["seen", "unseen"]
    assert comparison(cases, {"own1", "own2"}, real, {"seen"}) == Comparison(["own1", "own2"], ["seen"], True, False, 1)
    assert comparison(cases, {"own1"}, real, {"seen"}) == Comparison(["own2", "new"], ["unseen"], False, False, 1)
    assert comparison(cases, {"own1", "own2"}, ["unseen"], ()) == Comparison(["new"], ["unseen"], False, False, 2)
    assert comparison(["own1"], {"own1"}, ["unseen"], ()) == Comparison(["own1"], ["unseen"], True, True, 0)
    assert comparison(["own1"], {"own1"}, [], ()) == Comparison(["own1"], [], True, True, 0)


def test_labels_that_the_model_does_not_know_are_left_out(synthetic: RawDataset, model: Path, tmp_path: Path) -> None:
    relabel(model, {"background": 0, "coronary": 1})
    predictions = tmp_path / "predictions"
    put_predictions(synthetic, model, predictions, erased={1})
    report = evaluate(synthetic, model, tmp_path, "--predictions", str(predictions), "--overlap_only")
    assert {name: entry["dice"]["mean"] for name, entry in report["labels"].items()} == {"coronary_arteries": 1}
    assert report["not_compared"]["unknown_to_the_model"] == ["left_ventricle"]


def test_models_and_predictions_that_cannot_serve_are_refused(
    synthetic: RawDataset, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-d", synthetic.name, "-device", "cpu", "-m"]
    assert_refused(capsys, [*arguments, str(tmp_path / "no")], "model folder must hold dataset.json and plans.json")
    assert_refused(capsys, [*arguments, str(model), "-f", "3"], "fold must be one of 0, got 3")
    assert_refused(
        capsys,
        [*arguments, str(model), "-chk", "checkpoint_best.pth"],
        "checkpoint must be one of checkpoint_final.pth",
    )
    strangers = tmp_path / "strangers"
    write_labels(strangers / f"{synthetic.case_ids[0]}.nii.gz", np.zeros((3, 3, 3), np.uint8), np.eye(4))
    assert_refused(
        capsys,
        [*arguments, str(model), "--predictions", str(strangers)],
        f"{strangers}: predictions must be this command's own, got others of {synthetic.case_ids[0]}",
    )
    assert (strangers / f"{synthetic.case_ids[0]}.nii.gz").is_file()
    description = json.loads((model / "dataset.json").read_text())
    for change, sentence in (
        ({"channel_names": {"0": "CT", "1": "PET"}}, "scans must have the model's channels, CT, PET, got CT"),
        ({"file_ending": ".nrrd"}, "file_ending must be that of Dataset902_HeartFCaS, .nii.gz, got .nrrd"),
        (
            {"labels": {"background": 0, "heart": [1, 2]}},
            "labels: at least one must match between background, heart_1,",
        ),
        ({"labels": {"background": 0, "heart": [1, "2"]}}, "or lists of such (regions), got ['heart']"),
        ({"labels": {"background": 0, "liver": 1}}, "labels: at least one must match"),
    ):
        atomic_write_json(model / "dataset.json", description | change)
        assert_refused(capsys, [*arguments, str(model)], sentence)
    atomic_write_json(model / "dataset.json", description)
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"nothing")
    assert_refused(capsys, [*arguments, str(model)], "checkpoint must hold weights and plain values alone")
    assert not list(model.glob("fcas_predictions/*/*.nii.gz"))
