"""fcas_prepare: bad input is refused with every fault, and its commands are nnU-Net's own and work as printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_cases import MOVED_PLANS, PLANS, REAL, SYNTHETIC, Prepared, make_root, write_set

from fcas_nnunet.commands.prepare import main
from fcas_nnunet.integration.planning import plans_path, read_plans, shrink_plans
from fcas_nnunet.integration.raw_dataset import RawDataset
from fcas_nnunet.integration.volumes import read_volume


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two small raw data sets; nothing is preprocessed."""
    make_root(tmp_path)
    write_set(tmp_path / "raw" / REAL, ["real_0", "real_1"], 0, confidence=False)
    write_set(tmp_path / "raw" / SYNTHETIC, ["syn_0"], 100, confidence=True)
    for name, value in Prepared(tmp_path, "").environment.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says on stderr before it exits with 2."""
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    return capsys.readouterr().err


def test_unknown_data_sets_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["-d", "903", "--for", "901"], capsys)
    assert message.startswith("error: data set 903: it must be a folder in nnUNet_raw=")
    assert f"holds {REAL}, {SYNTHETIC}" in message


def test_unfitting_labels_are_refused_and_nothing_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "raw" / SYNTHETIC / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"labels": {"background": 0, "aorta": 1, "vein": 2}}))
    message = refused(["-d", "902", "--for", "901"], capsys)
    assert f"{SYNTHETIC}: labels must be those of {REAL}" in message
    assert "fcas_generate --for 901" in message
    assert list((root / "preprocessed").iterdir()) == []


def test_broken_volumes_are_listed_before_any_work(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "raw" / SYNTHETIC / "confidenceTr" / "syn_0.nii.gz").unlink()
    (root / "raw" / REAL / "imagesTr" / "real_0_0000.nii.gz").unlink()
    (root / "raw" / REAL / "labelsTr" / "real_1.nii.gz").write_bytes(b"broken")
    message = refused(["-d", "902", "--for", "901"], capsys)
    assert "real_0: image must exist" in message
    assert "real_1: " in message
    assert "syn_0: confidence must exist" in message
    assert list((root / "preprocessed").iterdir()) == []


def test_processes_must_be_positive(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "-np: number of processes must be at least 1, got 0" in refused(
        ["-d", "902", "--for", "901", "-np", "0"], capsys
    )


def test_the_commands_it_prints(prepared: Prepared) -> None:
    checkpoint = f"{prepared.root}/results/{SYNTHETIC}/nnUNetTrainerCAL__{MOVED_PLANS}__3d_fullres/fold_all/"
    lines = prepared.commands.splitlines()
    assert f"nnUNetv2_train 902 3d_fullres all -p {MOVED_PLANS} -tr nnUNetTrainerCAL{_device()}" in lines
    (finetune,) = (line for line in lines if line.startswith("nnUNetv2_train 901 3d_fullres"))
    assert f"-tr nnUNetTrainerCALFinetune -pretrained_weights {checkpoint}checkpoint_final.pth{_device()}" in finetune
    (predict,) = (line for line in lines if line.startswith("nnUNetv2_predict") and "3d_fullres" in line)
    assert f"-tr nnUNetTrainerCALFinetune -i INPUT_FOLDER -o OUTPUT_FOLDER{_device()}" in predict
    assert 'eval "$(fcas_env)"' in prepared.commands
    assert len([line for line in lines if line.startswith("nnUNetv2_train 902 2d")]) == 1


def _device() -> str:
    return "" if torch.cuda.is_available() else " -device cpu"


def _run(line: str, environment: dict[str, str]) -> str:
    program, *arguments = shlex.split(line, comments=True)
    scripts = Path(sys.executable).parent
    result = subprocess.run(
        [str(scripts / program), *arguments], env=environment, capture_output=True, text=True, errors="replace"
    )
    assert result.returncode == 0, f"{line}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.mark.slow
def test_from_raw_data_to_a_prediction_with_the_commands_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real stock commands in processes of their own, at demo size and with a narrow network."""
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode != 0:
        pytest.skip("torchvision does not import in this environment: run `fcas_doctor --fix` first")
    make_root(tmp_path)
    real = write_set(tmp_path / "raw" / REAL, [f"real_{i}" for i in range(5)], 0, confidence=False)
    write_set(tmp_path / "raw" / SYNTHETIC, [f"syn_{i}" for i in range(4)], 100, confidence=True)
    environment = Prepared(tmp_path, "").environment | {"FCAS_DEMO_PRETRAIN_EPOCHS": "1", "FCAS_DEMO_REAL_EPOCHS": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _narrow(real)
    main(["-d", "902", "--for", "901", "-p", "nnUNetPlansNarrow", "-np", "1"])
    printed = capfd.readouterr().out.split("Ready. Next:")[1]
    commands = [re.sub(r"(-tr \w+)", r"\1_demo", line) for line in printed.splitlines() if line.startswith("nnUNetv2")]
    commands = [re.sub(r"(nnUNetTrainerCAL)(__)", r"\1_demo\2", line) for line in commands]
    shell = dict(os.environ) | {"nnUNet_extTrainer": _evaluated(environment)}
    pretrain, finetune, predict = commands
    out = _run(pretrain, shell)
    assert "nnUNetTrainerCAL_demo" in out
    assert "train_loss" in out
    assert "Training done." in _run(finetune, shell)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "new_0000.nii.gz").write_bytes(real.image_path("real_0").read_bytes())
    _run(predict.replace("INPUT_FOLDER", str(inputs)).replace("OUTPUT_FOLDER", str(tmp_path / "out")), shell)
    predicted, reference = read_volume(tmp_path / "out" / "new.nii.gz"), read_volume(real.mask_path("real_0"))
    assert predicted.array.shape == reference.array.shape
    np.testing.assert_allclose(predicted.affine, reference.affine, atol=1e-6)
    assert set(np.unique(predicted.array)) <= {0, 1, 2}
    folders = sorted(path.name for path in (tmp_path / "results").glob("*/*"))
    assert folders == [
        "nnUNetTrainerCALFinetune_demo__nnUNetPlansNarrow__3d_fullres",
        "nnUNetTrainerCAL_demo__nnUNetPlansNarrowFrom901__3d_fullres",
    ]


def _narrow(real: RawDataset) -> None:
    """Plans of nnU-Net's planner, narrowed by hand: fcas_prepare takes them as they are."""
    from fcas_nnunet.files import atomic_write_json
    from fcas_nnunet.integration.planning import ensure_plans
    from fcas_nnunet.integration.preprocessing import ensure_fingerprint

    ensure_fingerprint(real, 1, keep_existing=True)
    ensure_plans(real, PLANS, ["3d_fullres"])
    name = "nnUNetPlansNarrow"
    narrow = shrink_plans(
        read_plans(real, PLANS), "3d_fullres", plans_name=name, features_per_stage=[4, 8, 16], patch_size=[24, 24, 24]
    )
    atomic_write_json(plans_path(real, name), narrow)


def _evaluated(environment: dict[str, str]) -> str:
    """What `eval "$(fcas_env)"` sets."""
    line = subprocess.run(
        [sys.executable, "-m", "fcas_nnunet.commands.env"], env=dict(os.environ) | environment, capture_output=True,
        text=True, check=True,
    ).stdout  # fmt: skip
    return shlex.split(line)[1].partition("=")[2]
