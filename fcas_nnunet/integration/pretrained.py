"""What `-pretrained_weights` brings: whether it fits the fine-tuning, and the segmentation layers nnU-Net omits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

_ARGUMENT = "-pretrained_weights"
_SEGMENTATION_LAYERS = ".seg_layers."
#: Of a configuration: what a network was trained to see, and its shape.
_CONFIGURATION_KEYS = ("patch_size", "spacing", "normalization_schemes", "architecture")


def pretrained_weights_argument(arguments: Sequence[str]) -> Path | None:
    """The file given to nnUNetv2_train's `-pretrained_weights`: nnU-Net does not tell its trainers.

    Args:
        arguments: of the command, or of a process that it has started.
    """
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == _ARGUMENT and equals:
            return Path(value)
        if argument == _ARGUMENT and number + 1 < len(arguments):
            return Path(arguments[number + 1])
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of nnU-Net on the CPU.

    Raises:
        FileNotFoundError: when there is none.
        ValueError: when it holds no network of nnU-Net.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: checkpoint must exist, got none. Finish the pretraining, or fix the path.")
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    if "network_weights" not in checkpoint:
        raise ValueError(f"{path}: checkpoint must hold network_weights, got {', '.join(checkpoint)}. Fix the path.")
    return checkpoint


def pretraining_faults(
    checkpoint: dict[str, Any], plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]
) -> list[str]:
    """Why weights pretrained under other plans, or for other labels, do not fit; one sentence each.

    nnU-Net compares names and shapes of weights alone: another patch size, spacing, normalisation or label set loads in
    silence. A checkpoint without `init_args`, which nnU-Net always writes, was made elsewhere and is left to nnU-Net.

    Args:
        checkpoint: what `read_checkpoint` gave.
        plans: of the fine-tuning.
        configuration: of the fine-tuning.
        dataset_json: of the data set to fine-tune on.
    """
    arguments = checkpoint.get("init_args")
    if arguments is None:
        return []
    remedy = "Prepare the synthetic set again with fcas_prepare --for this data set, and pretrain on it."
    before = PlansManager(arguments["plans"])
    now = PlansManager(plans)
    faults = []
    if arguments["configuration"] != configuration:
        faults.append(f"configuration must be that of the pretraining, {arguments['configuration']}, "
                      f"got {configuration}.")  # fmt: skip
    pretrained = before.get_configuration(arguments["configuration"]).configuration
    wanted = now.get_configuration(configuration).configuration
    faults += [
        f"{key} must be that of the pretraining, {pretrained.get(key)}, got {wanted.get(key)}."
        for key in _CONFIGURATION_KEYS
        if _plain(pretrained.get(key)) != _plain(wanted.get(key))
    ]
    faults += [
        f"{key} must be those of the pretraining, {arguments['dataset_json'].get(key)}, got {dataset_json.get(key)}."
        for key in ("labels", "regions_class_order", "channel_names")
        if arguments["dataset_json"].get(key) != dataset_json.get(key)
    ]
    if before.foreground_intensity_properties_per_channel != now.foreground_intensity_properties_per_channel:
        faults.append("intensity statistics must be those of the pretraining, got others.")
    return [f"{_ARGUMENT}: {fault} {remedy}" for fault in faults]


def copy_segmentation_layers(network: nn.Module, checkpoint: dict[str, Any]) -> int:
    """Take over the layers that nnU-Net leaves at random; for networks of one label set.

    Args:
        network: of the fine-tuning, its other weights loaded, perhaps compiled or distributed.
        checkpoint: that `pretraining_faults` found no fault with.

    Returns:
        How many tensors were copied.
    """
    if isinstance(network, DistributedDataParallel):
        network = network.module
    if isinstance(network, OptimizedModule):
        network = network._orig_mod
    own, pretrained = network.state_dict(), checkpoint["network_weights"]
    copied = {
        key: pretrained[key]
        for key, tensor in own.items()
        if _SEGMENTATION_LAYERS in key and key in pretrained and pretrained[key].shape == tensor.shape
    }
    network.load_state_dict(own | copied)
    return len(copied)


def _plain(value: Any) -> Any:
    """Tuples as lists, so that plans from a file and from a checkpoint compare."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
