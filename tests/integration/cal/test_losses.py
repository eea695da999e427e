"""The confidence-weighted loss: nnU-Net's own at confidence 1, no gradient at 0, and its formula in between."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import Tensor, nn

from fcas_nnunet.integration.cal.losses import (
    ConfidenceDiceBCELoss,
    ConfidenceDiceCELoss,
    ConfidenceLoss,
    confidence_binary_cross_entropy,
    confidence_cross_entropy,
    resize_confidence,
    weighted_twin,
)

SHAPES = [(6, 8), (6, 8, 10)]
KINDS = ["labels", "labels, ignore", "regions", "regions, ignore"]
IGNORE = 4


def native_loss(batch_dice: bool, kind: str = "labels") -> nn.Module:
    """What nnUNetTrainer._build_loss builds, before deep supervision."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "do_bg": "regions" in kind, "ddp": False}
    if "regions" in kind:
        return DC_and_BCE_loss({}, dice, use_ignore_label="ignore" in kind, dice_class=MemoryEfficientSoftDiceLoss)
    ignore_label = IGNORE if "ignore" in kind else None
    return DC_and_CE_loss(dice, {}, ignore_label=ignore_label, dice_class=MemoryEfficientSoftDiceLoss)


def batch(shape: tuple[int, ...], seed: int = 0, kind: str = "labels") -> tuple[Tensor, Tensor]:
    """Logits and a target as nnU-Net's loader gives it: label ids, or regions (bool) with the ignored voxels last."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((2, 4, *shape), generator=generator).requires_grad_()
    if "regions" in kind:
        channels = 5 if "ignore" in kind else 4
        return logits, torch.rand((2, channels, *shape), generator=generator) > 0.6
    labels = torch.randint(0, 5 if "ignore" in kind else 4, (2, 1, *shape), generator=generator)
    return logits, labels.float()


def full_confidence(target: Tensor) -> Tensor:
    return torch.ones_like(target[:, :1], dtype=torch.float32)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_dice", [False, True])
def test_full_confidence_is_nnunets_loss_and_gradient(shape: tuple[int, ...], batch_dice: bool, kind: str) -> None:
    logits, target = batch(shape, kind=kind)
    native = native_loss(batch_dice, kind)
    ours = weighted_twin(native)(logits, target, full_confidence(target))
    theirs = native(logits, target)
    assert ours.item() == pytest.approx(theirs.item(), rel=5e-7)
    torch.testing.assert_close(gradient(ours, logits), gradient(theirs, logits), atol=1e-8, rtol=2e-6)


@pytest.mark.parametrize("kind", ["labels, ignore", "regions, ignore"])
def test_a_batch_that_is_ignored_whole_gives_nnunets_loss(kind: str) -> None:
    logits, target = batch((6, 8), kind=kind)
    target = torch.full_like(target, IGNORE) if kind.startswith("labels") else torch.ones_like(target)
    native = native_loss(False, kind)
    ours = weighted_twin(native)(logits, target, full_confidence(target))
    assert ours.item() == pytest.approx(native(logits, target).item())
    assert gradient(ours, logits).abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_ignored_and_untrusted_voxels_get_no_gradient(kind: str) -> None:
    logits, target = batch((6, 8, 10), kind=kind)
    confidence = full_confidence(target)
    confidence[:, :, :3] = 0
    grad = gradient(weighted_twin(native_loss(True, kind))(logits, target, confidence), logits)
    silent = confidence == 0
    if "ignore" in kind:
        silent |= (target == IGNORE) if kind.startswith("labels") else target[:, -1:]
    assert grad[silent.expand_as(grad)].abs().max() == 0
    assert grad[~silent.expand_as(grad)].abs().min() > 0


def test_binary_cross_entropy_by_hand() -> None:
    """Two regions, p = (3/4, 1/2) at one voxel of confidence 0.5, both present: mean over voxels and regions."""
    logits = torch.tensor([3.0, 1.0]).log().reshape(1, 2, 1, 1)
    regions = torch.ones(1, 2, 1, 1)
    confidence = torch.full((1, 1, 1, 1), 0.5)
    total = 0.5 * (torch.tensor(4 / 3).log() + torch.tensor(2.0).log())
    assert confidence_binary_cross_entropy(logits, regions, confidence).item() == pytest.approx(total.item() / 2)
    valid = torch.ones(1, 1, 1, 1, dtype=torch.bool)  # with an ignore label nnU-Net does not divide by the regions
    assert confidence_binary_cross_entropy(logits, regions, confidence, valid).item() == pytest.approx(total.item())


def test_another_loss_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"loss: must be nnU-Net's Dice .* got CrossEntropyLoss\."):
        weighted_twin(nn.CrossEntropyLoss())


@pytest.mark.parametrize("batch_dice", [False, True])
def test_standalone_loss_is_the_one_made_from_nnunets(batch_dice: bool) -> None:
    logits, target = batch((6, 8))
    confidence = torch.rand_like(target)
    ours = ConfidenceDiceCELoss(batch_dice=batch_dice)(logits, target, confidence)
    assert ours.item() == weighted_twin(native_loss(batch_dice))(logits, target, confidence).item()
    logits, target = batch((6, 8), kind="regions")
    ours = ConfidenceDiceBCELoss(batch_dice=batch_dice)(logits, target, confidence)
    assert ours.item() == weighted_twin(native_loss(batch_dice, "regions"))(logits, target, confidence).item()


def test_zero_confidence_gives_no_gradient_there() -> None:
    logits, target = batch((6, 8, 10))
    confidence = torch.ones_like(target)
    confidence[:, :, :3] = 0
    for loss in (
        confidence_cross_entropy(logits, target, confidence),
        ConfidenceDiceCELoss()(logits, target, confidence),
    ):
        grad = gradient(loss, logits)
        assert grad[:, :, :3].abs().max() == 0
        assert grad[:, :, 3:].abs().min() > 0


def test_what_is_not_trusted_may_say_anything() -> None:
    logits, target = batch((6, 8))
    confidence = torch.ones_like(target)
    confidence[..., :4] = 0
    other = target.clone()
    other[..., :4] = 3 - other[..., :4]
    loss = ConfidenceDiceCELoss()
    assert loss(logits, target, confidence).item() == loss(logits, other, confidence).item()


def test_cross_entropy_is_eq_9_by_hand() -> None:
    """Two voxels: p(label) = 3/4 trusted 0.5, 1/2 trusted 1; the mean is over voxels, not over confidence."""
    logits = torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]).log().reshape(1, 2, 1, 2)
    target = torch.zeros(1, 1, 1, 2)
    confidence = torch.tensor([0.5, 1.0]).reshape(1, 1, 1, 2)
    expected = (0.5 * -torch.tensor(0.75).log() + 1.0 * -torch.tensor(0.5).log()) / 2
    assert confidence_cross_entropy(logits, target, confidence).item() == pytest.approx(expected.item())


def test_dice_is_its_formula_by_hand() -> None:
    """p = (3/4, 1/2) for class 1, labels (1, 0), confidence (0.5, 1): Dice = 2·0.375 / (0.5 + 0.875)."""
    logits = torch.tensor([[[1.0, 1.0], [3.0, 1.0]]]).log().reshape(1, 2, 1, 2)
    target = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    confidence = torch.tensor([0.5, 1.0]).reshape(1, 1, 1, 2)
    loss = ConfidenceDiceCELoss(weight_ce=0)(logits, target, confidence)
    assert loss.item() == pytest.approx(-(2 * 0.375 + 1e-5) / (0.5 + 0.875 + 1e-5))


@pytest.mark.parametrize("shape", SHAPES)
def test_under_deep_supervision_full_confidence_is_nnunets_loss_and_gradient(shape: tuple[int, ...]) -> None:
    high, low = batch(shape), batch(tuple(n // 2 for n in shape), seed=1)
    outputs, targets = [high[0], low[0]], [high[1], low[1]]
    theirs = DeepSupervisionWrapper(native_loss(True), [2 / 3, 1 / 3])(outputs, targets)
    loss = ConfidenceLoss(DeepSupervisionWrapper(native_loss(True), [2 / 3, 1 / 3]))
    with loss.weighted_by(torch.ones_like(high[1])):
        ours = loss(outputs, targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=5e-7)
    for our, their in zip(torch.autograd.grad(ours, outputs), torch.autograd.grad(theirs, outputs), strict=True):
        torch.testing.assert_close(our, their, atol=1e-8, rtol=2e-6)


@pytest.mark.parametrize("scale", [(0.5, 0.5, 0.5), (1, 0.5, 0.5), (0.25, 0.125, 0.25), (0.5, 0.25, 1 / 3)])
def test_confidence_is_downsampled_as_nnunet_downsamples_labels(scale: tuple[float, ...]) -> None:
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    labels = torch.randint(0, 200, (1, 12, 16, 24), dtype=torch.int16)
    (expected,) = DownsampleSegForDSTransform([list(scale)])(segmentation=labels)["segmentation"]
    resized = resize_confidence(labels[None].float() / 255, expected[None])
    torch.testing.assert_close((resized[0] * 255).round().to(torch.int16), expected)


def test_a_step_without_confidence_is_a_bug() -> None:
    logits, target = batch((6, 8))
    loss = ConfidenceLoss(native_loss(False))
    with loss.weighted_by(torch.ones_like(target)):
        loss(logits, target)
    with pytest.raises(AssertionError, match="set the confidence first"):
        loss(logits, target)
