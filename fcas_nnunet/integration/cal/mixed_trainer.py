"""nnU-Net's trainer on real and synthetic scans together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.integration.cal.guarded_trainer import DEFAULT_DEVICE
from fcas_nnunet.integration.cal.mixing import MixedCases, Mixing, SamplingProbabilities
from fcas_nnunet.integration.cal.pretrained import Pretraining, unlike
from fcas_nnunet.integration.cal.weighted_trainer import WeightedTrainer
from fcas_nnunet.integration.cal.weighting import SHARE_VARIABLE, SYNTHETIC_VARIABLE
from fcas_nnunet.integration.dataset.folders import Root, parse_name, resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore, maps_are_prepared
from fcas_nnunet.integration.preprocessing.plans import moved_plans_name
from fcas_nnunet.json_files import read_json


class nnUNetTrainerCALMixed(WeightedTrainer):
    """Trains on real and synthetic scans together, instead of pretraining on the one and fine-tuning on the other.

    Start it on the real data set, with the plans that `fcas_prepare` has moved to the synthetic one, which the variable
    FCAS_CAL_SYNTHETIC names. Folds, validation and results are those of the real data set; the training cases of the
    fold and all synthetic cases are drawn from, every patch from a synthetic one with a probability that goes linearly
    from 1 to 0, or as FCAS_CAL_SHARE says. Real scans are fully trusted unless they have confidence maps of your own.

    Not for the second stage of a cascade, whose first stage predicts no synthetic case.
    """

    EPOCHS = 1000  # of both steps that it replaces
    synthetic: Path
    cases: MixedCases
    probabilities: SamplingProbabilities

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = DEFAULT_DEVICE,
    ) -> None:
        if PlansManager(plans).get_configuration(configuration).previous_stage_name is not None:
            raise NotImplementedError(
                f"{configuration}: nnUNetTrainerCALMixed must not train a cascade's second stage, for which the first "
                "predicts no synthetic case. Train it with nnUNetTrainerCAL and nnUNetTrainerCALFinetune."
            )
        self.mixing = Mixing.from_environment()
        super().__init__(plans, configuration, fold, dataset_json, device)

    def _weights_the_loss(self) -> bool:
        return True

    def _has_maps(self) -> bool:
        return maps_are_prepared(Path(self.preprocessed_dataset_folder))

    def on_train_start(self) -> None:
        """Check the synthetic set, record what it was made from, and prepare the training as nnU-Net does.

        Raises:
            InputError: when none is named, it was not prepared for this data set, or it was made from validation cases.
            MissingFileError: when it does not exist or is not prepared.
        """
        self.synthetic = self._open_synthetic()
        super().on_train_start()

    def _open_synthetic(self) -> Path:
        """Return the folder of the synthetic set's preprocessed cases, and record the real cases behind them."""
        name, plans_name = self.configuration_name, self.plans_manager.plans_name
        dataset_id = parse_name(self.plans_manager.dataset_name)[0]
        if self.mixing.synthetic is None:
            raise InputError(
                f"{SYNTHETIC_VARIABLE}: synthetic data set must be named, got nothing. Set it to the id or full name "
                f"of a set that was prepared with fcas_prepare --for {dataset_id}."
            )
        remedy = f"Run fcas_prepare -d {self.mixing.synthetic} --for {dataset_id} -c {name} -p {plans_name}."
        folder = resolve_dataset(self.mixing.synthetic, by=SYNTHETIC_VARIABLE, root=Root.PREPROCESSED)
        path = folder / f"{moved_plans_name(dataset_id, plans_name)}.json"
        if not path.is_file():
            raise MissingFileError(f"{path}: plans moved from this data set must exist, got none. {remedy}")
        plans, described = read_json(path, remedy), read_json(folder / DATASET_JSON, remedy)
        if name not in plans["configurations"]:
            raise InputError(f"{path}: configurations must include {name}, got none of that name. {remedy}")
        began = {"plans": plans, "configuration": name, "dataset_json": described, "fold": "all"}
        faults = unlike(began, self.plans_manager.plans, name, self.dataset_json, folder.name)
        if faults:
            raise InputError("\n".join(f"{SYNTHETIC_VARIABLE}: {fault} {remedy}" for fault in faults))
        before = Pretraining.kept_in(self.dataset_json) or Pretraining()
        before.joined(Pretraining.of({"init_args": began})).keep_in(self.dataset_json)
        return folder / str(PlansManager(plans).get_configuration(name).data_identifier)

    def _settings(self) -> dict[str, str]:
        return super()._settings() | {
            SYNTHETIC_VARIABLE: str(self.mixing.synthetic),
            SHARE_VARIABLE: f"{self.mixing.first} {self.mixing.last}",
        }

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Open the fold's cases, and add the synthetic ones to those for training."""
        training, validation = super().get_tr_and_val_datasets()
        store = ConfidenceStore.read(self.synthetic)
        native = infer_dataset_class(str(self.synthetic))(str(self.synthetic))
        (synthetic,) = self._weighted(store, native)
        self.cases = MixedCases(training, synthetic, self.synthetic.parent.name)
        self.print_to_log_file(
            f"{self.cases.num_real} real and {self.cases.num_synthetic} synthetic cases are mixed; the share of "
            f"synthetic patches goes from {self.mixing.first:g} to {self.mixing.last:g}"
        )
        return self.cases, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Make nnU-Net's loaders, whose patches are drawn with the share of this epoch."""
        training, validation = super().get_dataloaders()
        has_processes = isinstance(training, NonDetMultiThreadedAugmenter)
        loader = training.generator if has_processes else training.data_loader
        self.probabilities = SamplingProbabilities(self.cases, self._share())
        loader.sampling_probabilities = self.probabilities
        if has_processes:
            training.restart()  # they have begun to draw from all cases alike
        return training, validation

    def _share(self) -> float:
        return self.mixing.share(self.current_epoch, self.num_epochs)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch as nnU-Net does, with its share of synthetic patches.

        Patches that the loader's processes have drawn ahead are of the share before.
        """
        super().on_train_epoch_start()
        self.probabilities.share = self._share()
        self.print_to_log_file(f"share of synthetic patches: {self.probabilities.share:.3f}")
