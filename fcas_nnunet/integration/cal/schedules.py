"""The learning rate schedule of fine-tuning and of the demo."""

from __future__ import annotations

from torch.optim import Optimizer

_EXPONENT = 0.9


class WarmupPolyLR:
    """A linear warm-up, then nnU-Net's polynomial decay; a function of the epoch alone, so resuming needs no state.

    Args:
        optimizer: optimizer whose parameter groups get the rate.
        initial_lr: rate reached after the warm-up.
        max_steps: number of epochs in all.
        warmup_steps: number of epochs of the warm-up.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: int, warmup_steps: int) -> None:
        assert 0 <= warmup_steps < max_steps, "the warm-up leaves at least one epoch for the decay"
        self.optimizer = optimizer
        self.initial_lr = initial_lr
        self.max_steps = max_steps
        self.warmup_steps = warmup_steps
        self.step(0)  # the optimiser starts at the first epoch's rate, as under nnU-Net's own schedule

    def rate(self, step: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if step < self.warmup_steps:
            return self.initial_lr * (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / (self.max_steps - self.warmup_steps)
        return self.initial_lr * (1 - progress) ** _EXPONENT

    def step(self, current_step: int) -> None:
        """Set the rate of an epoch; nnU-Net calls this as each begins."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(current_step)
