"""nnU-Net's trainer with the loss of every voxel weighted by its confidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import nn

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.cal.dataloading import ConfidenceDataset
from fcas_nnunet.integration.cal.guarded_trainer import DEFAULT_DEVICE, GuardedTrainer
from fcas_nnunet.integration.cal.log import MEAN, SHARES, ConfidenceLogger, ConfidenceTally, target_names
from fcas_nnunet.integration.cal.losses import ConfidenceLoss
from fcas_nnunet.integration.cal.transforms import unpack_confidence, with_doubt
from fcas_nnunet.integration.cal.weighting import CaseWeights, Weighting, refuse_unknown_variables
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore

#: Key in a trainer's dataset.json, which its checkpoints contain: variables of the environment → their values.
SETTINGS_KEY = "fcas_settings"


class WeightedTrainer(GuardedTrainer):
    """nnU-Net's trainer that weights every voxel by its confidence.

    Data, augmentation, network, optimiser and logs are nnU-Net's own, in every configuration, with regions and an
    ignore label, on one GPU or several; the confidence maps are those that `fcas_prepare` wrote, and cases without one
    are trusted everywhere. Variables of the environment normalise, limit and ramp the weights (`Weighting`). The loss
    of nnU-Net's validation batches is weighted, too; Pseudo Dice and the validation at the end are not.

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
        refuse_unknown_variables()
        self.weighting = Weighting.from_environment()
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.begun_with: dict[str, str] = {}
        self.uses_confidence = self._weights_the_loss()
        if self.uses_confidence:
            self.dataset_json[SETTINGS_KEY] = self._settings()
            labels = self.label_manager
            names = target_names(dataset_json["labels"], labels.has_regions)
            self.tally = ConfidenceTally(len(names), labels.has_regions)
            self.logger.local_logger = ConfidenceLogger(names, self.logger.local_logger.verbose)

    def _weights_the_loss(self) -> bool:
        """Return whether the loss is to be weighted; if not, this trainer is nnU-Net's."""
        return self._has_maps()

    def _has_maps(self) -> bool:
        """Return whether the training's data set is to have confidence maps; if not, its cases are fully trusted."""
        return True

    def _settings(self) -> dict[str, str]:
        """Return variable → value of all settings that a training keeps to."""
        return self.weighting.as_variables()

    def _look_at(self, checkpoint: dict[str, Any], *, resumed: bool) -> None:
        super()._look_at(checkpoint, resumed=resumed)
        if resumed:
            self.begun_with = checkpoint.get("init_args", {}).get("dataset_json", {}).get(SETTINGS_KEY, {})

    def on_train_start(self) -> None:
        """Prepare the training as nnU-Net does.

        Raises:
            InputError: when a training that is continued began with other settings.
        """
        now = self.dataset_json.get(SETTINGS_KEY, {})
        changed = [name for name, value in self.begun_with.items() if now.get(name) != value]
        if changed:
            raise InputError(
                "\n".join(
                    f"{name}: it must be {self.begun_with[name]}, as when the training began, got "
                    f"{now.get(name, 'no confidence maps')}. Set it so, or train anew without --c."
                    for name in changed
                )
            )
        if now:
            self.print_to_log_file("Settings of confidence-aware learning:", now)
        super().on_train_start()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Open nnU-Net's data sets with confidence, after checking that every case has the map written for it."""
        training, validation = super().get_tr_and_val_datasets()
        if self._has_maps():
            store = ConfidenceStore.read(Path(self.preprocessed_dataset_folder))
            training, validation = self._weighted(store, training, validation)
            return training, validation
        self.print_to_log_file("This data set has no confidence maps: every voxel counts alike.")
        if self.uses_confidence:
            return ConfidenceDataset(training, None), ConfidenceDataset(validation, None)
        return training, validation

    def _weighted(self, store: ConfidenceStore, *datasets: nnUNetBaseDataset) -> list[ConfidenceDataset]:
        """Return data sets, the first for training, with the maps of a store, after checking these."""
        training = datasets[0]
        store.verify([i for dataset in datasets for i in dataset.identifiers], lambda i: training.load_case(i)[1].shape)
        mapped = sum(store.sha256[case_id] is not None for case_id in training.identifiers)
        self.print_to_log_file(
            f"Confidence weights the loss: {mapped} of {len(training.identifiers)} training cases have a map"
            + ("." if mapped == len(training.identifiers) else ", the others count fully.")
        )
        weights = self._weights_of(store)
        return [ConfidenceDataset(dataset, store, weights) for dataset in datasets]

    def _weights_of(self, store: ConfidenceStore) -> CaseWeights | None:
        """Return what turns confidence into weights, None if nothing has to; log the means that they are divided by."""
        settings = self.weighting
        if not settings.is_fixed:
            return None
        means = store.mean_weights(settings.floor) if settings.normalise else {}
        if means:
            named = ", ".join(f"{label}: {mean:.4f}" for label, mean in means.items())
            self.print_to_log_file(f"Weights are divided by their means over {store.folder.parent.name}, {named}")
        return CaseWeights(settings, means)

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Build nnU-Net's augmentation, which also transforms the confidence; the arguments are nnU-Net's."""
        native = super().get_training_transforms(*args, **kwargs)
        return with_doubt(native) if self.uses_confidence else native

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Build nnU-Net's validation transforms, which also transform the confidence; the arguments are nnU-Net's."""
        native = super().get_validation_transforms(*args, **kwargs)
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
        confidence = self.weighting.ramped(confidence, self.current_epoch / self.num_epochs)
        return batch | {"target": native_target}, confidence
