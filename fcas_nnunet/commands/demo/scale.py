"""How large a demo is, and where it keeps its things."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from fcas_nnunet.integration.dataset.folders import Root, resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.environment.checks import cpu_settings
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, all_shim_folders, ext_trainer_value

#: How many epochs the demo's trainers take; here, so that whoever sets them need not import the trainers.
PRETRAIN_EPOCHS_VARIABLE, REAL_EPOCHS_VARIABLE = "FCAS_DEMO_PRETRAIN_EPOCHS", "FCAS_DEMO_REAL_EPOCHS"
#: Seed of their weights and batches; unset, they are as random as nnU-Net's.
SEED_VARIABLE = "FCAS_DEMO_SEED"
ITERATIONS_PER_EPOCH = 25


class DemoSize(StrEnum):
    """How much the demo does."""

    FULL = "full"
    QUICK = "quick"


@dataclass(frozen=True)
class Scale:
    """What a demo size means for the phantoms, the generator, and an nnU-Net that a CPU trains in minutes."""

    shape: tuple[int, int, int]  # voxels of a phantom along (D, H, W)
    preset: str
    num_real: int  # labelled scans: the generator's only ones, and those that every network is trained on
    num_test: int  # held-out scans
    num_synthetic: int  # drawn scans, warped ones and painted ones, each
    features_per_stage: tuple[int, ...]
    patch_size: tuple[int, int, int]
    batch_size: int
    pretrain_epochs: int  # on synthetic scans, in the arms that have some
    real_epochs: int  # on real scans after them; real-only training takes the sum of both

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
        """What the size means."""
        return SCALES[self.size]

    def dataset(self, dataset_id: int) -> RawDataset:
        """One of the demo's data sets."""
        return RawDataset.open(resolve_dataset(str(dataset_id)))

    def environment(self) -> dict[str, str]:
        """nnU-Net's folders, its trainers' folder, and settings that suit a CPU."""
        return {
            **{root.value: str(self.folder / root.value) for root in Root},
            EXT_TRAINER_VARIABLE: ext_trainer_value(folders=all_shim_folders()),
            **cpu_settings(),
        }
