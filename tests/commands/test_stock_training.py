"""By nnU-Net's stock commands: every configuration at full confidence against nnU-Net's trainer, and a life cycle."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_cases import make_root, random_case
from nnunet_commands import needs_torchvision
from nnunetv2.evaluation.find_best_configuration import find_best_configuration_entry_point
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.case import Case
from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.cal.log import ConfidenceLogger
from fcas_nnunet.integration.cal.schedules import WarmupPolyLR
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case
from fcas_nnunet.integration.dataset.volumes import read_volume, write_volume
from fcas_nnunet.integration.environment.trainer_lookup import ext_trainer_value
from fcas_nnunet.integration.preprocessing.plans import ensure_plans, plans_path, shrink_plans
from fcas_nnunet.integration.preprocessing.prepare import ensure_fingerprint

pytestmark = pytest.mark.slow

PLANS, MOVED = "nnUNetPlansNarrow", "nnUNetPlansNarrowFrom951"
REAL, SYNTHETIC = "Dataset951_Real", "Dataset952_Synthetic"
EPOCHS, ITERATIONS = 3, 2


@dataclass(frozen=True)
class Kind:
    """A way to train.

    Attributes:
        configurations: trained one after the other.
        labels: of dataset.json.
        channels: how many.
        patch: of the narrow plans, without the slice axis in 2d; None = planned.
        planner_plans: what nnU-Net's planner calls its plans.
        fold: of the training.
        extra: for dataset.json.
    """

    configurations: tuple[str, ...] = ("3d_fullres",)
    labels: dict[str, Any] = field(default_factory=lambda: {"background": 0, "a": 1, "b": 2})
    channels: int = 1
    patch: tuple[int, ...] | None = (24, 24, 24)
    planner_plans: str = "nnUNetPlans"
    fold: str = "all"
    extra: dict[str, Any] = field(default_factory=dict)


REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
ORDER = {"regions_class_order": [1, 2]}
KINDS = {
    "2d": Kind(("2d",), patch=(24, 24)),
    "3d_fullres": Kind(),
    "a fold": Kind(fold="0"),
    "dummy 2d augmentation": Kind(patch=(8, 32, 32)),
    "ResEnc": Kind(planner_plans="nnUNetResEncUNetMPlans"),
    "two channels": Kind(channels=2),
    "ignore": Kind(labels={"background": 0, "a": 1, "ignore": 2}),
    "regions": Kind(labels=REGIONS, extra=ORDER),
    "regions and ignore": Kind(labels=REGIONS | {"ignore": 3}, extra=ORDER),
    "cascade": Kind(("3d_lowres", "3d_cascade_fullres")),
}


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blur_without_a_race: None) -> Iterator[Path]:
    """nnU-Net's folders, three short epochs for every trainer, and a blur that does not depend on timing."""
    needs_torchvision()
    make_root(tmp_path)
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    for name, value in (("nnUNet_n_proc_DA", "0"), ("nnUNet_def_n_proc", "1"), ("nnUNet_compile", "f")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_extTrainer", ext_trainer_value())
    initialize = nnUNetTrainer.initialize

    def short(self: nnUNetTrainer) -> None:
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = EPOCHS, ITERATIONS, 1
        initialize(self)

    monkeypatch.setattr(nnUNetTrainer, "initialize", short)
    yield tmp_path


def write_dataset(folder: Path, kind: Kind, first_seed: int, *, confidence: bool) -> RawDataset:
    """Five random cases as the kind wants them; every confidence map is 1 everywhere."""
    ids = [f"case_{first_seed}_{i}" for i in range(5)]
    for number, case_id in enumerate(ids):
        drawn = random_case(case_id, first_seed + number, confidence=False)
        ones = np.ones(drawn.shape, np.float32) if confidence else None
        mask = drawn.mask.copy()
        if kind.labels.get("ignore") == 3:
            mask[: mask.shape[0] // 4] = 3
        write_case(folder, Case(case_id, drawn.image, mask, drawn.affine, confidence=ones))
        for channel in range(1, kind.channels):
            image = read_volume(folder / "imagesTr" / f"{case_id}_0000.nii.gz")
            noise = np.random.default_rng(number).normal(0, 30, drawn.shape)
            second = np.where(drawn.image[0] == 0, 0, drawn.image[0] + noise).astype(np.float32)
            write_volume(folder / "imagesTr" / f"{case_id}_{channel:04d}.nii.gz", second, image.affine)
    atomic_write_json(
        folder / "dataset.json",
        {"channel_names": {str(i): "CT" for i in range(kind.channels)}, "labels": kind.labels, **kind.extra,
         "numTraining": len(ids), "file_ending": ".nii.gz"},
    )  # fmt: skip
    return RawDataset.open(folder, any_kind=True)


def write_plans(real: RawDataset, kind: Kind) -> None:
    """nnU-Net's own plans, narrowed; with a cascade where one is wanted, since volumes so small are not given one."""
    ensure_fingerprint(real, 1, keep_existing=True)
    base = "2d" if kind.configurations == ("2d",) else "3d_fullres"
    plans = shrink_plans(
        ensure_plans(real, kind.planner_plans, [base]), base, plans_name=PLANS, features_per_stage=[4, 8, 8],
        patch_size=kind.patch, batch_size=2,
    )  # fmt: skip
    if "3d_lowres" in kind.configurations:
        lowres = deepcopy(plans["configurations"]["3d_fullres"])
        lowres |= {"data_identifier": f"{PLANS}_3d_lowres", "next_stage": "3d_cascade_fullres",
                   "spacing": [1.3 * edge for edge in lowres["spacing"]]}  # fmt: skip
        plans["configurations"] |= {
            "3d_lowres": lowres,
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        }
    atomic_write_json(plans_path(real, PLANS), plans)


def stock(entry: Callable[[], None], *arguments: object) -> None:
    """Run the function behind one of nnU-Net's commands with a command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [entry.__name__, *map(str, arguments)])
        entry()


def seed_of(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def train(root: Path, configuration: str, fold: str, trainer: str) -> dict[str, torch.Tensor]:
    """`nnUNetv2_train 952 …`, seeded; returns the final weights."""
    seed_of(3)
    stock(run_training_entry, 952, configuration, fold, "-p", MOVED, "-tr", trainer, "-device", "cpu")
    folder = root / "results" / SYNTHETIC / f"{trainer}__{MOVED}__{configuration}" / f"fold_{fold}"
    return read_checkpoint(folder / "checkpoint_final.pth")["network_weights"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_at_full_confidence_three_epochs_end_at_nnunets_weights(
    nnunet: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger in (LocalLogger, ConfidenceLogger):
        monkeypatch.setattr(logger, "plot_progress_png", lambda *_: None)  # seconds an epoch
    if len(kind.configurations) == 1:  # a cascade's second stage needs the first one's predictions
        monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    real = write_dataset(nnunet / "raw" / REAL, kind, 0, confidence=False)
    write_dataset(nnunet / "raw" / SYNTHETIC, kind, 100, confidence=True)
    write_plans(real, kind)
    prepare("952", "951", list(kind.configurations), PLANS, 1)
    for configuration in kind.configurations:
        native = train(nnunet, configuration, kind.fold, "nnUNetTrainer")
        ours = train(nnunet, configuration, kind.fold, "nnUNetTrainerCAL")
        assert native.keys() == ours.keys()
        fresh = max(tensor.abs().max().item() for tensor in native.values())
        assert fresh > 0.1
        for key, tensor in native.items():
            torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-5, msg=f"{configuration} {key}")
    shutil.rmtree(nnunet)


def test_life_cycle(nnunet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second epoch, resumed, validated anew with probabilities, compared, fine-tuned, predicted."""
    kind = Kind(fold="0")
    real = write_dataset(nnunet / "raw" / REAL, kind, 0, confidence=False)
    write_dataset(nnunet / "raw" / SYNTHETIC, kind, 100, confidence=True)
    write_plans(real, kind)
    prepare("952", "951", ["3d_fullres"], PLANS, 1)
    pretraining = (952, "3d_fullres", 0, "-p", MOVED, "-tr", "nnUNetTrainerCAL", "-device", "cpu")
    folder = nnunet / "results" / SYNTHETIC / f"nnUNetTrainerCAL__{MOVED}__3d_fullres"

    _killed_after_one_epoch(pretraining)
    assert not (folder / "fold_0" / "checkpoint_final.pth").exists()
    stock(run_training_entry, *pretraining, "--c")
    log = _log(folder)
    assert all(len(log[key]) == EPOCHS for key in ("train_losses", "lrs", "confidence_mean", "confidence_shares"))
    assert log["lrs"] == pytest.approx([1e-2 * (1 - epoch / EPOCHS) ** 0.9 for epoch in range(EPOCHS)])
    assert log["confidence_mean"] == [1.0] * EPOCHS

    stock(run_training_entry, *pretraining, "--val", "--npz")
    assert len(list((folder / "fold_0" / "validation").glob("*.npz"))) == 1
    stock(
        find_best_configuration_entry_point, 952, "-p", MOVED, "-c", "3d_fullres", "-tr", "nnUNetTrainerCAL",
        "-f", 0, "-np", 1,
    )  # fmt: skip
    assert (folder / "crossval_results_folds_0" / "summary.json").is_file()

    weights = folder / "fold_0" / "checkpoint_final.pth"
    tuning = (951, "3d_fullres", 0, "-p", PLANS, "-tr", "nnUNetTrainerCALFinetune", "-device", "cpu")
    _killed_after_one_epoch((*tuning, "-pretrained_weights", weights))
    stock(run_training_entry, *tuning, "--c")
    tuned = nnunet / "results" / REAL / f"nnUNetTrainerCALFinetune__{PLANS}__3d_fullres"
    rates = [WarmupPolyLR(_optimizer(), 1e-3, EPOCHS, 0).rate(epoch) for epoch in range(EPOCHS)]
    assert _log(tuned)["lrs"] == pytest.approx(rates)
    plain = tuned.with_name(tuned.name.replace("CALFinetune", ""))
    assert not plain.exists(), "a result from scratch keeps its own folder"

    out = nnunet / "out"
    stock(
        predict_entry_point, "-d", 951, "-c", "3d_fullres", "-f", 0, "-p", PLANS, "-tr", "nnUNetTrainerCALFinetune",
        "-i", real.folder / "imagesTr", "-o", out, "-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta",
    )  # fmt: skip
    assert len(list(out.glob("*.nii.gz"))) == len(real.case_ids)
    shutil.rmtree(nnunet)


def test_mixed_training_is_continued_as_if_it_had_not_been_killed(
    nnunet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real and synthetic scans together: to the same weights, validated on the real fold, and predicted with."""
    kind = Kind(fold="0")
    real = write_dataset(nnunet / "raw" / REAL, kind, 0, confidence=False)
    write_dataset(nnunet / "raw" / SYNTHETIC, kind, 100, confidence=True)
    write_plans(real, kind)
    prepare("952", "951", ["3d_fullres"], PLANS, 1)
    monkeypatch.setenv("FCAS_CAL_SYNTHETIC", "952")
    begin = nnUNetTrainer.on_epoch_start

    def seeded(self: nnUNetTrainer) -> None:
        seed_of(self.current_epoch)
        begin(self)

    monkeypatch.setattr(nnUNetTrainer, "on_epoch_start", seeded)
    training = (951, "3d_fullres", 0, "-p", PLANS, "-tr", "nnUNetTrainerCALMixed", "-device", "cpu")
    folder = nnunet / "results" / REAL / f"nnUNetTrainerCALMixed__{PLANS}__3d_fullres"
    final = folder / "fold_0" / "checkpoint_final.pth"
    seed_of(99)
    stock(run_training_entry, *training)
    straight = read_checkpoint(final)["network_weights"]
    shutil.rmtree(folder)
    seed_of(99)
    _killed_after_one_epoch(training)
    assert not final.exists()
    stock(run_training_entry, *training, "--c")
    for key, tensor in read_checkpoint(final)["network_weights"].items():
        assert torch.equal(tensor, straight[key]), key
    log = "".join(path.read_text() for path in sorted((folder / "fold_0").glob("training_log_*.txt")))
    assert [line.split()[-1] for line in log.splitlines() if "share of synthetic patches:" in line] == [
        "1.000", "0.500", "0.000",
    ]  # fmt: skip
    (held_out,) = (path.name for path in (folder / "fold_0" / "validation").glob("*.nii.gz"))
    assert (real.folder / "labelsTr" / held_out).is_file()
    stock(run_training_entry, *training, "--val")
    out = nnunet / "out"
    stock(
        predict_entry_point, "-d", 951, "-c", "3d_fullres", "-f", 0, "-p", PLANS, "-tr", "nnUNetTrainerCALMixed",
        "-i", real.folder / "imagesTr", "-o", out, "-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta",
    )  # fmt: skip
    assert len(list(out.glob("*.nii.gz"))) == len(real.case_ids)
    shutil.rmtree(nnunet)


def _killed_after_one_epoch(arguments: tuple[object, ...]) -> None:
    """Start a training that stops when its second epoch begins; every epoch leaves a checkpoint."""
    begin = nnUNetTrainer.on_epoch_start

    def dies(self: nnUNetTrainer) -> None:
        self.save_every = 1
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        begin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nnUNetTrainer, "on_epoch_start", dies)
        with pytest.raises(KeyboardInterrupt):
            stock(run_training_entry, *arguments)


def _log(folder: Path) -> dict[str, Any]:
    return read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")["logging"]


def _optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
