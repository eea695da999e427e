"""nnU-Net's trainer behind a guard: no checkpoint runs code, and no fold validates on what its weights have seen."""

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
    """nnU-Net's trainer, which never runs code that a checkpoint holds, and knows what its weights have learnt from."""

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
        """nnU-Net's network, once the weights it shall start from are looked at.

        Raises:
            ValueError: when the file holds anything but weights and plain values, or they do not fit.
            FileNotFoundError: when it is not there.
        """
        self._look_at_weights()
        super().initialize()

    def _look_at_weights(self) -> None:
        """Read the pretrained weights that nnU-Net is about to load, before it does."""
        if (path := weights_to_load()) is not None:
            self._look_at(read_checkpoint(path), resumed=False)

    def _look_at(self, checkpoint: dict[str, Any], *, resumed: bool) -> None:
        """Keep what the weights had learnt from when this training began; its checkpoints hold this dataset.json.

        nnU-Net is about to load the checkpoint, this training's own where it is resumed.
        """
        own = checkpoint.get("init_args", {}).get("dataset_json", {})
        pretraining = Pretraining.kept_in(own) if resumed else Pretraining.of(checkpoint)
        if pretraining is not None:
            pretraining.keep_in(self.dataset_json)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """nnU-Net's, once the file is seen to hold weights and plain values alone.

        Raises:
            ValueError: when it holds anything else.
        """
        if not isinstance(filename_or_checkpoint, dict):
            self._look_at(read_checkpoint(Path(filename_or_checkpoint)), resumed=True)
        super().load_checkpoint(filename_or_checkpoint)

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split, unless what was pretrained has learnt from the validation cases.

        Raises:
            ValueError: naming these cases.
        """
        training, validation = super().do_split()
        pretraining = Pretraining.kept_in(self.dataset_json)
        if pretraining is not None:
            folder = Path(self.preprocessed_dataset_folder_base)
            pretraining.refuse_leaks(folder, self.fold, validation, self.print_to_log_file)
        return training, validation
