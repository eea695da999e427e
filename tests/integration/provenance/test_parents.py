"""Parents of a synthetic set: kept, found again by id and by content, and refused as validation cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fcas_nnunet_small import LABELS, small_case

from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.ownership import GENERATE, refuse_foreign_cases
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import write_confidence
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import (
    JUDGES_KEY,
    PARENTS_KEY,
    Parent,
    Role,
    derived_cases,
    from_json,
    held_out_faults,
    leaks,
    learnt_cases,
    merged,
    parents_of,
    refuse_leaks,
    to_json,
    unknown_origins,
    validation_contents,
    validation_faults,
)

REAL, SYNTHETIC = "Dataset901_Small", "Dataset902_SmallFCaS"
PARENTS = [
    Parent(REAL, "a", "hash of a", (Role.TRAINING, Role.TEMPLATE)),
    Parent("Dataset903_Other", "b", None, (Role.REFERENCE,)),
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("raw", "preprocessed"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path


def write(root: Path, name: str, numbers: dict[str, int], split: str = "Tr") -> RawDataset:
    """A data set of small cases: id → which."""
    for case_id, number in numbers.items():
        write_case(root / "raw" / name, replace(small_case(number), case_id=case_id, surroundings=None), split=split)
    if split == "Tr":
        write_dataset_json(root / "raw" / name, LABELS, len(numbers))
    return RawDataset.open(root / "raw" / name)


def test_each_case_is_kept_once_with_all_that_it_gave() -> None:
    twice = [Parent(REAL, "a", None, (Role.TEMPLATE,)), *PARENTS, Parent(REAL, "a", "hash of a", (Role.TRAINING,))]
    assert merged(twice) == PARENTS
    assert from_json(json.loads(json.dumps({PARENTS_KEY: to_json(PARENTS)}))) == PARENTS
    assert from_json({"labels": {}}) is None
    with pytest.raises(ValueError, match="fcas_parents must be what fcas_generate wrote"):
        from_json({PARENTS_KEY: {REAL: {"a": {"roles": ["training"]}}}})


def test_what_a_judge_has_learnt_from_is_a_parent_too(root: Path) -> None:
    judge = Parent(REAL, "a", "hash of a", (Role.JUDGE,))
    described = {PARENTS_KEY: to_json(PARENTS), JUDGES_KEY: to_json([judge])}
    both = replace(PARENTS[0], roles=(Role.TRAINING, Role.TEMPLATE, Role.JUDGE))
    assert from_json(described) == [both, PARENTS[1]]
    assert from_json({JUDGES_KEY: to_json([judge])}) is None, "what the scans were made from is not known"
    synthetic = write(root, SYNTHETIC, {"syn": 1})
    assert parents_of(replace(synthetic, dataset_json={JUDGES_KEY: to_json([judge])})) == [judge]
    with pytest.raises(ValueError, match="fcas_judges must be what fcas_confidence wrote"):
        from_json(described | {JUDGES_KEY: 3})


def test_parents_are_found_by_id_and_by_content() -> None:
    cases = {"a": None, "b": None, "renamed": "hash of a", "new": "another"}
    assert leaks(PARENTS, REAL, cases) == [
        "a (trained the generator, was a template)",
        f"renamed (the scan of {REAL}'s a, which trained the generator, was a template)",
    ]
    assert leaks(PARENTS, "Dataset904_Else", cases)[0].startswith("renamed")  # another data set's a is another patient


def test_leaks_are_allowed_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match="^one\ntwo$"):
        refuse_leaks(["one", "two"], said.append)
    monkeypatch.setenv("FCAS_ALLOW_LEAKS", "1")
    refuse_leaks(["one", "two"], said.append)
    assert said == ["WARNING, allowed by FCAS_ALLOW_LEAKS: one", "WARNING, allowed by FCAS_ALLOW_LEAKS: two"]


def test_a_test_scan_that_is_a_parent_is_named(root: Path) -> None:
    dataset = write(root, REAL, {"p0": 0, "p1": 1})
    assert held_out_faults([Parent(REAL, "p1", training_contents(dataset)["p1"], (Role.TRAINING,))], dataset) == []
    write(root, REAL, {"t0": 1, "t1": 2}, split="Ts")
    parents = [Parent(REAL, "p1", training_contents(dataset)["p1"], (Role.TRAINING,))]
    (fault,) = held_out_faults(parents, dataset)
    assert f"got t0_0000.nii.gz (the scan of {REAL}'s p1, which trained the generator). Take" in fault


def test_a_set_of_an_earlier_version_came_from_its_whole_source(root: Path) -> None:
    contents = training_contents(write(root, REAL, {"p0": 0, "p1": 1, "p2": 2}))
    synthetic = write(root, SYNTHETIC, {"fcas_00000": 5})
    (synthetic.folder / "confidenceTr").mkdir()
    Manifest(synthetic.folder).append(
        {"case_id": "fcas_00000", "source": REAL, "reference": "p0", "template": "p1", "confidence": {}}
    )
    drawn = {"p0": (Role.REFERENCE,), "p1": (Role.TEMPLATE,)}
    assert parents_of(synthetic) == [
        Parent(REAL, i, sha256, (Role.TRAINING, *drawn.get(i, ()))) for i, sha256 in contents.items()
    ]
    for file in (root / "raw" / REAL).glob("*.json"):
        file.unlink()
    assert [(p.case_id, p.image_sha256) for p in parents_of(synthetic)] == [("p0", None), ("p1", None)]


def test_lines_that_were_copied_from_another_set_bring_their_parents(root: Path) -> None:
    contents = training_contents(write(root, REAL, {"p0": 0, "p1": 1, "p2": 2}))
    synthetic = write(root, SYNTHETIC, {"fcas_00000": 5})
    (synthetic.folder / "confidenceTr").mkdir()
    own = Parent(REAL, "p0", contents["p0"], (Role.TRAINING,))
    described = replace(synthetic, dataset_json=synthetic.dataset_json | {PARENTS_KEY: to_json([own])})
    line = {"source": REAL, "reference": "p0", "template": "p0", "confidence": {}, "weights_sha256": "one"}
    Manifest(synthetic.folder).append(line | {"case_id": "fcas_00000"})
    assert [parent.case_id for parent in parents_of(described)] == ["p0"]
    Manifest(synthetic.folder).append(line | {"case_id": "fcas_00001", "reference": "p1"})
    assert parents_of(described)[1] == Parent(REAL, "p1", contents["p1"], (Role.REFERENCE,))
    Manifest(synthetic.folder).append(line | {"case_id": "fcas_00002", "weights_sha256": "another generator's"})
    assert [parent.case_id for parent in parents_of(described)] == ["p0", "p1", "p2"]


@pytest.fixture
def mixed(root: Path) -> RawDataset:
    """A case that a line tells the reference of, a real one, one with a map and no line, and a scan of one's own."""
    write(root, REAL, {"p0": 0, "p1": 1})
    synthetic = write(root, SYNTHETIC, {"fcas_00000": 5, "own": 6, "patient": 7, "stranger": 8})
    for case_id in ("fcas_00000", "own", "stranger"):
        write_confidence(synthetic.confidence_path(case_id), np.ones((32, 32, 32)), small_case(5).affine)
    line = {"case_id": "fcas_00000", "source": REAL, "reference": "p0", "template": "p0", "confidence": {}}
    Manifest(synthetic.folder).append(line | {"command": GENERATE})
    Manifest(synthetic.folder).append({"case_id": "own"})
    return synthetic


def test_cases_of_unknown_origin_are_held_by_content_and_named(mixed: RawDataset) -> None:
    contents = training_contents(mixed)
    own = [Parent(SYNTHETIC, i, contents[i], (Role.PRETRAINING,)) for i in ("own", "patient", "stranger")]
    assert [parent for parent in parents_of(mixed) if parent.dataset == SYNTHETIC] == own
    assert unknown_origins(mixed) == ["stranger"]
    assert mixed.synthetic_cases() == {"fcas_00000"}
    refuse_foreign_cases(mixed.folder, GENERATE)  # a line of the id alone says of no other command


def test_maps_of_ones_own_without_a_manifest_are_no_gap_and_their_scans_are_held_by_content(mixed: RawDataset) -> None:
    Manifest(mixed.folder).path.unlink()
    assert unknown_origins(mixed) == []
    assert [(p.dataset, p.case_id) for p in parents_of(mixed)] == [(SYNTHETIC, i) for i in mixed.case_ids]


def test_contents_of_validation_cases_come_from_whatever_is_there(root: Path) -> None:
    dataset = write(root, REAL, {"p0": 0, "p1": 1})
    preprocessed = root / "preprocessed" / REAL
    contents = training_contents(dataset)
    (preprocessed / "fcas_contents.json").unlink()
    assert validation_contents(preprocessed, ["p1"]) == {"p1": contents["p1"]}  # read from the raw data set
    (dataset.folder / "dataset.json").unlink()
    assert validation_contents(preprocessed, ["p0", "p1"]) == {"p0": None, "p1": contents["p1"]}


def test_cases_of_unknown_content_are_compared_by_id_and_said_so(root: Path) -> None:
    said: list[str] = []
    preprocessed = root / "preprocessed" / REAL
    assert validation_faults(PARENTS, SYNTHETIC, preprocessed, 0, ["new"], said.append) == []
    assert said[0].startswith(f"{REAL}: scans of 1 of 1 validation cases are not known here")
    (fault,) = validation_faults(PARENTS, SYNTHETIC, preprocessed, 0, ["a"], said.append)
    assert "got a (trained the generator, was a template)" in fault
    assert validation_faults(PARENTS, SYNTHETIC, preprocessed, "all", ["a"], said.append) == []


def test_a_network_has_learnt_from_its_folds_and_what_was_made_from_them(root: Path) -> None:
    contents = training_contents(write(root, REAL, {f"p{number}": number for number in range(5)}))
    (root / "plans.json").write_text(json.dumps({"dataset_name": REAL}))
    fold = {"train": ["p0", "p1"], "val": ["p2", "p3", "p4"]}
    (root / "preprocessed" / REAL / "splits_final.json").write_text(json.dumps([fold]))
    learnt = learnt_cases(root, ["0"])
    assert learnt == [Parent(REAL, i, contents[i], (Role.TRAINING,)) for i in fold["train"]]
    assert [parent.case_id for parent in learnt_cases(root, ["all"])] == [*fold["train"], *fold["val"]]
    synthetic = write(root, SYNTHETIC, {"fcas_00000": 5})
    known = Parent("Dataset903_Other", "copy", contents["p1"], (Role.REFERENCE,))
    described = replace(synthetic, dataset_json={PARENTS_KEY: to_json([known])})
    for number, (reference, template) in enumerate([("p2", "p3"), ("p2", "p0"), (f"{known.dataset}:copy", "p4")]):
        line = {"case_id": f"fcas_{number:05d}", "source": REAL, "reference": reference, "template": template}
        Manifest(synthetic.folder).append(line)
    Manifest(synthetic.folder).append({"case_id": "fcas_00003", "reference": "p0"})  # of no source nothing is known
    assert derived_cases(described, learnt) == {"fcas_00001", "fcas_00002"}
