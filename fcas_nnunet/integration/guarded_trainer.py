"""nnU-Net's trainer behind a guard: no checkpoint that it loads runs code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.integration.plain_files import read_checkpoint
from fcas_nnunet.integration.pretrained import weights_to_load


class GuardedTrainer(nnUNetTrainer):
    """nnU-Net's trainer, which never runs code that a checkpoint holds."""

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
        path = weights_to_load()
        if path is not None:
            self._check_weights(read_checkpoint(path))

    def _check_weights(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that do not fit; here, none."""

    def _check_resumed(self, checkpoint: dict[str, Any]) -> None:
        """What a checkpoint of this training's own tells; here, nothing."""

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """nnU-Net's, once the file is seen to hold weights and plain values alone.

        Raises:
            ValueError: when it holds anything else.
        """
        if not isinstance(filename_or_checkpoint, dict):
            self._check_resumed(read_checkpoint(Path(filename_or_checkpoint)))
        super().load_checkpoint(filename_or_checkpoint)
