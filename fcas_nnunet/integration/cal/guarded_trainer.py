"""nnU-Net's trainer with two checks: checkpoints must not run code, nor folds validate on scans their weights saw."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from packaging.specifiers import SpecifierSet

from fcas_nnunet.integration.cal.pretrained import Pretraining, weights_to_load
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint

SUPPORTED_NNUNET = ">=2.8,<2.9"
DEFAULT_DEVICE = torch.device("cuda")


class GuardedTrainer(nnUNetTrainer):
    """nnU-Net's trainer that never runs code from a checkpoint, and records the scans its weights have learnt from."""

    EPOCHS = 1000
    INITIAL_LR = 1e-2

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = DEFAULT_DEVICE,
    ) -> None:
        found = metadata.version("nnunetv2")
        if not SpecifierSet(SUPPORTED_NNUNET).contains(found, prereleases=True):  # before anything is written
            raise RuntimeError(
                f"nnunetv2: version must be {SUPPORTED_NNUNET}, got {found}. "
                f"Install a supported one, `pip install 'nnunetv2{SUPPORTED_NNUNET}'`, or update fcas-nnunet."
            )
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.EPOCHS
        self.initial_lr = self.INITIAL_LR

    def initialize(self) -> None:
        """Build nnU-Net's network, after checking the weights that it will start from.

        Raises:
            InputError: when the file contains anything but weights and plain values, or they do not fit.
            MissingFileError: when it is not there.
        """
        self._look_at_weights()
        super().initialize()

    def _look_at_weights(self) -> None:
        """Read and check the pretrained weights before nnU-Net loads them."""
        if (path := weights_to_load()) is not None:
            self._look_at(read_checkpoint(path), resumed=False)

    def _look_at(self, checkpoint: dict[str, Any], *, resumed: bool) -> None:
        """Record what the weights had learnt from when this training began; its checkpoints contain this dataset.json.

        nnU-Net is about to load the checkpoint; a resumed training loads its own.
        """
        described = checkpoint.get("init_args", {}).get("dataset_json", {})
        pretraining = Pretraining.kept_in(described) if resumed else Pretraining.of(checkpoint)
        if pretraining is not None:
            pretraining.keep_in(self.dataset_json)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint as nnU-Net does, after checking that it contains weights and plain values only.

        Raises:
            InputError: when it contains anything else.
        """
        if not isinstance(filename_or_checkpoint, dict):
            self._look_at(read_checkpoint(Path(filename_or_checkpoint)), resumed=True)
        super().load_checkpoint(filename_or_checkpoint)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's split, unless the pretrained weights have learnt from the validation cases.

        Raises:
            InputError: when they have; the message names these cases.
        """
        training, validation = super().do_split()
        pretraining = Pretraining.kept_in(self.dataset_json)
        if pretraining is not None:
            folder = Path(self.preprocessed_dataset_folder_base)
            pretraining.refuse_leaks(folder, self.fold, validation, self.print_to_log_file)
        return training, validation
