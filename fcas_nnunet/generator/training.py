"""One training loop for autoencoder and TCDM: EMA, validation, early stopping, and a state it goes on from."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fcas_nnunet.config import OptimisationConfig
from fcas_nnunet.files import atomic_path

logger = logging.getLogger(__name__)

STATE_FILE = "training_state/state.pt"

#: Loss of a training step: (objective, step) → scalar tensor.
StepLoss = Callable[[nn.Module, int], torch.Tensor]
#: Validation loss of an objective; lower is better.
Validate = Callable[[nn.Module], float]


@dataclass
class History:
    """What progress.png shows."""

    train_losses: list[float] = field(default_factory=list)
    validation_steps: list[int] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)

    @property
    def validations_since_best(self) -> int:
        """How many validations ago the best one was; 0 when it was the last."""
        if not self.validation_losses:
            return 0
        return len(self.validation_losses) - 1 - self.validation_losses.index(min(self.validation_losses))


class Training:
    """A training run in a folder. Killed, the same call goes on from the last validation, bit for bit on a CPU.

    Args:
        objective: module whose trainable parameters are optimised.
        config: steps, batch size, learning rate, EMA, patience.
        folder: where `training_state/`, `progress.png` and `training.log` go.
        accelerator: device and precision.
        name: shown in the progress bar.
    """

    def __init__(
        self, objective: nn.Module, config: OptimisationConfig, folder: Path, accelerator: Accelerator, name: str
    ) -> None:
        self.config = config
        self.folder = folder
        self.name = name
        self.accelerator = accelerator
        self.step = 0
        self.history = History()
        optimizer = torch.optim.AdamW(
            [p for p in objective.parameters() if p.requires_grad], lr=config.learning_rate,
            betas=(0.9, config.adam_beta2), weight_decay=1e-5,
        )  # fmt: skip
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.average = AveragedModel(
            accelerator.unwrap_model(self.objective),
            multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay),
            use_buffers=False,
        )
        self.best: dict[str, torch.Tensor] = {}

    def run(self, step_loss: StepLoss, validate: Validate) -> None:
        """Train until the last step, or until validation has not improved for `patience` validations.

        Args:
            step_loss: loss of one step; must depend on nothing but the objective and the step.
            validate: loss on held-out data.
        """
        self._resume()
        with tqdm(total=self.config.num_steps, initial=self.step, desc=self.name, unit="step") as bar:
            while self.step < self.config.num_steps and not self._out_of_patience():
                self.history.train_losses.append(self._train_step(step_loss))
                self.step += 1
                bar.update()
                if self.step % self.config.validate_every == 0 or self.step == self.config.num_steps:
                    self._validate(validate)
                    bar.set_postfix(loss=f"{self._recent_loss():.4f}", val=f"{self.history.validation_losses[-1]:.4f}")
                    self._save()
        if self._out_of_patience():
            logger.info(f"{self.name}: stopped at step {self.step}, no improvement for {self.config.patience} checks")

    def load_best(self, objective: nn.Module) -> nn.Module:
        """Put the (averaged) weights of the best validation into an objective, and return it in eval mode."""
        objective.load_state_dict(self.best)
        return objective.eval()

    def _train_step(self, step_loss: StepLoss) -> float:
        self.objective.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(self.step)
        with self.accelerator.autocast():
            loss = step_loss(self.objective, self.step)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.objective.parameters(), self.config.max_gradient_norm)
        self.optimizer.step()
        if self.config.ema_decay:
            self.average.update_parameters(self.accelerator.unwrap_model(self.objective))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(
                f"{self.name}: the loss must be finite, got {value} at step {self.step}. Lower learning_rate, or check "
                "the data set with fcas_doctor -d."
            )
        return value

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then cosine to zero; a function of the step alone."""
        config = self.config
        if step < config.warmup_steps:
            return config.learning_rate * (step + 1) / config.warmup_steps
        done = (step - config.warmup_steps) / max(1, config.num_steps - config.warmup_steps)
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _validate(self, validate: Validate) -> None:
        evaluated = self.average.module if self.config.ema_decay else self.accelerator.unwrap_model(self.objective)
        evaluated.eval()
        with torch.no_grad(), self.accelerator.autocast():
            loss = validate(evaluated)
        self.history.validation_steps.append(self.step)
        self.history.validation_losses.append(loss)
        if self.history.validations_since_best == 0:
            self.best = {key: tensor.detach().cpu().clone() for key, tensor in evaluated.state_dict().items()}
        logger.debug(f"{self.name}: step {self.step}, loss {self._recent_loss():.5f}, validation {loss:.5f}")

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.history.validations_since_best

    def _recent_loss(self) -> float:
        recent = self.history.train_losses[-self.config.validate_every :]
        return sum(recent) / len(recent)

    def _save(self) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "history": vars(self.history),
            "model": self.accelerator.unwrap_model(self.objective).state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
        }
        with atomic_path(self.folder / STATE_FILE) as temporary:
            torch.save(state, temporary)
        with atomic_path(self.folder / "progress.png") as temporary:
            _plot(self.history, self.name).savefig(temporary, format="png", dpi=100)
        with (self.folder / "training.log").open("a", encoding="utf-8") as log:
            log.write(
                f"step {self.step}: loss {self._recent_loss():.5f}, "
                f"validation {self.history.validation_losses[-1]:.5f}, "
                f"learning rate {self._learning_rate(self.step - 1):.2e}\n"
            )

    def _resume(self) -> None:
        path = self.folder / STATE_FILE
        if not path.exists():
            return
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        self.accelerator.unwrap_model(self.objective).load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best = state["step"], state["best"]
        self.history = History(**state["history"])
        if self.step < self.config.num_steps:
            logger.info(f"{self.name}: going on from step {self.step}")


def _plot(history: History, name: str) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(history.train_losses) + 1), history.train_losses, lw=0.6, alpha=0.5, label="training")
    axes.plot(history.validation_steps, history.validation_losses, "o-", ms=3, label="validation")
    axes.set(xlabel="step", ylabel="loss", title=name, yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure
