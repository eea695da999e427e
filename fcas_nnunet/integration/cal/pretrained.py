"""Check weights given by `-pretrained_weights` (origin, fit), and copy the layers that nnU-Net does not load."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from fcas_nnunet.integration.dataset.description import same_description
from fcas_nnunet.integration.dataset.folders import Root, root_folder
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON
from fcas_nnunet.integration.provenance.parents import (
    ALLOW_VARIABLE,
    PARENTS_KEY,
    PRETRAINING_KEY,
    UNKNOWN_KEY,
    Parent,
    from_json,
    merged,
    refuse_leaks,
    to_json,
    unknown_fault,
    validation_faults,
)
from fcas_nnunet.json_files import read_json

_ARGUMENT = "-pretrained_weights"
#: nnU-Net's functions that load pretrained weights, and the variable of each that holds the file.
_LOADERS = {"maybe_load_checkpoint": "pretrained_weights_file", "load_pretrained_weights": "fname"}
_LOADERS_PACKAGE = "nnunetv2.run"
_SEGMENTATION_LAYERS = ".seg_layers."
#: Keys of a configuration that describe a network's input and its shape.
_CONFIGURATION_KEYS = ("patch_size", "spacing", "normalization_schemes", "architecture")


def weights_to_load() -> Path | None:
    """Return the file of pretrained weights that nnU-Net will load, or is loading, into the calling trainer.

    nnU-Net does not pass the file to its trainers, neither from the command line nor from Python, so it is read from
    the local variables of nnU-Net's functions on the call stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        variable = _LOADERS.get(frame.f_code.co_name)
        if variable is not None and frame.f_globals.get("__package__") == _LOADERS_PACKAGE:
            path = frame.f_locals.get(variable)
            return None if path is None else Path(path)
        frame = frame.f_back
    return None


@dataclass(frozen=True)
class Pretraining:
    """The data that weights had learnt from when a training started with them."""

    trained_on: Sequence[tuple[str, str]] = ()  # full name and fold of every data set, in order; empty if not recorded
    parents: Sequence[Parent] = ()  # real cases that these data sets were made from
    unknown: Sequence[str] = ()  # ids of their cases whose origin is not recorded

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> Pretraining:
        """Return what the weights of an nnU-Net checkpoint, and the weights that it started from, have learnt from.

        If an earlier version of fcas_prepare wrote no parents into it, those that a later version found are used.
        """
        arguments = checkpoint.get("init_args")
        if arguments is None:
            return cls()
        description, name = arguments["dataset_json"], str(arguments["plans"]["dataset_name"])
        before = cls.kept_in(description) or cls()
        path = root_folder(Root.PREPROCESSED) / name / DATASET_JSON
        if PARENTS_KEY not in description and path.is_file():
            description = read_json(path)
        return cls(
            trained_on=[*before.trained_on, (name, str(arguments.get("fold")))],
            parents=merged([*before.parents, *(from_json(description) or [])]),
            unknown=[*before.unknown, *description.get(UNKNOWN_KEY, [])],
        )

    @classmethod
    def kept_in(cls, dataset_json: Mapping[str, Any]) -> Pretraining | None:
        """Load the record of `keep_in`; None if a training did not start from weights, or ran in an earlier version."""
        saved = dataset_json.get(PRETRAINING_KEY)
        if saved is None:
            return None
        return cls([(name, fold) for name, fold in saved["trained_on"]], from_json(saved) or [], saved[UNKNOWN_KEY])

    def joined(self, other: Pretraining) -> Pretraining:
        """Return the data that weights have learnt from which have learnt from both, the other's last."""
        return Pretraining(
            trained_on=[*(entry for entry in self.trained_on if entry not in other.trained_on), *other.trained_on],
            parents=merged([*self.parents, *other.parents]),
            unknown=list(dict.fromkeys([*self.unknown, *other.unknown])),
        )

    def keep_in(self, dataset_json: dict[str, Any]) -> None:
        """Save the record in a trainer's dataset.json, and so in all its checkpoints."""
        dataset_json[PRETRAINING_KEY] = {
            "trained_on": [list(entry) for entry in self.trained_on],
            PARENTS_KEY: to_json(self.parents),
            UNKNOWN_KEY: list(self.unknown),
        }

    def refuse_leaks(
        self, preprocessed: Path, fold: int | str, validation: Sequence[str], warn: Callable[[str], Any]
    ) -> None:
        """Refuse a fold whose validation cases the weights may have seen; arguments as for `validation_faults`.

        Raises:
            InputError: listing all faults, unless the environment allows leaks.
        """
        if fold == "all":
            return
        dataset = preprocessed.name
        name = self.trained_on[-1][0] if self.trained_on else "the pretraining"
        faults = [
            f"{dataset}, fold {fold}: its weights must not have seen the validation cases, got weights that were "
            f"trained on fold {trained} of the same data set. Take those of fold {fold}; {ALLOW_VARIABLE}=1 "
            "allows it, but the validation then proves nothing."
            for before, trained in dict.fromkeys(self.trained_on)
            if before == dataset and trained != str(fold)
        ]
        if self.unknown:
            faults.append(unknown_fault(name, dataset, fold, self.unknown))
        if name != dataset and all(parent.dataset == name for parent in self.parents):
            warn(
                f"WARNING: it is not recorded which real cases {name} was made from, so it may have seen the "
                "validation cases. Run fcas_prepare again on it."
            )
        refuse_leaks([*faults, *validation_faults(self.parents, name, preprocessed, fold, validation, warn)], warn)


def bare_network(network: nn.Module) -> nn.Module:
    """Return the network without the wrappers of compilation and distributed training."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network


def pretraining_faults(
    checkpoint: dict[str, Any], plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]
) -> list[str]:
    """List the reasons why weights pretrained under other plans, or for other labels, do not fit; a sentence each.

    nnU-Net compares only names and shapes of weights: it loads another patch size, spacing, normalisation or label set
    without a message. A checkpoint without `init_args`, which nnU-Net always writes, was made elsewhere and is not
    checked here.
    Plans, configuration and `dataset.json` are those of the fine-tuning.
    """
    arguments = checkpoint.get("init_args")
    if arguments is None:
        return []
    remedy = "Prepare the synthetic set again with fcas_prepare --for this data set, and pretrain on it."
    faults = unlike(arguments, plans, configuration, dataset_json, "the pretraining")
    return [f"{_ARGUMENT}: {fault} {remedy}" for fault in faults]


def unlike(
    arguments: Mapping[str, Any],
    plans: dict[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    other: str,
) -> list[str]:
    """List what a training must have in common with another one and has not, a sentence each.

    Args:
        arguments: `init_args` of the other one.
        plans: of this one.
        configuration: of this one.
        dataset_json: of this one.
        other: what messages call the other one.
    """
    before, now = PlansManager(arguments["plans"]), PlansManager(plans)
    name, faults = arguments["configuration"], []
    if name != configuration:
        faults.append(f"configuration must be that of {other}, {name}, got {configuration}.")
    pretrained = before.get_configuration(name).configuration
    wanted = now.get_configuration(configuration).configuration
    faults += [
        f"{key} must be that of {other}, {pretrained.get(key)}, got {wanted.get(key)}."
        for key in _CONFIGURATION_KEYS
        if _plain(pretrained.get(key)) != _plain(wanted.get(key))
    ]
    described = arguments["dataset_json"]
    faults += [
        f"{key} must be those of {other}, {described.get(key)}, got {dataset_json.get(key)}."
        for key in ("labels", "regions_class_order", "channel_names")
        if not same_description(key, described.get(key), dataset_json.get(key))
    ]
    if before.foreground_intensity_properties_per_channel != now.foreground_intensity_properties_per_channel:
        faults.append(f"intensity statistics must be those of {other}, got others.")
    return faults


def copy_segmentation_layers(network: nn.Module, checkpoint: dict[str, Any]) -> int:
    """Copy the segmentation layers, which nnU-Net does not load; return the number of tensors that were copied.

    `pretraining_faults` has found no fault with the checkpoint. The network may be compiled or distributed.
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
    """Convert tuples to lists, so that plans from a file and from a checkpoint can be compared."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
