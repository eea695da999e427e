"""fcas_evaluate confidence: held-out cases drawn by a real (tiny) generator, judged, and what is refused."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, short_config, small_case
from report_sets import assert_shown_by_the_report
from scipy import stats

from fcas_nnunet.case import Case
from fcas_nnunet.commands.evaluate import confidence as evaluate_confidence
from fcas_nnunet.commands.evaluate.command import main
from fcas_nnunet.commands.evaluate.confidence import _held_out
from fcas_nnunet.commands.runtime.outputs import holds_table
from fcas_nnunet.config.generator import CalibrationConfig
from fcas_nnunet.evaluation.confidence.controls import DEPARTURE
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.train import train_generator
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.preprocessing.splits import training_fold

SOURCE = "Dataset901_Small"
#: Scans of a training case and of the validation case under other names, with other labels.
COPIES = {1: "new", 3: "p3x"}
SMALL = CalibrationConfig(num_drawings=4, num_voxels=4000, width=8, num_steps=60, batch_voxels=512)


def write_set(folder: Path, cases: list[Case], patients: dict[str, str] | None = None) -> RawDataset:
    for case in cases:
        image = np.rint(case.image).astype(np.int16) if case.image is not None else None
        write_case(folder, replace(case, image=image))
        if patients:
            Manifest(folder).append({"case_id": case.case_id, "patient": patients[case.case_id]})
    (folder / "surroundings.json").write_text(json.dumps({"labels": {"background": 0, **SURROUNDINGS}}))
    write_dataset_json(folder, LABELS, len(cases), description="test")
    return RawDataset.open(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """901 with a calibrated generator, 905 with copies of its scans; 904 with two others, one of them in two scans."""
    root = tmp_path_factory.mktemp("nnunet")
    source = write_set(root / "raw" / "Dataset901_Small", [small_case(i) for i in range(4)])
    first, second = small_case(10), small_case(11)
    again = replace(
        first, case_id="p10b", image=first.image + np.random.default_rng(0).normal(0, 30, first.image.shape)
    )
    write_set(root / "raw" / "Dataset904_Others", [first, again, second], {"p10": "p10", "p10b": "p10", "p11": "p11"})
    relabelled = [replace(small_case(n), case_id=new, mask=np.roll(small_case(n).mask, 1)) for n, new in COPIES.items()]
    write_set(root / "raw" / "Dataset905_Copies", relabelled)
    data = TrainingData(source.case_ids, source.load_case, source.labels, source.surroundings)
    folder = root / "results" / "Dataset901_Small" / "fcas__tiny"
    train_generator(
        data, replace(short_config(30, validate_every=30), calibration=SMALL), folder, Accelerator(cpu=True)
    )
    return root


@pytest.fixture(autouse=True)
def environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(root / "raw"))
    monkeypatch.setenv("nnUNet_results", str(root / "results"))


def run(*more: str) -> None:
    main(["confidence", "-d", "901", "--preset", "tiny", "-np", "1", "-device", "cpu", *more])


def test_report_of_held_out_patients(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture, table = tmp_path / "c.json", tmp_path / "c.png", tmp_path / "c.csv"
    run("--held_out", "904", "--draws", "1", "--ensemble", "2", "-o", str(out), "--picture", str(picture), "--csv",
        str(table))  # fmt: skip
    assert_shown_by_the_report(out)
    report = json.loads(out.read_text())
    assert (report["schema"], report["schema_version"]) == ("fcas-nnunet/confidence", 2)
    assert report["settings"]["confidence"]["estimator"] == "error_model"
    cases = report["cases"]
    assert {name: case["renderings"] for name, case in cases.items()} == {"p10, 0": ["p10", "p10b"], "p11, 0": ["p11"]}
    for case in cases.values():
        assert case["template"] in ("p0", "p1", "p2")  # p3 validated the training
        for maps in case["scores"]["matched"].values():  # everywhere, and around the walls, where it is decided
            assert {DEPARTURE, "confidence", "expected error"} < maps.keys()
            assert 0 <= maps[DEPARTURE]["ause"] <= 1
        assert case["scores"]["matched"].keys() == {"volume", "structures", "shell"}
        for kind in ("raw", "matched"):
            maps = case["scores"][kind]["structures"]
            assert maps["uniform"] == {"ause": pytest.approx(0.5), "spearman": 0}
            assert maps["confidence"]["ause"] + maps["inverted"]["ause"] == pytest.approx(1)
            assert maps["shuffled"]["ause"] == pytest.approx(0.5, abs=0.06)
            assert {"foreground mask", "image gradient", "boundary distance", "class prior", "spread of 2 seeds",
                    "random weights, its own scan", "SSV spread"} < maps.keys()  # fmt: skip
    # what it was made for: it knows more of the error than a map of the mask
    inside = report["summary"]["scores"]["matched"]["structures"]
    assert inside["confidence"]["ause"]["mean"] < 0.4
    assert inside["confidence"]["ause"]["mean"] < inside["class prior"]["ause"]["mean"]
    reliability = report["summary"]["reliability"]
    assert np.all(np.diff(reliability["confidence"]) >= 0)
    assert reliability["error"][0] > reliability["error"][-1]
    assert reliability["expected"][0] > reliability["expected"][-1]
    assert stats.spearmanr(reliability["expected"], reliability["error"]).statistic > 0.6  # over tenths of the voxels
    better = report["summary"]["better_by"]
    assert better.keys() == inside.keys() - {"confidence"}
    found = inside[DEPARTURE]["ause"]["mean"] - inside["confidence"]["ause"]["mean"]
    assert better[DEPARTURE]["difference"] == pytest.approx(found)
    low, high = better[DEPARTURE]["interval"]
    said = "better than" if low > 0 else "worse than" if high < 0 else "not to be told from"
    assert re.search(rf"{said} [^;]*{DEPARTURE}", report["verdict"][0])
    assert picture.stat().st_size > 20_000
    assert len(table.read_text().splitlines()) == 1 + 2 * 2 * 3 * len(inside)
    assert holds_table(evaluate_confidence.CSV_COLUMNS)(table), "which the same command may write over"
    printed = capsys.readouterr().out
    assert "inside structures, over 2 patients, confidence is " in printed
    judged = report["verdict"][0]
    assert all(name in judged for name in ("SSV spread", "random weights, its own scan", DEPARTURE, "uniform"))
    assert f"expected {reliability['expected'][0]:.0f}, " in printed


def test_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    results = []
    for name in ("a.json", "b.json"):
        run("--held_out", "904", "--cases", "p11", "--draws", "1", "--ensemble", "0", "--prior_cases", "0",
            "--no_random_weights", "--confidence", "ssv", "-o", str(tmp_path / f"{name}.json"))  # fmt: skip
        results.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert list(results[0]["cases"]) == ["p11, 0"]
    assert results[0]["settings"]["confidence"]["norm"] == "robust_std"
    assert results[0]["summary"]["reliability"]["expected"] is None
    assert results[0]["cases"] == results[1]["cases"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "cases must be given that its generator has not seen, got none. Name a data set of other patients"),
        (["--cases", "p0"], "cases must be unknown to the generator, got p0 (trained the generator)"),
        (["--cases", "p3"], "cases must be unknown to the generator, got p3 (chose its weights, calibrated it)"),
        (["--held_out", "905"], f"got new (the scan of {SOURCE}'s p1, which trained the generator), p3x (the scan of "
         f"{SOURCE}'s p3, which chose its weights, calibrated it)"),
        (["--cases", "p9"], "cases must be its own, got p9"),
        (["--held_out", "904", "--cases", "p3"], "cases must be its own, got p3"),
        (["--autoencoder", "a.pt"], "unrecognized arguments: --autoencoder a.pt"),  # nothing is trained here
        (["--precision", "bf16"], "unrecognized arguments: --precision bf16"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        run(*arguments)
    assert sentence in capsys.readouterr().err


def test_of_a_folds_generator_its_validation_cases_are_drawn(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = tmp_path / SOURCE / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text(json.dumps([{"train": ["p0", "p1"], "val": ["p3", "p2"]}]))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    arguments = argparse.Namespace(held_out=None, cases=None, fold=0)
    source = training_fold(RawDataset.open(root / "raw" / SOURCE), 0)
    held_out, chosen = _held_out(arguments, source)
    assert (held_out.name, chosen) == (SOURCE, ["p3", "p2"])


def test_a_generator_must_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        main(["confidence", "-d", "904", "--preset", "tiny"])
    assert "a trained generator must be there, got none" in capsys.readouterr().err
