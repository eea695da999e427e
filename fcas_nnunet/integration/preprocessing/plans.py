"""nnU-Net's plans: make them for the real data set, copy them to the synthetic one, narrow them for small machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.config.schema import check_form, form
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import atomic_write_json, is_file_name
from fcas_nnunet.integration.dataset.description import (
    READER_ENDINGS,
    reader_name,
    same_description,
)
from fcas_nnunet.integration.dataset.folders import CONFIDENCE, Root, nnunet_variable, root_folder
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, RawDataset
from fcas_nnunet.json_files import read_json
from fcas_nnunet.listing import listed

DEFAULT_PLANS = "nnUNetPlans"
FINGERPRINT = "dataset_fingerprint.json"
#: Name of plans → nnU-Net's planner that makes them.
PLANNERS = {
    DEFAULT_PLANS: "ExperimentPlanner",
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}

_AGAIN = "Make the plans again with nnUNetv2_plan_experiment."
WORKERS_VARIABLE = "nnUNet_n_proc_DA"


@form
class _Named:
    dataset_name: str


@form
class _Plans(_Named):
    """What this package reads of nnU-Net's plans itself."""

    plans_name: str
    image_reader_writer: str
    transpose_forward: list[int]
    transpose_backward: list[int]
    configurations: dict[str, dict[str, Any]]
    foreground_intensity_properties_per_channel: dict[str, dict[str, float]]


def preprocessed_folder(dataset: RawDataset) -> Path:
    """Return `$nnUNet_preprocessed/DatasetNNN_Name`, which need not exist."""
    return root_folder(Root.PREPROCESSED) / dataset.name


def plans_path(dataset: RawDataset, plans_name: str) -> Path:
    """Return the path of a data set's plans of a name.

    Raises:
        InputError: if the name cannot be that of a file.
    """
    if not is_file_name(plans_name):
        raise InputError(f"-p: plans must have a name without folders, got {plans_name!r}. Fix -p.")
    return preprocessed_folder(dataset) / f"{plans_name}.json"


def read_plans(dataset: RawDataset, plans_name: str) -> dict[str, Any]:
    """Read a data set's plans.

    Raises:
        MissingFileError: if there are none of that name.
        InputError: if they are broken, or name files or folders elsewhere.
    """
    path = plans_path(dataset, plans_name)
    if not path.is_file():
        raise MissingFileError(
            f"{path}: plans must exist, got none. Make them with nnUNetv2_plan_experiment, or leave out -p."
        )
    plans = plans_in(path, _AGAIN)
    named = {"plans_name": plans["plans_name"]} | {
        f"data_identifier of {name}": settings["data_identifier"]
        for name, settings in plans["configurations"].items()
        if "data_identifier" in settings
    }
    unfit = [f"{key} {name!r}" for key, name in named.items() if not is_file_name(name)]
    if unfit:  # nnU-Net clears the folder of that name before it writes
        raise InputError(f"{path}: names must be those of files or folders there, got {listed(unfit)}. Fix them.")
    return plans


def plans_in(path: Path, advice: str) -> dict[str, Any]:
    """Read nnU-Net's plans from any file; `advice` ends the messages.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it lacks what is read of it.
    """
    plans = read_json(path, advice)
    check_form(_Plans, plans, f"{path}: ", advice)
    for key in ("transpose_forward", "transpose_backward"):
        if sorted(plans[key]) != [0, 1, 2]:
            raise InputError(f"{path}: {key} must hold 0, 1 and 2, got {plans[key]}. {advice}")
    return plans


def dataset_of_plans(path: Path) -> str:
    """Read the name of the data set that nnU-Net's plans belong to; raises as `plans_in`."""
    advice = "Take the folder as nnU-Net has left it."
    plans = read_json(path, advice)
    check_form(_Named, plans, f"{path}: ", advice)
    return str(plans["dataset_name"])


def pair_faults(synthetic: RawDataset, real: RawDataset) -> list[str]:
    """List the reasons why a synthetic data set cannot be used under a real one's plans, a sentence each."""
    remedy = f"Generate it with `fcas_generate --for {real.dataset_id}`."
    faults = []
    if real.has_confidence and not synthetic.has_confidence:
        return [
            f"-d, --for: -d must be the synthetic data set and --for the real one, got {synthetic.name} without "
            f"{CONFIDENCE}Tr as -d and {real.name} with it as --for. Swap them: "
            f"fcas_prepare -d {real.dataset_id} --for {synthetic.dataset_id}."
        ]
    if synthetic.name == real.name:
        return [f"{synthetic.name}: synthetic and real data set must differ, got one for both. Fix -d or --for."]
    for key, rule, advice in (
        ("labels", "those", remedy),
        ("regions_class_order", "that", remedy),
        ("channel_names", "those", "nnU-Net normalises by that name: write the same into both dataset.json."),
    ):
        got, wanted = (dataset.dataset_json.get(key) for dataset in (synthetic, real))
        if not same_description(key, got, wanted):
            faults.append(f"{synthetic.name}: {key} must be {rule} of {real.name}, {wanted}, got {got}. {advice}")
    reader = reader_name(real.dataset_json)  # which `move_plans` takes for both
    if reader in READER_ENDINGS and synthetic.file_ending not in READER_ENDINGS[reader]:
        faults.append(
            f"{synthetic.name}: file_ending must be one that nnU-Net reads with {reader}, as {real.name}'s "
            f"{real.file_ending}: {', '.join(READER_ENDINGS[reader])}, got {synthetic.file_ending}. "
            "Convert one of the two."
        )
    if not synthetic.has_confidence:
        faults.append(f"{synthetic.name}: folder confidenceTr must be there, got none. {remedy}")
    return faults


def ensure_plans(real: RawDataset, plans_name: str, configurations: Sequence[str]) -> dict[str, Any]:
    """Read the real data set's plans, or make them with nnU-Net's planner if there are none of that name.

    Its fingerprint must have been extracted. The name is one of `PLANNERS`, or that of existing plans.

    Raises:
        InputError: if no planner makes plans of that name, or the plans lack a configuration.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

    path = plans_path(real, plans_name)
    planning = path.with_name(f".{path.name}.unfinished")
    if planning.is_file():  # nnU-Net was killed, perhaps while it wrote them
        path.unlink(missing_ok=True)
    if not path.is_file():
        if plans_name not in PLANNERS:
            raise InputError(
                f"{real.name}: plans must exist or be one of {', '.join(PLANNERS)}, got {plans_name}. "
                "Make them with nnUNetv2_plan_experiment first."
            )
        planning.touch()
        with _planner_workers():
            plan_experiments([real.dataset_id], PLANNERS[plans_name])
        planning.unlink()
    plans = read_plans(real, plans_name)
    missing = [name for name in configurations if name not in plans["configurations"]]
    if missing:
        raise InputError(
            f"{real.name}: configurations must be among {', '.join(plans['configurations'])}, "
            f"got {', '.join(missing)}. Fix -c."
        )
    return plans


def moved_plans_name(dataset_id: int, plans_name: str) -> str:
    """Return the name of a real data set's plans on a synthetic one: nnUNetPlansFrom901."""
    return f"{plans_name}From{dataset_id}"


def move_plans(real: RawDataset, synthetic: RawDataset, plans_name: str) -> dict[str, Any]:
    """Write the synthetic data set's `dataset.json` and the real one's plans, with their intensity statistics.

    The reader stays that of the real data set, too: nnU-Net has readers that turn axes, and they must turn both.

    Returns the plans of the synthetic data set.
    """
    from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import (
        move_plans_between_datasets,
    )

    target = moved_plans_name(real.dataset_id, plans_name)
    preprocessed_folder(synthetic).mkdir(parents=True, exist_ok=True)
    move_plans_between_datasets(real.name, synthetic.name, plans_name, target)
    atomic_write_json(preprocessed_folder(synthetic) / DATASET_JSON, synthetic.dataset_json)
    plans, reader = read_plans(synthetic, target), read_plans(real, plans_name)["image_reader_writer"]
    if plans["image_reader_writer"] != reader and synthetic.file_ending in READER_ENDINGS.get(reader, ()):
        plans["image_reader_writer"] = reader
        atomic_write_json(plans_path(synthetic, target), plans)
    return plans


def shrink_plans(
    plans: dict[str, Any],
    configuration: str,
    *,
    plans_name: str,
    features_per_stage: Sequence[int],
    patch_size: Sequence[int] | None = None,
    batch_size: int | None = None,
    convolutions_per_stage: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Narrow the network of plans for a CPU by nnU-Net's documented manual edit, under a new name.

    Both plans share the same preprocessed data.

    Args:
        plans: plans as nnU-Net made them.
        configuration: configuration to edit, such as "3d_fullres"; the others are left out.
        plans_name: name of the new plans, and of the file to write them to.
        features_per_stage: feature channels from the first stage to the deepest; their number is that of the stages.
        patch_size: voxels along nnU-Net's (transposed) axes; None means the planned patch size.
        batch_size: number of patches in a batch; None means the planned number.
        convolutions_per_stage: of encoder and decoder, from the first stage to the deepest; None means the planned
            numbers.

    Raises:
        InputError: if there are more stages than planned, or the patch cannot be halved that often.
    """
    new = deepcopy(plans) | {"plans_name": plans_name}
    settings = new["configurations"][configuration]
    architecture = settings["architecture"]["arch_kwargs"]
    stages = len(features_per_stage)
    if not 2 <= stages <= architecture["n_stages"]:
        raise InputError(
            f"features_per_stage: number of stages must be from 2 to the planned {architecture['n_stages']}, "
            f"got {stages}. Give fewer."
        )
    patch = list(patch_size or settings["patch_size"])
    for key, value in architecture.items():
        per_stage = stages - 1 if key == "n_conv_per_stage_decoder" else stages
        if isinstance(value, list) and len(value) in (architecture["n_stages"], architecture["n_stages"] - 1):
            architecture[key] = value[:per_stage]
    architecture |= {"n_stages": stages, "features_per_stage": list(features_per_stage)}
    if convolutions_per_stage is not None:
        numbers = list(convolutions_per_stage)
        if len(numbers) != stages:
            raise InputError(f"convolutions_per_stage: must be {stages} numbers, one a stage, got {numbers}.")
        architecture |= {"n_conv_per_stage": numbers, "n_conv_per_stage_decoder": numbers[-2::-1]}
    reduction = np.prod(architecture["strides"], axis=0)
    if len(patch) != len(reduction) or np.any(np.array(patch) % reduction):
        raise InputError(
            f"patch_size: every edge must be a multiple of {reduction.tolist()}, got {patch}. Round it to one."
        )
    settings |= {"patch_size": patch, "batch_size": batch_size or settings["batch_size"]}
    new["configurations"] = {configuration: settings}
    return new


def _planner_workers() -> AbstractContextManager[None]:
    """Set nnUNet_n_proc_DA to 2 if it is 0: training on a CPU wants 0, but nnU-Net's planner fails under it."""
    fails = os.environ.get(WORKERS_VARIABLE) == "0"
    return nnunet_variable(WORKERS_VARIABLE, "2") if fails else nullcontext()
