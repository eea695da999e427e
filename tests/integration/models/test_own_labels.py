"""The probability of each voxel's own label: sums over a network's finer labels, memberships of regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.models.own_labels import members_of, own_probability
from fcas_nnunet.integration.models.prediction import TrainedModel
from fcas_nnunet.labels.regions import single_ids

MASK = np.array([[[0, 1, 2, 3]]])
LABELS = {"background": 0, "left_ventricle": 1, "coronary_arteries": 2}
REGIONS = {"background": 0, "whole_heart": [1, 2], "left_ventricle": 2}


def model(folder: Path, labels: dict[str, int | list[int]], reader: str = "SimpleITKIO") -> TrainedModel:
    atomic_write_json(folder / "dataset.json", {"labels": labels})
    atomic_write_json(folder / "plans.json", {"image_reader_writer": reader})
    return TrainedModel(folder, ("0",), "checkpoint_final.pth", "")


def test_finer_labels_of_the_network_are_added_up(tmp_path: Path) -> None:
    """Under other ids; what the data set does not label, the pulmonary artery, is its background."""
    network = model(tmp_path, {"background": 0, "LCA": 1, "RCA": 2, "pulmonary_artery": 3, "LV": 4})
    members = members_of(network, LABELS, "Dataset902_Syn")
    assert members == {0: [0, 3], 1: [4], 2: [1, 2]}
    probabilities = np.array([0.4, 0.1, 0.2, 0.05, 0.25], np.float32)[:, None, None, None].repeat(4, axis=3)
    found = own_probability(probabilities, MASK, members, LabelManager(network.dataset_json["labels"], None))
    np.testing.assert_allclose(found, [[[0.45, 0.25, 0.3, 0]]], rtol=1e-6)  # 3 is the ignore label


def test_a_label_is_as_probable_as_the_least_sure_of_its_memberships(tmp_path: Path) -> None:
    network = model(tmp_path, REGIONS)
    members = members_of(network, single_ids(REGIONS), "Dataset902_Syn")
    assert members == {0: [0], 1: [1], 2: [2]}
    probabilities = np.array([0.9, 0.3], np.float32)[:, None, None, None].repeat(4, axis=3)
    found = own_probability(probabilities, MASK, members, LabelManager(REGIONS, [1, 2]))
    # background: 0.1 and 0.7; heart alone: 0.9 and 0.7; ventricle: 0.9 and 0.3
    np.testing.assert_allclose(found, [[[0.1, 0.7, 0.3, 0]]], rtol=1e-6)


def test_networks_that_cannot_judge_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must know every label of Dataset902_Syn, got none for coronary_arteries\."):
        members_of(model(tmp_path, {"background": 0, "LV": 1}), LABELS, "Dataset902_Syn")
    with pytest.raises(ValueError, match=r"must be one that writes 16 bits, got SimpleITKIOWithReorient\."):
        members_of(model(tmp_path, {"background": 0, "LV": 1}, "SimpleITKIOWithReorient"), LABELS, "Dataset902_Syn")
    regions = {"background": 0, "heart": [1, 2, 3], "LV": 1, "coronary_arteries": 2, "pulmonary_artery": 3}
    with pytest.raises(ValueError, match="network of regions must have the labels of Dataset902_Syn, got others besi"):
        members_of(model(tmp_path, regions), LABELS, "Dataset902_Syn")
