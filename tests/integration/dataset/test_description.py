"""What a dataset.json may hold, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from nnunet_cases import LABELS

from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.description import description_faults
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.labels.anatomy import Role

CONTENT = {
    "channel_names": {"0": "CT"}, "labels": {"background": 0, "aorta": 1}, "numTraining": 1, "file_ending": ".nii.gz",
}  # fmt: skip


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
        (lambda c: c | {"channel_names": {}}, "must number the channels 0, 1, … in turn, got {}"),
        (lambda c: c | {"channel_names": ["CT"]}, "must number the channels 0, 1, … in turn, got .'CT'"),
        (lambda c: c | {"fcas_roles": ["LCA"]}, "fcas_roles must be an object of label name and list of roles"),
        (lambda c: c | {"fcas_roles": {"LCA": ["thin"]}}, "fcas_roles must name labels of the data set, got LCA"),
        (
            lambda c: c | {"fcas_roles": {"left_ventricle": ["thick"]}},
            "fcas_roles of left_ventricle must be a list of thin, wide, root, chamber, wall, got",
        ),
        (_drop("labels"), "keys labels must be present"),
        (lambda c: c | {"file_ending": ".png"}, "file_ending must be one of"),
        (lambda c: c | {"labels": {"background": 0, "whole": [1, 2]}}, "got regions for whole"),
        (lambda c: c | {"labels": {"background": 0, "a": 1, "ignore": 2}}, "must not have an ignore label"),
        (lambda c: c | {"labels": {"background": 0, "a": 2}}, "without gaps, got"),
        (lambda c: c | {"labels": {"bg": 0, "a": 1}}, "label 0 must be called background"),
        (lambda c: c | {"labels": {"background": 0}}, "must name 1 to 255 structures besides the background, got 0"),
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


def test_an_ignore_label_is_for_synthetic_sets_alone(dataset: RawDataset) -> None:
    path = dataset.folder / "dataset.json"
    labels = LABELS | {"ignore": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    opened = RawDataset.open(dataset.folder, ignore_label=True)
    assert (opened.labels, opened.ignored_ids) == (LABELS, [3])
    check_dataset(opened)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels | {"ignore": 1, "left_ventricle": 3}}))
    with pytest.raises(ValueError, match="ignore must have the highest label id, 3, got 1"):
        RawDataset.open(dataset.folder, ignore_label=True)


def test_nnunets_other_kinds_are_opened_on_request(dataset: RawDataset) -> None:
    """Regions and an ignore label: for the trainers, not for the generator."""
    path = dataset.folder / "dataset.json"
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    changed = {"labels": labels, "regions_class_order": [1, 2], "channel_names": {"0": "CT", "1": "PET"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    opened = RawDataset.open(dataset.folder, any_kind=True)
    assert opened.labels == {"background": 0, "core": 2}
    assert opened.label_ids == [0, 1, 2, 3]
    assert [p.name for p in opened.image_paths("a")] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    with pytest.raises(ValueError, match=r"a: channel 1 \(PET\) must exist, got no file"):
        check_dataset(opened)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"regions_class_order": None}))
    with pytest.raises(ValueError, match=r"labels must be what nnU-Net's dataset_format\.md describes, got"):
        RawDataset.open(dataset.folder, any_kind=True)


@pytest.mark.parametrize("case_id", ["../../../evil", "a/b", "..", ""])
def test_a_described_case_must_not_lead_elsewhere(dataset: RawDataset, case_id: str) -> None:
    path = dataset.folder / "dataset.json"
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    path.write_text(json.dumps(dataset.dataset_json | {"dataset": {"Patient 1": entry, case_id: entry}}))
    with pytest.raises(
        ValueError, match=f"dataset must name cases as files are named, without folders, got '{case_id}'"
    ):
        RawDataset.open(dataset.folder, any_kind=True)
