"""Folds 0 to 2 of a small network on the real data set of `nnunet_cases`, as judges of what is made from its cases."""

from __future__ import annotations

from pathlib import Path

import torch
from nnunet_cases import save_untrained

from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import make_splits

REAL_CASES = [f"real_{i}" for i in range(5)]
#: Fold → the one case that it was not trained on.
HELD_OUT = {str(fold): split["val"][0] for fold, split in enumerate(make_splits(REAL_CASES, feeds_cascade=False))}


def write_folds(real: RawDataset) -> Path:
    """Write the network into nnU-Net's results folder, each fold with weights of its own; returns its folder."""
    folder = save_untrained(real)
    checkpoint = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")
    for fold in (1, 2):
        (folder / f"fold_{fold}").mkdir()
        changed = {name: tensor * (1 + 0.5 * fold) for name, tensor in checkpoint["network_weights"].items()}
        torch.save(checkpoint | {"network_weights": changed}, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder
