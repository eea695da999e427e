"""The probability that a trained nnU-Net gives to the label which each voxel of a synthetic case has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import PLANS_JSON
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.integration.models.prediction import Properties, Record, TrainedModel, predict_cases
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.matching import match_labels
from fcas_nnunet.labels.regions import regions_of
from fcas_nnunet.listing import MOST_NAMES, listed

#: Steps in which a probability is stored, as uint16: near 1 eight bits are too coarse for −log p.
PROBABILITY_STEPS = 65_535

#: Id of a label in the data set → ids of the network that stand for it.
Members = Mapping[int, Sequence[int]]


#: nnU-Net's reader that writes 8 bits alone.
_NARROW_READER = "SimpleITKIOWithReorient"


def members_of(model: TrainedModel, labels: Mapping[str, int], name: str) -> dict[int, list[int]]:
    """Find the network's labels that stand for each label of a data set; labels are matched by structure.

    What the data set does not label is its background.

    Args:
        model: The network.
        labels: Label name → id of the data set.
        name: Its name, for messages.

    Raises:
        InputError: when the network does not know a label, or its regions do not tell the labels apart; or when its
            reader cannot write probabilities.
    """
    if read_json(model.folder / PLANS_JSON).get("image_reader_writer") == _NARROW_READER:
        raise InputError(
            f"{model.folder}: reader of the plans must be one that writes 16 bits, got {_NARROW_READER}. Name a "
            "network whose plans have SimpleITKIO."
        )
    becomes = match_labels(model.labels, labels)
    members = {label: [own for own, other in becomes.items() if other == label] for label in labels.values()}
    if unknown := [named for named, label in labels.items() if not members[label]]:
        raise InputError(
            f"{model.folder}: network must know every label of {name}, got none for "
            f"{listed(unknown, MOST_NAMES)}. Name one that was trained on these labels."
        )
    if regions_of(model.dataset_json["labels"]) and any(len(own) > 1 for own in members.values()):
        raise InputError(
            f"{model.folder}: a network of regions must have the labels of {name}, got others besides. Name "
            "one that was trained on these labels."
        )
    return members


def own_probability(probabilities: np.ndarray, mask: np.ndarray, members: Members, manager: LabelManager) -> np.ndarray:
    """Pick the probability of each voxel's own label.

    It is the sum over the network's labels that stand for it. A network of regions gives the probability of being in
    each region; that of a label is then the smallest of those that it implies: of being in its regions, and of not
    being in the others.

    Args:
        probabilities: The network's outputs after softmax or sigmoid, [outputs, D, H, W] in [0, 1].
        mask: Label ids of the data set, [D, H, W].
        members: Result of `members_of`. Ids that it lacks, as the ignore label, have probability 0.
        manager: nnU-Net's, of the network.

    Returns:
        float32 [D, H, W] in [0, 1].
    """
    found = np.zeros(mask.shape, np.float32)
    for label, own in members.items():
        where = mask == label
        if not where.any():
            continue
        if manager.has_regions:
            (only,) = own
            inside = [only in np.atleast_1d(region) for region in manager.foreground_regions]
            implied = [p[where] if is_in else 1 - p[where] for p, is_in in zip(probabilities, inside, strict=True)]
            found[where] = np.min(implied, axis=0)
        else:
            outputs = [manager.all_labels.index(i) for i in own]
            found[where] = sum(probabilities[output][where] for output in outputs)
    return np.clip(found, 0, 1)


def predict_own_probabilities(
    model: TrainedModel,
    dataset: RawDataset,
    records: Mapping[str, Record],
    members: Members,
    folder: Path,
    device: torch.device,
) -> None:
    """Write the probability of each voxel's own label, as `predict_cases` writes segmentations; several folds are
    averaged as nnU-Net averages them.

    Args:
        model: The network, with the folds that judge these cases.
        dataset: Data set of the cases.
        records: Case id → origin of its file, for the cases to predict.
        members: Result of `members_of`.
        folder: Output folder of `<case id><ending>`, in steps of 1 / `PROBABILITY_STEPS`.
        device: Device to predict on.

    Raises:
        InputError: As `predict_cases`, or when a mask is not on the grid of its scan.
    """
    images = {case_id: dataset.image_paths(case_id) for case_id in records}
    description = f"judged by fold {' '.join(model.folds)}"
    output = partial(_own_probabilities, dataset, members)
    predict_cases(model, images, records, folder, device, output, description)


def read_probability(path: Path) -> np.ndarray:
    """Read what `predict_own_probabilities` wrote, float32 [D, H, W] in [0, 1]."""
    return read_volume(path).array.astype(np.float32) / np.float32(PROBABILITY_STEPS)


def _own_probabilities(
    dataset: RawDataset,
    members: Members,
    predictor: nnUNetPredictor,
    case_id: str,
    logits: torch.Tensor,
    properties: Properties,
) -> np.ndarray:
    managers = predictor.plans_manager, predictor.configuration_manager, predictor.label_manager
    _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, *managers, properties, return_probabilities=True
    )
    path = dataset.mask_path(case_id)
    mask: Any = predictor.plans_manager.image_reader_writer_class().read_seg(str(path))[0][0]  # axes as of the scan
    if mask.shape != probabilities.shape[1:]:
        raise InputError(
            f"{path}: shape must be that of the scan, {probabilities.shape[1:]}, got {mask.shape}. Run: fcas_doctor -d "
            f"{dataset.name}"
        )
    found = own_probability(probabilities, mask, members, predictor.label_manager)
    return np.rint(found * PROBABILITY_STEPS).astype(np.uint16)
