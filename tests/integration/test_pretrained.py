"""`-pretrained_weights`: what does not fit is refused before training, and segmentation layers are taken over."""

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from nnunet_cases import PLANS, Prepared, build
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from fcas_nnunet.integration.planning import read_plans
from fcas_nnunet.integration.pretrained import (
    copy_segmentation_layers,
    pretrained_weights_argument,
    pretraining_faults,
    read_checkpoint,
)


@pytest.fixture
def checkpoint(prepared: Prepared, tmp_path: Path) -> Path:
    """Of a pretraining that has just begun, its segmentation layers unlike any fresh ones."""
    trainer = build(prepared, "nnUNetTrainerCAL")
    trainer.initialize()
    with torch.no_grad():
        for name, tensor in trainer.network.named_parameters():
            if ".seg_layers." in name:
                tensor.fill_(0.125)
    path = tmp_path / "checkpoint_final.pth"
    trainer.save_checkpoint(str(path))
    return path


def test_argument_is_found_however_it_is_written() -> None:
    assert pretrained_weights_argument(["train", "1", "-pretrained_weights", "a.pth", "-p", "x"]) == Path("a.pth")
    assert pretrained_weights_argument(["train", "-pretrained_weights=a.pth"]) == Path("a.pth")
    assert pretrained_weights_argument(["train", "1", "--c"]) is None


def test_fine_tuning_starts_with_all_pretrained_weights(
    prepared: Prepared, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", "-pretrained_weights", str(checkpoint)])
    trainer = build(prepared, "nnUNetTrainerCALFinetune_1epoch", real=True)
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(checkpoint))  # as nnUNetv2_train does
    pretrained = read_checkpoint(checkpoint)["network_weights"]
    heads = [key for key in pretrained if ".seg_layers." in key]
    assert heads
    assert not any(torch.equal(trainer.network.state_dict()[key], pretrained[key]) for key in heads)
    assert copy_segmentation_layers(trainer.network, trainer.pretrained) == len(heads)
    assert all(torch.equal(tensor, pretrained[key]) for key, tensor in trainer.network.state_dict().items())


def test_what_does_not_fit_is_listed_and_nothing_is_trained(
    prepared: Prepared, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(checkpoint, weights_only=False)
    plans = content["init_args"]["plans"]
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
    content["init_args"]["dataset_json"]["labels"] = {"background": 0, "liver": 1}
    other = tmp_path / "other.pth"
    torch.save(content, other)
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", "-pretrained_weights", str(other)])
    with pytest.raises(ValueError, match="Prepare the synthetic set again") as caught:
        build(prepared, "nnUNetTrainerCALFinetune_1epoch", real=True).initialize()
    first, second = str(caught.value).splitlines()
    assert first.startswith("-pretrained_weights: patch_size must be that of the pretraining, [16, 16, 16], got")
    assert second.startswith("-pretrained_weights: labels must be those of the pretraining, {'background': 0, 'liver'")


def test_every_kind_of_difference_is_a_fault(prepared: Prepared, checkpoint: Path) -> None:
    content = read_checkpoint(checkpoint)
    plans = read_plans(prepared.real, PLANS)
    dataset_json = prepared.real.dataset_json
    assert pretraining_faults(content, plans, "3d_fullres", dataset_json) == []
    assert pretraining_faults({"network_weights": {}}, plans, "3d_fullres", dataset_json) == []
    for key, value in (("spacing", [9, 9, 9]), ("normalization_schemes", ["ZScoreNormalization"])):
        changed = deepcopy(plans)
        changed["configurations"]["3d_fullres"][key] = value
        (fault,) = pretraining_faults(content, changed, "3d_fullres", dataset_json)
        assert f"{key} must be that of the pretraining" in fault
    changed = deepcopy(plans)
    changed["foreground_intensity_properties_per_channel"]["0"]["mean"] += 1
    (fault,) = pretraining_faults(content, changed, "3d_fullres", dataset_json)
    assert "intensity statistics must be those of the pretraining" in fault
    (fault,) = pretraining_faults(content, plans, "3d_fullres", dataset_json | {"channel_names": {"0": "MRI"}})
    assert "channel_names must be those of the pretraining" in fault


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.pth: checkpoint must exist"):
        read_checkpoint(tmp_path / "gone.pth")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match="must hold network_weights, got state_dict"):
        read_checkpoint(tmp_path / "foreign.pth")
