"""Confidence maps, and weights above 1, of real scans: through loader, loss and both trainers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_cases import CPU, PLANS, REAL, Prepared, quick_nnunet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from fcas_nnunet.commands.prepare import prepare_weighted
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.cal.dataloading import ImageWithDoubt
from fcas_nnunet.integration.cal.log import ConfidenceLogger
from fcas_nnunet.integration.cal.losses import ConfidenceDiceCELoss, ConfidenceLoss, confidence_cross_entropy
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL, nnUNetTrainerCALFinetune
from fcas_nnunet.integration.cal.transforms import unpack_confidence
from fcas_nnunet.integration.dataset.volumes import Volume, read_volume, write_volume
from fcas_nnunet.integration.preprocessing.confidence_store import (
    ConfidenceStore,
    open_confidence,
    preprocessed_confidence_path,
)
from fcas_nnunet.integration.preprocessing.plans import read_plans, shrink_plans

pytestmark = pytest.mark.usefixtures("blur_without_a_race")


@pytest.fixture
def weigh(own_copy: Prepared) -> Callable[..., Prepared]:
    """Make a copy of the real data set whose maps, labels → weights, are prepared; weights up to 3 are allowed."""

    def make(weights_of: Callable[[np.ndarray], np.ndarray]) -> Prepared:
        own = own_copy
        atomic_write_json(own.real.folder / "dataset.json", own.real.dataset_json | {"fcas_max_weight": 3})
        for case_id in own.real.case_ids:
            label: Volume = read_volume(own.real.mask_path(case_id))
            weights = weights_of(label.array).astype(np.float32)
            write_volume(own.real.confidence_path(case_id), weights, label.affine)
        with quick_nnunet():
            prepare_weighted(REAL, ["3d_fullres"], PLANS, 1)
        return own

    return make


def three_inside(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 3, 0)


def make_trainer(kind: type[nnUNetTrainer], prepared: Prepared) -> Any:
    """A trainer of fold 0 of the real data set with a small network, not compiled."""
    plans = shrink_plans(
        read_plans(prepared.real, PLANS), "3d_fullres", plans_name=PLANS, features_per_stage=[4, 8, 8], batch_size=2
    )
    trainer: Any = kind(plans | {"continue_training": False}, "3d_fullres", 0, prepared.real.dataset_json, CPU)
    torch.manual_seed(0)
    trainer.initialize()
    return trainer


def batches(trainer: nnUNetTrainer) -> list[dict[str, Any]]:
    """Two training batches and one of validation, the same for equal data."""
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    training, validation = trainer.get_dataloaders()
    return [next(training), next(training), next(validation)]


def log_of(trainer: nnUNetTrainer) -> str:
    return Path(trainer.log_file).read_text()


def test_steps_of_1_255_above_1_are_read_exactly() -> None:
    steps = np.array([0, 1, 128, 255, 256, 510, 765, 25500], np.uint16).reshape(1, 2, 2, 2)
    doubt = ImageWithDoubt(np.zeros((1, 2, 2, 2), np.float32), steps)[:, :, :, :][-1]
    confidence = 1 - torch.from_numpy(doubt)
    assert confidence.dtype == torch.float32
    np.testing.assert_allclose(confidence, steps[0] / 255, atol=1e-6)
    exact = {0: 0, 255: 1, 510: 2, 765: 3, 25500: 100}
    for step, value in exact.items():
        assert (confidence[torch.from_numpy(steps[0].astype(int)) == step] == value).all()


@pytest.mark.parametrize("kind", [nnUNetTrainerCAL, nnUNetTrainerCALFinetune])
def test_weights_reach_the_loss_of_both_trainers(weigh: Any, kind: type[nnUNetTrainer]) -> None:
    own = weigh(three_inside)
    trainer = make_trainer(kind, own)
    first, _, validation = batches(trainer)
    _, confidence = unpack_confidence(validation["target"], CPU)  # not augmented
    target = validation["target"][0]
    inside = (confidence == 3) & (target > 0)
    assert inside.sum() > 0.8 * (target > 0).sum(), "exactly 3 but where resampling mixes a border"
    assert ((confidence == 0) & (target == 0)).sum() > 0.5 * (target == 0).sum()
    assert confidence.max() == 3
    for step, batch in ((trainer.train_step, first), (trainer.validation_step, validation)):
        seen = weighted_calls(trainer)
        step(batch)
        (call,) = seen
        torch.testing.assert_close(call, unpack_confidence(batch["target"], CPU)[1])
    assert "Confidence weights the loss: 4 of 4 training cases have a map." in log_of(trainer)
    assert isinstance(trainer.logger.local_logger, ConfidenceLogger)
    trainer.on_train_epoch_end([{"loss": np.array(1.0)}])
    assert "mean confidence " in log_of(trainer)


def weighted_calls(trainer: Any) -> list[torch.Tensor]:
    """The confidence of every call of the trainer's loss from now on, at full resolution."""
    seen: list[torch.Tensor] = []
    trainer.loss.register_forward_pre_hook(lambda loss, _: seen.append(loss._confidence))
    return seen


@pytest.mark.parametrize("weighted", [False, True], ids=["no maps", "maps of 1"])
def test_fine_tuning_without_doubt_is_nnunets(prepared: Prepared, weigh: Any, weighted: bool) -> None:
    """Without maps it takes nnU-Net's own loss and batches; with maps of 1, the same values."""
    own = weigh(np.ones_like) if weighted else prepared
    native, ours = make_trainer(nnUNetTrainer, own), make_trainer(nnUNetTrainerCALFinetune, own)
    assert isinstance(ours.loss, ConfidenceLoss) == weighted
    ours.network.load_state_dict(native.network.state_dict())
    theirs, mine = batches(native), batches(ours)
    for their, our in zip(theirs, mine, strict=True):
        assert torch.equal(our["data"], their["data"])
        targets = unpack_confidence(our["target"], CPU)[0] if weighted else our["target"]
        assert all(torch.equal(a, b) for a, b in zip(targets, their["target"], strict=True))
    ours.lr_scheduler = native.lr_scheduler
    losses = [trainer.train_step(batch)["loss"] for trainer, batch in ((native, theirs[0]), (ours, mine[0]))]
    if not weighted:
        assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-6)
    for our, their in zip(ours.network.parameters(), native.network.parameters(), strict=True):
        if their.grad is not None:
            torch.testing.assert_close(our.grad, their.grad, rtol=1e-4, atol=1e-6)
    assert ("no confidence maps: every voxel counts alike" in log_of(ours)) == (not weighted)


@pytest.mark.parametrize("kind", [nnUNetTrainerCAL, nnUNetTrainerCALFinetune])
def test_maps_that_nnunets_preprocessing_has_removed_are_missed(weigh: Any, kind: type[nnUNetTrainer]) -> None:
    """nnUNetv2_preprocess clears its folder: a training that was to be weighted must not go on without weights."""
    own = weigh(three_inside)
    shutil.rmtree(own.preprocessed(REAL) / f"{PLANS}_3d_fullres" / "confidence")
    trainer = make_trainer(kind, own)
    with pytest.raises(FileNotFoundError, match=r"index of confidence maps must exist, got none\. Run fcas_prepare"):
        trainer.get_tr_and_val_datasets()


def cross_entropy_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 6, 8, 10), generator=generator).requires_grad_()
    return logits, torch.randint(0, 3, (2, 1, 6, 8, 10), generator=generator).float()


def test_weight_2_everywhere_is_exactly_twice_the_cross_entropy() -> None:
    logits, target = cross_entropy_batch()
    once = nn.functional.cross_entropy(logits, target[:, 0].long())
    twice = confidence_cross_entropy(logits, target, torch.full_like(target, 2))
    assert twice.item() == 2 * confidence_cross_entropy(logits, target, torch.ones_like(target)).item()
    assert twice.item() == pytest.approx(2 * once.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (twice, once)]
    torch.testing.assert_close(gradients[0], 2 * gradients[1], rtol=1e-5, atol=1e-9)


def test_a_constant_weight_leaves_the_dice_as_it_is() -> None:
    logits, target = cross_entropy_batch()
    loss = ConfidenceDiceCELoss(weight_ce=0)
    assert loss(logits, target, torch.full_like(target, 3)).item() == pytest.approx(
        loss(logits, target, torch.ones_like(target)).item(), abs=1e-6
    )


def test_dice_with_a_weight_above_1_by_hand() -> None:
    """p = (3/4, 1/2) for class 1, labels (1, 0), weights (3, 1): Dice = 2·2.25 / (3 + 2.75)."""
    logits = torch.tensor([[[1.0, 1.0], [3.0, 1.0]]]).log().reshape(1, 2, 1, 2)
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    weights = torch.tensor([3.0, 1.0]).reshape(1, 1, 1, 2)
    loss = ConfidenceDiceCELoss(weight_ce=0)(logits, target, weights)
    assert loss.item() == pytest.approx(-(2 * 2.25 + 1e-5) / (3 + 2.75 + 1e-5))


def test_the_floor_leaves_weights_above_1(weigh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = weigh(three_inside)
    _, plain = unpack_confidence(batches(make_trainer(nnUNetTrainerCAL, own))[-1]["target"], CPU)
    monkeypatch.setenv("FCAS_CONFIDENCE_FLOOR", "0.25")
    trainer = make_trainer(nnUNetTrainerCAL, own)
    _, raised = trainer._split_batch(batches(trainer)[-1])
    assert (raised[plain >= 1] == plain[plain >= 1]).all()
    torch.testing.assert_close(raised[plain < 1], 0.25 + 0.75 * plain[plain < 1])


def test_means_of_weights_above_1_are_those_of_the_voxels(weigh: Any) -> None:
    own = weigh(lambda labels: np.where(np.indices(labels.shape)[0] < labels.shape[0] / 2, 3, 0.2))
    folder = own.preprocessed(REAL) / f"{PLANS}_3d_fullres"
    steps, labels = (
        np.concatenate([open_confidence(path_of(case_id))[:].ravel() for case_id in own.real.case_ids])
        for path_of in (lambda i: preprocessed_confidence_path(folder, i), lambda i: folder / f"{i}_seg.b2nd")
    )
    weights = np.maximum(steps / 255, 0.5 + 0.5 * steps / 255)
    means = ConfidenceStore.read(folder).mean_weights(0.5)
    assert means[1] == pytest.approx(weights[labels == 1].mean())
    assert 1 < means[1] < 2.5


def test_the_log_shows_means_above_1(tmp_path: Path) -> None:
    logger = ConfidenceLogger(["a"])
    for key, values in logger.my_fantastic_logging.items():
        values.extend([[0.5], [0.5]] if key in ("confidence_shares", "dice_per_class_or_region") else [0.5, 2.5])
    figures: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        from fcas_nnunet.integration.cal import log

        make = log.Figure
        patch.setattr(log, "Figure", lambda *args, **kwargs: figures.append(make(*args, **kwargs)) or figures[-1])
        logger.plot_progress_png(str(tmp_path))
    low, high = figures[0].axes[0].get_ylim()
    assert low == 0
    assert high > 2.5
