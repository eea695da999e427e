"""Train the autoencoder or TCDM in one process or many: EMA, validation, early stopping, resuming."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Generic

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from fcas_nnunet.config.generator import OptimisationConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_path
from fcas_nnunet.generator.data.tensors import read_content
from fcas_nnunet.generator.optimisation.batches import BatchT, Items, Shares, read_ahead
from fcas_nnunet.generator.optimisation.progress import History, Panel, ProgressFolder

logger = logging.getLogger(__name__)

STATE_FILE = "training_state/state.pt"
#: Steps whose losses are read from the device at once.
LOSSES_AT_ONCE = 20
READERS_FOR_GPU = 4

#: A function that draws volumes with an objective's networks, without torch's global random generators.
Sample = Callable[[nn.Module], Sequence[Panel]]


class Objective(nn.Module, Generic[BatchT]):
    """A training loss as a module, so that DDP can wrap loss and networks together.

    An item's loss must not depend on the others in its batch: then every split into processes and micro-batches gives
    the same gradients.
    """

    def forward(self, batch: BatchT) -> torch.Tensor:
        """Mean loss of a batch's items."""
        raise NotImplementedError

    def networks(self) -> list[nn.Module]:
        """The modules that `torch.compile` is applied to."""
        return [self]


class Training(Generic[BatchT]):
    """A training run in a folder; every process makes the same calls, and the main one writes.

    If it is killed, the same call resumes from the last validation; bit for bit on a CPU.

    Args:
        objective: Objective whose trainable parameters are optimised.
        config: Steps, batch size, learning rate, EMA, patience.
        folder: Folder for `training_state/`, `progress.png`, `training.log`, `samples/` and `tensorboard/`.
        accelerator: Device, precision, processes.
        name: Name in the progress bar and in messages.

    Raises:
        InputError: If the batch cannot be shared out evenly among the processes.
    """

    def __init__(
        self,
        objective: Objective[BatchT],
        config: OptimisationConfig,
        folder: Path,
        accelerator: Accelerator,
        name: str,
    ) -> None:
        self.config = config
        self.folder = folder
        self.name = name
        self.accelerator = accelerator
        self.shares = Shares.of(config, accelerator, name)
        self.step = 0
        self.history = History()
        self.best: dict[str, torch.Tensor] = {}
        if config.compile:
            for network in objective.networks():
                network.compile()  # in place: parameters keep their names
        optimizer = torch.optim.AdamW(
            [p for p in objective.parameters() if p.requires_grad], lr=config.learning_rate,
            betas=(0.9, config.adam_beta2), weight_decay=1e-5,
        )  # fmt: skip
        self.objective, self.optimizer = accelerator.prepare(objective, optimizer)
        self.average: AveragedModel | None = None
        if config.ema_decay:
            self.average = AveragedModel(self._unwrapped, multi_avg_fn=self._update_average, use_buffers=False)
        self._unread: list[tuple[torch.Tensor, float]] = []

    def run(
        self, training: Items[BatchT], validation: Items[BatchT], num_validation: int, sample: Sample | None = None
    ) -> None:
        """Train until the last step, or until validation has not improved for `patience` validations.

        Args:
            training: Training items; a step takes the next `batch_size` of them.
            validation: Held-out items.
            num_validation: Number of held-out items that a validation takes, from the first.
            sample: Function that draws the sample pictures, every `sample_every` steps.
        """
        self._resume()
        num_steps = total_steps(self.config, len(training))
        if self.step < num_steps and self.step:
            logger.info(f"{self.name}: resuming from step {self.step}")
        rate_of = partial(learning_rate, self.config, num_steps=num_steps)
        progress = ProgressFolder(self.folder, self.name, self.step, self.accelerator.is_main_process)
        progress.catch_up(self.history, self.config.validate_every, rate_of)
        micro_batches = (numbers for step in range(self.step, num_steps) for numbers in self.shares.micro_batches(step))
        with (
            closing(progress),
            closing(read_ahead(self._reader(training), micro_batches, self._readers)) as batches,
            tqdm(
                total=num_steps, initial=self.step, desc=self.name, unit="step",
                disable=not self.accelerator.is_main_process,
            ) as bar,
        ):  # fmt: skip
            while self.step < num_steps and not self._out_of_patience():
                rate = learning_rate(self.config, self.step, num_steps)
                self._unread.append((self._train_step(batches, rate), rate))
                self.step += 1
                bar.update()
                validates = self.step % self.config.validate_every == 0 or self.step == num_steps
                if validates or len(self._unread) == LOSSES_AT_ONCE:
                    self._read_losses(progress)
                samples = self.config.sample_every and self.step % self.config.sample_every == 0
                if samples and sample and progress.writes:
                    with torch.no_grad(), self.accelerator.autocast():
                        progress.sampled(self.step, sample(self._evaluated))
                if validates:
                    self._validate(validation, num_validation)
                    self._save()
                    progress.validated(self.history, self.config.validate_every, rate_of)
                    recent = self.history.recent_loss(self.config.validate_every)
                    bar.set_postfix(loss=f"{recent:.4f}", val=f"{self.history.validation_losses[-1]:.4f}")
        if self._out_of_patience():
            logger.info(f"{self.name}: stopped at step {self.step}, no improvement for {self.config.patience} checks")

    def finish(self) -> nn.Module:
        """Return the objective with its last weights, without the wrappers of training; call it once, after `run`."""
        objective = self._unwrapped
        self.accelerator.free_memory()
        return objective

    def load_best(self, objective: nn.Module) -> nn.Module:
        """Load the (averaged) weights of the best validation into an objective, and return it in eval mode."""
        objective.load_state_dict(self.best)
        return objective.eval()

    @property
    def _unwrapped(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.objective)

    @property
    def _evaluated(self) -> nn.Module:
        """The module to validate and to save as the best: the average, if there is one."""
        evaluated = self._unwrapped if self.average is None else self.average.module
        return evaluated.eval()

    @property
    def _readers(self) -> int:
        """Threads that read batches: a fast GPU is done with one before a thread has read the next."""
        return READERS_FOR_GPU if self.accelerator.device.type == "cuda" else 1

    def _reader(self, items: Items[BatchT]) -> Callable[[Sequence[int]], BatchT]:
        if self.accelerator.device.type == "cuda":
            return lambda numbers: items.batch(numbers).map(torch.Tensor.pin_memory)
        return items.batch

    def _train_step(self, batches: Iterator[BatchT], rate: float) -> torch.Tensor:
        """One optimiser step; returns the loss over the whole batch of all processes, on the device."""
        accelerator = self.accelerator
        self.objective.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        accelerator.gradient_accumulation_steps = self.shares.accumulation  # `backward` divides by it
        self.optimizer.zero_grad()
        total = torch.zeros((), device=accelerator.device)
        for left in reversed(range(self.shares.accumulation)):
            batch = next(batches).to(accelerator.device)
            with accelerator.no_sync(self.objective) if left else nullcontext():
                with accelerator.autocast():
                    loss = self.objective(batch)
                accelerator.backward(loss)
            total += loss.detach().float()
        accelerator.clip_grad_norm_(self.objective.parameters(), self.config.max_gradient_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self._unwrapped)
        return accelerator.reduce(total / self.shares.accumulation, "mean")

    def _update_average(self, averaged: Sequence[torch.Tensor], current: Sequence[torch.Tensor], _: object) -> None:
        """Exponential moving average, corrected for its bias towards the first step as in Adam (1412.6980, §3)."""
        decay, steps = self.config.ema_decay, self.step + 1
        unbiased = (decay - decay**steps) / (1 - decay**steps)
        get_ema_multi_avg_fn(unbiased)(averaged, current, steps)

    def _read_losses(self, progress: ProgressFolder) -> None:
        """Read the last steps' losses from the device at once; reading each alone would make it wait for the host."""
        losses = torch.stack([loss for loss, _ in self._unread]).tolist()
        for step, (loss, (_, rate)) in enumerate(zip(losses, self._unread, strict=True), self.step - len(losses)):
            if not math.isfinite(loss):
                raise InputError(
                    f"{self.name}: the loss must be finite, got {loss} at step {step}. Lower learning_rate, or check "
                    "the data set with fcas_doctor -d."
                )
            self.history.train_losses.append(loss)
            progress.trained(step + 1, loss, rate)
        self._unread = []

    def _validate(self, validation: Items[BatchT], count: int) -> None:
        evaluated, device = self._evaluated, self.accelerator.device
        total = torch.zeros((), device=device)
        share = self.shares.held_out(count)
        with torch.no_grad(), closing(read_ahead(self._reader(validation), share)) as batches:
            for numbers, batch in zip(share, batches, strict=True):
                with self.accelerator.autocast():
                    total += len(numbers) * evaluated(batch.to(device)).float()
        loss = float(self.accelerator.reduce(total, "sum")) / count
        self.history.validation_steps.append(self.step)
        self.history.validation_losses.append(loss)
        if self.history.validations_since_best == 0:
            self.best = {key: tensor.detach().cpu().clone() for key, tensor in evaluated.state_dict().items()}
        recent = self.history.recent_loss(self.config.validate_every)
        logger.debug(f"{self.name}: step {self.step}, loss {recent:.5f}, validation {loss:.5f}")

    def _out_of_patience(self) -> bool:
        return 0 < self.config.patience <= self.history.validations_since_best

    @property
    def _stateful(self) -> dict[str, Any]:
        return {
            "model": self._unwrapped, "average": self.average, "optimizer": self.optimizer,
            "scaler": self.accelerator.scaler,
        }  # fmt: skip

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {name: None if part is None else part.state_dict() for name, part in self._stateful.items()}
        with atomic_path(self.folder / STATE_FILE) as temporary:
            torch.save(state | {"step": self.step, "history": vars(self.history), "best": self.best}, temporary)

    def _resume(self) -> None:
        path = self.folder / STATE_FILE
        if not path.exists():
            return
        try:
            state = read_content(path)
            for name, part in self._stateful.items():
                if part is not None and (name != "scaler" or state[name]):  # precision may have changed
                    part.load_state_dict(state[name])
            self.step, self.best = state["step"], state["best"]
            self.history = History(**state["history"])
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split()).removeprefix(f"{path}: ").split(". ")[0].rstrip(".")
            raise InputError(
                f"{path}: training state must be whole and of this training, got another ({reason}). Delete "
                f"the file to train the {self.name} anew."
            ) from error


def total_steps(config: OptimisationConfig, items_per_epoch: int) -> int:
    """Optimiser steps of a whole run: `num_steps`, or those of `num_epochs`; the last one may exceed the epochs."""
    return config.num_steps or math.ceil(config.num_epochs * items_per_epoch / config.batch_size)


def learning_rate(config: OptimisationConfig, step: int, num_steps: int) -> float:
    """Learning rate of a step: linear warm-up, then cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
