"""nnU-Net's trainer with the loss of every voxel weighted by its confidence."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from fcas_nnunet.integration.cal.dataloading import ConfidenceDataset
from fcas_nnunet.integration.cal.guarded_trainer import DEFAULT_DEVICE, GuardedTrainer
from fcas_nnunet.integration.cal.log import MEAN, SHARES, ConfidenceLogger, ConfidenceTally, target_names
from fcas_nnunet.integration.cal.losses import ConfidenceLoss
from fcas_nnunet.integration.cal.transforms import unpack_confidence, with_doubt
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore

#: Confidence is mapped from [0, 1] to [floor, 1]; it is a variable because nnU-Net's trainers take no arguments.
CONFIDENCE_FLOOR_VARIABLE = "FCAS_CONFIDENCE_FLOOR"


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


class WeightedTrainer(GuardedTrainer):
    """nnU-Net's trainer that weights every voxel by its confidence.

    Data, augmentation, network, optimiser and logs are nnU-Net's own, in every configuration, with regions and an
    ignore label, on one GPU or several; the confidence maps are those that `fcas_prepare` wrote, and cases without one
    are trusted everywhere. The loss of nnU-Net's validation batches is weighted, too; Pseudo Dice and the validation
    at the end are not.

    Source: FCaS, Eq. 9.
    """

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
        self.uses_confidence = self._finds_confidence()
        if self.uses_confidence:
            labels = self.label_manager
            names = target_names(dataset_json["labels"], labels.has_regions)
            self.tally = ConfidenceTally(len(names), labels.has_regions)
            self.logger.local_logger = ConfidenceLogger(names, self.logger.local_logger.verbose)

    def _finds_confidence(self) -> bool:
        """Return whether the loss is to be weighted; if not, this trainer is nnU-Net's."""
        return True

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Open nnU-Net's data sets with confidence, after checking that every case has the map written for it."""
        training, validation = super().get_tr_and_val_datasets()
        if not self.uses_confidence:
            self.print_to_log_file("This data set has no confidence maps: every voxel counts alike.")
            return training, validation
        store = ConfidenceStore.read(Path(self.preprocessed_dataset_folder))
        store.verify([*training.identifiers, *validation.identifiers], lambda i: training.load_case(i)[1].shape)
        mapped = sum(store.sha256[case_id] is not None for case_id in training.identifiers)
        self.print_to_log_file(
            f"Confidence weights the loss: {mapped} of {len(training.identifiers)} training cases have a map"
            + ("." if mapped == len(training.identifiers) else ", the others count fully.")
        )
        return ConfidenceDataset(training, store), ConfidenceDataset(validation, store)

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Build nnU-Net's augmentation, which also transforms the confidence; the arguments are nnU-Net's."""
        native = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        return with_doubt(native) if self.uses_confidence else native

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Build nnU-Net's validation transforms, which also transform the confidence; the arguments are nnU-Net's."""
        native = nnUNetTrainer.get_validation_transforms(*args, **kwargs)
        return with_doubt(native) if self.uses_confidence else native

    def _build_loss(self) -> nn.Module:
        native = super()._build_loss()
        return ConfidenceLoss(native) if self.uses_confidence else native

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Run nnU-Net's training step with the loss weighted by the batch's confidence."""
        if not self.uses_confidence:
            return super().train_step(batch)
        native_batch, confidence = self._split_batch(batch)
        target = native_batch["target"]
        self.tally.add(target[0] if isinstance(target, list) else target, confidence)
        with self.loss.weighted_by(confidence):
            return super().train_step(native_batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log what nnU-Net logs, and the confidence's mean and shares."""
        super().on_train_epoch_end(train_outputs)
        if not self.uses_confidence:
            return
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
        if not self.uses_confidence:
            return super().validation_step(batch)
        native_batch, confidence = self._split_batch(batch)
        with self.loss.weighted_by(confidence):
            return super().validation_step(native_batch)

    def _split_batch(self, batch: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """Split a batch into nnU-Net's batch and the confidence [B, 1, ...] on the device."""
        targets, confidence = unpack_confidence(batch["target"], self.device)
        native_target = targets if self.enable_deep_supervision else targets[0]
        if self.confidence_floor:  # weights above 1 stay
            raised = self.confidence_floor + (1 - self.confidence_floor) * confidence
            confidence = torch.maximum(confidence, raised)
        return batch | {"target": native_target}, confidence
