"""nnU-Net trainers: confidence-aware pretraining on synthetic scans, and fine-tuning on real ones."""

from __future__ import annotations

import os
import random
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from packaging.specifiers import SpecifierSet
from torch import nn

from fcas_nnunet.integration.cal.dataloading import ConfidenceDataset
from fcas_nnunet.integration.cal.guarded_trainer import GuardedTrainer
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
from fcas_nnunet.integration.environment.trainer_lookup import (
    CONFIDENCE_FLOOR_VARIABLE,
    DEMO_ITERATIONS_PER_EPOCH,
    DEMO_PRETRAIN_EPOCHS_VARIABLE,
    DEMO_REAL_EPOCHS_VARIABLE,
    DEMO_SEED_VARIABLE,
)
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore
from fcas_nnunet.integration.provenance.parents import (
    UNKNOWN_KEY,
    from_json,
    refuse_leaks,
    unknown_fault,
    validation_faults,
)
from fcas_nnunet.seeds import derive_seed

SUPPORTED_NNUNET = ">=2.8,<2.9"

_DEFAULT_DEVICE = torch.device("cuda")
_MAX_VALIDATION_CASES = 20
_WARMUP_FRACTION = 0.05


def refuse_other_nnunet() -> None:
    """Stop before anything is written if this nnU-Net is not one the trainers are made for.

    Raises:
        RuntimeError: naming both versions.
    """
    found = metadata.version("nnunetv2")
    if not SpecifierSet(SUPPORTED_NNUNET).contains(found, prereleases=True):
        raise RuntimeError(
            f"nnunetv2: version must be {SUPPORTED_NNUNET}, got {found}. "
            f"Install a supported one, `pip install 'nnunetv2{SUPPORTED_NNUNET}'`, or update fcas-nnunet."
        )


def confidence_floor() -> float:
    """What a confidence of 0 counts as, from the environment; 0 unless set.

    Raises:
        ValueError: when it is no number in [0, 1).
    """
    value = os.environ.get(CONFIDENCE_FLOOR_VARIABLE, "0")
    try:
        floor = float(value)
    except ValueError:
        floor = -1.0
    if not 0 <= floor < 1:
        raise ValueError(f"{CONFIDENCE_FLOOR_VARIABLE}: floor must be in [0, 1), got {value}. Set or unset it.")
    return floor


class nnUNetTrainerCAL(GuardedTrainer):
    """Confidence-aware learning on synthetic scans: nnU-Net's trainer with every voxel weighted by its confidence.

    Data, augmentation, network, optimiser and logs are nnU-Net's own, in every configuration, with regions and an
    ignore label, on one GPU or several; the confidence maps are those that `fcas_prepare` wrote, and real cases among
    the synthetic ones are trusted everywhere. Pseudo Dice is not weighted. Fold `all` validates on an even sample of at
    most 20 cases instead of every synthetic training case, unless a cascade's next stage needs them all.

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
        refuse_other_nnunet()
        self.confidence_floor = confidence_floor()
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.EPOCHS
        labels = self.label_manager
        names = target_names(dataset_json["labels"], labels.has_regions)
        self.tally = ConfidenceTally(len(names), labels.has_regions)
        self.logger.local_logger = ConfidenceLogger(names, self.logger.local_logger.verbose)

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; under fold `all`, a sample of the cases to validate on.

        Raises:
            ValueError: when real cases among the validation ones are parents of the synthetic ones, or may be.
        """
        training, validation = super().do_split()
        folder = Path(self.preprocessed_dataset_folder_base)
        parents, unknown = from_json(self.dataset_json) or [], self.dataset_json.get(UNKNOWN_KEY, [])
        others = [parent for parent in parents if parent.dataset != folder.name]
        faults = validation_faults(others, folder.name, folder, self.fold, validation, self.print_to_log_file)
        real = {parent.case_id for parent in parents if parent not in others} - set(unknown)
        if unknown and self.fold != "all" and not real.isdisjoint(validation):
            faults.append(unknown_fault(folder.name, folder.name, self.fold, unknown))
        refuse_leaks(faults, self.print_to_log_file)
        feeds_next_stage = bool(self.configuration_manager.next_stage_names)
        if self.fold == "all" and len(validation) > _MAX_VALIDATION_CASES and not feeds_next_stage:
            picks = np.linspace(0, len(validation) - 1, _MAX_VALIDATION_CASES).round().astype(int)
            validation = [sorted(validation)[i] for i in picks]
        return training, validation

    def get_tr_and_val_datasets(self) -> tuple[ConfidenceDataset, ConfidenceDataset]:
        """nnU-Net's data sets with confidence; maps that are missing or not the case's own are listed first."""
        training, validation = super().get_tr_and_val_datasets()
        store = ConfidenceStore.read(Path(self.preprocessed_dataset_folder))
        store.verify([*training.identifiers, *validation.identifiers], lambda i: training.load_case(i)[1].shape)
        return ConfidenceDataset(training, store), ConfidenceDataset(validation, store)

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
        target = native_batch["target"]
        self.tally.add(target[0] if isinstance(target, list) else target, confidence)
        with self.loss.weighted_by(confidence):
            return super().train_step(native_batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's log, and the confidence's mean and shares."""
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
        """nnU-Net's step under the batch's confidence."""
        native_batch, confidence = self._split_batch(batch)
        with self.loss.weighted_by(confidence):
            return super().validation_step(native_batch)

    def _split_batch(self, batch: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
        """nnU-Net's own batch, and the confidence [B, 1, ...] on the device."""
        targets, confidence = unpack_confidence(batch["target"], self.device)
        native_target = targets if self.enable_deep_supervision else targets[0]
        if self.confidence_floor:
            confidence = self.confidence_floor + (1 - self.confidence_floor) * confidence
        return batch | {"target": native_target}, confidence


class nnUNetTrainerCALFinetune(GuardedTrainer):
    """Fine-tuning on real scans what `nnUNetTrainerCAL` pretrained; start it with `-pretrained_weights`, or with
    `pretrained_weights` of nnU-Net's `run_training`.

    Real labels are fully trusted: nnU-Net's own loss and batches. Own name, so that a run never overwrites one from
    scratch. SGD at 1e-3, a tenth of nnU-Net's, with a warm-up over the first twentieth of the epochs. Weights that were
    pretrained for another patch size, spacing, normalisation or label set are refused, and so is a start from random
    ones; the segmentation layers, which nnU-Net leaves at random, are taken over, too, since the labels are the same.

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
        refuse_other_nnunet()
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.EPOCHS
        self.initial_lr = self.INITIAL_LR
        self.pretrained: dict[str, Any] | None = None
        self.has_weights = False

    def initialize(self) -> None:
        """nnU-Net's network, unless the weights it shall start from do not fit."""
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
        """The network is about to take weights; from a file that was not looked at when the trainer was initialised."""
        if self.pretrained is None:
            self._look_at_weights()
        self.has_weights = True

    def on_train_start(self) -> None:
        """nnU-Net's preparations, and the pretrained segmentation layers, which nnU-Net does not load.

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


class _DemoSize(GuardedTrainer):
    """What the demo changes: few iterations, a checkpoint after every epoch, no prediction of the training cases.

    AdamW takes the place of nnU-Net's SGD, with which a network has hardly begun to learn in so few iterations.
    OMP_NUM_THREADS holds, where nnU-Net on a CPU takes a thread for every core, so that several trainings can share
    them; the environment's FCAS_DEMO_SEED makes a training repeatable, also one that was killed between two epochs.
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
        self.num_iterations_per_epoch = DEMO_ITERATIONS_PER_EPOCH
        self.num_val_iterations_per_epoch = 2
        self.save_every = 1
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if device.type == "cpu" and threads.isdecimal() and int(threads) > 0:
            torch.set_num_threads(int(threads))
        self._seed("weights")

    def on_epoch_start(self) -> None:
        """nnU-Net's, with the epoch's own seed."""
        self._seed(f"epoch {self.current_epoch}")
        super().on_epoch_start()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, WarmupPolyLR]:
        """AdamW under nnU-Net's polynomial decay, after one epoch of warm-up."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, min(1, self.num_epochs - 1))

    def _seed(self, what: str) -> None:
        value = os.environ.get(DEMO_SEED_VARIABLE)
        if value is not None:
            seed = derive_seed(value, what) % 2**32
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)

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
