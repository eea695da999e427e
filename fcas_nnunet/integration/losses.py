"""Confidence-aware learning (CAL): nnU-Net's Dice + cross entropy, every voxel weighted by its confidence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.helpers import softmax_helper_dim1
from torch import Tensor, nn
from torch.nn import functional

_SMOOTH = 1e-5


def confidence_cross_entropy(logits: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
    """Per-voxel cross entropy times confidence, averaged over all voxels.

    Not divided by Σ confidence: then two processes whose sums differ would not take the step that one takes.

    Args:
        logits: [B, C, ...].
        target: [B, 1, ...] label ids.
        confidence: [B, 1, ...] in [0, 1].

    Returns:
        A scalar; with confidence ≡ 1 the plain cross entropy.

    Source: FCaS, Eq. 9.
    """
    per_voxel = functional.cross_entropy(logits, target[:, 0].long(), reduction="none")
    return (per_voxel * confidence[:, 0]).mean()


class ConfidenceDiceCELoss(nn.Module):
    """Soft Dice and cross entropy, both weighted per voxel; usable in any training loop.

    The Dice of a class with probabilities p, indicator g and confidence w is (2 Σ wpg + ε) / (Σ wg + Σ wp + ε).

    Args:
        batch_dice: sum over the batch before dividing, as nnU-Net does for large batches of small patches.
        weight_ce: factor of the cross entropy.
        weight_dice: factor of the Dice loss, which is −Dice.
        dice: the Dice loss to use instead, called as dice(logits, target, loss_mask=confidence).

    Source: FCaS, Eq. 9; MemoryEfficientSoftDiceLoss of nnU-Net, whose `loss_mask` holds the confidence.
    """

    def __init__(
        self, *, batch_dice: bool = False, weight_ce: float = 1, weight_dice: float = 1, dice: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.weight_ce = weight_ce
        self.weight_dice = weight_dice
        self.dice = dice or MemoryEfficientSoftDiceLoss(
            apply_nonlin=softmax_helper_dim1, batch_dice=batch_dice, do_bg=False, smooth=_SMOOTH, ddp=False
        )

    @classmethod
    def from_native(cls, native: DC_and_CE_loss) -> ConfidenceDiceCELoss:
        """The weighted twin of the loss nnU-Net has built; keeps its (maybe compiled) Dice and its factors."""
        assert native.ignore_label is None, "trainers refuse an ignore label before they build a loss"
        return cls(weight_ce=native.weight_ce, weight_dice=native.weight_dice, dice=native.dc)

    def forward(self, logits: Tensor, target: Tensor, confidence: Tensor) -> Tensor:
        """The loss.

        Args:
            logits: [B, C, ...].
            target: [B, 1, ...] label ids.
            confidence: [B, 1, ...] in [0, 1].

        Returns:
            A scalar.
        """
        dice = self.dice(logits, target, loss_mask=confidence)
        return self.weight_ce * confidence_cross_entropy(logits, target, confidence) + self.weight_dice * dice


class ConfidenceLoss(nn.Module):
    """Stands in for the loss of an nnU-Net trainer, whose steps call `loss(output, target)` without confidence.

    The trainer says beforehand whose confidence counts: `with loss.weighted_by(confidence): step()`.

    Args:
        native: what `nnUNetTrainer._build_loss` returns; its deep supervision weights are kept.
    """

    def __init__(self, native: nn.Module) -> None:
        super().__init__()
        self.deep_supervision: DeepSupervisionWrapper | None = None
        if isinstance(native, DeepSupervisionWrapper):
            native.loss = ConfidenceDiceCELoss.from_native(native.loss)
            self.deep_supervision = native
        else:
            self.loss = ConfidenceDiceCELoss.from_native(native)
        self._confidence: Tensor | None = None

    @contextmanager
    def weighted_by(self, confidence: Tensor) -> Iterator[None]:
        """Weight every call within the block.

        Args:
            confidence: [B, 1, ...] at the resolution of the network's input.
        """
        self._confidence = confidence
        try:
            yield
        finally:
            self._confidence = None

    def forward(self, output: Tensor | list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
        """The loss of one batch; with deep supervision, lists from high to low resolution."""
        assert self._confidence is not None, "the trainer's steps say whose confidence counts"
        if self.deep_supervision is None:
            return self.loss(output, target, self._confidence)
        return self.deep_supervision(output, target, [resize_confidence(self._confidence, t) for t in target])


def resize_confidence(confidence: Tensor, target: Tensor) -> Tensor:
    """Confidence at the resolution of a deep supervision target, by the rule nnU-Net's labels follow.

    Args:
        confidence: [B, 1, ...] at full resolution.
        target: [B, 1, ...] at the resolution wanted.
    """
    if confidence.shape[2:] == target.shape[2:]:
        return confidence
    return functional.interpolate(confidence, target.shape[2:], mode="nearest-exact")
