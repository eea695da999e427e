"""Sizes of the demo, and names of its folder and data sets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fcas_nnunet.integration.dataset.folders import Root, resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.environment.checks import cpu_settings
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, all_shim_folders, ext_trainer_value

#: Variables for the number of epochs; defined here, so that they can be set without importing the trainers.
PRETRAIN_EPOCHS_VARIABLE, REAL_EPOCHS_VARIABLE = "FCAS_DEMO_PRETRAIN_EPOCHS", "FCAS_DEMO_REAL_EPOCHS"
#: Variable for the seed of weights and batches; if unset, they are random, as in nnU-Net.
SEED_VARIABLE = "FCAS_DEMO_SEED"
#: Variable for the number of iterations in an epoch.
ITERATIONS_VARIABLE = "FCAS_DEMO_ITERATIONS"
ITERATIONS_PER_EPOCH = 25
#: Variable that lets a CPU compute in bf16.
BF16_VARIABLE = "FCAS_DEMO_BF16"


class DemoSize(StrEnum):
    """Size of the demo."""

    FULL = "full"
    QUICK = "quick"


@dataclass(frozen=True)
class Scale:
    """Settings of a demo size: the phantoms, the generator, and an nnU-Net that a CPU trains in minutes."""

    shape: tuple[int, int, int]  # voxels of a phantom along (D, H, W)
    preset: str
    num_real: int  # number of labelled scans, on which the generator and every network are trained
    num_test: int  # number of held-out scans
    num_synthetic: int  # number of generated scans, of warped ones and of painted ones
    features_per_stage: tuple[int, ...]
    patch_size: tuple[int, int, int]
    batch_size: int
    pretrain_epochs: int  # epochs on synthetic scans, in the arms with pretraining
    real_epochs: int  # epochs on real scans after them; real-only training takes the sum of both

    @property
    def total_epochs(self) -> int:
        """Epochs of every network."""
        return self.pretrain_epochs + self.real_epochs


SCALES = {
    DemoSize.FULL: Scale((64, 64, 64), "cpu", 8, 12, 16, (8, 16, 32, 64), (40, 40, 40), 2, 12, 14),
    DemoSize.QUICK: Scale((32, 32, 32), "tiny", 4, 2, 4, (4, 8, 16), (32, 32, 32), 2, 1, 1),
}


@dataclass(frozen=True)
class Names:
    """Folder and data sets of a demo."""

    folder: Path
    size: DemoSize
    real: int = 901
    synthetic: int = 902
    warped: int = 903
    painted: int = 904

    @property
    def scale(self) -> Scale:
        """Settings of the size."""
        return SCALES[self.size]

    def dataset(self, dataset_id: int) -> RawDataset:
        """Open one of the demo's data sets."""
        return RawDataset.open(resolve_dataset(str(dataset_id)))

    def environment(self) -> dict[str, str]:
        """Return environment variables: nnU-Net's folders, the trainers' folder, and settings for a CPU."""
        return {
            **{root.value: str(self.folder / root.value) for root in Root},
            EXT_TRAINER_VARIABLE: ext_trainer_value(folders=all_shim_folders()),
            **cpu_settings(),
        }
