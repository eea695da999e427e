"""fcas_confidence: maps from nnU-Net's own probabilities, by folds that do not know the case; resumed, put back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from held_out_folds import HELD_OUT, REAL_CASES
from nnunet_cases import CPU, REAL, Prepared, random_case
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from fcas_nnunet.commands.confidence import run as work
from fcas_nnunet.commands.confidence.command import main
from fcas_nnunet.commands.confidence.maps import GENERATED_FOLDER
from fcas_nnunet.commands.confidence.rules import losses
from fcas_nnunet.config.options import SEGMENTER
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.checks import dataset_faults
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, read_confidence, write_case
from fcas_nnunet.integration.dataset.synthetic_cases import case_contents
from fcas_nnunet.integration.dataset.volumes import dequantise_confidence, quantise_confidence, read_volume
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, ext_trainer_value
from fcas_nnunet.integration.models import own_labels, prediction
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, Parent, Role, from_json, to_json

DRAWN, WARPED = "fcas_00000", "fcas_00001"


@pytest.fixture
def synthetic(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """A drawn case of fold 1's held-out scan after fold 0's, and a warped one of fold 0's; the warped one's map is 0
    beyond the scan, in its first slices."""
    folder = tmp_path / "raw" / prepared.synthetic.name
    made = {DRAWN: ("1", "0", "drawn"), WARPED: ("0", "0", "warped")}
    for seed, (case_id, (reference, template, scan)) in enumerate(made.items()):
        case = random_case(case_id, 100 + seed, confidence=True)
        assert case.confidence is not None
        np.maximum(case.confidence, 0.2, out=case.confidence)
        case.confidence[:9] = 0
        write_case(folder, case)
        record = {
            "case_id": case_id, "source": REAL, "reference": HELD_OUT[reference], "template": HELD_OUT[template],
            "scan": scan, "fold": None, "contents": case_contents(case), "mean_confidence_in_structures": 0.5,
            "std_confidence_in_structures": 0.25,
        }  # fmt: skip
        Manifest(folder).append(record)
    contents = training_contents(prepared.real)
    parents = [Parent(REAL, HELD_OUT[fold], contents[HELD_OUT[fold]], (Role.REFERENCE,)) for fold in "01"]
    described = prepared.synthetic.dataset_json | {"numTraining": 2, PARENTS_KEY: to_json(parents)}
    atomic_write_json(folder / "dataset.json", described)
    shutil.copytree(prepared.real.folder, tmp_path / "raw" / REAL)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return RawDataset.open(folder)


def run(synthetic: RawDataset, *more: object) -> None:
    main(["-d", synthetic.name, "-np", "1", *map(str, more)])


def judge(synthetic: RawDataset, model: Path, *more: object) -> dict[str, dict[str, Any]]:
    """Run the command; returns what the manifest says of the judgement."""
    run(synthetic, "--network", model, "-device", "cpu", *more)
    assert dataset_faults(synthetic) == [], "hashes and grids fit"
    return {case_id: record[SEGMENTER] for case_id, record in Manifest(synthetic.folder).read().items()}


def refused(capsys: pytest.CaptureFixture[str], synthetic: RawDataset, *more: object) -> str:
    before = snapshot(synthetic)
    with pytest.raises(SystemExit, match="^2$"):
        run(synthetic, *more)
    assert snapshot(synthetic) == before
    error = capsys.readouterr().err
    assert "judged by fold" not in error, "refused before the long work"
    return error


def map_of(synthetic: RawDataset, case_id: str) -> np.ndarray:
    return read_confidence(synthetic.confidence_path(case_id)).array


def snapshot(synthetic: RawDataset) -> dict[str, bytes]:
    """Path → bytes of every file, without those of locks."""
    files = [path for path in synthetic.folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(synthetic.folder)): path.read_bytes() for path in files if path.name != "lock"}


def nnunets_probability(
    model: Path, fold: str, synthetic: RawDataset, case_id: str, monkeypatch: pytest.MonkeyPatch
) -> np.ndarray:
    """The softmax of nnU-Net's own prediction at each voxel's label."""
    monkeypatch.setenv(EXT_TRAINER_VARIABLE, ext_trainer_value())
    predictor = nnUNetPredictor(device=CPU, perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (fold,))
    image, properties = SimpleITKIO().read_images([str(synthetic.image_path(case_id))])
    _, softmax = predictor.predict_single_npy_array(image, properties, save_or_return_probabilities=True)
    mask = read_volume(synthetic.mask_path(case_id)).array
    found: np.ndarray = np.take_along_axis(softmax, mask[None].astype(np.int64), axis=0)[0]
    return found


def test_maps_are_the_probabilities_of_folds_that_have_not_seen_the_reference(
    synthetic: RawDataset, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generated = map_of(synthetic, WARPED)
    judged = judge(synthetic, model)
    drawn = nnunets_probability(model, "1", synthetic, DRAWN, monkeypatch)
    assert drawn.std() > 0.05
    np.testing.assert_allclose(map_of(synthetic, DRAWN), drawn, atol=0.5 / 255 + 1e-4)
    warped = nnunets_probability(model, "0", synthetic, WARPED, monkeypatch)
    assert np.abs(warped - nnunets_probability(model, "1", synthetic, WARPED, monkeypatch)).max() > 0.05
    wanted = np.where(generated > 0, warped, 0)
    np.testing.assert_allclose(map_of(synthetic, WARPED), wanted, atol=0.5 / 255 + 1e-4)
    inside = (read_volume(synthetic.mask_path(WARPED)).array > 0) & (generated > 0)
    assert judged[WARPED]["score"] == pytest.approx(float(warped[inside].mean()), abs=1e-4)
    assert {i: case["knows_template"] for i, case in judged.items()} == {DRAWN: True, WARPED: False}
    assert judged[DRAWN]["network"].endswith("fold 1, checkpoint_final.pth")
    record = Manifest(synthetic.folder).read()[WARPED]
    mask = read_volume(synthetic.mask_path(WARPED)).array
    assert record["mean_confidence_in_structures"] == pytest.approx(wanted[mask > 0].mean(), abs=1e-4)
    printed = capsys.readouterr().out
    assert "judged by fold 0: 1 cases\njudged by fold 1: 1 cases\n1 of 2 cases: their judges have learnt" in printed
    assert "lowest: " in printed


def test_what_judges_have_learnt_from_becomes_a_parent(synthetic: RawDataset, model: Path) -> None:
    """So that fcas_prepare refuses every fold with one of their training cases among its validation cases."""
    judge(synthetic, model)
    parents = from_json(RawDataset.open(synthetic.folder).dataset_json) or []
    assert {p.case_id for p in parents if Role.JUDGE in p.roles} == set(REAL_CASES)
    assert {p.case_id for p in parents if Role.REFERENCE in p.roles} == {HELD_OUT["0"], HELD_OUT["1"]}


def test_generated_maps_come_back_to_the_byte(synthetic: RawDataset, model: Path) -> None:
    run(synthetic, "--restore")  # nothing was judged; the manifest is sorted, dataset.json as it was
    before = snapshot(synthetic)
    judge(synthetic, model)
    after = snapshot(synthetic)
    assert after[f"{GENERATED_FOLDER}/{DRAWN}.nii.gz"] == before[f"confidenceTr/{DRAWN}.nii.gz"]
    assert after[f"confidenceTr/{DRAWN}.nii.gz"] != before[f"confidenceTr/{DRAWN}.nii.gz"]
    judge(synthetic, model, "--power", 3)
    run(synthetic, "--restore")
    assert snapshot(synthetic) == before
    assert not (synthetic.folder / GENERATED_FOLDER).exists()


def test_a_case_that_was_made_again_begins_with_its_new_map(synthetic: RawDataset, model: Path) -> None:
    """As fcas_generate makes a case whose files were deleted, while the map of the deleted one is still kept."""
    judge(synthetic, model)
    probability = map_of(synthetic, DRAWN)
    case = random_case(DRAWN, 100, confidence=True)  # its map is above 0 nearly everywhere
    write_case(synthetic.folder, case)
    generated = map_of(synthetic, DRAWN)
    record = {key: value for key, value in Manifest(synthetic.folder).read()[DRAWN].items() if key != SEGMENTER}
    Manifest(synthetic.folder).append(record | {"contents": case_contents(case)})
    judge(synthetic, model, "--combine", "product")
    np.testing.assert_allclose(map_of(synthetic, DRAWN), probability * generated, atol=1 / 255)
    run(synthetic, "--restore")
    np.testing.assert_array_equal(map_of(synthetic, DRAWN), generated)


def test_other_settings_need_no_prediction_and_begin_with_the_generated_maps(
    synthetic: RawDataset, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = {case_id: map_of(synthetic, case_id) for case_id in (DRAWN, WARPED)}
    judge(synthetic, model)
    first = {case_id: map_of(synthetic, case_id) for case_id in (DRAWN, WARPED)}
    states = [synthetic.confidence_path(case_id).stat().st_mtime_ns for case_id in (DRAWN, WARPED)]
    monkeypatch.setattr(own_labels, "predict_cases", None)
    judge(synthetic, model)
    assert [synthetic.confidence_path(i).stat().st_mtime_ns for i in (DRAWN, WARPED)] == states
    for _ in range(2):  # the second time from the kept maps again, not from the product
        judge(synthetic, model, "--combine", "product")
        for case_id in (DRAWN, WARPED):
            wanted = first[case_id] * generated[case_id]
            np.testing.assert_allclose(map_of(synthetic, case_id), wanted, atol=1 / 255)


def test_freemask_ignores_what_the_network_finds_hard_for_its_label(synthetic: RawDataset, model: Path) -> None:
    judge(synthetic, model)
    folder = model / "fcas_probabilities" / f"{synthetic.name}__checkpoint_final"
    judge(synthetic, model, "--rule", "freemask", "--alpha", "1.1")
    found: dict[int, list[np.ndarray]] = {}
    for case_id, counted in ((DRAWN, slice(None)), (WARPED, slice(9, None))):
        mask = read_volume(synthetic.mask_path(case_id)).array[counted]
        loss = losses(read_volume(folder / f"{case_id}.nii.gz").array.astype(np.float32) / np.float32(65535))[counted]
        for label in (0, 1, 2):
            found.setdefault(label, []).append(loss[mask == label])
    means = {label: np.concatenate(parts).mean(dtype=np.float64) for label, parts in found.items()}
    shares = []
    for case_id, counted in ((DRAWN, slice(None)), (WARPED, slice(9, None))):
        mask = read_volume(synthetic.mask_path(case_id)).array[counted]
        confidence = map_of(synthetic, case_id)[counted]
        assert set(np.unique(confidence)) == {0, 1}
        for label, parts in found.items():
            limit = np.float32(1.1 * means[label])
            np.testing.assert_array_equal(confidence[mask == label], parts[case_id == WARPED] <= limit)
            shares.append(confidence[mask == label].mean())
    assert min(shares) < 0.9
    assert not map_of(synthetic, WARPED)[:9].any(), "beyond the scan"


def test_cases_that_nobody_finds_count_for_nothing(
    synthetic: RawDataset, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {case_id: case["score"] for case_id, case in judge(synthetic, model).items()}
    worst, best = sorted(scores, key=lambda case_id: scores[case_id])
    kept = map_of(synthetic, best)
    judged = judge(synthetic, model, "--drop-below", (scores[worst] + scores[best]) / 2)
    assert {case_id: case["dropped"] for case_id, case in judged.items()} == {worst: True, best: False}
    assert not map_of(synthetic, worst).any()
    np.testing.assert_array_equal(map_of(synthetic, best), kept)
    assert f"and so without weight: {worst}\n" in capsys.readouterr().out


def test_a_killed_run_goes_on(synthetic: RawDataset, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def then_killed(function: Any, at: int) -> Any:
        calls = []

        def called(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == at:
                raise Killed
            return function(*args)

        return called

    folder = model / "fcas_probabilities" / f"{synthetic.name}__checkpoint_final"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(prediction, "_write", then_killed(prediction._write, 2))
        judge(synthetic, model)
    (first,) = folder.glob("*.nii.gz")
    made = first.stat().st_mtime_ns
    generated = map_of(synthetic, WARPED)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(work, "write_map", then_killed(work.write_map, 2))
        judge(synthetic, model)
    assert first.stat().st_mtime_ns == made
    (fault,) = dataset_faults(synthetic)  # a set with maps of both kinds is not trained on
    assert fault.startswith(f"{DRAWN}: confidence must be the one that was written for it, got other voxels")
    assert "if fcas_confidence was interrupted, run it again" in fault
    with monkeypatch.context() as patch:
        patch.setattr(own_labels, "predict_cases", None)
        judge(synthetic, model, "--combine", "product")
    probability = dequantise_confidence(quantise_confidence(own_labels.read_probability(folder / f"{WARPED}.nii.gz")))
    np.testing.assert_allclose(map_of(synthetic, WARPED), probability * generated, atol=1 / 255)
    assert len(list(folder.glob("*.nii.gz"))) == 2


def test_a_killed_first_run_is_undone(synthetic: RawDataset, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(synthetic, "--restore")
    before = snapshot(synthetic)
    with monkeypatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(Manifest, "update", lambda self, records: records["no such case"])
        run(synthetic, "--network", model, "-device", "cpu")
    assert len(dataset_faults(synthetic)) == 2
    run(synthetic, "--restore")
    assert snapshot(synthetic) == before


def test_ignored_voxels_are_never_trusted(synthetic: RawDataset, model: Path) -> None:
    description = synthetic.dataset_json
    labels = description["labels"] | {"ignore": 3}
    atomic_write_json(synthetic.folder / "dataset.json", description | {"labels": labels})
    case = random_case(DRAWN, 100, confidence=True)
    case.mask[10:14] = 3
    write_case(synthetic.folder, case)
    Manifest(synthetic.folder).append(Manifest(synthetic.folder).read()[DRAWN] | {"contents": case_contents(case)})
    changed = RawDataset.open(synthetic.folder)
    judged = judge(changed, model)
    confidence = map_of(changed, DRAWN)
    probability = own_labels.read_probability(next(model.glob(f"fcas_probabilities/*/{DRAWN}.nii.gz")))
    structures = (case.mask == 1) | (case.mask == 2)
    assert judged[DRAWN]["score"] == pytest.approx(float(probability[structures].mean()), abs=1e-5)
    assert not confidence[10:14].any()
    assert confidence[14:].any()


def test_judges_that_know_the_case_are_refused(
    synthetic: RawDataset, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(capsys, synthetic, "--network", model, "-f", "0", "2")
    wanted = (
        f"at least one fold must not have learnt from the reference {HELD_OUT['1']}, got none of fold 0, 2 for "
        f"{DRAWN}. Train more folds, or name a network of other scans."
    )
    assert wanted in error
    assert WARPED not in error
    error = refused(capsys, synthetic, "--network", model, "--both")
    assert f"must not have learnt from both {HELD_OUT['1']} and {HELD_OUT['0']}, got none" in error
    assert WARPED not in error
    monkeypatch.setenv("FCAS_ALLOW_LEAKS", "1")
    judged = judge(synthetic, model, "-f", "0", "2")
    assert judged[DRAWN]["network"].endswith("fold 0 2, checkpoint_final.pth")
    assert judged[WARPED]["network"].endswith("fold 0, checkpoint_final.pth")


def test_a_set_of_a_fold_is_not_judged_by_its_validation_cases(
    synthetic: RawDataset, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for record in Manifest(synthetic.folder).read().values():
        Manifest(synthetic.folder).append(record | {"fold": 2})
    error = refused(capsys, synthetic, "--network", model)
    assert f"{REAL}, fold 2: validation cases must stay unseen, got {HELD_OUT['2']} (trained the judge of" in error


def test_what_does_not_fit_is_refused(synthetic: RawDataset, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--network: the folder of a trained nnU-Net must be given" in refused(capsys, synthetic)
    assert "--rule: must go with --network" in refused(capsys, synthetic, "--restore", "--rule", "freemask")
    assert "--power: must go without --rule freemask" in refused(
        capsys, synthetic, "--network", model, "--rule", "freemask", "--power", 2
    )
    assert "fold must be one of 0, 1, 2, got 7" in refused(capsys, synthetic, "--network", model, "-f", "7")
    manifest = synthetic.folder / "fcas_manifest.jsonl"
    lines = manifest.read_text()
    manifest.write_text(json.dumps({"case_id": DRAWN}) + "\n")
    assert "fcas_manifest.jsonl must name the reference of its cases, got none" in refused(
        capsys, synthetic, "--network", model
    )
    manifest.write_text(lines)
    synthetic.confidence_path(DRAWN).unlink()
    assert "confidence map must exist, got none" in refused(capsys, synthetic, "--network", model)
    write_case(synthetic.folder, random_case(DRAWN, 100, confidence=True))  # another map than the manifest's
    error = refused(capsys, synthetic, "--network", model)
    assert f"error: {DRAWN}: confidence must be the one that was written for it, got other" in error
    assert not (model / "fcas_probabilities").exists()
