"""fcas_train in several processes, as `torchrun` starts them; and the arithmetic it is asked for."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from fcas_nnunet_small import LABELS, SURROUNDINGS, short_config, small_case

from fcas_nnunet.choices import Precision
from fcas_nnunet.commands.devices import make_accelerator, supports_bf16
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config_files import save_config
from fcas_nnunet.generator.checkpoint import is_trained
from fcas_nnunet.integration.raw_dataset import write_case, write_dataset_json

DATASET = "Dataset901_Small"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """nnU-Net's folders with four labelled cases, and a configuration of two training steps."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for number in range(4):
        write_case(tmp_path / "nnUNet_raw" / DATASET, small_case(number))
    write_dataset_json(tmp_path / "nnUNet_raw" / DATASET, LABELS, 4, surroundings=SURROUNDINGS)
    save_config(short_config(2), tmp_path / "short.yaml")
    return tmp_path


def torchrun(home, *arguments):
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            "-m", "fcas_nnunet.commands.train", "-d", "901", "-device", "cpu", *arguments,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.slow
def test_torchrun_trains_in_two_processes(home):
    result = torchrun(home, "--config", str(home / "short.yaml"), "--precision", "fp32")
    assert result.returncode == 0, result.stderr
    folder = home / "nnUNet_results" / DATASET / "fcas__tiny"
    assert result.stdout == f"done: the generator is in {folder}\n"  # one process speaks
    assert is_trained(folder)


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused_before_anything_is_written(home):
    config = short_config(2)
    odd = replace(config.tcdm, optimisation=replace(config.tcdm.optimisation, batch_size=3))
    save_config(replace(config, tcdm=odd), home / "odd.yaml")
    result = torchrun(home, "--config", str(home / "odd.yaml"))
    assert result.returncode != 0
    assert "error: tcdm: batch_size must be a multiple of the number of processes (2), got 3" in result.stderr
    assert "set it to 4" in result.stderr
    assert list((home / "nnUNet_results").rglob("*.*")) == []


def test_precision_that_a_cpu_lacks_is_refused(home, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        train(["-d", "901", "--config", str(home / "short.yaml"), "-device", "cpu", "--precision", "fp16"])
    assert "--precision: must be fp32 or bf16 on a CPU, got fp16" in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "expected"), [("fp32", "no"), ("bf16", "bf16"), ("auto", None)])
def test_precision_is_the_accelerators(precision, expected):
    accelerator = make_accelerator("cpu", Precision(precision))
    assert accelerator.device.type == "cpu"
    assert accelerator.mixed_precision == (expected or ("bf16" if supports_bf16(accelerator.device) else "no"))


def test_other_processes_than_the_main_one_keep_silent(home, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    folder = home / "nnUNet_results" / DATASET / "fcas__tiny" / "tcdm"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    train(["-d", "901", "--config", str(home / "short.yaml")])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="^2$"):
        train(["-d", "999"])
    assert capsys.readouterr().err.startswith("error in process 1: ")
