"""nnU-Net trainers: confidence-aware pretraining on synthetic scans, and fine-tuning on real ones."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from fcas_nnunet.integration.cal.dataloading import ConfidenceDataset
from fcas_nnunet.integration.cal.guarded_trainer import DEFAULT_DEVICE, GuardedTrainer
from fcas_nnunet.integration.cal.log import MEAN, SHARES, ConfidenceLogger, ConfidenceTally, target_names
from fcas_nnunet.integration.cal.losses import ConfidenceLoss
from fcas_nnunet.integration.cal.pretrained import (
    Pretraining,
    bare_network,
    copy_segmentation_layers,
    pretraining_faults,
)
from fcas_nnunet.integration.cal.schedules import WarmupPolyLR
from fcas_nnunet.integration.cal.transforms import unpack_confidence, with_doubt
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore
from fcas_nnunet.integration.provenance.parents import (
    UNKNOWN_KEY,
    from_json,
    refuse_leaks,
    unknown_fault,
    validation_faults,
)

#: Confidence is mapped from [0, 1] to [floor, 1]; it is a variable because nnU-Net's trainers take no arguments.
CONFIDENCE_FLOOR_VARIABLE = "FCAS_CONFIDENCE_FLOOR"

_MAX_VALIDATION_CASES = 20
_WARMUP_FRACTION = 0.05


def confidence_floor() -> float:
    """Read from the environment the weight that a confidence of 0 gets; 0 unless set.

    Raises:
        ValueError: when it is no number in [0, 1).
    """
    value = os.environ.get(CONFIDENCE_FLOOR_VARIABLE, "0")
    with suppress(ValueError):
        if 0 <= (floor := float(value)) < 1:
            return floor
    raise ValueError(f"{CONFIDENCE_FLOOR_VARIABLE}: floor must be in [0, 1), got {value}. Set or unset it.")


class nnUNetTrainerCAL(GuardedTrainer):
    """Confidence-aware learning on synthetic scans: nnU-Net's trainer that weights every voxel by its confidence.

    Data, augmentation, network, optimiser and logs are nnU-Net's own, in every configuration, with regions and an
    ignore label, on one GPU or several; the confidence maps are those that `fcas_prepare` wrote, and real cases among
    the synthetic ones are trusted everywhere. Pseudo Dice is not weighted. Fold `all` validates on an even sample of at
    most 20 cases instead of every synthetic training case, unless a cascade's next stage needs them all.

    Source: FCaS, Eq. 9 and §4.1.2 (800 epochs).
    """

    EPOCHS = 800

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = DEFAULT_DEVICE,
    ) -> None:
        self.confidence_floor = confidence_floor()
        super().__init__(plans, configuration, fold, dataset_json, device)
        labels = self.label_manager
        names = target_names(dataset_json["labels"], labels.has_regions)
        self.tally = ConfidenceTally(len(names), labels.has_regions)
        self.logger.local_logger = ConfidenceLogger(names, self.logger.local_logger.verbose)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's split; for fold `all`, validate on a sample of the cases.

        Raises:
            ValueError: when real cases among the validation ones are parents of the synthetic ones, or may be.
        """
        training, validation = super().do_split()
        folder = Path(self.preprocessed_dataset_folder_base)
        parents, unknown = from_json(self.dataset_json) or [], self.dataset_json.get(UNKNOWN_KEY, [])
        others = [parent for parent in parents if parent.dataset != folder.name]
        faults = validation_faults(others, folder.name, folder, self.fold, validation, self.print_to_log_file)
        real = {parent.case_id for parent in parents if parent.dataset == folder.name} - set(unknown)
        if unknown and self.fold != "all" and not real.isdisjoint(validation):
            faults.append(unknown_fault(folder.name, folder.name, self.fold, unknown))
        refuse_leaks(faults, self.print_to_log_file)
        feeds_next_stage = bool(self.configuration_manager.next_stage_names)
        if self.fold == "all" and len(validation) > _MAX_VALIDATION_CASES and not feeds_next_stage:
            picks = np.linspace(0, len(validation) - 1, _MAX_VALIDATION_CASES).round().astype(int)
            validation = [sorted(validation)[i] for i in picks]
        return training, validation

    def get_tr_and_val_datasets(self) -> tuple[ConfidenceDataset, ConfidenceDataset]:
        """Open nnU-Net's data sets with confidence, after checking that every case has the map written for it."""
        training, validation = super().get_tr_and_val_datasets()
        store = ConfidenceStore.read(Path(self.preprocessed_dataset_folder))
        store.verify([*training.identifiers, *validation.identifiers], lambda i: training.load_case(i)[1].shape)
        return ConfidenceDataset(training, store), ConfidenceDataset(validation, store)

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> BasicTransform:
        """Build nnU-Net's augmentation, which also transforms the confidence; the arguments are nnU-Net's."""
        return with_doubt(nnUNetTrainer.get_training_transforms(*args, **kwargs))

    @staticmethod
    def get_validation_transforms(*args: Any, **kwargs: Any) -> BasicTransform:
        """Build nnU-Net's validation transforms, which also transform the confidence; the arguments are nnU-Net's."""
        return with_doubt(nnUNetTrainer.get_validation_transforms(*args, **kwargs))

    def _build_loss(self) -> nn.Module:
        return ConfidenceLoss(super()._build_loss())

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run nnU-Net's training step with the loss weighted by the batch's confidence."""
        native_batch, confidence = self._split_batch(batch)
        target = native_batch["target"]
        self.tally.add(target[0] if isinstance(target, list) else target, confidence)
        with self.loss.weighted_by(confidence):
            return super().train_step(native_batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log what nnU-Net logs, and the confidence's mean and shares."""
        super().on_train_epoch_end(train_outputs)
        mean, shares = self.tally.close(self.is_ddp)
        self.logger.log(MEAN, mean, self.current_epoch)
        self.logger.log(SHARES, shares, self.current_epoch)
        named = zip(self.logger.local_logger.labels, shares, strict=True)
        self.print_to_log_file(
            f"mean confidence {mean:.3f}; share of the loss's weight in %:",
            ", ".join(f"{name} {100 * share:.2f}" for name, share in named),
        )

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run nnU-Net's validation step with the loss weighted by the batch's confidence."""
        native_batch, confidence = self._split_batch(batch)
        with self.loss.weighted_by(confidence):
            return super().validation_step(native_batch)

    def _split_batch(self, batch: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """Split a batch into nnU-Net's batch and the confidence [B, 1, ...] on the device."""
        targets, confidence = unpack_confidence(batch["target"], self.device)
        native_target = targets if self.enable_deep_supervision else targets[0]
        if self.confidence_floor:
            confidence = self.confidence_floor + (1 - self.confidence_floor) * confidence
        return batch | {"target": native_target}, confidence


class nnUNetTrainerCALFinetune(GuardedTrainer):
    """Fine-tunes on real scans the weights of `nnUNetTrainerCAL`; start it with `-pretrained_weights`, or with
    `pretrained_weights` of nnU-Net's `run_training`.

    Real labels are fully trusted, so loss and batches are nnU-Net's. The trainer has a name of its own, so that a run
    never overwrites one from scratch. SGD starts at 1e-3, a tenth of nnU-Net's rate, with a warm-up over the first
    twentieth of the epochs. Weights that were pretrained for another patch size, spacing, normalisation or label set
    are refused, and so is a start from random weights. The segmentation layers, which nnU-Net does not load, are copied
    as well, since the labels are the same.

    Source: FCaS §4.1.2 (200 epochs).
    """

    EPOCHS = 200
    INITIAL_LR = 1e-3
    pretrained: dict[str, Any] | None = None
    has_weights = False

    def initialize(self) -> None:
        """Build nnU-Net's network, after checking that the weights that it will start from fit."""
        super().initialize()
        bare_network(self.network).register_load_state_dict_pre_hook(self._on_weights)

    def _look_at(self, checkpoint: dict[str, Any], *, resumed: bool) -> None:
        if not resumed:
            plans = self.plans_manager.plans
            faults = pretraining_faults(checkpoint, plans, self.configuration_name, self.dataset_json)
            if faults:
                raise ValueError("\n".join(faults))
            self.pretrained = checkpoint
        super()._look_at(checkpoint, resumed=resumed)
        if Pretraining.kept_in(self.dataset_json) is None:
            Pretraining().keep_in(self.dataset_json)  # a training that an earlier version began

    def _on_weights(self, *_: Any) -> None:
        """Check weights that the network is about to load from a file that was not checked at initialisation."""
        if self.pretrained is None:
            self._look_at_weights()
        self.has_weights = True

    def on_train_start(self) -> None:
        """Prepare the training as nnU-Net does, and copy the pretrained segmentation layers, which it does not load.

        Raises:
            ValueError: when the network has random weights.
        """
        if not self.has_weights:
            raise ValueError(
                "-pretrained_weights: weights to fine-tune must be given, got none. Name the checkpoint that "
                "nnUNetTrainerCAL made, or train from scratch with -tr nnUNetTrainer."
            )
        super().on_train_start()
        if self.pretrained is not None and self.current_epoch == 0:
            copied = copy_segmentation_layers(self.network, self.pretrained)
            self.print_to_log_file(f"{copied} tensors of segmentation layers taken over from the pretrained weights")
        elif self.current_epoch == 0:
            self.print_to_log_file("the weights were loaded past nnU-Net: whether they fit was not checked")
        self.pretrained = None

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLR]:
        """Build nnU-Net's optimiser, with a warm-up before the decay."""
        optimizer, _ = super().configure_optimizers()
        warmup = round(_WARMUP_FRACTION * self.num_epochs)
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, warmup)


def _with_epochs(trainer: type[GuardedTrainer], epochs: int) -> type[GuardedTrainer]:
    """Make a trainer with another number of epochs, named as nnU-Net names its own: nnUNetTrainerCAL_50epochs."""
    name = f"{trainer.__name__}_{epochs}epoch{'s' if epochs > 1 else ''}"
    return type(name, (trainer,), {"EPOCHS": epochs, "__doc__": f"`{trainer.__name__}` with another number of epochs."})


_BASES: tuple[type[GuardedTrainer], ...] = (nnUNetTrainerCAL, nnUNetTrainerCALFinetune)
_VARIANTS = [_with_epochs(trainer, epochs) for trainer in _BASES for epochs in (1, 5, 50, 250)]
globals().update({trainer.__name__: trainer for trainer in _VARIANTS})  # nnU-Net and pickle find them by name
__all__ = [trainer.__name__ for trainer in (*_BASES, *_VARIANTS)]
