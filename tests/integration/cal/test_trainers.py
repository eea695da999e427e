"""The trainers as nnU-Net sees them: found by name, of the promised length, and honest about what they cannot do."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from nnunet_cases import Prepared, build
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from fcas_nnunet.commands.demo import trainers as demo_trainers
from fcas_nnunet.integration.cal import guarded_trainer, trainers
from fcas_nnunet.integration.cal.schedules import WarmupPolyLR
from fcas_nnunet.integration.environment import trainer_lookup
from fcas_nnunet.integration.environment.trainer_lookup import SHIM, all_shim_folders, ext_trainer_value, shim_folder

NAMES = sorted(trainers.__all__)


@lru_cache
def torchvision_imports() -> bool:
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode == 0


def test_every_length_has_its_name() -> None:
    lengths = ("", "_1epoch", "_5epochs", "_50epochs", "_250epochs", "_1000epochs")
    assert set(NAMES) == {f"nnUNetTrainerCAL{kind}{length}" for kind in ("", "Finetune", "Mixed") for length in lengths}


@pytest.mark.parametrize("name", [*NAMES, *demo_trainers.__all__])
def test_nnunet_finds_every_trainer_through_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torchvision_imports():
        pytest.skip("torchvision does not import in this environment: run `fcas_doctor --fix` first")
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", ext_trainer_value())
    if name not in NAMES:
        with pytest.raises(RuntimeError, match=f"Could not find requested nnunet trainer {name}"):
            recursive_find_trainer_class_by_name(name)  # users need not see the demo's
        monkeypatch.setenv("nnUNet_extTrainer", ext_trainer_value(folders=all_shim_folders()))
    found = recursive_find_trainer_class_by_name(name)
    assert found is getattr(trainers if name in NAMES else demo_trainers, name)
    assert found is recursive_find_trainer_class_by_name(name), "the same class at every look-up"
    assert pickle.loads(pickle.dumps(found)) is found


def test_other_external_folders_are_kept() -> None:
    ours = str(shim_folder())
    assert ext_trainer_value({}) == ours
    assert ext_trainer_value({"nnUNet_extTrainer": "/one"}) == f"/one{os.pathsep}{ours}"
    both = f"{ours}{os.pathsep}/one"
    assert ext_trainer_value({"nnUNet_extTrainer": both}) == both
    assert ext_trainer_value({"nnUNet_extTrainer": both}, all_shim_folders()).startswith(f"{both}{os.pathsep}")


def test_the_installed_shim_is_silent_without_the_package(tmp_path: Path) -> None:
    """A copy beside nnU-Net's variants must not break nnU-Net once fcas-nnunet is gone."""
    code = (
        f"import sys; sys.modules['fcas_nnunet'] = None; sys.path.insert(0, {str(shim_folder())!r}); import {SHIM[:-3]}"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_install_and_uninstall_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_lookup, "installed_shim", lambda: tmp_path / SHIM)
    assert trainer_lookup.install_shim().read_bytes() == (shim_folder() / SHIM).read_bytes()
    assert trainer_lookup.uninstall_shim() == tmp_path / SHIM
    assert trainer_lookup.uninstall_shim() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_nnunets_signature_is_kept(name: str) -> None:
    wanted = list(inspect.signature(nnUNetTrainer.__init__).parameters)
    assert list(inspect.signature(getattr(trainers, name).__init__).parameters) == wanted


@pytest.mark.parametrize(
    ("suffix", "cal", "finetune", "mixed"),
    [
        ("", 800, 200, 1000),
        ("_1epoch", 1, 1, 1),
        ("_5epochs", 5, 5, 5),
        ("_50epochs", 50, 50, 50),
        ("_250epochs", 250, 250, 250),
        ("_1000epochs", 1000, 1000, 1000),
    ],
)
def test_lengths(prepared: Prepared, suffix: str, cal: int, finetune: int, mixed: int) -> None:
    assert build(prepared, f"nnUNetTrainerCAL{suffix}").num_epochs == cal
    assert build(prepared, f"nnUNetTrainerCALFinetune{suffix}", real=True).num_epochs == finetune
    assert build(prepared, f"nnUNetTrainerCALMixed{suffix}", real=True).num_epochs == mixed


def test_fine_tuning_has_a_rate_of_its_own(prepared: Prepared) -> None:
    trainer = build(prepared, "nnUNetTrainerCALFinetune", real=True)
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    assert group["momentum"] == 0.99
    assert group["nesterov"]
    assert group["weight_decay"] == 3e-5
    rates = []
    for epoch in range(200):
        trainer.lr_scheduler.step(epoch)
        rates.append(group["lr"])
    assert max(rates) == rates[10] == 1e-3
    assert rates[0] == pytest.approx(1e-3 / 11)


def test_schedule_by_hand() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    schedule = WarmupPolyLR(optimizer, 1.0, max_steps=12, warmup_steps=2)
    assert [schedule.rate(i) for i in (0, 1, 2)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert schedule.rate(7) == pytest.approx(0.5**0.9)
    schedule.step(7)  # resuming at an epoch needs no epoch before it
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5**0.9)


@pytest.mark.parametrize("name", ["nnUNetTrainerCAL", "nnUNetTrainerCALFinetune", "nnUNetTrainerCALMixed"])
def test_another_nnunet_is_refused(prepared: Prepared, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_trainer.metadata, "version", lambda package: "2.9.0")
    with pytest.raises(RuntimeError, match=r"nnunetv2: version must be >=2\.8,<2\.9, got 2\.9\.0\."):
        build(prepared, name)


def test_fold_all_validates_on_an_even_sample(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build(prepared, "nnUNetTrainerCAL")
    assert trainer.do_split() == nnUNetTrainer.do_split(trainer), "few cases: nnU-Net's own"
    many = [f"case_{i:04d}" for i in range(1000)]
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda self: (many, many))
    training, validation = trainer.do_split()
    assert training == many
    assert len(validation) == 20
    assert (validation[0], validation[-1]) == (many[0], many[-1])
    trainer.fold = 0
    assert trainer.do_split() == (many, many)
    trainer.fold = "all"
    monkeypatch.setattr(type(trainer.configuration_manager), "next_stage_names", ["3d_cascade_fullres"])
    assert trainer.do_split() == (many, many), "the next stage needs a prediction of every case"


def test_shares_go_to_the_labels_own_names_in_whatever_order_they_are_listed(prepared: Prepared) -> None:
    made = build(prepared, "nnUNetTrainerCAL")
    listed = made.dataset_json | {"labels": dict(reversed(made.dataset_json["labels"].items()))}
    trainer = trainers.nnUNetTrainerCAL(
        made.plans_manager.plans | {"continue_training": False}, made.configuration_name, made.fold, listed, made.device
    )
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., :2] = made.dataset_json["labels"]["coronary_arteries"]
    trainer.tally.add(target, torch.ones_like(target))
    shares = dict(zip(trainer.logger.local_logger.labels, trainer.tally.close(is_ddp=False)[1], strict=True))
    assert shares == {"left_ventricle": 0.0, "coronary_arteries": pytest.approx(0.5)}
