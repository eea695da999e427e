"""A network of some numbers to train in no time, for the tests of the training loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fcas_nnunet.config.generator import OptimisationConfig
from fcas_nnunet.generator.optimisation.batches import Batch
from fcas_nnunet.generator.optimisation.loop import Objective

CONFIG = OptimisationConfig(
    num_steps=12, batch_size=4, learning_rate=0.05, warmup_steps=3, ema_decay=0.8, validate_every=4
)


class Killed(Exception):
    """A run's end before its time."""


@dataclass(frozen=True)
class Points(Batch):
    """Points [B, 3]."""

    x: torch.Tensor


class NumberedPoints:
    """Random points, each from its number; reading any beyond `dies_at` kills the run."""

    dies_at = math.inf

    def __len__(self) -> int:
        """Items of an epoch."""
        return 10

    def batch(self, numbers: Sequence[int]) -> Points:
        """The points of these numbers."""
        if max(numbers) >= self.dies_at:
            raise Killed
        return Points(torch.stack([torch.randn(3, generator=torch.Generator().manual_seed(n)) for n in numbers]))


class HeldOut(NumberedPoints):
    """Other points."""

    def batch(self, numbers: Sequence[int]) -> Points:
        """The points of these numbers."""
        return super().batch([10_000 + n for n in numbers])


class SumOfCoordinates(Objective[Points]):
    """Learns to add three numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, batch: Points) -> torch.Tensor:
        """Mean squared error."""
        return ((self.linear(batch.x) - batch.x.sum(1, keepdim=True)) ** 2).mean()
