"""Confidence-aware learning (CAL): nnU-Net's losses with every voxel weighted by its confidence.

`ConfidenceDiceCELoss` (labels) and `ConfidenceDiceBCELoss` (regions) are plain modules, usable in any training loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, nn
from torch.nn import functional

_SMOOTH = 1e-5


def confidence_cross_entropy(
    logits: Tensor, target: Tensor, confidence: Tensor, ignore_label: int | None = None
) -> Tensor:
    """Per-voxel cross entropy times confidence, averaged over all voxels that are not ignored.

    Not divided by Σ confidence: then two processes whose sums differ would not take the step that one takes.

    Args:
        logits: [B, C, ...].
        target: [B, 1, ...] label ids.
        confidence: [B, 1, ...] of 0 or more; usually in [0, 1].
        ignore_label: id of voxels that have no label; they count neither above nor below the line.

    Returns:
        A scalar; with confidence ≡ 1 the plain cross entropy, 0 where every voxel is ignored.

    Source: FCaS, Eq. 9.
    """
    labels = target[:, 0].long()
    if ignore_label is None:
        return (functional.cross_entropy(logits, labels, reduction="none") * confidence[:, 0]).mean()
    per_voxel = functional.cross_entropy(logits, labels, reduction="none", ignore_index=ignore_label)
    return (per_voxel * confidence[:, 0]).sum() / (labels != ignore_label).sum().clamp(min=1)


def confidence_binary_cross_entropy(
    logits: Tensor, regions: Tensor, confidence: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Binary cross entropy per voxel and region times confidence, averaged as nnU-Net averages, to a scalar.

    nnU-Net divides by the number of regions without an ignore label, and does not with one; so does this.

    Args:
        logits: [B, C, ...].
        regions: [B, C, ...] of 0 and 1.
        confidence: [B, 1, ...] of 0 or more; usually in [0, 1].
        valid: bool [B, 1, ...], False where the label is to be ignored.
    """
    per_voxel = functional.binary_cross_entropy_with_logits(logits, regions.float(), reduction="none") * confidence
    return per_voxel.mean() if valid is None else (per_voxel * valid).sum() / valid.sum().clamp(min=1e-8)


class _ConfidenceDiceLoss(nn.Module):
    """Common part of both weighted losses: the factors of their two terms, and the Dice (nnU-Net's unless given)."""

    def __init__(self, weight_ce: float, weight_dice: float, dice: nn.Module | None, **native: Any) -> None:
        super().__init__()
        self.weight_ce = weight_ce
        self.weight_dice = weight_dice
        self.dice = dice or MemoryEfficientSoftDiceLoss(smooth=_SMOOTH, ddp=False, **native)


class ConfidenceDiceCELoss(_ConfidenceDiceLoss):
    """Soft Dice and cross entropy, both weighted per voxel; for label maps.

    The Dice of a class with probabilities p, indicator g and confidence w is (2 Σ wpg + ε) / (Σ wg + Σ wp + ε). A voxel
    of confidence 0 gets no gradient from either; one of confidence w gets w times the cross entropy's gradient, and a
    share of the Dice's that falls with w, though not in proportion, since the sums below the line change, too.

    Args:
        batch_dice: sum over the batch before dividing, as nnU-Net does for large batches of small patches.
        weight_ce: factor of the cross entropy.
        weight_dice: factor of the Dice loss, which is −Dice.
        ignore_label: id of voxels that have no label.
        dice: the Dice loss to use instead, called as dice(logits, target, loss_mask=confidence).

    Source: FCaS, Eq. 9; MemoryEfficientSoftDiceLoss of nnU-Net, whose `loss_mask` holds the confidence.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        weight_ce: float = 1,
        weight_dice: float = 1,
        ignore_label: int | None = None,
        dice: nn.Module | None = None,
    ) -> None:
        super().__init__(
            weight_ce, weight_dice, dice, apply_nonlin=softmax_helper_dim1, batch_dice=batch_dice, do_bg=False
        )
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
        """The loss, a scalar, of logits [B, C, ...], label ids [B, 1, ...] and confidence [B, 1, ...]."""
        cross_entropy = confidence_cross_entropy(logits, target, confidence, self.ignore_label)
        if self.ignore_label is not None:
            valid = target != self.ignore_label
            target, confidence = torch.where(valid, target, 0), confidence * valid
        dice = self.dice(logits, target, loss_mask=confidence)
        return self.weight_ce * cross_entropy + self.weight_dice * dice


class ConfidenceDiceBCELoss(_ConfidenceDiceLoss):
    """Soft Dice and binary cross entropy, both weighted per voxel; for regions, which may overlap.

    The arguments are those of `ConfidenceDiceCELoss`, except the id of an ignore label: with `has_ignore`, the target's
    last channel is 1 where voxels have no label, as nnU-Net lays it out.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = False,
        weight_ce: float = 1,
        weight_dice: float = 1,
        has_ignore: bool = False,
        dice: nn.Module | None = None,
    ) -> None:
        super().__init__(weight_ce, weight_dice, dice, apply_nonlin=torch.sigmoid, batch_dice=batch_dice, do_bg=True)
        self.has_ignore = has_ignore

    def forward(self, logits: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            logits: [B, C, ...].
            target: [B, C, ...] regions, or [B, C + 1, ...] with the ignored voxels last.
            confidence: [B, 1, ...] of 0 or more; usually in [0, 1].
        """
        valid = None
        if self.has_ignore:
            valid, target = target[:, -1:] == 0, target[:, :-1]
        cross_entropy = confidence_binary_cross_entropy(logits, target, confidence, valid)
        weights = confidence if valid is None else confidence * valid
        return self.weight_ce * cross_entropy + self.weight_dice * self.dice(logits, target, loss_mask=weights)


def weighted_twin(native: nn.Module) -> ConfidenceDiceCELoss | ConfidenceDiceBCELoss:
    """Build the weighted twin of an nnU-Net trainer's loss, with the same (possibly compiled) Dice and factors.

    Raises:
        NotImplementedError: for another loss than Dice + CE and Dice + BCE.
    """
    if not isinstance(native, DC_and_CE_loss | DC_and_BCE_loss):
        raise NotImplementedError(
            f"loss: must be nnU-Net's Dice + cross entropy or Dice + binary cross entropy, got {type(native).__name__}."
        )
    settings: dict[str, Any] = {"weight_ce": native.weight_ce, "weight_dice": native.weight_dice, "dice": native.dc}
    if isinstance(native, DC_and_CE_loss):
        return ConfidenceDiceCELoss(ignore_label=native.ignore_label, **settings)
    return ConfidenceDiceBCELoss(has_ignore=native.use_ignore_label, **settings)


class ConfidenceLoss(nn.Module):
    """Replaces the loss of an nnU-Net trainer, whose steps call `loss(output, target)` without confidence.

    The trainer sets the confidence before a step: `with loss.weighted_by(confidence): step()`. The native loss is the
    one that `nnUNetTrainer._build_loss` returns; its deep supervision weights stay in use.
    """

    def __init__(self, native: nn.Module) -> None:
        super().__init__()
        self.loss: nn.Module = native
        if isinstance(native, DeepSupervisionWrapper):
            native.loss = weighted_twin(native.loss)
        else:
            self.loss = weighted_twin(native)
        self._confidence: Tensor | None = None

    @contextmanager
    def weighted_by(self, confidence: Tensor) -> Iterator[None]:
        """Weight every call within the block by confidence [B, 1, ...] at the resolution of the network's input."""
        self._confidence = confidence
        try:
            yield
        finally:
            self._confidence = None

    def forward(self, output: Tensor | list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
        """The loss of one batch; with deep supervision, lists from high to low resolution."""
        assert self._confidence is not None, "the trainer's steps set the confidence first"
        if not isinstance(self.loss, DeepSupervisionWrapper):
            return self.loss(output, target, self._confidence)
        return self.loss(output, target, [resize_confidence(self._confidence, t) for t in target])


def resize_confidence(confidence: Tensor, target: Tensor) -> Tensor:
    """Resize confidence [B, 1, ...] to a deep supervision target by the rule that nnU-Net applies to labels."""
    if confidence.shape[2:] == target.shape[2:]:
        return confidence
    return functional.interpolate(confidence, target.shape[2:], mode="nearest-exact")
