"""Read training logs of the generator and of nnU-Net as curves."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fcas_nnunet.evaluation.viewing.charts import Series, line_chart

_NUMBER = r"-?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)"
_STEP = re.compile(rf"^step (\d+): loss ({_NUMBER}), validation ({_NUMBER}), learning rate ({_NUMBER})\s*$")
_EPOCH = re.compile(r"^[^:]*:?[^:]*:?[^:]*: +Epoch (\d+)\s*$")
_VALUE = re.compile(rf"(train_loss|val_loss) ({_NUMBER})\s*$")
_DICE = re.compile(r"Pseudo dice \[(.*)\]\s*$")
_WRAPPED = re.compile(r"np\.float\d+\(([^)]*)\)")


@dataclass(frozen=True)
class Curves:
    """Curves of one training log."""

    title: str  # name of the training
    x: list[float]  # steps or epochs, increasing
    x_title: str  # `step` or `epoch`
    train: list[float]  # training loss
    validation: list[float]  # validation loss
    dice: list[float]  # nnU-Net's pseudo Dice, mean over the labels; empty for the generator

    @property
    def chart(self) -> Markup:
        """Chart of the losses; logarithmic where they are positive."""
        series = [
            Series("training", self.x, self.train, "train"),
            Series("validation", self.x, self.validation, "validation", points=len(self.x) < 40),
        ]
        return line_chart(series, f"{self.title}: loss over the {self.x_title}s", self.x_title, log=not self.dice)

    @property
    def dice_chart(self) -> Markup:
        """Chart of the pseudo Dice; nothing for the generator."""
        if not self.dice:
            return Markup("")
        series = [Series("pseudo Dice", self.x, self.dice, "dice", points=len(self.x) < 40)]
        return line_chart(series, f"{self.title}: pseudo Dice over the epochs", self.x_title)

    @property
    def last(self) -> str:
        """Last values of the training, in words."""
        text = f"{self.x_title} {self.x[-1]:g}: training {self.train[-1]:.4g}, validation {self.validation[-1]:.4g}"
        return text + (f", pseudo Dice {self.dice[-1]:.3f}" if self.dice and math.isfinite(self.dice[-1]) else "")


def generator_curves(title: str, log: str) -> Curves | None:
    """Read `training.log` of the generator; None where it holds no step.

    A run that was killed and resumed may log a step again: its last values count.
    """
    rows = {}
    for line in log.splitlines():
        if found := _STEP.match(line):
            rows[int(found[1])] = (float(found[2]), float(found[3]))
    if not rows:
        return None
    steps = sorted(rows)
    return Curves(title, list(steps), "step", [rows[s][0] for s in steps], [rows[s][1] for s in steps], [])


def nnunet_curves(title: str, logs: Sequence[str]) -> Curves | None:
    """Read nnU-Net's `training_log_*.txt`, in the order in which they were written; None where no epoch has ended.

    Of an epoch that is logged twice, the last values count.
    """
    epochs: dict[int, dict[str, float]] = {}
    for log in logs:
        current: dict[str, float] | None = None
        for line in log.splitlines():
            if found := _EPOCH.match(line):
                current = epochs.setdefault(int(found[1]), {})
            elif current is None:
                continue
            elif found := _VALUE.search(line):
                current[found[1]] = float(found[2])
            elif found := _DICE.search(line):
                scores = [float(text) for text in _WRAPPED.sub(r"\1", found[1]).split(",") if text.strip()]
                valid = [score for score in scores if math.isfinite(score)]
                current["dice"] = math.fsum(valid) / len(valid) if valid else math.nan
    done = sorted(epoch for epoch, values in epochs.items() if values.keys() >= {"train_loss", "val_loss"})
    if not done:
        return None
    train, validation, dice = ([epochs[e].get(k, math.nan) for e in done] for k in ("train_loss", "val_loss", "dice"))
    return Curves(title, list(done), "epoch", train, validation, dice)
