"""Which folds may judge a synthetic case: none that has learnt from its reference, by id or by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fcas_nnunet_small import LABELS, set_roots, small_case

from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.models.cross_fitting import Judges, choose_judges, learnt_by_fold
from fcas_nnunet.integration.models.prediction import find_model
from fcas_nnunet.integration.preprocessing.splits import SPLITS_FILE
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, PRETRAINING_KEY, Parent, Role, to_json

REAL = "Dataset901_Small"


def made_from(reference: str, template: str) -> dict[str, Any]:
    return {"source": REAL, "reference": reference, "template": template}


def learnt(*case_ids: str) -> list[Parent]:
    return [Parent(REAL, case_id, f"hash of {case_id}", (Role.TRAINING,)) for case_id in case_ids]


def test_a_fold_that_knows_neither_parent_comes_before_one_that_knows_the_template() -> None:
    folds = {"0": learnt("c", "d"), "1": learnt("b", "c", "d"), "2": learnt("a", "b", "d")}
    records = {
        "neither": made_from("a", "b"), "same": made_from("a", "a"), "split": made_from("c", "d"),
        "known": made_from("d", "a"), "stranger": made_from("x", "y"),
    }  # fmt: skip
    assert choose_judges(records, folds, []) == {
        "neither": Judges(("0",)),  # fold 1 does not know a either, but b
        "same": Judges(("0", "1")),
        "split": Judges(("2",), know_template=True),
        "stranger": Judges(("0", "1", "2")),
    }


def test_a_reference_under_another_name_is_known_by_its_content() -> None:
    record = {"source": "Dataset910_Copy", "reference": "patient", "template": "patient"}
    copied = [Parent("Dataset910_Copy", "patient", "hash of a", (Role.REFERENCE,))]
    folds = {"0": learnt("a"), "1": learnt("b")}
    assert choose_judges({"syn": record}, folds, copied) == {"syn": Judges(("1",))}
    assert choose_judges({"syn": record}, folds, []) == {"syn": Judges(("0", "1"))}


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    set_roots(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / REAL
    for number in range(3):
        write_case(folder, small_case(number))
    write_dataset_json(folder, LABELS, 3)
    splits = [{"train": ["p1", "p2"], "val": ["p0"]}, {"train": ["p0", "p2"], "val": ["p1"]}]
    atomic_write_json(tmp_path / "nnUNet_preprocessed" / REAL / SPLITS_FILE, splits)
    return RawDataset.open(folder)


def write_model(folder: Path, folds: str, described: dict[str, Any], name: str = REAL) -> Path:
    atomic_write_json(folder / "plans.json", {"dataset_name": name})
    atomic_write_json(folder / "dataset.json", {"labels": LABELS})
    for fold in folds.split():
        (folder / f"fold_{fold}").mkdir()
        torch.save({"init_args": {"dataset_json": described}}, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def known(model: Path, *folds: str) -> dict[str, list[str]]:
    found = learnt_by_fold(find_model(model, folds, "checkpoint_final.pth"))
    return {fold: [parent.case_id for parent in parents] for fold, parents in found.items()}


def test_folds_have_learnt_from_their_training_cases_and_all_from_every_case(real: RawDataset, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "0 1 all", {})
    assert known(model) == {"0": ["p1", "p2"], "1": ["p0", "p2"]}
    assert known(model, "all") == {"all": ["p0", "p1", "p2"]}
    of_fold = learnt_by_fold(find_model(model, ["0"], "checkpoint_final.pth"))["0"]
    assert {parent.case_id: parent.image_sha256 for parent in of_fold} == training_contents(real, ["p1", "p2"])


def test_first_weights_and_synthetic_training_scans_bring_their_own_parents(real: RawDataset, tmp_path: Path) -> None:
    """Fold 0 was fine-tuned from weights that had seen x and every case of a real set; its scans were made from y."""
    folder = tmp_path / "nnUNet_raw" / "Dataset903_Earlier"
    write_case(folder, small_case(7))
    write_dataset_json(folder, LABELS, 1)
    x, y = (Parent(REAL, case_id, None, (Role.REFERENCE,)) for case_id in "xy")
    pretraining = {"trained_on": [["Dataset903_Earlier", "all"], ["Dataset999_Gone", "0"]], PARENTS_KEY: to_json([x])}
    described = {PRETRAINING_KEY: pretraining, PARENTS_KEY: to_json([y])}
    assert known(write_model(tmp_path / "model", "0", described)) == {"0": ["p1", "p2", "x", "y", "p7"]}


def test_folds_of_unknown_training_cases_are_refused(real: RawDataset, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "0 1", {}, "Dataset950_Elsewhere")
    with pytest.raises(ValueError, match=r"training cases of every fold must be known, got neither .* for fold 0, 1\."):
        known(model)
