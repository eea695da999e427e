"""fcas_prepare: bad input is refused with every fault, and its commands are nnU-Net's own and work as printed."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_cases import MOVED_PLANS, PLANS, REAL, SYNTHETIC, Prepared, make_root, write_set
from nnunet_commands import (
    NARROW_PLANS,
    ONE_EPOCH,
    needs_torchvision,
    printed_commands,
    run,
    shell_environment,
    write_narrow_plans,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from peers import Peer

from fcas_nnunet.commands.prepare import main, training_commands
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL, nnUNetTrainerCALFinetune
from fcas_nnunet.integration.dataset import locks
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.integration.environment.checks import PLANNING_NOTE


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
    assert message.startswith("error: -d 903: it must be a folder in nnUNet_raw=")
    assert f"holds {REAL}, {SYNTHETIC}" in message


def test_unfitting_labels_are_refused_and_nothing_is_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "raw" / SYNTHETIC / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"labels": {"background": 0, "aorta": 1, "vein": 2}}))
    message = refused(["-d", "902", "--for", "901"], capsys)
    assert f"{SYNTHETIC}: labels must be those of {REAL}" in message
    assert "fcas_generate --for 901" in message
    assert list((root / "preprocessed").iterdir()) == []


@pytest.mark.parametrize("name", [REAL, SYNTHETIC])
def test_two_runs_on_one_data_set_wait_for_each_other(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def wait(_: float) -> None:
        raise InputError("seen to wait")

    peer = Peer(root / "preprocessed" / name, "stack.enter_context(exclusive(folder))")
    peer.ask("None")
    monkeypatch.setattr(locks.time, "sleep", wait)
    try:
        assert "seen to wait" in refused(["-d", "902", "--for", "901"], capsys)
        assert {path.name for path in (root / "preprocessed").rglob("*")} == {name, WORK_FOLDER, locks.LOCK_FILE}
    finally:
        peer.kill()


def test_broken_volumes_are_listed_before_any_work(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "raw" / SYNTHETIC / "confidenceTr" / "syn_0.nii.gz").unlink()
    (root / "raw" / REAL / "imagesTr" / "real_0_0000.nii.gz").unlink()
    (root / "raw" / REAL / "labelsTr" / "real_1.nii.gz").write_bytes(b"broken")
    message = refused(["-d", "902", "--for", "901"], capsys)
    assert "real_0: image must exist" in message
    assert "real_1: " in message
    assert "syn_0: confidence must exist" in message
    assert list((root / "preprocessed").iterdir()) == []


def test_of_many_cases_with_one_fault_the_first_are_listed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = root / "raw" / REAL / "labelsTr"
    for number in range(2, 10):
        (labels / f"real_{number}.nii.gz").write_bytes((labels / "real_0.nii.gz").read_bytes())
    lines = refused(["-d", "902", "--for", "901"], capsys).splitlines()
    assert [line.partition(": image must exist")[0] for line in lines if ": image must exist, got no file" in line] == [
        f"real_{number}" for number in range(2, 7)
    ]
    assert lines.count("and 3 more: image must exist") == 1


@pytest.mark.parametrize("number", ["0", "-4", "1000000", "many"])
def test_processes_are_as_many_as_a_machine_carries(root: Path, capsys: pytest.CaptureFixture, number: str) -> None:
    message = refused(["-d", "902", "--for", "901", "-np", number], capsys)
    assert "-np: number of processes must be 1 to " in message
    assert f"got {number}. Give another" in message


@pytest.mark.parametrize("number", ["abc", "1000000"])
def test_nnunets_variable_is_checked_alike(
    root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setenv("nnUNet_def_n_proc", number)
    message = refused(["-d", "902", "--for", "901"], capsys)
    assert "nnUNet_def_n_proc: number of processes must be 1 to " in message


def test_the_commands_it_prints(prepared: Prepared) -> None:
    checkpoint = f"{prepared.root}/results/{SYNTHETIC}/nnUNetTrainerCAL__{MOVED_PLANS}__3d_fullres/fold_all/"
    lines = prepared.commands.splitlines()
    assert f"nnUNetv2_train 902 3d_fullres all -p {MOVED_PLANS} -tr nnUNetTrainerCAL{_device()}" in lines
    finetune = next(line for line in lines if line.startswith("nnUNetv2_train 901 3d_fullres"))
    assert f"-tr nnUNetTrainerCALFinetune -pretrained_weights {checkpoint}checkpoint_final.pth{_device()}" in finetune
    (predict,) = (line for line in lines if line.startswith("nnUNetv2_predict") and "3d_fullres" in line)
    assert f"-tr nnUNetTrainerCALFinetune -i INPUT_FOLDER -o OUTPUT_FOLDER{_device()}" in predict
    assert prepared.commands.count('eval "$(fcas_env)"') == 1
    assert len([line for line in lines if line.startswith("nnUNetv2_train 902 2d")]) == 1
    if _device():
        assert "OMP_WAIT_POLICY=passive" in next(line for line in lines if line.startswith("export "))
        assert PLANNING_NOTE in prepared.commands


def test_the_baseline_trains_as_long_as_both_steps(prepared: Prepared) -> None:
    lines = training_commands(prepared.synthetic, prepared.real, PLANS, "3d_fullres", ["0", "2"]).splitlines()
    step = {n: next(i for i, line in enumerate(lines) if re.search(f"[Ss]tep {n}:", line)) for n in (1, 2, 3, 4)}
    baselines = lines[step[3] + 1 : step[4]]
    assert baselines == [f"nnUNetv2_train 901 3d_fullres {fold} -p {PLANS}{_device()}" for fold in (0, 2)]
    finetunings = [line for line in lines[step[2] : step[3]] if line.startswith("nnUNetv2")]
    assert [line.split()[3] for line in finetunings] == ["0", "2"]
    epochs = nnUNetTrainerCAL.EPOCHS + nnUNetTrainerCALFinetune.EPOCHS
    assert f"({epochs:,})" in lines[step[3]]
    assert "self.num_epochs = 1000\n" in inspect.getsource(nnUNetTrainer.__init__), "what the baseline takes"
    assert "(For a network to use, all in place of the fold trains on every real scan." in lines[step[3] - 2]
    assert "step 3's command with -tr nnUNetTrainerCALMixed" in lines[step[3] - 1]
    assert lines[step[3] - 1].endswith("export FCAS_CAL_SYNTHETIC=902")
    lines = training_commands(prepared.synthetic, prepared.real, PLANS, "3d_fullres", ["all"]).splitlines()
    assert any("(Fold all trains on every real scan" in line for line in lines)


def _device() -> str:
    return "" if torch.cuda.is_available() else " -device cpu"


@pytest.mark.slow
def test_from_raw_data_to_a_prediction_with_the_commands_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Real stock commands in processes of their own, at demo size and with a narrow network."""
    needs_torchvision()
    make_root(tmp_path)
    real = write_set(tmp_path / "raw" / REAL, [f"real_{i}" for i in range(5)], 0, confidence=False)
    write_set(tmp_path / "raw" / SYNTHETIC, [f"syn_{i}" for i in range(4)], 100, confidence=True)
    for name, value in (Prepared(tmp_path, "").environment | ONE_EPOCH).items():
        monkeypatch.setenv(name, value)
    write_narrow_plans(real)
    main(["-d", "902", "--for", "901", "-p", NARROW_PLANS, "-np", "1", "-f", "0"])
    pretrain, finetune, predict = printed_commands(capfd.readouterr().out)
    shell = shell_environment()
    out = run(pretrain, shell)
    assert "nnUNetTrainerCAL_demo" in out
    assert "train_loss" in out
    assert "Training done." in run(finetune, shell)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "new_0000.nii.gz").write_bytes(real.image_path("real_0").read_bytes())
    run(predict.replace("INPUT_FOLDER", str(inputs)).replace("OUTPUT_FOLDER", str(tmp_path / "out")), shell)
    predicted, reference = read_volume(tmp_path / "out" / "new.nii.gz"), read_volume(real.mask_path("real_0"))
    assert predicted.array.shape == reference.array.shape
    np.testing.assert_allclose(predicted.affine, reference.affine, atol=1e-6)
    assert set(np.unique(predicted.array)) <= {0, 1, 2}
    folders = sorted(path.name for path in (tmp_path / "results").glob("*/*"))
    assert folders == [
        "nnUNetTrainerCALFinetune_demo__nnUNetPlansNarrow__3d_fullres",
        "nnUNetTrainerCAL_demo__nnUNetPlansNarrowFrom901__3d_fullres",
    ]


def test_as_many_processes_as_the_memory_carries_unless_a_number_is_given(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases of at most 43³ voxels at 70 bytes, and half a gigabyte a process: 1.2 GB carry one, of 80 % of them."""
    from fcas_nnunet.commands import prepare
    from fcas_nnunet.commands.runtime import memory

    real, synthetic = (RawDataset.open(root / "raw" / name) for name in (REAL, SYNTHETIC))
    for free, carried in ((1.2e9, 1), (3.0e9, 4), (1e12, 8)):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        assert prepare._carried(8, real, synthetic) == carried
