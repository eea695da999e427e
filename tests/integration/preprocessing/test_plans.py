"""Plans: kept, moved, narrowed; and data sets that do not fit together are told apart from those that do."""

from __future__ import annotations

import json
import os
import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_cases import LABELS, MOVED_PLANS, PLANS, Prepared

from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.plans import (
    _planner_workers,
    ensure_plans,
    moved_plans_name,
    pair_faults,
    plans_path,
    read_plans,
    shrink_plans,
)


def with_json(dataset: RawDataset, **changes: Any) -> RawDataset:
    return replace(dataset, dataset_json=dataset.dataset_json | changes)


def test_data_sets_that_fit_have_no_faults(prepared: Prepared) -> None:
    assert pair_faults(prepared.synthetic, prepared.real) == []
    other_ending = with_json(replace(prepared.real, file_ending=".nrrd"), file_ending=".nrrd")
    assert pair_faults(prepared.synthetic, other_ending) == [], "nnU-Net reads both with SimpleITK"
    turning = with_json(replace(prepared.real, file_ending=".nii"), file_ending=".nii")
    turning = with_json(turning, overwrite_image_reader_writer="NibabelIOWithReorient")
    assert pair_faults(prepared.synthetic, turning) == [], "the reader of the plans reads both"
    partly = with_json(prepared.synthetic, labels=LABELS | {"ignore": 3}, channel_names={"0": "ct"})
    assert pair_faults(partly, prepared.real) == [], "the networks are the same"
    assert pair_faults(prepared.synthetic, with_json(prepared.real, labels=LABELS | {"ignore": 3})) == []
    regions = {"labels": LABELS | {"both": [1, 2]}, "regions_class_order": [1, 2, 3]}
    ours, theirs = (with_json(dataset, **regions) for dataset in (prepared.synthetic, prepared.real))
    assert pair_faults(ours, theirs) == []
    faults = pair_faults(prepared.synthetic, theirs)
    assert faults[0].endswith("Generate it with `fcas_generate --for 901`.")
    assert "regions_class_order must be that of" in faults[1]


def test_data_sets_in_the_wrong_places_are_told_apart(prepared: Prepared) -> None:
    (fault,) = pair_faults(prepared.real, prepared.synthetic)
    assert fault.endswith("Swap them: fcas_prepare -d 902 --for 901.")


def test_everything_that_does_not_fit_is_listed_with_what_to_do(prepared: Prepared) -> None:
    real = with_json(
        prepared.real, labels={"background": 0, "aorta": 1}, channel_names={"0": "CTA"},
        overwrite_image_reader_writer="NibabelIOWithReorient",
    )  # fmt: skip
    nrrd = with_json(replace(prepared.real, file_ending=".nrrd"), file_ending=".nrrd")
    faults = pair_faults(nrrd, replace(real, folder=real.folder.with_name("Dataset900_Other")))
    assert len(faults) == 4
    assert faults[0].endswith("Generate it with `fcas_generate --for 900`.")
    assert "channel_names must be those of Dataset900_Other, {'0': 'CTA'}, got {'0': 'CT'}." in faults[1]
    assert "must be one that nnU-Net reads with NibabelIOWithReorient" in faults[2]
    assert ": .nii, .nii.gz, got .nrrd." in faults[2]
    assert "folder confidenceTr must be there" in faults[3]
    (same,) = pair_faults(prepared.real, prepared.real)
    assert "must differ, got one for both" in same


def test_existing_plans_are_kept(prepared: Prepared) -> None:
    path = plans_path(prepared.real, PLANS)
    before = path.stat().st_mtime_ns
    assert ensure_plans(prepared.real, PLANS, ["3d_fullres"]) == json.loads(path.read_text())
    assert path.stat().st_mtime_ns == before
    assert moved_plans_name(prepared.real.dataset_id, PLANS) == MOVED_PLANS


def test_plans_that_nobody_makes_and_missing_configurations_are_named(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="plans must exist or be one of nnUNetPlans, nnUNetResEncUNetMPlans"):
        ensure_plans(prepared.real, "myPlans", ["3d_fullres"])
    with pytest.raises(ValueError, match="configurations must be among .*, got 3d_lowres"):
        ensure_plans(prepared.real, PLANS, ["3d_lowres"])
    with pytest.raises(FileNotFoundError, match="plans must exist, got none"):
        read_plans(prepared.real, "myPlans")


@pytest.mark.parametrize("name", ["../../nnUNetPlans", "", "a/b"])
def test_plans_must_not_lead_elsewhere(prepared: Prepared, name: str) -> None:
    with pytest.raises(ValueError, match="-p: plans must have a name without folders"):
        ensure_plans(prepared.real, name, ["3d_fullres"])


def test_plans_that_name_folders_elsewhere_are_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = read_plans(prepared.real, PLANS)
    plans["configurations"]["3d_fullres"]["data_identifier"] = "../../precious"
    plans["plans_name"] = "../other"
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    plans_path(prepared.real, PLANS).parent.mkdir()
    plans_path(prepared.real, PLANS).write_text(json.dumps(plans))
    sentence = "got plans_name '../other', data_identifier of 3d_fullres '../../precious'"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ensure_plans(prepared.real, PLANS, ["3d_fullres"])


def test_the_planner_gets_the_workers_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    with _planner_workers():
        assert os.environ["nnUNet_n_proc_DA"] == "2"
    assert os.environ["nnUNet_n_proc_DA"] == "0"
    monkeypatch.delenv("nnUNet_n_proc_DA")
    with _planner_workers():
        assert "nnUNet_n_proc_DA" not in os.environ
    assert "nnUNet_n_proc_DA" not in os.environ


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_narrowed_plans_build_the_network_asked_for(prepared: Prepared, configuration: str) -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = read_plans(prepared.real, PLANS)
    before = deepcopy(plans)
    patch = [16] * len(plans["configurations"][configuration]["patch_size"])
    small = shrink_plans(
        plans, configuration, plans_name="Small", features_per_stage=(4, 6, 8), patch_size=patch, batch_size=3
    )
    assert plans == before
    assert (small["plans_name"], list(small["configurations"])) == ("Small", [configuration])
    manager = PlansManager(small).get_configuration(configuration)
    assert (manager.patch_size, manager.batch_size) == (patch, 3)
    assert manager.data_identifier == before["configurations"][configuration]["data_identifier"], "data are shared"
    network = get_network_from_plans(
        manager.network_arch_class_name,
        manager.network_arch_init_kwargs,
        manager.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=True,
    )
    outputs = network(torch.zeros(1, 1, *patch))
    assert [tuple(output.shape) for output in outputs] == [(1, 3, *patch), (1, 3, *[n // 2 for n in patch])]
    assert sum(parameter.numel() for parameter in network.parameters()) < 20_000


def test_narrowed_plans_take_numbers_of_convolutions(prepared: Prepared) -> None:
    plans = read_plans(prepared.real, PLANS)
    numbers = {"features_per_stage": (4, 6, 8), "convolutions_per_stage": (1, 2, 3)}
    small = shrink_plans(plans, "3d_fullres", plans_name="Small", patch_size=[16] * 3, **numbers)
    architecture = small["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert (architecture["n_conv_per_stage"], architecture["n_conv_per_stage_decoder"]) == ([1, 2, 3], [2, 1])
    with pytest.raises(ValueError, match="convolutions_per_stage: must be 3 numbers"):
        shrink_plans(plans, "3d_fullres", plans_name="S", **numbers | {"convolutions_per_stage": (1, 2)})


def test_what_cannot_be_narrowed_is_named(prepared: Prepared) -> None:
    plans = read_plans(prepared.real, PLANS)
    with pytest.raises(ValueError, match="number of stages must be from 2 to the planned 4, got 9"):
        shrink_plans(plans, "3d_fullres", plans_name="S", features_per_stage=[4] * 9)
    with pytest.raises(ValueError, match=r"every edge must be a multiple of \[4, 4, 4\], got \[16, 16, 18\]"):
        shrink_plans(plans, "3d_fullres", plans_name="S", features_per_stage=[4] * 3, patch_size=[16, 16, 18])
