"""fcas_evaluate memorisation from data sets to JSON, CSV, table and pictures, and what it refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from nnunet_cases import CPU, Prepared, save_untrained
from report_sets import assert_shown_by_the_report

from fcas_nnunet.case import Case
from fcas_nnunet.commands.evaluate import memorisation as evaluate_memorisation
from fcas_nnunet.commands.evaluate.command import main
from fcas_nnunet.commands.runtime.outputs import holds_table
from fcas_nnunet.datasets.phantom import LABELS, phantom_case
from fcas_nnunet.evaluation.images.memorisation import mean_features
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json
from fcas_nnunet.integration.models.features import open_extractor

SHAPE = (32, 32, 32)
NUM_TRAINING = 5
NAMES = {"background": 0} | LABELS


def patient(case_id: str, seed: int) -> Case:
    case = phantom_case(case_id, SHAPE, seed)
    return replace(case, surroundings=None)


def noisy(case: Case, case_id: str) -> Case:
    assert case.image is not None
    noise = np.random.default_rng(5).normal(0, 15, SHAPE)
    return replace(case, case_id=case_id, image=case.image + noise)


def moved(case: Case) -> Case:
    """The same scan 3 voxels further on, in a larger volume."""
    assert case.image is not None
    image, mask = (np.pad(array, [(3, 0), (0, 0), (3, 0)]) for array in (case.image[0], case.mask))
    return replace(case, image=image[None], mask=mask)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training scans, two held-out patients; synthetic: a noisy copy, a moved copy, two other patients."""
    root = tmp_path_factory.mktemp("memorisation")
    real, synthetic = root / "Dataset901_Heart", root / "Dataset902_HeartFCaS"
    training = [patient(f"heart_{i}", i) for i in range(NUM_TRAINING)]
    for case in training:
        write_case(real, case)
    for seed in (20, 21):
        write_case(real, patient(f"test_{seed}", seed), split="Ts")
    write_dataset_json(real, NAMES, NUM_TRAINING)
    drawn = [
        (noisy(training[1], "fcas_0"), "heart_1"),
        (moved(noisy(training[3], "fcas_1")), "heart_0"),
        (patient("fcas_2", 30), "heart_2"),
        (patient("fcas_3", 31), "elsewhere"),
    ]
    # The same labels under other ids and names: what matches is matched by structure.
    shuffled = {"background": 0} | {name: 1 + (i + 3) % len(LABELS) for name, i in LABELS.items()}
    ids = np.zeros(256, dtype=np.uint8)
    ids[list(LABELS.values())] = [shuffled[name] for name in LABELS]
    for case, template in drawn:
        write_case(synthetic, replace(case, mask=ids[case.mask]))
        Manifest(synthetic).append({"case_id": case.case_id, "template": template, "reference": "heart_4"})
    write_dataset_json(synthetic, shuffled, len(drawn))
    return root


@pytest.fixture
def raw(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_raw", str(root))
    return root


def evaluate(tmp_path: Path, *more: str) -> dict[str, Any]:
    out = tmp_path / "copies.json"
    main(["memorisation", "-d", "902", "--train", "901", "-np", "1", "-o", str(out), *more])
    assert_shown_by_the_report(out)
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], *sentences: str) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(["memorisation", *arguments])
    error = capsys.readouterr().err
    for sentence in sentences:
        assert sentence in error


def test_copies_are_flagged_with_pictures_and_others_are_not(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out, pictures, table = str(raw / "Dataset901_Heart" / "imagesTs"), tmp_path / "pictures", tmp_path / "c.csv"
    report = evaluate(tmp_path, "--held_out", held_out, "--pictures", str(pictures), "--csv", str(table))
    assert (report["schema"], report["schema_version"]) == ("fcas-nnunet/memorisation", 2)
    assert report["settings"]["real_scans"] == {"kind": "held-out", "source": held_out, "count": 2}
    assert report["settings"]["features"] is None
    assert {"fcas_0", "fcas_1"} <= set(report["flagged"])
    for case_id, twin in (("fcas_0", "heart_1"), ("fcas_1", "heart_3")):
        case = report["cases"][case_id]
        assert case["flagged_by"] == ["image", "contrast_matched"]
        assert case["image"]["nearest"] == case["contrast_matched"]["nearest"] == twin
        assert case["image"]["distance"] < 0.01
        assert case["image"]["rmse_units"] < 15  # of the noise, averaged over a voxel and more
    for case_id in ("fcas_2", "fcas_3"):  # other patients: no nearer than chance has it
        assert report["cases"][case_id]["image"]["distance"] > 0.1
        assert report["cases"][case_id]["contrast_matched"]["distance"] > 0.5
    image = report["summary"]["image"]
    assert image["threshold"]["rule"] == "minimum of 2 real scans"
    assert image["threshold"]["value"] == image["real"]["min"] > 0.1
    assert image["expected_flagged"] == pytest.approx(4 / 3)
    assert image["flagged"] == sum("image" in case["flagged_by"] for case in report["cases"].values())
    assert 0.5 <= image["nearer"]["share"] < 1  # two copies of four are nearer than either held-out scan
    assert image["nearer"]["interval"] == [None, None]  # one mask source alone
    assert {path.stem for path in pictures.iterdir()} == set(report["flagged"])
    picture = imread(pictures / "fcas_0.png")
    assert picture.shape[0] > 700  # three planes
    assert picture[..., :3].std() > 0.1
    rows = {row["case_id"]: row for row in csv.DictReader(table.open())}
    assert holds_table(evaluate_memorisation.CSV_COLUMNS)(table), "which the same command may write over"
    assert rows["fcas_0"]["flagged_by"] == "image contrast_matched"
    assert rows["fcas_1"]["image_nearest"] == "heart_3"
    printed = capsys.readouterr().out
    assert "2 held-out scans; flagged below the minimum of 2 real scans" in printed
    assert "flagged: fcas_0: image 0.00" in printed
    assert "1 synthetic cases without a template in Dataset901_Heart" in printed


def test_template_copy_rates_are_those_of_the_manifest(raw: Path, tmp_path: Path) -> None:
    """Templates heart_1, heart_0, heart_2 and one unknown; nearest by image: heart_1, heart_3 and two others."""
    report = evaluate(tmp_path)
    found = [report["cases"][f"fcas_{i}"]["image"]["nearest"] for i in range(3)]
    assert found[:2] == ["heart_1", "heart_3"]
    rates = report["nearest_is_template"]
    assert (rates["cases"], rates["cases_without"]) == (3, 1)
    matches = 1 + (found[2] == "heart_2")
    assert rates["measures"]["image"]["matches"] == matches
    assert rates["measures"]["image"]["rate"] == pytest.approx(matches / 3)
    templates = ["heart_1", "heart_0", "heart_2"]
    assert rates["measures"]["image"]["chance"] == pytest.approx(sum(templates.count(name) for name in found) / 9)
    assert set(rates["measures"]) == {"image", "contrast_matched", "contrast"}
    assert report["cases"]["fcas_1"]["contrast"]["nearest"] == "heart_3"
    assert report["nearest_is_mask_source"]["cases"] == 4


def test_without_held_out_scans_training_scans_are_held_against_one_another(raw: Path, tmp_path: Path) -> None:
    report = evaluate(tmp_path, "--range", "-200", "800")
    assert report["settings"]["intensity_range"] == {"low": -200, "high": 800, "source": "stated"}
    assert report["settings"]["real_scans"] == {
        "kind": "leave-one-out", "source": "Dataset901_Heart", "count": NUM_TRAINING,
    }  # fmt: skip
    assert report["summary"]["image"]["threshold"]["count"] == NUM_TRAINING
    assert {"fcas_0", "fcas_1"} <= set(report["flagged"])


def test_features_of_a_network_count_too(
    raw: Path, prepared_once: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in prepared_once.environment.items():
            patch.setenv(name, value)
        patch.setenv("nnUNet_results", str(tmp_path / "results"))
        model = save_untrained(prepared_once.real, patch_size=96)
    held_out = str(raw / "Dataset901_Heart" / "imagesTs")
    report = evaluate(tmp_path, "--held_out", held_out, "-m", str(model), "-f", "0", "-device", "cpu")
    assert report["settings"]["features"].startswith(f"Dataset901_Heart/{model.name}, fold 0, checkpoint_final.pth")
    extractor = open_extractor(model, "0", device=CPU)
    images = {path.name[:-12]: path for path in sorted((raw / "Dataset901_Heart" / "imagesTr").iterdir())}
    own = mean_features(extractor.features([raw / "Dataset902_HeartFCaS" / "imagesTr" / "fcas_0_0000.nii.gz"]))
    found = {case_id: 1 - float(own @ mean_features(extractor.features([path]))) for case_id, path in images.items()}
    closest = min(found, key=lambda case_id: found[case_id])
    features = report["cases"]["fcas_0"]["features"]
    assert features["nearest"] == closest == "heart_1"
    assert features["distance"] == pytest.approx(found[closest], abs=1e-9)
    assert report["summary"]["features"]["threshold"]["count"] == 2
    assert "features" in report["nearest_is_template"]["measures"]
    assert "features of Dataset901_Heart" in capsys.readouterr().out


def test_workers_change_nothing(raw: Path, tmp_path: Path) -> None:
    one, two = evaluate(tmp_path), evaluate(tmp_path, "-np", "2")
    assert one == two


def test_what_cannot_be_held_against_is_refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["-d", "902", "--train", "901", "-np", "1"]
    assert_refused(capsys, ["-d", "902", "--train", "902"], "--train: data set must be another than -d")
    assert_refused(capsys, [*both, "--pictures", __file__], f"{__file__}: folder must be one, or be new, got a file")
    assert_refused(capsys, [*both, "--held_out", "901"], "--held_out: cases must not be training cases")
    assert_refused(capsys, [*both, "--held_out", str(tmp_path)], "masks must be in labels… beside a folder of scans")
    training = raw / "Dataset901_Heart"
    twins = tmp_path / "imagesTs"
    twins.mkdir()
    (tmp_path / "labelsTs").mkdir()
    (twins / "twin_0000.nii.gz").write_bytes((training / "imagesTr" / "heart_2_0000.nii.gz").read_bytes())
    assert_refused(capsys, [*both, "--held_out", str(twins)], f"{tmp_path / 'labelsTs'}: volumes (.nii.gz")
    (tmp_path / "labelsTs" / "other.nii.gz").write_bytes((training / "labelsTr" / "heart_2.nii.gz").read_bytes())
    assert_refused(capsys, [*both, "--held_out", str(twins)], f"{tmp_path / 'labelsTs' / 'twin'}: file must exist")
    (tmp_path / "labelsTs" / "other.nii.gz").rename(tmp_path / "labelsTs" / "twin.nii.gz")
    assert_refused(
        capsys,
        [*both, "--held_out", str(twins)],
        "twin: held-out scan must be another than every training scan, got a twin of heart_2",
    )
    model = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    assert_refused(capsys, [*both, "-m", str(model)], f"{model}: model folder must hold dataset.json and plans.json")
