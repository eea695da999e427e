"""Trainers of the bench besides those of fcas_demo: nnU-Net's DA5, in both phases."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

from fcas_nnunet.commands.demo.trainers import nnUNetTrainer_fcasDemo, nnUNetTrainerCALFinetune_demo


class nnUNetTrainerDA5_bench(nnUNetTrainer_fcasDemo, nnUNetTrainerDA5):
    """nnU-Net's strongest augmentation, at the bench's size."""


class nnUNetTrainerDA5Finetune_bench(nnUNetTrainerCALFinetune_demo, nnUNetTrainerDA5):
    """The second phase of the same."""


__all__ = ["nnUNetTrainerDA5Finetune_bench", "nnUNetTrainerDA5_bench"]
