"""fcas_train: train the generator on a labelled data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from fcas_nnunet.commands.cli import command, make_parser
from fcas_nnunet.config import FCaSConfig
from fcas_nnunet.config_files import load_config, to_dict
from fcas_nnunet.integration.folders import Root, resolve_dataset, root_folder
from fcas_nnunet.integration.raw_dataset import RawDataset
from fcas_nnunet.presets import PRESETS, preset

EXAMPLE = """
fcas_train -d 901 --preset cpu
fcas_train -d 901 --preset cpu --show_config > my.yaml   # edit it, then:
fcas_train -d 901 --config my.yaml
fcas_train -d 901 --preset paper --autoencoder autoencoder_v1.pt --denoiser diff_unet_3d_ddpm-ct.pt   # MAISI's weights
"""


def build_parser() -> argparse.ArgumentParser:
    """The arguments of fcas_train."""
    parser = make_parser(
        "fcas_train",
        "Train the generator (autoencoder, then TCDM) on a labelled data set. Interrupted, the same command goes on.",
        EXAMPLE,
    )
    parser.add_argument("-d", metavar="ID", required=True, help="data set to train on: an id or DatasetXXX_Name")
    add_generator_arguments(parser)
    parser.add_argument("--keep_cache", action="store_true", help="keep the cached variants and latents on disk")
    parser.add_argument("--show_config", action="store_true", help="print the configuration as YAML and do nothing")
    return parser


def add_generator_arguments(parser: argparse.ArgumentParser) -> None:
    """What fcas_train and fcas_generate share: which generator, and where it runs."""
    parser.add_argument("--preset", choices=sorted(PRESETS), help="size of the networks and the run (default: cpu)")
    parser.add_argument("--config", type=Path, metavar="YAML", help="your own configuration instead of a preset's")
    parser.add_argument(
        "--autoencoder", metavar="FILE",
        help="load this autoencoder, MAISI's or one of ours, instead of training one: a path or hf:OWNER/REPO/PATH",
    )  # fmt: skip
    parser.add_argument("--denoiser", metavar="FILE", help="load MAISI's denoiser, freeze it, and train the ControlNet")
    parser.add_argument(
        "--controlnet", metavar="FILE", help="begin with MAISI's ControlNet, not with the denoiser's encoder"
    )
    parser.add_argument("-device", default="auto", choices=["auto", "cpu", "cuda"], help="where to run (default: auto)")


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_train."""
    args = build_parser().parse_args(argv)
    config = generator_config(args)
    if args.show_config:
        print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
        return
    from fcas_nnunet.generator.checkpoint import is_trained

    dataset = RawDataset.open(resolve_dataset(args.d))
    folder = model_folder(dataset, config)
    if is_trained(folder):
        print(f"{folder} holds a trained generator already. Delete it to train anew.")
        return
    dataset.check(min_cases=2)
    train(dataset, config, args, keep_cache=args.keep_cache)
    print(f"done: the generator is in {folder}")


def train(dataset: RawDataset, config: FCaSConfig, args: argparse.Namespace, keep_cache: bool = False) -> None:
    """Train a generator on a checked data set.

    Args:
        dataset: raw data set of at least two cases.
        config: what to train.
        args: with `device` and the files of `add_generator_arguments`.
        keep_cache: keep variants and latents.
    """
    from fcas_nnunet.commands.devices import make_accelerator
    from fcas_nnunet.generator.fitting import TrainingData, train_generator
    from fcas_nnunet.generator.hub import weights_file
    from fcas_nnunet.generator.maisi import PretrainedFiles

    references = (args.autoencoder, args.denoiser, args.controlnet)
    pretrained = PretrainedFiles(*(None if reference is None else weights_file(reference) for reference in references))
    data = TrainingData(dataset.case_ids, dataset.load_case, dataset.labels, dataset.surroundings)
    train_generator(data, config, model_folder(dataset, config), make_accelerator(args.device), pretrained, keep_cache)


def generator_config(args: argparse.Namespace) -> FCaSConfig:
    """The configuration that --config or --preset names.

    Raises:
        ValueError: when both are given, or the file is wrong.
    """
    if args.config is None:
        return preset(args.preset or "cpu")
    if args.preset is not None:
        raise ValueError("--preset, --config: only one must be given, got both. A configuration names its preset.")
    return load_config(FCaSConfig, args.config)


def model_folder(dataset: RawDataset, config: FCaSConfig) -> Path:
    """Where a data set's generator of this preset lies."""
    return root_folder(Root.RESULTS) / dataset.name / f"fcas__{config.preset}"
