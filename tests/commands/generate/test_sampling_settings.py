"""fcas_train --calibrate and fcas_generate --confidence, as users type them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fcas_nnunet_small import short_config

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.generator import CalibrationConfig
from fcas_nnunet.generator.checkpoint import calibration_exists
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, read_confidence

SOURCE = "Dataset901_Small"
SMALL = CalibrationConfig(num_drawings=4, num_voxels=4000, width=8, num_steps=30, batch_voxels=512)


@pytest.fixture(scope="module")
def home(small_home: Path) -> Path:
    """Four labelled cases, and a generator that has drawn data set 902 before it was calibrated."""
    save_config(replace(short_config(), calibration=SMALL), small_home / "calibrated.yaml")
    assert not calibration_exists(small_home / "nnUNet_results" / SOURCE / "fcas__tiny")
    train(["-d", "901", "--config", str(small_home / "calibrated.yaml"), "--calibrate"])
    return small_home


@pytest.fixture(autouse=True)
def calibrated(home: Path) -> None:
    """All tests of this module are of the calibrated generator."""


def made(home: Path, output: str, *more: str) -> tuple[RawDataset, dict]:
    config = str(home / "calibrated.yaml")
    generate(["-d", "901", "-o", output, "-n", "1", "-np", "1", "--masks", "given", "--config", config, *more])
    dataset = RawDataset.open(next((home / "nnUNet_raw").glob(f"Dataset{output}_*")))
    return dataset, Manifest(dataset.folder).read()["fcas_00000"]


def test_a_generator_without_calibration_gave_ssv(home: Path) -> None:
    record = Manifest(next((home / "nnUNet_raw").glob("Dataset902_*"))).read()["fcas_00000"]
    assert record["confidence"]["estimator"] == "ssv"
    assert record["confidence"]["norm"] == "robust_std"
    assert record["run_seed"] == 0
    assert record["sampling"]["solver"] == "dpmsolver++"


def test_a_calibrated_one_gives_expected_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration_exists(home / "nnUNet_results" / SOURCE / "fcas__tiny")
    own, record = made(home, "903")
    assert record["confidence"]["estimator"] == "error_model"
    confidence = read_confidence(own.confidence_path("fcas_00000")).array
    inside = own.load_mask("fcas_00000").mask > 0
    assert confidence[inside].std() == pytest.approx(record["std_confidence_in_structures"], abs=2e-3)
    assert "over voxels" in capsys.readouterr().out
    ssv, other = made(home, "904", "--confidence", "ssv")
    assert other["confidence"]["norm"] == "robust_std"
    scans = [dataset.load_case("fcas_00000").image for dataset in (own, ssv)]
    assert np.array_equal(*scans)
    assert not np.array_equal(confidence, read_confidence(ssv.confidence_path("fcas_00000")).array)
    assert record["weights_sha256"] != other["weights_sha256"]  # the calibration counts where it is used


def test_paper_and_calibrated_ssv_are_there(home: Path) -> None:
    _, paper = made(home, "905", "--confidence", "paper")
    assert (paper["confidence"]["source"], paper["confidence"]["norm"]) == ("x_t", "minmax_variance")
    _, calibrated = made(home, "906", "--confidence", "ssv_calibrated")
    assert (calibrated["confidence"]["estimator"], calibrated["confidence"]["norm"]) == ("ssv", "calibrated")


def test_flags_of_snapshots_ask_for_ssv(home: Path) -> None:
    _, record = made(home, "907", "--snapshots", "3")
    assert (record["confidence"]["estimator"], record["confidence"]["num_snapshots"]) == ("ssv", 3)


def test_what_the_error_model_does_not_look_at_is_refused_beside_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for choice, *flags in (
        ("error_model", "--snapshots", "20"), ("error_model", "--box_margin", "4"),
        ("own", "--snapshots", "20"),
    ):  # fmt: skip
        with pytest.raises(SystemExit, match="^2$"):
            made(home, "909", "--confidence", choice, *flags)
        assert "must go with a confidence that looks at intermediate images" in capsys.readouterr().err


def test_other_steps_than_calibrated(
    home: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What was left open becomes SSV, and a line says so; what was asked for is refused."""
    caplog.set_level("INFO")
    _, record = made(home, "908", "--steps", "7")
    assert record["confidence"]["estimator"] == "ssv"
    assert "calibrated for dpmsolver++ of 10 steps alone: confidence is the spread of SSV" in caplog.text
    with pytest.raises(SystemExit, match="^2$"):
        made(home, "909", "--steps", "7", "--confidence", "error_model")
    assert "must be drawn as it was calibrated (dpmsolver++ of 10 steps), got other" in capsys.readouterr().err


def test_a_set_is_not_continued_with_another_confidence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^2$"):
        generate(["-d", "901", "-o", "902", "-n", "1", "-np", "1", "--config", str(home / "calibrated.yaml")])
    error = capsys.readouterr().err
    assert "its cases must have been made with the same generator, seed, masks and labels" in error
    assert "got others: fcas_00000" in error
    record = Manifest(next((home / "nnUNet_raw").glob("Dataset902_*"))).read()["fcas_00000"]
    assert record["confidence"]["estimator"] == "ssv"  # untouched


def test_calibrating_again_is_no_work(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(["-d", "901", "--config", str(home / "short.yaml"), "--calibrate"])
    assert "holds this generator already" in capsys.readouterr().out
