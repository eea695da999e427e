"""fcas_train in several processes, as `torchrun` starts them; and the arithmetic it is asked for."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from fcas_nnunet_small import LABELS, SURROUNDINGS, short_config, small_case

from fcas_nnunet.commands.runtime.devices import make_accelerator
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.options import Precision
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.checkpoint import GeneratorRecord, generator_exists, save_record
from fcas_nnunet.generator.optimisation.precision import supports_bf16
from fcas_nnunet.generator.run_file import RUN_FILE, Run
from fcas_nnunet.generator.tcdm.maisi import PretrainedFiles
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json

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


def pretend_trained(home, files=None):
    """The records of a generator of `short.yaml` in place, without its weights; returns its folder."""
    folder, config = home / "nnUNet_results" / DATASET / "fcas__tiny", short_config(2)
    save_record(folder, GeneratorRecord(
        config, config.autoencoder, config.tcdm, LABELS, SURROUNDINGS, (1.0, 1.0, 1.0), LatentScale(), {}, (),
    ))  # fmt: skip
    save_config(Run(config, LABELS, SURROUNDINGS, {}, (files or PretrainedFiles()).identity()), folder / RUN_FILE)
    return folder


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
    assert generator_exists(folder)


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused_before_anything_is_written(home):
    config = short_config(2)
    odd = replace(config.tcdm, optimisation=replace(config.tcdm.optimisation, batch_size=3))
    save_config(replace(config, tcdm=odd), home / "odd.yaml")
    result = torchrun(home, "--config", str(home / "odd.yaml"))
    assert result.returncode != 0
    assert "error: tcdm: batch_size must be a multiple of the number of processes (2), got 3" in result.stderr
    assert "set it to 4" in result.stderr
    written = {path.name for path in (home / "nnUNet_results").rglob("*.*")}
    assert written <= {WORK_FOLDER}  # the other process' end may have killed the one that holds the lock


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
    pretend_trained(home)
    train(["-d", "901", "--config", str(home / "short.yaml")])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="^2$"):
        train(["-d", "999"])
    assert capsys.readouterr().err.startswith("error in process 1: ")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit, match="^2$"):
        train(["-d", "901", "-device", "cpu", *arguments])
    return capsys.readouterr().err


def test_success_is_said_of_the_generator_that_was_asked_for_alone(home, capsys):
    """The file that --show_config prints keeps its preset's name, and so its folder."""
    folder = pretend_trained(home)
    own = ["--config", str(home / "short.yaml")]
    train(["-d", "901", *own])
    assert capsys.readouterr().out == f"{folder} holds this generator already. Delete it to train anew.\n"
    config = short_config(2)
    free = replace(config.tcdm.optimisation, compile=True, sample_every=1)
    save_config(replace(config, tcdm=replace(config.tcdm, optimisation=free)), home / "free.yaml")
    train(["-d", "901", "--config", str(home / "free.yaml")])
    other = replace(config, seed=3, tcdm=replace(config.tcdm, optimisation=replace(free, learning_rate=0.5)))
    save_config(other, home / "other.yaml")
    message = refused(capsys, "--config", str(home / "other.yaml"))
    assert f"{folder}: the generator must be the requested one, got another: " in message
    assert f"tcdm.optimisation.learning_rate 0.5 instead of {config.tcdm.optimisation.learning_rate}; " in message
    assert "seed 3 instead of 0. Give your configuration another preset name" in message
    assert "none.pt: the weights must exist" in refused(capsys, *own, "--autoencoder", str(home / "none.pt"))


def test_the_configuration_that_is_shown_has_what_was_asked_for(home, capsys):
    shown = []
    for more in ([], ["--calibrate"]):
        train(["-d", "901", "--config", str(home / "short.yaml"), "--show_config", *more])
        shown.append(yaml.safe_load(capsys.readouterr().out))
    assert [config["calibration"] is None for config in shown] == [True, False]


def test_weights_are_told_by_their_content(home, capsys):
    paths = [home / "a.pt", home / "copy_of_a.pt", home / "b.pt"]
    for path, content in zip(paths, (b"a", b"a", b"b"), strict=True):
        path.write_bytes(content)
    pretend_trained(home, PretrainedFiles(paths[0]))
    own = ["--config", str(home / "short.yaml")]
    train(["-d", "901", *own, "--autoencoder", str(paths[1])])
    assert "holds this generator already" in capsys.readouterr().out
    message = refused(capsys, *own, "--autoencoder", str(paths[2]))
    assert "--autoencoder b.pt (3e23e816) instead of a.pt (ca978112)" in message
    assert "--autoencoder none instead of a.pt (ca978112)" in refused(capsys, *own)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "content must be a mapping of settings, got an empty file"),
        ('!!python/object/apply:os.system ["touch evil"]', "content must be YAML, got an error"),
        ("config: {seed: 1}", "config.grid: must be given, got nothing"),
    ],
)
def test_a_damaged_run_file_is_named(home, capsys, text, fault):
    folder = home / "nnUNet_results" / DATASET / "fcas__tiny"
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_text(text)
    message = refused(capsys, "--config", str(home / "short.yaml"))
    assert f"{RUN_FILE}: {fault}" in message
    assert [path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")] == [RUN_FILE]
