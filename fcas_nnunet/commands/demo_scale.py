"""How large a demo is, and where it keeps its things."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fcas_nnunet.integration.folders import resolve_dataset
from fcas_nnunet.integration.raw_dataset import RawDataset
from fcas_nnunet.integration.trainer_lookup import (
    DEMO_PRETRAIN_EPOCHS_VARIABLE,
    DEMO_REAL_EPOCHS_VARIABLE,
    ext_trainer_value,
)


class DemoSize(StrEnum):
    """How much the demo does."""

    FULL = "full"
    QUICK = "quick"


@dataclass(frozen=True)
class Scale:
    """What a demo size means.

    Attributes:
        shape: voxels of a phantom along (D, H, W).
        preset: of the generator.
        num_real: labelled real scans.
        num_source: labelled scans the generator is trained on.
        num_test: held-out scans.
        num_synthetic: synthetic scans, and painted ones.
        features_per_stage: width of the nnU-Net that a CPU trains in minutes.
        patch_size: of the nnU-Net.
        batch_size: of the nnU-Net.
        pretrain_epochs: epochs of 25 iterations on synthetic scans.
        real_epochs: epochs of 25 iterations on real scans, the same for all three results.
    """

    shape: tuple[int, int, int]
    preset: str
    num_real: int
    num_source: int
    num_test: int
    num_synthetic: int
    features_per_stage: tuple[int, ...]
    patch_size: tuple[int, int, int]
    batch_size: int
    pretrain_epochs: int
    real_epochs: int


SCALES = {
    DemoSize.FULL: Scale((64, 64, 64), "cpu", 6, 16, 6, 12, (8, 16, 32, 64), (40, 40, 40), 2, 6, 7),
    DemoSize.QUICK: Scale((32, 32, 32), "tiny", 4, 4, 2, 4, (4, 8, 16), (32, 32, 32), 2, 1, 1),
}


@dataclass(frozen=True)
class Names:
    """Folders and data sets of a demo.

    Attributes:
        folder: everything is below it.
        size: how much is done.
    """

    folder: Path
    size: DemoSize
    real: int = 900
    source: int = 901
    synthetic: int = 902
    painted: int = 903

    @property
    def scale(self) -> Scale:
        """What the size means."""
        return SCALES[self.size]

    def dataset(self, dataset_id: int) -> RawDataset:
        """One of the demo's data sets."""
        return RawDataset.open(resolve_dataset(str(dataset_id)))

    def environment(self) -> dict[str, str]:
        """nnU-Net's folders, its trainers' folder, and settings that suit a CPU."""
        cores = str(os.cpu_count() or 1)
        return {
            "nnUNet_raw": str(self.folder / "nnUNet_raw"),
            "nnUNet_preprocessed": str(self.folder / "nnUNet_preprocessed"),
            "nnUNet_results": str(self.folder / "nnUNet_results"),
            "nnUNet_extTrainer": ext_trainer_value(),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": cores,
            "OMP_NUM_THREADS": cores,
            DEMO_PRETRAIN_EPOCHS_VARIABLE: str(self.scale.pretrain_epochs),
            DEMO_REAL_EPOCHS_VARIABLE: str(self.scale.real_epochs),
        }
