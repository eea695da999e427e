"""nnU-Net's trainers with confidence on a device, as `device_checks` lists them."""

from __future__ import annotations

import os
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from fcas_nnunet.integration.cal.pretrained import copy_segmentation_layers
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL, nnUNetTrainerCALFinetune
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint


def trainers(device: torch.device) -> dict[str, Any]:
    """A step and a validation of confidence-aware pretraining, then one of fine-tuning from its weights."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {f"nnUNet_{kind}": f"{folder}/{kind}" for kind in ("raw", "preprocessed", "results")}
        (Path(folder) / "preprocessed" / _PLANS["dataset_name"] / _CONFIGURATION["data_identifier"]).mkdir(parents=True)
        with mock.patch.dict(os.environ, environment | {"nnUNet_compile": "f"}):
            pretraining = _trainer(nnUNetTrainerCAL, device)
            doubt = random_volume(2, 1, 16)
            pretrained = pretraining.train_step(_batch(doubt))
            with torch.no_grad():
                validated = pretraining.validation_step(_batch(doubt))
            mean, shares = pretraining.tally.close(False)
            weights = Path(folder) / "results" / "checkpoint.pth"
            pretraining.save_checkpoint(str(weights))
            tuning = _trainer(nnUNetTrainerCALFinetune, device)
            copied = copy_segmentation_layers(tuning.network, read_checkpoint(weights))
            tuned = tuning.train_step(_batch())
    assert copied == 4, "weight and bias of both heads"
    return {"pretraining": pretrained["loss"], "validation": validated["loss"], "mean confidence": mean,
            "shares": shares, "fine-tuning": tuned["loss"]}  # fmt: skip


_CONFIGURATION: dict[str, Any] = {
    "data_identifier": "3d", "batch_size": 2, "patch_size": [16] * 3, "spacing": [1.0] * 3, "batch_dice": True,
    "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3] * 3] * 3, "strides": [[1] * 3, [2] * 3, [2] * 3], "n_conv_per_stage": [1] * 3,
            "n_conv_per_stage_decoder": [1] * 2, "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
}  # fmt: skip
_PLANS: dict[str, Any] = {
    "dataset_name": "Dataset901_Heart", "plans_name": "nnUNetPlans", "continue_training": False,
    "foreground_intensity_properties_per_channel": {}, "configurations": {"3d_fullres": _CONFIGURATION},
}  # fmt: skip
_DATASET = {"labels": {"background": 0, "a": 1, "b": 2}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}


def _trainer(kind: type, device: torch.device) -> Any:
    torch.manual_seed(0)
    trainer = kind(deepcopy(_PLANS), "3d_fullres", "all", deepcopy(_DATASET), device)
    (Path(trainer.preprocessed_dataset_folder) / "case.b2nd").touch()  # nnU-Net looks what files there are
    trainer.initialize()
    trainer.network.train()
    return trainer


def _batch(*more: torch.Tensor) -> dict[str, Any]:
    """As nnU-Net's loader gives it, targets of two resolutions; with doubt, the last of them."""
    labels = (3 * random_volume(2, 1, 16)).floor()
    return {"data": random_volume(2, 1, 16), "target": [labels, labels[:, :, ::2, ::2, ::2].contiguous(), *more]}


def random_volume(batch: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """Values in [0, 1), [B, C, D, H, W], on the CPU."""
    return torch.rand((batch, channels, size, size, size), generator=torch.Generator().manual_seed(seed))
