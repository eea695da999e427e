"""The preset that a command takes if none is named."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fcas_nnunet_small import set_roots, write_small_set
from pretend_card import CARD, pretend_card

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.runtime.presets import generator_config
from fcas_nnunet.commands.train import build_parser
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.generator.run_file import RUN_FILE
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

SOURCE = "Dataset901_Small"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> RawDataset:
    """Four small cases in nnU-Net's folders."""
    caplog.set_level(logging.INFO)
    write_small_set(tmp_path, 4)
    set_roots(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return RawDataset.open(tmp_path / "nnUNet_raw" / SOURCE)


def train_in_name(tmp_path: Path, preset: str, finished: bool = True) -> None:
    folder = tmp_path / "nnUNet_results" / SOURCE / f"fcas__{preset}"
    (folder / "tcdm").mkdir(parents=True)
    (folder / RUN_FILE).touch()
    if finished:
        (folder / "tcdm" / "config.yaml").touch()


def chosen(source: RawDataset, *arguments: str, output: Path | None = None) -> str:
    args: argparse.Namespace = build_parser().parse_args(["-d", "901", *arguments])
    return generator_config(args, source, output).preset


def test_it_suits_the_device(
    source: RawDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert chosen(source) == "cpu"
    pretend_card(monkeypatch, 24)
    assert chosen(source) == "gpu"
    assert chosen(source, "-device", "cpu") == "cpu"
    assert caplog.messages == [
        "preset cpu, the default without a GPU",
        f"preset gpu, the default on a GPU ({CARD}, 24 GB)",
        "preset cpu, the default on a CPU",
    ]
    assert chosen(source, "--preset", "tiny") == "tiny"
    assert len(caplog.messages) == 3  # who names one is not told


def test_a_trained_generator_goes_before_one_to_train(
    source: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_card(monkeypatch, 24)
    train_in_name(tmp_path, "tiny")
    assert chosen(source) == "gpu"  # tiny is for tests, but it is told of
    assert f"trained for {SOURCE}, too: tiny; --preset takes another than gpu" in caplog.text
    train_in_name(tmp_path, "cpu")
    assert chosen(source) == "cpu"
    assert f"preset cpu: its generator is trained for {SOURCE}. --preset gpu, the default on a GPU" in caplog.text
    assert chosen(source, "--fold", "0") == "gpu"  # no fold's generator is trained
    train_in_name(tmp_path, "gpu", finished=False)
    assert chosen(source) == "gpu"  # an interrupted training is continued
    caplog.clear()
    args = build_parser().parse_args(["-d", "901"])
    assert generator_config(args).preset == "gpu"  # fcas_train, which takes none that is trained


def test_a_training_names_what_is_trained_and_a_calibration_takes_it(
    source: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pretend_card(monkeypatch, 2)
    train_in_name(tmp_path, "cpu")
    with pytest.raises(SystemExit, match="^2$"):
        train(["-d", "901"])
    assert f"trained for {SOURCE}, too: cpu" in caplog.text
    assert "GB of memory to train preset gpu, got 2.0 GB" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="^2$"):  # the pretended record is empty
        train(["-d", "901", "--calibrate"])
    assert "fcas__cpu" in capsys.readouterr().err


def test_a_set_that_was_begun_is_continued_with_its_preset(
    source: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "nnUNet_raw" / "Dataset902_SmallFCaS"
    output.mkdir()
    Manifest(output).append({"case_id": "fcas_00000", "preset": "cpu"})
    pretend_card(monkeypatch, 24)
    train_in_name(tmp_path, "gpu")
    assert chosen(source) == "gpu"
    assert chosen(source, output=output) == "cpu"
    assert "preset cpu: cases of Dataset902_SmallFCaS were made with it" in caplog.text


@pytest.mark.parametrize(
    ("line", "expected"),
    [({"scan": "warped"}, "gpu"), ({"scan": "warped", "shares": {"drawn": 1.0, "warped": 1.0}}, "cpu"),
     ({"scan": "painted", "shares": {"painted": 1.0, "warped": 1.0}}, "gpu"), ({"scan": "drawn"}, "cpu")],
)  # fmt: skip
def test_the_preset_of_a_set_is_that_of_its_drawn_scans(
    source: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: dict[str, Any], expected: str
) -> None:
    """A set without drawn scans records a preset, too, whose generator nobody has trained."""
    output = tmp_path / "nnUNet_raw" / "Dataset902_SmallFCaS"
    output.mkdir()
    Manifest(output).append({"case_id": "fcas_00000", "preset": "cpu", **line})
    pretend_card(monkeypatch, 24)
    assert chosen(source, output=output) == expected


def test_a_set_of_other_cases_is_refused_before_a_generator_is_trained(
    source: RawDataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generate(["-d", "901", "-o", "911", "-n", "2", "--source", "warped", "--masks", "given"])
    capsys.readouterr()
    monkeypatch.setattr("fcas_nnunet.commands.generate.run.train", lambda *_, **__: pytest.fail("it trains"))
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit, match="^2$"):
            generate(["-d", "901", "-o", "911", "-n", "2", "--masks", "given", "--seed", "3", *more])
        message = capsys.readouterr().err
        assert "its cases must have been made with the same generator, seed, masks and labels" in message
        assert "run_seed 3 instead of 0" in message


def test_generate_takes_gpu_prints_its_grid_and_refuses_a_small_card(
    source: RawDataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pretend_card(monkeypatch, 24)
    monkeypatch.setattr("fcas_nnunet.commands.runtime.costs.operations_per_second", lambda device: 14e12)
    generate(["-d", "901", "--dry-run"])
    assert f"preset gpu, the default on a GPU ({CARD}, 24 GB)" in caplog.text
    grid = (
        "working grid of preset gpu: 0.431 × 0.431 × 0.431 mm, 149 × 149 × 149 voxels for a scan of 32 × 32 × 32 voxels"
    )
    assert grid in caplog.text
    printed = capsys.readouterr().out
    assert "fcas__gpu (would be trained first)" in printed
    assert "training: about " in printed
    pretend_card(monkeypatch, 6)
    with pytest.raises(SystemExit, match="^2$"):
        generate(["-d", "901", "--dry-run"])
    message = capsys.readouterr().err
    assert f"-device: {CARD} must have at least " in message
    assert "GB of memory to train preset gpu, got 6.0 GB. Take --preset cpu" in message
