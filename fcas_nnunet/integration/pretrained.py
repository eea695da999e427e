"""What `-pretrained_weights` brings: whether it fits the fine-tuning, and the segmentation layers nnU-Net omits."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from fcas_nnunet.integration.raw_description import same_description

_ARGUMENT = "-pretrained_weights"
#: nnU-Net's functions that load pretrained weights, and the variable of each that holds the file.
_LOADERS = {"maybe_load_checkpoint": "pretrained_weights_file", "load_pretrained_weights": "fname"}
_LOADERS_PACKAGE = "nnunetv2.run"
_SEGMENTATION_LAYERS = ".seg_layers."
#: Of a configuration: what a network was trained to see, and its shape.
_CONFIGURATION_KEYS = ("patch_size", "spacing", "normalization_schemes", "architecture")


def weights_to_load() -> Path | None:
    """The pretrained weights that nnU-Net is about to load, or is loading, into the trainer whose method asks.

    nnU-Net does not tell its trainers, neither from the command line nor from Python; its own functions know.
    """
    frame = inspect.currentframe()
    while frame is not None:
        variable = _LOADERS.get(frame.f_code.co_name)
        if variable is not None and frame.f_globals.get("__package__") == _LOADERS_PACKAGE:
            path = frame.f_locals.get(variable)
            return None if path is None else Path(path)
        frame = frame.f_back
    return None


def bare_network(network: nn.Module) -> nn.Module:
    """The network without what compiling and distributing put around it."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network


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
    described = arguments["dataset_json"]
    faults += [
        f"{key} must be those of the pretraining, {described.get(key)}, got {dataset_json.get(key)}."
        for key in ("labels", "regions_class_order", "channel_names")
        if not same_description(key, described.get(key), dataset_json.get(key))
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
    network = bare_network(network)
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
