"""Parents of a synthetic set: kept, found again by id and by content, and refused as validation cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fcas_nnunet_small import LABELS, small_case

from fcas_nnunet.integration.contents import training_contents
from fcas_nnunet.integration.manifest import Manifest
from fcas_nnunet.integration.parents import (
    PARENTS_KEY,
    Parent,
    Role,
    from_json,
    held_out_faults,
    leaks,
    merged,
    parents_of,
    pretraining_parents,
    refuse_leaking_validation,
    refuse_leaks,
    same_set_faults,
    to_json,
    validation_contents,
)
from fcas_nnunet.integration.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.trainers import nnUNetTrainerCAL

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


def test_weights_of_the_set_itself_are_those_of_the_same_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = {"init_args": {"plans": {"dataset_name": REAL}, "fold": "all", "dataset_json": {}}}
    (fault,) = same_set_faults(checkpoint, REAL, 0)
    assert "got weights that were trained on fold all of the same data set" in fault
    assert same_set_faults(checkpoint, REAL, "all") == same_set_faults(checkpoint, SYNTHETIC, 0) == []
    checkpoint["init_args"]["fold"] = 0
    assert same_set_faults(checkpoint, REAL, 0) == []


def test_pretraining_that_starts_from_weights_passes_their_parents_on(root: Path) -> None:
    trainer = nnUNetTrainerCAL.__new__(nnUNetTrainerCAL)
    own = Parent(REAL, "c", "hash of c", (Role.TRAINING,))
    told = trainer.dataset_json = {PARENTS_KEY: to_json([own])}
    arguments = {"plans": {"dataset_name": "Dataset905_Earlier"}, "dataset_json": {PARENTS_KEY: to_json(PARENTS)}}
    trainer._check_weights({"init_args": arguments})
    assert from_json(told) == merged([own, *PARENTS])


def test_real_cases_beside_synthetic_ones_are_pretrained_on(root: Path) -> None:
    synthetic = write(root, SYNTHETIC, {"fcas_00000": 5, "patient": 6})
    (synthetic.folder / "confidenceTr").mkdir()
    Manifest(synthetic.folder).append({"case_id": "fcas_00000", "confidence": {}})
    sha256 = training_contents(synthetic, ["patient"])["patient"]
    assert parents_of(synthetic) == [Parent(SYNTHETIC, "patient", sha256, (Role.PRETRAINING,))]


def test_a_checkpoint_tells_its_parents(root: Path) -> None:
    arguments = {"plans": {"dataset_name": SYNTHETIC}, "dataset_json": {PARENTS_KEY: to_json(PARENTS)}}
    assert pretraining_parents({"init_args": arguments}) == (SYNTHETIC, PARENTS)
    arguments["dataset_json"] = {}
    assert pretraining_parents({"init_args": arguments}) == (SYNTHETIC, None)
    assert pretraining_parents({}) == ("", None)
    prepared = root / "preprocessed" / SYNTHETIC
    prepared.mkdir()
    (prepared / "dataset.json").write_text(json.dumps({PARENTS_KEY: to_json(PARENTS)}))  # fcas_prepare, run again
    assert pretraining_parents({"init_args": arguments}) == (SYNTHETIC, PARENTS)


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
    refuse_leaking_validation(PARENTS, SYNTHETIC, preprocessed, 0, ["new"], said.append)
    assert said[0].startswith(f"{REAL}: scans of 1 of 1 validation cases are not known here")
    with pytest.raises(ValueError, match=r"got a \(trained the generator, was a template\)"):
        refuse_leaking_validation(PARENTS, SYNTHETIC, preprocessed, 0, ["a"], said.append)
    refuse_leaking_validation(PARENTS, SYNTHETIC, preprocessed, "all", ["a"], said.append)
