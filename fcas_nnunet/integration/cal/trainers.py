"""nnU-Net trainers: confidence-aware pretraining on synthetic scans, and fine-tuning on real ones; or both at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.cal.guarded_trainer import GuardedTrainer
from fcas_nnunet.integration.cal.mixed_trainer import nnUNetTrainerCALMixed
from fcas_nnunet.integration.cal.pretrained import (
    Pretraining,
    bare_network,
    copy_segmentation_layers,
    pretraining_faults,
)
from fcas_nnunet.integration.cal.schedules import WarmupPolyLR
from fcas_nnunet.integration.cal.weighted_trainer import WeightedTrainer
from fcas_nnunet.integration.preprocessing.confidence_store import maps_are_prepared
from fcas_nnunet.integration.provenance.parents import (
    UNKNOWN_KEY,
    from_json,
    refuse_leaks,
    unknown_fault,
    validation_faults,
)

_MAX_VALIDATION_CASES = 20
_WARMUP_FRACTION = 0.05


class nnUNetTrainerCAL(WeightedTrainer):
    """Confidence-aware learning on synthetic scans: nnU-Net's trainer that weights every voxel by its confidence.

    Also for real scans with confidence maps of your own, which `fcas_prepare -d ID` prepares. Fold `all` validates on
    an even sample of at most 20 cases instead of every training case, unless a cascade's next stage needs them all.

    Source: FCaS, Eq. 9 and §4.1.2 (800 epochs).
    """

    EPOCHS = 800

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's split; for fold `all`, validate on a sample of the cases.

        Raises:
            InputError: when real cases among the validation ones are parents of the synthetic ones, or may be.
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


class nnUNetTrainerCALFinetune(WeightedTrainer):
    """Fine-tunes on real scans the weights of `nnUNetTrainerCAL`; start it with `-pretrained_weights`, or with
    `pretrained_weights` of nnU-Net's `run_training`.

    Real labels are fully trusted, so loss and batches are nnU-Net's; confidence maps of your own weight the loss as in
    `nnUNetTrainerCAL`, if `fcas_prepare` has prepared them. The trainer has a name of its own, so that a run
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

    def _has_maps(self) -> bool:
        return maps_are_prepared(Path(self.preprocessed_dataset_folder))

    def initialize(self) -> None:
        """Build nnU-Net's network, after checking that the weights that it will start from fit."""
        super().initialize()
        bare_network(self.network).register_load_state_dict_pre_hook(self._on_weights)

    def _look_at(self, checkpoint: dict[str, Any], *, resumed: bool) -> None:
        if not resumed:
            plans = self.plans_manager.plans
            faults = pretraining_faults(checkpoint, plans, self.configuration_name, self.dataset_json)
            if faults:
                raise InputError("\n".join(faults))
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
            InputError: when the network has random weights.
        """
        if not self.has_weights:
            raise InputError(
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


_BASES: tuple[type[GuardedTrainer], ...] = (nnUNetTrainerCAL, nnUNetTrainerCALFinetune, nnUNetTrainerCALMixed)
_VARIANTS = [_with_epochs(trainer, epochs) for trainer in _BASES for epochs in (1, 5, 50, 250, 1000)]
globals().update({trainer.__name__: trainer for trainer in _VARIANTS})  # nnU-Net and pickle find them by name
__all__ = [trainer.__name__ for trainer in (*_BASES, *_VARIANTS)]
