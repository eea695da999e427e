"""The trainers of fcas_demo: nnU-Net's and this package's, with so few iterations that a CPU takes minutes."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from torch import nn

from fcas_nnunet.commands.demo.scale import (
    BF16_VARIABLE,
    ITERATIONS_PER_EPOCH,
    ITERATIONS_VARIABLE,
    PRETRAIN_EPOCHS_VARIABLE,
    REAL_EPOCHS_VARIABLE,
    SEED_VARIABLE,
)
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.optimisation.precision import compute_in_bf16, supports_bf16
from fcas_nnunet.integration.cal.guarded_trainer import DEFAULT_DEVICE, GuardedTrainer
from fcas_nnunet.integration.cal.mixed_trainer import nnUNetTrainerCALMixed
from fcas_nnunet.integration.cal.schedules import WarmupPolyLR
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL, nnUNetTrainerCALFinetune
from fcas_nnunet.seeds import derive_seed


class _DemoSize(GuardedTrainer):
    """Settings of the demo: few iterations, a checkpoint after every epoch, no prediction of the training cases.

    AdamW replaces nnU-Net's SGD, with which a network hardly learns in so few iterations. OMP_NUM_THREADS sets the
    number of threads, where nnU-Net on a CPU takes one for every core, so that several trainings can share the cores.
    The variable FCAS_DEMO_SEED makes a training repeatable, also one that was killed between two epochs; FCAS_DEMO_BF16
    lets a CPU compute in bf16 (1) or not (0, the default).
    """

    EPOCHS_VARIABLE = REAL_EPOCHS_VARIABLE
    INITIAL_LR = 2e-3

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = DEFAULT_DEVICE,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = _count(self.EPOCHS_VARIABLE, 8)
        self.num_iterations_per_epoch = _count(ITERATIONS_VARIABLE, ITERATIONS_PER_EPOCH)
        self.num_val_iterations_per_epoch = 2
        self.save_every = 1
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if device.type == "cpu" and threads.isdecimal() and int(threads) > 0:
            torch.set_num_threads(int(threads))
        self._seed("weights")

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        inputs: int,
        outputs: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build nnU-Net's network, for training and for inference."""
        network = super().build_network_architecture(
            plans_manager, configuration_manager, inputs, outputs, enable_deep_supervision
        )
        if _bf16_is_wanted():
            compute_in_bf16(network)
        return network

    def on_epoch_start(self) -> None:
        """Start the epoch as nnU-Net does, with a seed for the epoch."""
        self._seed(f"epoch {self.current_epoch}")
        super().on_epoch_start()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLR]:
        """AdamW under nnU-Net's polynomial decay, after one epoch of warm-up."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, min(1, self.num_epochs - 1))

    def _seed(self, what: str) -> None:
        value = os.environ.get(SEED_VARIABLE)
        if value is not None:
            seed = derive_seed(value, what) % 2**32
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)

    def on_epoch_end(self) -> None:
        """End the epoch as nnU-Net does, but draw pictures after the last alone: they take as long as four steps."""
        if self.current_epoch + 1 < self.num_epochs:
            self.logger.plot_progress_png = lambda output_folder: None
        super().on_epoch_end()
        self.logger.__dict__.pop("plot_progress_png", None)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Do nothing: the demo predicts held-out cases afterwards."""
        self.print_to_log_file("Demo size: training cases are not predicted, held-out ones are afterwards.")


def _count(name: str, default: int) -> int:
    """A number that a variable of the environment sets."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"{name}: number must be a positive integer, got {value}. Set or unset it.")
    return int(value)


def _bf16_is_wanted() -> bool:
    """Whether the variable FCAS_DEMO_BF16 asks for bf16 on a CPU."""
    value = os.environ.get(BF16_VARIABLE, "0")
    if value not in ("0", "1"):
        raise InputError(f"{BF16_VARIABLE}: must be 0 or 1, got {value}. Set or unset it.")
    if value == "1" and not supports_bf16(torch.device("cpu")):
        raise InputError(f"{BF16_VARIABLE}: CPU must compute in bf16 (AVX512), got one that does not. Unset it.")
    return value == "1"


class nnUNetTrainerCAL_demo(_DemoSize, nnUNetTrainerCAL):
    """`nnUNetTrainerCAL` at demo size; the variable FCAS_DEMO_PRETRAIN_EPOCHS sets the number of epochs (8)."""

    EPOCHS_VARIABLE = PRETRAIN_EPOCHS_VARIABLE


class nnUNetTrainerCALFinetune_demo(_DemoSize, nnUNetTrainerCALFinetune):
    """`nnUNetTrainerCALFinetune` at demo size; the variable FCAS_DEMO_REAL_EPOCHS sets the number of epochs (8)."""


class nnUNetTrainerCALMixed_demo(_DemoSize, nnUNetTrainerCALMixed):
    """`nnUNetTrainerCALMixed` at demo size, for trials: fcas_demo pretrains and fine-tunes."""


class nnUNetTrainer_fcasDemo(_DemoSize):
    """nnU-Net's own trainer and loss, for as many iterations as `nnUNetTrainerCALFinetune_demo`."""


__all__ = [
    "nnUNetTrainerCAL_demo", "nnUNetTrainerCALFinetune_demo", "nnUNetTrainerCALMixed_demo", "nnUNetTrainer_fcasDemo",
]  # fmt: skip
