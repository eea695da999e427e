"""nnU-Net trainers: confidence-aware pretraining on synthetic scans, and fine-tuning on real ones."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import distributed, nn

from fcas_nnunet.integration.dataloading import ConfidenceDataset
from fcas_nnunet.integration.losses import ConfidenceLoss
from fcas_nnunet.integration.pretrained import (
    copy_segmentation_layers,
    pretrained_weights_argument,
    pretraining_faults,
    read_checkpoint,
)
from fcas_nnunet.integration.schedules import WarmupPolyLR
from fcas_nnunet.integration.trainer_lookup import DEMO_PRETRAIN_EPOCHS_VARIABLE, DEMO_REAL_EPOCHS_VARIABLE
from fcas_nnunet.integration.transforms import unpack_confidence, with_doubt

_DEFAULT_DEVICE = torch.device("cuda")
_MAX_VALIDATION_CASES = 20
_WARMUP_FRACTION = 0.05


def refuse_unsupported(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> None:
    """Stop before anything is written if the training needs what is not built yet.

    Raises:
        NotImplementedError: saying what.
    """
    manager = PlansManager(plans)
    labels = manager.get_label_manager(dataset_json)
    reasons = {
        "region-based labels": labels.has_regions,
        "an ignore label": labels.has_ignore_label,
        "a cascade": manager.get_configuration(configuration).previous_stage_name is not None,
        "training on several GPUs": distributed.is_available() and distributed.is_initialized(),
    }
    found = [reason for reason, present in reasons.items() if present]
    if found:
        raise NotImplementedError(
            f"{manager.dataset_name} {configuration}: fcas-nnunet does not support {' or '.join(found)} yet. "
            "Use plain labels, 2d or 3d_fullres, and one device."
        )


class nnUNetTrainerCAL(nnUNetTrainer):
    """Confidence-aware learning on synthetic scans: nnU-Net's trainer with every voxel weighted by its confidence.

    Data, augmentation, network, optimiser and logs are nnU-Net's own; the confidence maps are those that
    `fcas_prepare` wrote. Pseudo Dice is not weighted. Fold `all` validates on an even sample of at most 20 cases
    instead of every synthetic training case.

    Source: FCaS, Eq. 9 and §3.1 (800 epochs).
    """

    EPOCHS = 800

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _DEFAULT_DEVICE,
    ) -> None:
        refuse_unsupported(plans, configuration, dataset_json)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.EPOCHS

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; under fold `all`, a sample of the cases to validate on."""
        training, validation = super().do_split()
        if self.fold == "all" and len(validation) > _MAX_VALIDATION_CASES:
            picks = np.linspace(0, len(validation) - 1, _MAX_VALIDATION_CASES).round().astype(int)
            validation = [sorted(validation)[i] for i in picks]
        return training, validation

    def get_tr_and_val_datasets(self) -> tuple[ConfidenceDataset, ConfidenceDataset]:
        """nnU-Net's data sets with confidence; cases without a map are listed before training starts."""
        training, validation = super().get_tr_and_val_datasets()
        return ConfidenceDataset(training), ConfidenceDataset(validation)

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> BasicTransform:
        """nnU-Net's augmentation, carrying the confidence; takes what nnU-Net's own takes."""
        return with_doubt(nnUNetTrainer.get_training_transforms(*args, **kwargs))

    @staticmethod
    def get_validation_transforms(*args: Any, **kwargs: Any) -> BasicTransform:
        """nnU-Net's validation transforms, carrying the confidence; takes what nnU-Net's own takes."""
        return with_doubt(nnUNetTrainer.get_validation_transforms(*args, **kwargs))

    def _build_loss(self) -> nn.Module:
        return ConfidenceLoss(super()._build_loss())

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step under the batch's confidence."""
        native_batch, confidence = self._split_batch(batch)
        with self.loss.weighted_by(confidence):
            return super().train_step(native_batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's step under the batch's confidence."""
        native_batch, confidence = self._split_batch(batch)
        with self.loss.weighted_by(confidence):
            return super().validation_step(native_batch)

    def _split_batch(self, batch: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """nnU-Net's own batch, and the confidence [B, 1, ...] on the device."""
        targets, confidence = unpack_confidence(batch["target"])
        native_target = targets if self.enable_deep_supervision else targets[0]
        return batch | {"target": native_target}, confidence.to(self.device, non_blocking=True)


class nnUNetTrainerCALFinetune(nnUNetTrainer):
    """Fine-tuning on real scans what `nnUNetTrainerCAL` pretrained; start it with `-pretrained_weights`.

    Real labels are fully trusted: nnU-Net's own loss and batches. Own name, so that a run never overwrites one from
    scratch. SGD at 1e-3, a tenth of nnU-Net's, with a warm-up over the first twentieth of the epochs. Weights that were
    pretrained for another patch size, spacing, normalisation or label set are refused; the segmentation layers, which
    nnU-Net leaves at random, are taken over, too, since the labels are the same.

    Source: FCaS §3.1 (200 epochs).
    """

    EPOCHS = 200
    INITIAL_LR = 1e-3

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _DEFAULT_DEVICE,
    ) -> None:
        refuse_unsupported(plans, configuration, dataset_json)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.EPOCHS
        self.initial_lr = self.INITIAL_LR
        self.pretrained: dict[str, Any] | None = None

    def initialize(self) -> None:
        """nnU-Net's network, unless the weights it shall start from do not fit.

        Raises:
            ValueError: listing why they do not.
            FileNotFoundError: when they are not there.
        """
        path = pretrained_weights_argument(sys.argv)
        if path is not None:
            self.pretrained = read_checkpoint(path)
            faults = pretraining_faults(
                self.pretrained, self.plans_manager.plans, self.configuration_name, self.dataset_json
            )
            if faults:
                raise ValueError("\n".join(faults))
        super().initialize()

    def on_train_start(self) -> None:
        """nnU-Net's preparations, and the pretrained segmentation layers, which nnU-Net does not load."""
        super().on_train_start()
        if self.pretrained is not None and self.current_epoch == 0:
            copied = copy_segmentation_layers(self.network, self.pretrained)
            self.print_to_log_file(f"{copied} tensors of segmentation layers taken over from the pretrained weights")
        self.pretrained = None

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLR]:
        """nnU-Net's optimiser with warm-up before the decay."""
        optimizer, _ = super().configure_optimizers()
        warmup = round(_WARMUP_FRACTION * self.num_epochs)
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, warmup)


class nnUNetTrainerCAL_1epoch(nnUNetTrainerCAL):
    """`nnUNetTrainerCAL` for 1 epoch."""

    EPOCHS = 1


class nnUNetTrainerCAL_5epochs(nnUNetTrainerCAL):
    """`nnUNetTrainerCAL` for 5 epochs."""

    EPOCHS = 5


class nnUNetTrainerCAL_50epochs(nnUNetTrainerCAL):
    """`nnUNetTrainerCAL` for 50 epochs."""

    EPOCHS = 50


class nnUNetTrainerCAL_250epochs(nnUNetTrainerCAL):
    """`nnUNetTrainerCAL` for 250 epochs."""

    EPOCHS = 250


class nnUNetTrainerCALFinetune_1epoch(nnUNetTrainerCALFinetune):
    """`nnUNetTrainerCALFinetune` for 1 epoch."""

    EPOCHS = 1


class nnUNetTrainerCALFinetune_5epochs(nnUNetTrainerCALFinetune):
    """`nnUNetTrainerCALFinetune` for 5 epochs."""

    EPOCHS = 5


class nnUNetTrainerCALFinetune_50epochs(nnUNetTrainerCALFinetune):
    """`nnUNetTrainerCALFinetune` for 50 epochs."""

    EPOCHS = 50


class nnUNetTrainerCALFinetune_250epochs(nnUNetTrainerCALFinetune):
    """`nnUNetTrainerCALFinetune` for 250 epochs."""

    EPOCHS = 250


class _DemoSize(nnUNetTrainer):
    """What the demo changes: few iterations, a checkpoint after every epoch, no prediction of the training cases.

    AdamW takes the place of nnU-Net's SGD, with which a network has hardly begun to learn in so few iterations.
    """

    EPOCHS_VARIABLE = DEMO_REAL_EPOCHS_VARIABLE
    DEFAULT_EPOCHS = 8
    DEMO_LR = 2e-3

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _DEFAULT_DEVICE,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = self.DEMO_LR
        self.num_epochs = self._epochs()
        self.num_iterations_per_epoch = 25
        self.num_val_iterations_per_epoch = 2
        self.save_every = 1

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLR]:
        """AdamW under nnU-Net's polynomial decay, after one epoch of warm-up."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, min(1, self.num_epochs - 1))

    def _epochs(self) -> int:
        value = os.environ.get(self.EPOCHS_VARIABLE, str(self.DEFAULT_EPOCHS))
        if not value.isdecimal() or int(value) < 1:
            raise ValueError(
                f"{self.EPOCHS_VARIABLE}: number of epochs must be a positive integer, got {value}. Set or unset it."
            )
        return int(value)

    def on_epoch_end(self) -> None:
        """nnU-Net's, but progress.png is drawn after the last epoch alone: it takes as long as four training steps."""
        if self.current_epoch + 1 < self.num_epochs:
            self.logger.plot_progress_png = lambda output_folder: None
        super().on_epoch_end()
        self.logger.__dict__.pop("plot_progress_png", None)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Nothing: the demo predicts held-out cases afterwards."""
        self.print_to_log_file("Demo size: training cases are not predicted, held-out ones are afterwards.")


class nnUNetTrainerCAL_demo(_DemoSize, nnUNetTrainerCAL):
    """`nnUNetTrainerCAL` at demo size; the environment's FCAS_DEMO_PRETRAIN_EPOCHS says how many epochs (8)."""

    EPOCHS_VARIABLE = DEMO_PRETRAIN_EPOCHS_VARIABLE


class nnUNetTrainerCALFinetune_demo(_DemoSize, nnUNetTrainerCALFinetune):
    """`nnUNetTrainerCALFinetune` at demo size; the environment's FCAS_DEMO_REAL_EPOCHS says how many epochs (8)."""


class nnUNetTrainer_fcasDemo(_DemoSize):
    """nnU-Net's own trainer and loss, for as many iterations as `nnUNetTrainerCALFinetune_demo`."""
