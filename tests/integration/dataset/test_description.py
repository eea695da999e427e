"""What a dataset.json may hold, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from nnunet_cases import LABELS
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.description import description_faults, given_roles, same_description
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import write_labels
from fcas_nnunet.labels.anatomy import Role
from fcas_nnunet.labels.regions import single_ids

CONTENT = {
    "channel_names": {"0": "CT"}, "labels": {"background": 0, "aorta": 1}, "numTraining": 1, "file_ending": ".nii.gz",
}  # fmt: skip
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


@pytest.mark.parametrize(
    "entry",
    [None, {"images": ["imagesTr/a_0000.nii.gz"]}, {"images": ["a", "b"], "label": "c"}, {"images": [1], "label": "c"}],
)
def test_a_described_case_must_have_its_files(entry: object) -> None:
    whole = {"images": ["/scans/b.nii.gz"], "label": "/masks/b.nii.gz"}
    assert description_faults(CONTENT | {"dataset": {"b": whole}}) == []
    (fault,) = description_faults(CONTENT | {"dataset": {"a": entry, "b": whole}})
    assert fault == f"dataset must name 1 images and a label of each case, got {entry} for 'a'. Fix it."
    assert description_faults(CONTENT | {"dataset": [entry]}) == [
        "dataset must be an object of case and files, got a list. Fix the file."
    ]


def _drop(key: str) -> Callable[[dict], dict]:
    return lambda content: {k: v for k, v in content.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c | {"channel_names": {"1": "CT", "0": "PET"}},
            "must number the channels 0, 1, … in turn, got .'1'",
        ),
        (lambda c: c | {"channel_names": {}}, "must be an object of number and name, .*, got {}"),
        (lambda c: c | {"channel_names": ["CT"]}, "must be an object of number and name, .*, got .'CT'"),
        (lambda c: c | {"fcas_roles": ["LCA"]}, "fcas_roles must be an object of label name and list of roles"),
        (lambda c: c | {"fcas_roles": {"LCA": ["thin"]}}, "fcas_roles must name labels of the data set, got LCA"),
        (
            lambda c: c | {"fcas_roles": {"left_ventricle": ["thick"]}},
            "fcas_roles of left_ventricle must be a list of thin, wide, root, chamber, wall, got",
        ),
        (_drop("labels"), "keys labels must be present"),
        (lambda c: c | {"file_ending": ".png"}, "file_ending must be one of"),
        (
            lambda c: c | {"labels": {"background": 0, "whole": [1, 2]}},
            "regions_class_order must list an id for each of the 1 regions and labels, whole, got None",
        ),
        (lambda c: c | {"labels": {"background": 0, "a": [1, "2"]}}, "whole numbers from 0, or lists of such"),
        (lambda c: c | {"labels": {"background": 0, "a": 1, "ignore": 3}}, "ignore must have the highest label id, 2"),
        (lambda c: c | REGIONS | {"fcas_names": {"b": 3}}, r"fcas_names must name ids of regions, \[1, 2\], got \[3\]"),
        (lambda c: c | REGIONS | {"fcas_names": {"b": 1, "c": 1}}, "fcas_names must give an id one name"),
        (lambda c: c | REGIONS | {"fcas_names": {"core": 1}}, "must give names that labels does not use otherwise"),
        (lambda c: c | REGIONS | {"fcas_names": [1]}, "fcas_names must be an object of name and id"),
        (lambda c: c | {"labels": {"background": 0, "a": 2}}, "without gaps, got 2 after 0."),
        (lambda c: c | {"labels": {"bg": 0, "a": 1}}, "label 0 must be called background"),
        (lambda c: c | {"labels": {"background": 0}}, "must name 1 to 255 structures besides the background, got 0"),
        (
            lambda c: c | REGIONS | {"labels": {"background": 0, "a": [1, 256], "b": 1}},
            "label ids must be at most 255, got 256",
        ),
    ],
)
def test_a_description_that_cannot_be_served_is_refused(
    dataset: RawDataset, change: Callable[[dict], dict], message: str
) -> None:
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message):
        RawDataset.open(dataset.folder)


def test_roles_and_names_of_the_channel_are_read(dataset: RawDataset) -> None:
    path = dataset.folder / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"channel_names": {"0": "ct"}, "fcas_roles": {"left_ventricle": ["wall"]}}))
    assert RawDataset.open(dataset.folder).roles == {"left_ventricle": (Role.WALL,)}
    path.write_text(json.dumps(content | {"channel_names": {"0": "T1"}}))
    assert RawDataset.open(dataset.folder).load_mask("a").mask.any()


def test_what_is_ignored_is_no_structure(dataset: RawDataset) -> None:
    path = dataset.folder / "dataset.json"
    labels = {"background": 0, "left_ventricle": 1, "ignore": 2}
    before = dataset.load_case("a").mask
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    opened = RawDataset.open(dataset.folder)
    assert (opened.labels, opened.ignore_id, opened.label_ids) == ({"background": 0, "left_ventricle": 1}, 2, [0, 1, 2])
    check_dataset(opened)
    case = opened.load_case("a")
    np.testing.assert_array_equal(case.ignored, before == 2)
    np.testing.assert_array_equal(case.mask, before == 1)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels | {"ignore": 1, "left_ventricle": 2}}))
    with pytest.raises(ValueError, match="ignore must have the highest label id, 2, got 1"):
        RawDataset.open(dataset.folder)


def test_a_case_that_is_ignored_or_background_has_no_structure(dataset: RawDataset) -> None:
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": LABELS | {"ignore": 3}}))
    case = dataset.load_mask("a")
    write_labels(dataset.mask_path("a"), np.where(case.mask == 1, 3, 0).astype(np.uint8), case.affine)
    with pytest.raises(ValueError, match="^a: label must mark at least one voxel, got an empty mask"):
        check_dataset(RawDataset.open(dataset.folder))


def test_nnunets_other_kinds_are_opened_on_request(dataset: RawDataset) -> None:
    """Regions and an ignore label: for the trainers, not for the generator."""
    path = dataset.folder / "dataset.json"
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    changed = {"labels": labels, "regions_class_order": [1, 2], "channel_names": {"0": "CT", "1": "PET"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    opened = RawDataset.open(dataset.folder, any_kind=True)
    assert opened.labels == {"background": 0, "whole_1": 1, "core": 2}
    assert opened.label_ids == [0, 1, 2, 3]
    assert [p.name for p in opened.image_paths("a")] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    with pytest.raises(ValueError, match=r"a: channel 1 \(PET\) must exist, got no file"):
        check_dataset(opened)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"regions_class_order": None}))
    with pytest.raises(ValueError, match="regions_class_order must list an id for each of the 2 regions and labels"):
        RawDataset.open(dataset.folder, any_kind=True)


@pytest.mark.parametrize(
    "content",
    [
        REGIONS,
        {"labels": {"background": 0, "a": 1, "b": [2]}},
        {"labels": {"background": 0, "a": 1, "also_a": 1, "ignore": 2}},
        {"labels": {"background": 0, "a": [1, 5], "b": 5, "ignore": 6}, "regions_class_order": [1, 5]},
        {"labels": {"background": 0, "air": [0], "a": [1, 2]}, "regions_class_order": [1]},
    ],
)
def test_what_nnunet_accepts_is_accepted(content: dict) -> None:
    """Regions, with gaps between their ids too, single ids in a list, two names of one id."""
    manager = LabelManager(content["labels"], content.get("regions_class_order"))
    assert description_faults(CONTENT | content) == []
    assert set(single_ids(content["labels"]).values()) == set(map(int, manager.all_labels))


@pytest.mark.parametrize(
    "content",
    [
        {"labels": {"background": 0, "a": 1, "ignore": 3}},
        {"labels": {"background": 0, "a": [1, 2], "ignore": [3]}, "regions_class_order": [1]},
        {"labels": {"background": [0], "a": 1}},
        {"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]},
        {"labels": {"background": 0, "a": [1, 2], "b": 2}},
    ],
)
def test_what_nnunet_refuses_is_refused(content: dict) -> None:
    with pytest.raises((AssertionError, RuntimeError), match="gnore label|Background|regions_class_order"):
        LabelManager(content["labels"], content.get("regions_class_order"))
    assert description_faults(CONTENT | content, any_kind=True) != []


def test_plain_labels_with_gaps_crash_nnunets_training() -> None:
    """Its heads are counted, its targets are ids: so they are refused here, and by nnU-Net's own check."""
    labels = {"background": 0, "a": 1, "b": 3}
    assert LabelManager(labels, None).num_segmentation_heads == 3
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        DC_and_CE_loss({}, {})(torch.zeros(1, 3, 2, 2, 2), torch.full((1, 1, 2, 2, 2), 3.0))
    assert description_faults(CONTENT | {"labels": labels}, any_kind=True) == [
        "label ids must be 0, 1, 2, ... without gaps, got 3 after 1. Renumber them."
    ]


def test_roles_of_a_region_are_those_of_its_ids() -> None:
    labels = {"background": 0, "vessels": [1, 2, 3], "coronary_arteries": [2, 3], "LA": 4, "rest": [1, 4]}
    content = {"labels": labels, "fcas_roles": {"vessels": ["wide"], "LA": []}}
    assert given_roles(content) == {
        "LA": (), "rest_1": (Role.WIDE,), "coronary_arteries_2": (Role.WIDE,), "coronary_arteries_3": (Role.WIDE,),
    }  # fmt: skip
    assert given_roles({"labels": labels}) == {"coronary_arteries_2": (Role.THIN,), "coronary_arteries_3": (Role.THIN,)}


def test_the_order_of_regions_is_that_of_a_networks_outputs() -> None:
    there, turned = ({"a": [1, 2], "b": 2}, {"b": 2, "a": [1, 2]})
    assert same_description("labels", there | {"ignore": 3}, there)
    assert not same_description("labels", there, turned)
    assert same_description("labels", {"a": 1, "b": 2}, {"b": 2, "a": 1})


@pytest.mark.parametrize("case_id", ["../../../evil", "a/b", "..", ""])
def test_a_described_case_must_not_lead_elsewhere(dataset: RawDataset, case_id: str) -> None:
    path = dataset.folder / "dataset.json"
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    path.write_text(json.dumps(dataset.dataset_json | {"dataset": {"Patient 1": entry, case_id: entry}}))
    with pytest.raises(
        ValueError, match=f"dataset must name cases as files are named, without folders, got '{case_id}'"
    ):
        RawDataset.open(dataset.folder, any_kind=True)
