"""Choose the configuration of a run: the one that is named, else a preset that suits the device and what is there."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcas_nnunet.config.files import load_config
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import Root, model_name, root_folder
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

logger = logging.getLogger(__name__)

ON_GPU, ON_CPU = "gpu", "cpu"
#: Presets whose trained generator is taken where that of the device's own preset is not trained, in this order.
_TAKEN = (ON_GPU, "maisi", "paper", ON_CPU)


def named_config(args: argparse.Namespace) -> FCaSConfig | None:
    """Return the configuration that --config or --preset names, None without them; only one of them may be given."""
    if args.config is None:
        return preset(args.preset) if args.preset else None
    if args.preset is not None:
        raise InputError("--preset, --config: only one must be given, got both. A configuration names its preset.")
    return load_config(FCaSConfig, args.config)


def generator_config(
    args: argparse.Namespace, dataset: RawDataset | None = None, output: Path | None = None
) -> FCaSConfig:
    """Return the configuration that is named, or that of a preset, and log why it is this one.

    The preset is that of the scans drawn in `output`, so that the same command continues them; else that of the device,
    `gpu` or `cpu`; but one whose generator is trained goes before one whose training has not begun.

    Args:
        args: Arguments `preset`, `config`, `fold` and `device`.
        dataset: Data set whose trained generators may be taken; None = none is.
        output: Folder of the synthetic data set.
    """
    config = named_config(args)
    if config is not None:
        return config
    begun = None if output is None else _begun_with(output)
    if begun is not None and output is not None:
        logger.info(f"preset {begun}: cases of {output.name} were made with it")
        return preset(begun)
    own, why = _of_device(args.device)
    taken = None if dataset is None or _is_begun(dataset, own, args.fold) else _trained(dataset, args.fold)
    if dataset is not None and taken is not None:
        logger.info(
            f"preset {taken}: its generator is trained for {dataset.name}. --preset {own}, {why}, would train another"
        )
        return preset(taken)
    logger.info(f"preset {own}, {why}")
    if dataset is not None:
        name_others(dataset, own, args.fold)
    return preset(own)


def name_others(dataset: RawDataset, chosen: str, fold: int | None) -> None:
    """Log which other presets have a trained generator, that none of them is overlooked."""
    others = [name for name in PRESETS if name != chosen and _is_trained(dataset, name, fold)]
    if others:
        logger.info(f"trained for {dataset.name}, too: {', '.join(others)}; --preset takes another than {chosen}")


def _of_device(device_name: str) -> tuple[str, str]:
    """Return the preset of a device and the reason."""
    import torch

    from fcas_nnunet.commands.runtime.devices import resolve_device

    device = resolve_device(device_name)
    if device.type != "cuda":
        return ON_CPU, "the default on a CPU" if device_name == "cpu" else "the default without a GPU"
    card = torch.cuda.get_device_properties(device)
    return ON_GPU, f"the default on a GPU ({card.name}, {card.total_memory / 1e9:.0f} GB)"


def _trained(dataset: RawDataset, fold: int | None) -> str | None:
    """Return the first of `_TAKEN` whose generator is trained."""
    return next((name for name in _TAKEN if _is_trained(dataset, name, fold)), None)


def _is_trained(dataset: RawDataset, name: str, fold: int | None) -> bool:
    from fcas_nnunet.generator.checkpoint import generator_exists

    return generator_exists(root_folder(Root.RESULTS) / dataset.name / model_name(name, fold))


def _is_begun(dataset: RawDataset, name: str, fold: int | None) -> bool:
    """Return whether a preset's training has been started, finished or not."""
    from fcas_nnunet.generator.run_file import RUN_FILE

    return (root_folder(Root.RESULTS) / dataset.name / model_name(name, fold) / RUN_FILE).is_file()


def _begun_with(output: Path) -> str | None:
    """Return the preset that a folder's scans are drawn with; None where none is drawn, or if it is no preset's."""
    records: Mapping[str, Mapping[str, Any]] = Manifest(output).read()
    presets = (record["preset"] for record in records.values() if record.get("preset") in PRESETS and _draws(record))
    return next(presets, None)


def _draws(record: Mapping[str, Any]) -> bool:
    """Return whether the scan of a manifest's line is drawn, or others of its mixed set are."""
    return ScanSource.DRAWN in (ScanSource.of(record), *record.get("shares", {}))
