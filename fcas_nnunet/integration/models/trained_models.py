"""Open a trained nnU-Net model from disk, after checking that it is complete, harmless, and needs the scan alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.integration.dataset.description import CT_CHANNEL
from fcas_nnunet.integration.dataset.folders import MODEL_FILES, PLANS_JSON, nnunet_variable
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.dataset.volumes import last_line, read_finite
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, all_shim_folders, ext_trainer_value
from fcas_nnunet.integration.preprocessing.plans import plans_in

STEP_SIZE = 0.5  # step between windows as a part of the patch size; nnU-Net's default
#: Keys of a checkpoint that nnU-Net's predictor reads.
_PREDICTOR_KEYS = ("network_weights", "trainer_name", "init_args")


def open_predictor(
    model: Path, folds: Sequence[str], checkpoint: str, device: torch.device, *, use_mirroring: bool
) -> nnUNetPredictor:
    """Open nnU-Net's predictor with its network on a device, ready to predict.

    Args:
        model: nnU-Net's folder `<trainer>__<plans>__<configuration>` with dataset.json, plans.json and folds.
        folds: numbers, or `all`; nnU-Net averages their predictions.
        checkpoint: name of the file in the folds' folders.
        device: device to predict on.
        use_mirroring: average over mirrored scans along the axes the network was trained for, as nnU-Net does.

    Raises:
        MissingFileError: when folder, fold or checkpoint are missing.
        InputError: when a checkpoint was not written by nnU-Net, or its network is not supported: a cascade's second
            stage.
    """
    paths = [checkpoint_path(model, fold, checkpoint) for fold in folds]
    for path in paths:
        _refuse_unfit(model, read_checkpoint(path, _PREDICTOR_KEYS)["init_args"]["configuration"])
    own_trainers = nnunet_variable(EXT_TRAINER_VARIABLE, ext_trainer_value(folders=all_shim_folders()))
    with redirect_stdout(io.StringIO()), own_trainers:  # nnU-Net prints where it looks for a trainer
        predictor = nnUNetPredictor(
            tile_step_size=STEP_SIZE, use_mirroring=use_mirroring, perform_everything_on_device=device.type == "cuda",
            device=device, allow_tqdm=False,
        )  # fmt: skip
        try:
            predictor.initialize_from_trained_model_folder(str(model), tuple(folds), checkpoint)
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{paths[0]}: network must be one that nnU-Net loads, got '{reason}'. Run: fcas_doctor"
            ) from error
    predictor.network = predictor.network.to(device).eval()
    return predictor


def preprocess(predictor: nnUNetPredictor, image_paths: Sequence[Path]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Transpose, crop, normalise and resample a scan by the model's preprocessor.

    Returns:
        The network's input, float32 [C, …], and nnU-Net's properties of the scan's geometry.

    Raises:
        MissingFileError: when there is no such file.
        InputError: when it cannot be read.
    """
    for path in image_paths:
        read_finite(path)  # refuses a damaged file, whose missing part nnU-Net reads as 0
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    managers = (predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)
    try:
        data, _, properties = preprocessor.run_case(list(map(str, image_paths)), None, *managers)
    except RuntimeError as error:
        raise InputError(
            f"{image_paths[0]}: file must be a scan that nnU-Net reads, got '{last_line(error)}'. Export it again."
        ) from error
    return torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32)), properties


def checkpoint_path(model: Path, fold: str, checkpoint: str) -> Path:
    """Return the path of a fold's checkpoint.

    Raises:
        MissingFileError: when folder, fold or checkpoint are missing.
    """
    check_model_files(model)
    folds = sorted(path.name.removeprefix("fold_") for path in model.glob("fold_*") if path.is_dir())
    if fold not in folds:
        raise MissingFileError(
            f"{model}: fold must be one of {', '.join(folds) or 'none'}, got {fold}. Name one that was trained."
        )
    path = model / f"fold_{fold}" / checkpoint
    if not path.is_file():
        found = ", ".join(sorted(other.name for other in path.parent.glob("*.pth"))) or "none"
        raise MissingFileError(
            f"{path}: checkpoint must be one of {found}, got {checkpoint}. Finish the training, or name another."
        )
    return path


def check_model_files(model: Path) -> None:
    """Check that a folder contains the files that nnU-Net's predictor reads beside the folds.

    Raises:
        MissingFileError: when it does not.
    """
    missing = [name for name in MODEL_FILES if not (model / name).is_file()]
    if missing:
        got = f"no {' and no '.join(missing)}" if model.is_dir() else "no such folder"
        raise MissingFileError(
            f"{model}: model folder must hold {' and '.join(MODEL_FILES)}, got {got}. "
            "Give nnU-Net's folder <trainer>__<plans>__<configuration>."
        )


def channel_faults(description: dict[str, Any], channel_names: Sequence[str]) -> list[str]:
    """List the reason why a model with this `dataset.json` cannot predict from scans; at most one sentence.

    Args:
        description: The model's `dataset.json`.
        channel_names: Names of the scans' channels; of a single one, the name does not matter.
    """
    wanted = list(description.get("channel_names", CT_CHANNEL).values())
    same = [name.casefold() for name in wanted] == [name.casefold() for name in channel_names]
    if same or len(wanted) == len(channel_names) == 1:
        return []
    return [f"scans must have the model's channels, {', '.join(wanted)}, got {', '.join(channel_names)}. Name another."]


def _refuse_unfit(model: Path, configuration: str) -> None:
    """Refuse, before the network is built, a model that needs more input than a scan."""
    plans = plans_in(model / PLANS_JSON, "Take the folder as nnU-Net has left it.")
    if PlansManager(plans).get_configuration(configuration).previous_stage_name is not None:
        raise InputError(
            f"{model}: configuration must be no second stage of a cascade, got one. Name 3d_fullres, 2d or 3d_lowres."
        )
