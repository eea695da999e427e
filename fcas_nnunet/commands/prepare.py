"""fcas_prepare: preprocess a synthetic and a real data set with the same plans, or a real one that has confidence maps,
and print the training commands."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from fcas_nnunet.commands.cli import command, make_parser, processes
from fcas_nnunet.commands.runtime.memory import MemoryNeed, workers_carried
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import remove_strays
from fcas_nnunet.integration.dataset.checks import stray_maps
from fcas_nnunet.integration.dataset.folders import CONFIDENCE, FINAL_CHECKPOINT, Root, resolve_dataset, root_folder
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.environment.checks import PLANNING_NOTE, cpu_settings, preprocessing_processes
from fcas_nnunet.integration.preprocessing.plans import (
    WORKERS_VARIABLE,
    ensure_plans,
    move_plans,
    moved_plans_name,
    pair_faults,
    preprocessed_folder,
)
from fcas_nnunet.integration.preprocessing.splits import Split, check_splits, ensure_splits, read_splits
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import (
    PARENTS_KEY,
    UNKNOWN_KEY,
    Parent,
    fold_fault,
    from_json,
    held_out_faults,
    leaks,
    leaks_allowed,
    parents_of,
    refuse_leaks,
    to_json,
    unknown_fault,
    unknown_origins,
)
from fcas_nnunet.listing import listed
from fcas_nnunet.machine import number_in

logger = logging.getLogger(__name__)

_EXAMPLE = """
fcas_prepare -d 902 --for 901
fcas_prepare -d 902 --for 901 -f 0 1
fcas_prepare -d 902 --for 901 -c 3d_fullres 2d -p nnUNetResEncUNetMPlans
fcas_prepare -d 101   # real scans whose confidenceTr holds maps of your own (docs/weights.md)
"""
#: Peak memory of nnU-Net's preprocessing, a voxel of the raw scan: measured at 128³, resampled to 1.2 times as many
#: voxels along each axis (14 without resampling).
_BYTES_PER_VOXEL = 70.0
_PRETRAIN, _FINETUNE, _MIXED = "nnUNetTrainerCAL", "nnUNetTrainerCALFinetune", "nnUNetTrainerCALMixed"


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_prepare."""
    parser = make_parser(
        "fcas_prepare",
        "Prepare a synthetic data set for pretraining: nnU-Net's plans and preprocessing of the real data set that it "
        "is for, the same plans and preprocessing of the synthetic one, and the confidence maps in the same geometry. "
        "Without --for, the data set is a real one whose confidenceTr holds maps of your own: the same without a "
        "synthetic set. Interrupted, the same command resumes case by case: only cases that are missing, damaged or "
        "changed are preprocessed. Prints the training commands at the end.",
        _EXAMPLE,
    )
    parser.add_argument(
        "-d", required=True, metavar="SYN",
        help="synthetic data set, or without --for a real one with confidence maps: an id or DatasetXXX_Name",
    )  # fmt: skip
    parser.add_argument("--for", metavar="REAL", dest="real", help="real data set that the synthetic one is for")
    parser.add_argument(
        "-c", nargs="+", default=["3d_fullres"], metavar="CONFIG", help="nnU-Net configurations (3d_fullres)"
    )
    parser.add_argument(
        "-p", default="nnUNetPlans", metavar="PLANS", help="plans of the real set: existing ones are kept (nnUNetPlans)"
    )
    parser.add_argument(
        "-f", nargs="+", metavar="FOLD",
        help="folds of the real set to print the commands for (default: all; with --for those whose validation cases "
        "SYN was not made from)",
    )  # fmt: skip
    parser.add_argument(
        "-np",
        type=processes,
        metavar="N",
        help="worker processes (default: nnU-Net's number, at most one per core; fewer where memory is short)",
    )
    return parser


def prepare(
    synthetic_id: str,
    real_id: str,
    configurations: Sequence[str],
    plans_name: str,
    num_processes: int | None = None,
    folds: Sequence[str] | None = None,
) -> str:
    """Prepare both data sets.

    Args:
        synthetic_id: Id or full name of the synthetic data set.
        real_id: Id or full name of the real data set.
        configurations: nnU-Net configurations.
        plans_name: Name of the real data set's plans.
        num_processes: Number of worker processes; None means nnU-Net's number, but at most one per core.
        folds: Folds of the real data set; None means those that have no leaks.

    Returns:
        The commands that pretrain, fine-tune, train the baseline and predict, as text.

    Raises:
        InputError: If the data sets are broken or do not fit together, or the synthetic one was made from validation
            cases of a fold or test scans of the real one; every fault is listed.
    """
    processes = num_processes or preprocessing_processes()  # before nnU-Net reads its variables
    number_in(os.environ, WORKERS_VARIABLE, 0)
    from fcas_nnunet.integration.preprocessing import prepare as preprocessing

    synthetic, real = (
        RawDataset.open(resolve_dataset(identifier, by=by), any_kind=True)
        for by, identifier in (("-d", synthetic_id), ("--for", real_id))
    )
    check_splits(real, feeds_cascade=False)
    splits = read_splits(real)
    if faults := [*pair_faults(synthetic, real), *stray_maps(real), *_fold_faults(folds, splits)]:
        raise InputError("\n".join(faults))
    _warn_of_missing_maps(real)
    processes = num_processes or _carried(processes, real, synthetic)
    with ExitStack() as locks:
        for folder in sorted(map(preprocessed_folder, (real, synthetic))):  # two runs must not wait for each other
            locks.enter_context(exclusive(folder))
            remove_strays(folder, deep=True)
        preprocessing.ensure_checked(real, synthetic)
        parents, unknown = _origins(synthetic, real)
        sound = _sound_folds(synthetic, real, parents, unknown, splits, folds)
        preprocessing.ensure_fingerprint(real, processes, keep_existing=True)
        real_plans = ensure_plans(real, plans_name, configurations)
        description = synthetic.dataset_json | {PARENTS_KEY: to_json(parents), UNKNOWN_KEY: unknown}
        plans = move_plans(real, replace(synthetic, dataset_json=description), plans_name)
        ensure_splits(synthetic, feeds_cascade=_feeds_cascade(plans, configurations))
        preprocessing.ensure_fingerprint(synthetic, processes, keep_existing=False)
        for configuration in configurations:
            preprocessing.ensure_preprocessed(real, real_plans, configuration, processes, keep_existing=True)
            preprocessing.ensure_confidence(real, real_plans, configuration, processes)
            preprocessing.ensure_preprocessed(synthetic, plans, configuration, processes, keep_existing=False)
            preprocessing.ensure_confidence(synthetic, plans, configuration, processes)
    steps = [training_commands(synthetic, real, plans_name, name, sound) for name in configurations]
    return "\n\n".join(["\n".join(_shell_lines()), *steps])


def prepare_weighted(
    identifier: str,
    configurations: Sequence[str],
    plans_name: str,
    num_processes: int | None = None,
    folds: Sequence[str] | None = None,
) -> str:
    """Prepare a real data set whose confidence maps the user has made. Plans and folds are nnU-Net's own.

    Args:
        identifier: Id or full name of the data set.
        configurations: nnU-Net configurations.
        plans_name: Name of its plans.
        num_processes: Number of worker processes; None means nnU-Net's number, but at most one per core.
        folds: Folds to print the commands for; None means all.

    Returns:
        The commands that train with and without the maps, and predict, as text.

    Raises:
        InputError: If the data set is broken, is synthetic or has no confidence map; every fault is listed.
    """
    processes = num_processes or preprocessing_processes()  # before nnU-Net reads its variable
    from fcas_nnunet.integration.preprocessing import prepare as preprocessing

    real = RawDataset.open(resolve_dataset(identifier, by="-d"), any_kind=True)
    splits = read_splits(real)
    if faults := [*_weighted_faults(real), *stray_maps(real), *_fold_faults(folds, splits)]:
        raise InputError("\n".join(faults))
    _warn_of_missing_maps(real)
    processes = num_processes or _carried(processes, real)
    with exclusive(preprocessed_folder(real)):
        remove_strays(preprocessed_folder(real), deep=True)
        preprocessing.ensure_checked(real)
        preprocessing.ensure_fingerprint(real, processes, keep_existing=True)
        plans = ensure_plans(real, plans_name, configurations)
        check_splits(real, feeds_cascade=_feeds_cascade(plans, configurations))
        for configuration in configurations:
            preprocessing.ensure_preprocessed(real, plans, configuration, processes, keep_existing=True)
            preprocessing.ensure_confidence(real, plans, configuration, processes)
    known = list(dict.fromkeys(folds or map(str, range(len(splits))))) or ["all"]
    steps = [weighted_commands(real, plans_name, name, known) for name in configurations]
    return "\n\n".join(["\n".join(_shell_lines()), *steps])


def _carried(processes: int, *datasets: RawDataset) -> int:
    """Return the number of processes whose largest case fits into the free memory; at most so many."""
    volumes = (dataset.mask_path(case_id) for dataset in datasets for case_id in dataset.case_ids)
    per_voxel = _BYTES_PER_VOXEL * max(dataset.num_channels for dataset in datasets)
    return workers_carried(processes, MemoryNeed.of(volumes, per_voxel))


def _weighted_faults(real: RawDataset) -> list[str]:
    """List the reasons why a data set cannot be prepared without a synthetic one, a sentence each."""
    synthetic = real.synthetic_cases()
    if synthetic or from_json(real.dataset_json) is not None:
        return [
            f"{real.name}: without --for, -d must be a real data set with confidence maps of your own, got a synthetic "
            f"one. Name the real one that it is for: fcas_prepare -d {real.dataset_id} --for REAL."
        ]
    if real.mapped_cases():
        return []
    return [
        f"{real.name}: {CONFIDENCE}Tr must hold the confidence map of at least one case, named as its label, got none. "
        f"Write maps as docs/weights.md shows, or train without: nnUNetv2_train {real.dataset_id} 3d_fullres 0. For a "
        "synthetic set, name its real one by --for."
    ]


def _warn_of_missing_maps(real: RawDataset) -> None:
    """Name the cases without a map in a real data set that has some."""
    without = sorted(set(real.case_ids) - set(mapped := real.mapped_cases()))
    if mapped and without:
        logger.warning(
            f"{real.name}: {len(without)} of {len(real.case_ids)} cases have no confidence map and count fully, 1 "
            f"everywhere: {listed(without)}"
        )


def _fold_faults(folds: Sequence[str] | None, splits: Sequence[Split]) -> list[str]:
    known = [*map(str, range(len(splits))), "all"]
    if unknown := ", ".join(sorted(set(folds or ()) - set(known))):
        return [f"-f: folds must be among {', '.join(known)}, got {unknown}. Name some of these."]
    return []


def _feeds_cascade(plans: Mapping[str, Any], configurations: Sequence[str]) -> bool:
    stages = {key for name in configurations for key in plans["configurations"][name]}
    return not stages.isdisjoint({"next_stage", "previous_stage"})


def _origins(synthetic: RawDataset, real: RawDataset) -> tuple[list[Parent], list[str]]:
    """Return the real cases that the synthetic ones were made from, and the synthetic ones of unknown origin."""
    parents = parents_of(synthetic)
    if all(parent.dataset == synthetic.name for parent in parents):
        logger.warning(
            f"{synthetic.name}: it is not recorded which real cases it was made from, so folds of {real.name} are held "
            "against its scans alone. Validation cases that it was made from prove nothing."
        )
    return parents, unknown_origins(synthetic)


def _sound_folds(
    synthetic: RawDataset,
    real: RawDataset,
    parents: Sequence[Parent],
    unknown: Sequence[str],
    splits: Sequence[Split],
    folds: Sequence[str] | None,
) -> list[str]:
    """Return the requested folds of the real data set, or those without leaks; `all` if there is no such fold."""
    refuse_leaks(held_out_faults(parents, real), logger.warning)
    contents = training_contents(real)  # saved beside the preprocessed cases, where the trainers find them
    leaking: dict[str, str] = {}
    for fold, split in enumerate(splits):
        found = leaks(parents, real.name, {case_id: contents.get(case_id) for case_id in split["val"]})
        if found:
            leaking[str(fold)] = fold_fault(synthetic.name, real.name, fold, found)
    wanted = [fold for fold in folds or map(str, range(len(splits))) if fold != "all"]
    doubtful = [unknown_fault(synthetic.name, real.name, ", ".join(wanted), unknown)] if unknown and wanted else []
    if folds:
        refuse_leaks([*(leaking[fold] for fold in folds if fold in leaking), *doubtful], logger.warning)
        return list(dict.fromkeys(folds))
    if leaking:
        logger.warning(
            f"{real.name}: {synthetic.name} was made from validation cases of fold {', '.join(leaking)}, so no command "
            "is printed there. Make a set for a fold with fcas_generate --fold, or train fold all."
        )
    for fault in doubtful:
        logger.warning(fault)
    return [fold for fold in wanted if leaks_allowed() or not (fold in leaking or doubtful)] or ["all"]


def training_commands(
    synthetic: RawDataset, real: RawDataset, plans_name: str, configuration: str, folds: Sequence[str]
) -> str:
    """Return the next commands with their paths: pretrain, fine-tune, train the baseline, predict."""
    from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL, nnUNetTrainerCALFinetune
    from fcas_nnunet.integration.cal.weighting import SYNTHETIC_VARIABLE

    pretraining, finetuning = nnUNetTrainerCAL.EPOCHS, nnUNetTrainerCALFinetune.EPOCHS
    device, moved = _device_flag(), moved_plans_name(real.dataset_id, plans_name)
    model = root_folder(Root.RESULTS) / synthetic.name / f"{_PRETRAIN}__{moved}__{configuration}"
    weights = shlex.quote(str(model / "fold_all" / FINAL_CHECKPOINT))
    is_all = "Fold all" if "all" in folds else "For a network to use, all in place of the fold"
    includes = "every real scan, validation scans included" if "all" in folds else "every real scan"
    score = f"validation scores then say nothing: score it on a test set, imagesTs of {real.name} say"
    train = [f"nnUNetv2_train {real.dataset_id} {configuration} {fold} -p {plans_name}" for fold in folds]
    lines = [
        f"# {configuration}, step 1: pretrain on {synthetic.name} ({pretraining} epochs). Here, all means every "
        "synthetic scan: none is held out.",
        f"nnUNetv2_train {synthetic.dataset_id} {configuration} all -p {moved} -tr {_PRETRAIN}{device}",
        f"# Step 2: from those weights, fine-tune on {real.name} ({finetuning} epochs), each fold by itself."
        + (" Its confidence maps weight this step, too." if real.mapped_cases() else ""),
        *(f"{line} -tr {_FINETUNE} -pretrained_weights {weights}{device}" for line in train),
        f"# ({is_all} trains on {includes}. Its {score}.)",
        f"# Instead of steps 1 and 2, both at once (docs/cal.md): step 3's command with -tr {_MIXED}, after: "
        f"export {SYNTHETIC_VARIABLE}={synthetic.dataset_id}",
        "# Step 3: the baseline to compare step 2 with: real scans alone, for as many epochs as steps 1 and 2 together "
        f"({pretraining + finetuning:,}).",
        *(f"{line}{device}" for line in train),
        "# Step 4: segment new scans with the networks of step 2, averaged over the folds that -f names; without "
        f"-tr {_FINETUNE}, with those of step 3.",
        f"nnUNetv2_predict -d {real.dataset_id} -c {configuration} -f {' '.join(folds)} -p {plans_name} "
        f"-tr {_FINETUNE} -i INPUT_FOLDER -o OUTPUT_FOLDER{device}",
    ]
    return "\n".join(lines)


def weighted_commands(real: RawDataset, plans_name: str, configuration: str, folds: Sequence[str]) -> str:
    """Return the next commands for a real data set with confidence maps: train, train the baseline, predict."""
    from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL

    device = _device_flag()
    train = [f"nnUNetv2_train {real.dataset_id} {configuration} {fold} -p {plans_name}" for fold in folds]
    lines = [
        f"# {configuration}, step 1: train on {real.name} with its confidence maps ({nnUNetTrainerCAL.EPOCHS} epochs; "
        f"{_PRETRAIN}_1000epochs trains as long as step 2), each fold by itself.",
        *(f"{line} -tr {_PRETRAIN}{device}" for line in train),
        "# Step 2: the baseline to compare step 1 with: every voxel counts alike, 1,000 epochs.",
        *(f"{line}{device}" for line in train),
        "# Step 3: segment new scans with the networks of step 1, averaged over the folds that -f names; without "
        f"-tr {_PRETRAIN}, with those of step 2.",
        f"nnUNetv2_predict -d {real.dataset_id} -c {configuration} -f {' '.join(folds)} -p {plans_name} "
        f"-tr {_PRETRAIN} -i INPUT_FOLDER -o OUTPUT_FOLDER{device}",
    ]
    return "\n".join(lines)


def _shell_lines() -> list[str]:
    """Return the lines that every shell needs before it trains or predicts."""
    lines = ["# In every shell and job script, before these steps:"]
    if _device_flag():
        variables = " ".join(f"{name}={value}" for name, value in cpu_settings().items())
        lines += [f"# (no GPU here; {PLANNING_NOTE})", f"export {variables}"]
    return [*lines, 'eval "$(fcas_env)"  # lets nnU-Net find the trainers of these steps']


def _device_flag() -> str:
    import torch

    return "" if torch.cuda.is_available() else " -device cpu"


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run fcas_prepare."""
    arguments = build_parser().parse_args(argv)
    options = (arguments.c, arguments.p, arguments.np, arguments.f)
    if arguments.real is None:
        commands = prepare_weighted(arguments.d, *options)
    else:
        commands = prepare(arguments.d, arguments.real, *options)
    print(f"\nReady. Next, one after the other:\n\n{commands}")


if __name__ == "__main__":
    main()
