"""The bench: sets that it changes, and arms whose confidence is a segmenter's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fcas_nnunet_small import LABELS, SURROUNDINGS, set_roots, small_case

from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.preprocessing.splits import splits_path


def test_changed_sets_keep_what_they_do_not_change(small_home: Path) -> None:
    from sets import join, prior, weigh

    from fcas_nnunet.integration.dataset.manifest import Manifest
    from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
    from fcas_nnunet.integration.dataset.synthetic_cases import CONTENTS

    raw = small_home / "nnUNet_raw"
    real, drawn = sorted(raw.iterdir())
    made = {name: raw / f"Dataset91{number}_{name}" for number, name in enumerate(("Shuffled", "Prior", "Joined"))}
    weigh(drawn, made["Shuffled"], "shuffled")
    generator = small_home / "nnUNet_results" / real.name / "fcas__tiny"
    prior(drawn, made["Prior"], real, generator)
    join(real, made["Prior"], made["Joined"])
    sets = {name: RawDataset.open(folder, any_kind=True) for name, folder in made.items()}
    before = RawDataset.open(drawn, any_kind=True)
    records = Manifest(drawn).read()
    for case_id in before.case_ids:
        old, shuffled, first = (
            dataset.load_case(case_id) for dataset in (before, sets["Shuffled"], sets["Prior"])
        )  # fmt: skip
        for other in (shuffled, first):
            np.testing.assert_array_equal(other.mask, old.mask)
        np.testing.assert_array_equal(shuffled.image, old.image)
        assert (shuffled.confidence != old.confidence).any()
        assert (first.confidence == 1).all()
        template = RawDataset.open(real).load_case(records[case_id]["template"])
        label = int(np.bincount(old.mask[old.mask > 0]).argmax())
        inside = np.median(first.image[0][old.mask == label])
        assert abs(inside - template.image[0][template.mask == label].mean()) < 25
    for name in ("Shuffled", "Prior"):
        changed = Manifest(made[name]).read()
        for case_id, record in records.items():
            assert changed[case_id] | {CONTENTS: 0} == record | {CONTENTS: 0}
    assert sets["Joined"].case_ids == sorted([*before.case_ids, *RawDataset.open(real).case_ids])


def test_judges_leave_out_whole_patients(prepared_folds: Path) -> None:
    from sets import folds

    dataset = RawDataset.open(prepared_folds)
    folds(dataset, 2, ".+?(?=_frame|$)")
    a, b, c = (["a_frame01", "a_frame12"], ["b_frame01", "b_frame09"], ["c"])
    assert json.loads(splits_path(dataset).read_text()) == [
        {"train": b, "val": [*a, *c]}, {"train": [*a, *c], "val": b}
    ]  # fmt: skip


@pytest.fixture
def prepared_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of three patients, two of them with two scans each."""
    set_roots(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / "Dataset901_Small"
    for case_id in ("a_frame01", "a_frame12", "b_frame01", "b_frame09", "c"):
        write_case(folder, replace(small_case(0), case_id=case_id))
    write_dataset_json(folder, LABELS, 5, surroundings=SURROUNDINGS)
    return folder


@pytest.mark.slow
def test_an_arm_is_judged_by_networks_that_have_not_seen_what_it_was_made_from(tmp_path: Path) -> None:
    """The whole path of such an arm: folds, their networks, the maps, both phases, the scores."""
    import run
    from design import Arm, Experiment
    from plan import Layout
    from stages import Store

    from fcas_nnunet.integration.dataset.manifest import Manifest

    plain = Experiment.read("left_atrium", "smoke")
    arms = {"registered_segmenter": Arm("registered", judged="soft")}
    experiment = replace(plain, arms=arms, scale=replace(plain.scale, labelled={2: ["registered_segmenter"]}))
    layout = Layout(experiment, tmp_path, None)
    for root in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / root).mkdir()
    assert run._run(layout.stages(), Store(tmp_path, run._environment(tmp_path, "cpu")), 2, "cpu") == {}
    weighed = next((tmp_path / "nnUNet_raw").glob("Dataset*JudgedSoft"))
    for record in Manifest(weighed).read().values():
        judged = record["segmenter"]
        assert judged["rule"] == "soft"
        assert 0 <= judged["score"] <= 1
        splits = json.loads((tmp_path / "nnUNet_preprocessed" / layout.real(2) / "splits_final.json").read_text())
        left_out = [fold for fold, split in enumerate(splits) if record["reference"] in split["val"]]
        assert f", fold {left_out[0]}, " in judged["network"]
    assert layout.scores(layout.runs()[0]).is_file()


def test_weights_keep_their_sum_inside_and_outside() -> None:
    from sets import WEIGHINGS

    rng = np.random.default_rng(1)
    confidence, mask = rng.random((6, 7, 8)).astype(np.float32), (rng.random((6, 7, 8)) < 0.3).astype(np.uint8)
    for name in ("mean", "shuffled"):
        made = WEIGHINGS[name](confidence, mask, np.random.default_rng(2))
        for where in (mask > 0, mask == 0):
            assert made[where].sum() == pytest.approx(confidence[where].sum(), rel=1e-5)
        assert np.abs(made - confidence).mean() > 0.1
    assert (WEIGHINGS["uniform"](confidence, mask, rng) == 1).all()
