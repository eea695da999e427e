"""The parents of what is drawn, through synthetic sets in between, and test scans and folds that they must not meet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fcas_nnunet_small import LABELS, SURROUNDINGS, small_case

from fcas_nnunet.commands.runtime.leaks import drawing_parents, refuse_leaking_parents, training_parents
from fcas_nnunet.integration.dataset.library import make_library
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, Parent, Role, to_json

SOURCE, OTHER = "Dataset901_Small", "Dataset903_Other"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """901 with p0 to p2; 903 with p7, made from a case of 901 that is not there any more."""
    for kind in ("raw", "preprocessed"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    for name, numbers in ((SOURCE, (0, 1, 2)), (OTHER, (7,))):
        folder = tmp_path / "raw" / name
        for number in numbers:
            write_case(folder, small_case(number))
        more = {PARENTS_KEY: to_json([Parent(SOURCE, "gone", "hash", (Role.TRAINING,))])} if name == OTHER else {}
        write_dataset_json(folder, LABELS, len(numbers), surroundings=SURROUNDINGS, more=more)
    return RawDataset.open(tmp_path / "raw" / SOURCE)


def test_what_is_drawn_has_parents_through_synthetic_sets(source: RawDataset) -> None:
    library = make_library(source, ["903"], ["901:p0"], [])
    own, other = training_contents(source), training_contents(library.others[OTHER])
    assert drawing_parents(library) == [
        Parent(SOURCE, "gone", "hash", (Role.TRAINING,)),
        Parent(OTHER, "p7", other["p7"], (Role.REFERENCE,)),
        Parent(SOURCE, "p0", own["p0"], (Role.TEMPLATE,)),
    ]
    assert [(p.dataset, p.case_id) for p in training_parents(library.others[OTHER])] == [
        (SOURCE, "gone"),
        (OTHER, "p7"),
    ]


def test_test_scans_and_a_folds_validation_cases_stay_unseen(source: RawDataset, tmp_path: Path) -> None:
    splits = tmp_path / "preprocessed" / SOURCE / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text(json.dumps([{"train": ["p0", "p1"], "val": ["p2"]}]))
    fold = source.only(["p0", "p1"])
    refuse_leaking_parents(training_parents(fold), fold, 0)
    twin = replace(small_case(1), case_id="twin", surroundings=None)
    write_case(source.folder, twin, split="Ts")
    parents = [*training_parents(fold), *drawing_parents(make_library(fold, ["901:p2"], None, ["p0"]))]
    with pytest.raises(ValueError, match="imagesTs must be none that the generator learns or draws from") as caught:
        refuse_leaking_parents(parents, fold, 0)
    test, validation = str(caught.value).splitlines()
    assert f"got twin_0000.nii.gz (the scan of {SOURCE}'s p1, which trained the generator). Take" in test
    assert validation.startswith(
        f"{SOURCE}, fold 0: validation cases must stay unseen, got p2 (gave masks). Name other"
    )
