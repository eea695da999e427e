"""fcas_train: train the generator on a labelled data set."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fcas_nnunet.commands.cli import command, fold_number, make_parser, process_count, process_number, say
from fcas_nnunet.commands.runtime.channels import generator_channel_faults
from fcas_nnunet.commands.runtime.label_table import say_roles, settled_roles
from fcas_nnunet.commands.runtime.leaks import (
    EARLIER_PARENTS,
    fold_faults,
    refuse_leaking_parents,
    training_parents,
    weights_metadata,
    weights_parents,
)
from fcas_nnunet.commands.runtime.presets import generator_config, name_others, named_config
from fcas_nnunet.commands.runtime.resolution import say_grid, turned_grids
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.generator import CalibrationConfig, FCaSConfig
from fcas_nnunet.config.options import Precision
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import remove_strays
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.folders import (
    Root,
    known_file,
    model_name,
    resolve_dataset,
    root_folder,
)
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.ownership import refuse_links
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import training_fold
from fcas_nnunet.known_files import KnownFiles

if TYPE_CHECKING:
    from fcas_nnunet.generator.tcdm.maisi import PretrainedFiles

logger = logging.getLogger(__name__)

EXAMPLE = """
fcas_train -d 901                                # preset gpu on a GPU, else cpu
fcas_train -d 901 --preset cpu --fold 0          # on the training cases of nnU-Net's fold 0 alone
fcas_train -d 901 --preset cpu --show_config > my.yaml   # edit it, then:
fcas_train -d 901 --config my.yaml
fcas_train -d 901 --preset cpu --calibrate               # a generator trained before learns its own errors
fcas_train -d 901 --preset maisi --autoencoder autoencoder_v1.pt --denoiser diff_unet_3d_ddpm-ct.pt   # MAISI's weights
torchrun --nproc_per_node 4 -m fcas_nnunet.commands.train -d 901 --config my.yaml   # four GPUs
"""


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_train."""
    parser = make_parser(
        "fcas_train",
        "Train the generator (autoencoder, then TCDM) on a labelled data set. Interrupted, the same command resumes "
        "from the last validation; cases, variants and latents that are there are not made or read again.",
        EXAMPLE,
    )
    parser.add_argument("-d", metavar="ID", required=True, help="data set to train on: an id or DatasetXXX_Name")
    add_generator_arguments(parser, unless="with --calibrate, the one that is trained")
    parser.add_argument(
        "--calibrate", action="store_true",
        help="fit the error model, also for a generator trained without it; confidence then means expected error",
    )  # fmt: skip
    parser.add_argument("--keep_cache", action="store_true", help="keep the cached variants and latents on disk")
    parser.add_argument("--ignore_disk", action="store_true", help="start though the disk may not hold the cache")
    parser.add_argument("--show_config", action="store_true", help="print the configuration as YAML and stop")
    return parser


def add_generator_arguments(parser: argparse.ArgumentParser, unless: str = "or the one that is trained") -> None:
    """Add the arguments that fcas_train and fcas_generate share: the generator, its training, and its device."""
    add_generator_choice(parser, unless)
    parser.add_argument(
        "--autoencoder", metavar="FILE",
        help="load this autoencoder, MAISI's or one that fcas_train made, and train none: a path or hf:OWNER/REPO/PATH",
    )  # fmt: skip
    parser.add_argument("--denoiser", metavar="FILE", help="load MAISI's denoiser, freeze it, and train the ControlNet")
    parser.add_argument(
        "--controlnet", metavar="FILE", help="start from MAISI's ControlNet instead of the denoiser's encoder"
    )
    parser.add_argument(
        "--precision", type=Precision, default=Precision.AUTO, choices=list(Precision),
        help="arithmetic of the training (default: auto, bf16 if the hardware supports it); drawing always is in auto",
    )  # fmt: skip


def add_generator_choice(parser: argparse.ArgumentParser, unless: str = "or the one that is trained") -> None:
    """Add the arguments that select the generator and its device; `unless` says when the default is another preset."""
    parser.add_argument(
        "--preset", choices=sorted(PRESETS),
        help=f"size of the networks and the run (default: gpu with a GPU, else cpu; {unless})",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="YAML", help="your own configuration instead of a preset's")
    parser.add_argument(
        "--fold", type=fold_number, metavar="K",
        help="the generator trained on the training cases of this nnU-Net fold alone (splits_final.json), so that "
        "the fold's validation cases stay unseen (default: all, on every case)",
    )  # fmt: skip
    parser.add_argument(
        "-device", default="auto", choices=["auto", "cpu", "cuda"], help="device to run on (default: auto)"
    )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_train."""
    args = build_parser().parse_args(argv)
    calibrates = args.calibrate and not args.show_config  # what is trained, perhaps
    config = generator_config(args, _dataset(args) if calibrates else None)
    if args.calibrate and config.calibration is None:
        config = replace(config, calibration=CalibrationConfig())
    if args.show_config:
        print(yaml.safe_dump(to_dict(config), sort_keys=False), end="")
        return
    from fcas_nnunet.commands.runtime.costs import refuse_small_card, training_forecast
    from fcas_nnunet.generator.checkpoint import calibration_exists, generator_exists, load_record
    from fcas_nnunet.generator.run_file import generator_faults

    dataset = _dataset(args)
    folder = model_folder(dataset, config, args.fold)
    if named_config(args) is None and not calibrates:
        name_others(dataset, config.preset, args.fold)
    if generator_exists(folder):
        files = pretrained_files(args).identity()
        record = load_record(folder)
        faults = generator_channel_faults(folder, record, dataset) + fold_faults(folder, record, dataset, args.fold)
        if faults := [*faults, *generator_faults(folder, record.config, config, files)]:
            raise InputError("\n".join(faults))
        if not args.calibrate or calibration_exists(folder):
            say(f"{folder} holds this generator already. Delete it to train anew.")
            return
    say_roles(dataset.name, dataset.labels, settled_roles(dataset, config.roles))
    check_dataset(dataset, min_cases=2)
    if not generator_exists(folder):
        say_grid(dataset, config)
        refuse_small_card(config, args.device, trains=True)
        logger.info(training_forecast(config, turned_grids(dataset), dataset.num_channels, args.device))
    train(dataset, config, args, keep_cache=args.keep_cache)
    say(f"done: the generator is in {folder}")


def _dataset(args: argparse.Namespace) -> RawDataset:
    return training_fold(RawDataset.open(resolve_dataset(args.d, by="-d")), args.fold)


def train(dataset: RawDataset, config: FCaSConfig, args: argparse.Namespace, keep_cache: bool = False) -> None:
    """Train a generator on a checked data set, or calibrate a trained one; all processes of a run call this function.

    Args:
        dataset: Raw data set of at least two cases, those of the fold alone.
        config: Configuration of the generator.
        args: Arguments `fold`, `device`, `precision` and the files of `add_generator_arguments`.
        keep_cache: Keep the cached variants and latents.
    """
    from accelerate.utils.memory import clear_device_cache

    from fcas_nnunet.commands.runtime.devices import make_accelerator
    from fcas_nnunet.generator.checkpoint import calibration_exists, generator_exists, load_record
    from fcas_nnunet.generator.data.training_data import TrainingData
    from fcas_nnunet.generator.run_file import generator_faults
    from fcas_nnunet.generator.train import add_calibration, train_generator

    pretrained = pretrained_files(args)
    roles = settled_roles(dataset, config.roles)
    data = TrainingData(
        dataset.case_ids, dataset.load_case, dataset.labels, dataset.surroundings, roles,
        tuple(dataset.channel_names.values()), partial(_known_cases, dataset),
    )  # fmt: skip
    folder = model_folder(dataset, config, args.fold)
    inherited = weights_parents(pretrained.autoencoder) if pretrained.autoencoder else []
    if pretrained.autoencoder and not inherited:
        logger.warning(
            f"{pretrained.autoencoder}: it is not recorded which scans it was trained on, so leaks through it are not "
            f"found. If an earlier version made it, copy {EARLIER_PARENTS} from beside it as well."
        )
    own = training_parents(dataset)
    refuse_leaking_parents([*own, *inherited], dataset, args.fold)
    with _sole_training(folder):
        accelerator = make_accelerator(args.device, args.precision)
        accelerator.wait_for_everyone()  # until the main process has locked the folder
        if not generator_exists(folder):
            metadata = weights_metadata(inherited if pretrained.autoencoder else own)
            train_generator(data, config, folder, accelerator, pretrained, keep_cache, metadata, args.ignore_disk)
        else:  # perhaps another run trained it, which this one waited for
            if faults := generator_faults(folder, load_record(folder).config, config, pretrained.identity()):
                raise InputError("\n".join(faults))
            if config.calibration is not None and not calibration_exists(folder):
                add_calibration(data, config.calibration, folder, accelerator, keep_cache)
        accelerator.end_training()
    clear_device_cache(garbage_collection=True)  # the processes of fcas_generate share the GPU with this one


def _known_cases(dataset: RawDataset, settings: Any) -> KnownFiles:
    """Return what trainings have found in the cases' files, so that they need not be read again."""
    path = known_file(dataset.name, "surveyed")
    files = {case_id: dataset.files_of(case_id) for case_id in dataset.case_ids}
    return KnownFiles(path, files, [settings, dataset.label_ids, dataset.ignore_id, dataset.channel_names])


@contextmanager
def _sole_training(folder: Path) -> Iterator[None]:
    """Lock a generator's folder for this run; the main process does so for all processes."""
    if process_number() > 0:
        yield
        return
    with exclusive(
        folder, refuse=partial(refuse_links, folder), wait=process_count() == 1
    ):  # the others could not wait for a main process that waits
        remove_strays(folder, deep=True)
        yield


def pretrained_files(args: argparse.Namespace) -> PretrainedFiles:
    """Return the weights of --autoencoder, --denoiser and --controlnet; refuse one without another that it needs."""
    from fcas_nnunet.generator.data.hub import weights_file
    from fcas_nnunet.generator.tcdm.maisi import PretrainedFiles

    references = (args.autoencoder, args.denoiser, args.controlnet)
    return PretrainedFiles(*(None if reference is None else weights_file(reference) for reference in references))


def model_folder(dataset: RawDataset, config: FCaSConfig, fold: int | None = None) -> Path:
    """Return the folder of a data set's generator of this preset, trained on this fold or on all cases."""
    return root_folder(Root.RESULTS) / dataset.name / model_name(config.preset, fold)


if __name__ == "__main__":
    main()
