"""A fold whose validation cases a synthetic set was made from is refused by fcas_prepare and by nnUNetv2_train."""

from __future__ import annotations

import json
import shutil
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_cases import CPU, MOVED_PLANS, PLANS, REAL, SYNTHETIC, Prepared, make_root, random_case, write_set
from nnunetv2.run.run_training import run_training_entry

from fcas_nnunet.commands.prepare import _sound_folds, main, training_commands
from fcas_nnunet.integration.cal import trainers
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.environment.trainer_lookup import ext_trainer_value
from fcas_nnunet.integration.preprocessing.plans import read_plans
from fcas_nnunet.integration.preprocessing.splits import read_splits
from fcas_nnunet.integration.provenance.contents import CONTENTS_FILE, training_contents
from fcas_nnunet.integration.provenance.parents import (
    PARENTS_KEY,
    UNKNOWN_KEY,
    Parent,
    Role,
    parents_of,
    to_json,
    unknown_origins,
)

COPY = "Dataset910_Copy"


def add_parents(synthetic: RawDataset, parents: list[Parent]) -> RawDataset:
    """What fcas_generate writes when its generator was trained on these cases."""
    content = synthetic.dataset_json | {PARENTS_KEY: to_json(parents)}
    (synthetic.folder / "dataset.json").write_text(json.dumps(content))
    return RawDataset.open(synthetic.folder)


def parents_in(real: RawDataset, case_ids: list[str]) -> list[Parent]:
    contents = training_contents(real)
    return [Parent(real.name, case_id, contents[case_id], (Role.TRAINING, Role.REFERENCE)) for case_id in case_ids]


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RawDataset, RawDataset]:
    """901 with five cases, and 902, made from the training cases of 901's fold 1; nothing is preprocessed."""
    make_root(tmp_path)
    real = write_set(tmp_path / "raw" / REAL, [f"real_{i}" for i in range(5)], 0, confidence=False)
    synthetic = write_set(tmp_path / "raw" / SYNTHETIC, ["syn_0"], 100, confidence=True)
    for name, value in Prepared(tmp_path, "").environment.items():
        monkeypatch.setenv(name, value)
    return real, add_parents(synthetic, parents_in(real, read_splits(real)[1]["train"]))


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    return capsys.readouterr().err


def test_a_leaking_fold_is_refused_before_anything_is_prepared(
    sets: tuple[RawDataset, RawDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    (held_out,) = read_splits(sets[0])[0]["val"]
    message = refused(["-d", "902", "--for", "901", "-f", "0", "1"], capsys)
    assert message.startswith(
        f"error: {REAL}, fold 0: validation cases must be none that {SYNTHETIC} was made from, got {held_out} "
        "(trained the generator, gave masks). Pretrain on a set of this fold, fcas_generate --fold 0, or train fold all"
    )
    assert "fold 1" not in message
    assert not list((sets[0].folder.parents[1] / "preprocessed").glob("*/*Plans*"))
    assert "-f: folds must be among 0, 1, 2, 3, 4, all, got 9" in refused(
        ["-d", "902", "--for", "901", "-f", "9"], capsys
    )


def test_a_renamed_scan_with_other_labels_is_known_by_its_content(
    sets: tuple[RawDataset, RawDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same scans in another data set, under other ids, turned over, their labels corrected."""
    raw = sets[0].folder.parent
    for number in range(5):
        case = random_case(f"patient_{number}", number, confidence=False)
        mask = np.where(case.mask == 2, 1, case.mask).astype(np.uint8)
        mask[5, 5, 5] = 2
        write_case(raw / COPY, replace(case, mask=mask))
    write_dataset_json(raw / COPY, sets[0].labels, 5)
    message = refused(["-d", "902", "--for", "910", "-f", "0"], capsys)
    assert "patient_" in message
    assert f"(the scan of {REAL}'s real_" in message


def test_a_test_set_that_was_learnt_from_is_refused(
    sets: tuple[RawDataset, RawDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    case_id = read_splits(sets[0])[1]["train"][0]
    (sets[0].folder / "imagesTs").mkdir()
    shutil.copy(sets[0].image_path(case_id), sets[0].folder / "imagesTs" / "x_0000.nii.gz")
    message = refused(["-d", "902", "--for", "901"], capsys)
    assert f"scans of imagesTs must be none that the generator learns or draws from, got x_0000.nii.gz (the scan of {REAL}'s {case_id}" in message  # noqa: E501  # fmt: skip


def test_commands_are_for_sound_folds_alone(prepared: Prepared) -> None:
    def lines(folds: list[str]) -> list[str]:
        commands = training_commands(prepared.synthetic, prepared.real, PLANS, "3d_fullres", folds).splitlines()
        return [line for line in commands if line.startswith("nnUNetv2") and "CALFinetune" in line]

    assert "nnUNetv2_train 901 3d_fullres 1 -p" in lines(["1"])[0]
    assert " -f 1 " in lines(["1"])[1]
    assert [line.split()[3] for line in lines(["0", "2", "3"])[:-1]] == ["0", "2", "3"]
    assert " -f 0 2 3 " in lines(["0", "2", "3"])[-1]
    assert "nnUNetv2_train 901 3d_fullres all -p" in lines(["all"])[0]


def test_folds_that_leak_are_left_out(
    sets: tuple[RawDataset, RawDataset], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, synthetic = sets
    splits, parents = read_splits(real), parents_of(synthetic)
    assert _sound_folds(synthetic, real, parents, [], splits, None) == ["1"]
    assert (
        f"{SYNTHETIC} was made from validation cases of fold 0, 2, 3, 4, so no command is printed there" in caplog.text
    )
    assert _sound_folds(synthetic, real, parents_in(real, real.case_ids), [], splits, None) == ["all"]
    assert _sound_folds(synthetic, real, parents, [], splits, ["all"]) == ["all"]
    monkeypatch.setenv("FCAS_ALLOW_LEAKS", "1")
    assert _sound_folds(synthetic, real, parents, [], splits, None) == ["0", "1", "2", "3", "4"]


def test_a_case_of_unknown_origin_leaves_fold_all(
    sets: tuple[RawDataset, RawDataset], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A case that was copied into a set with a manifest, without its line."""
    real, synthetic = sets
    Manifest(synthetic.folder).append({"case_id": "another", "source": real.name, "reference": "real_0"})
    why = f"it must be known what every case of {SYNTHETIC} was made from, got no line in fcas_manifest.jsonl for syn_0"
    for fold in ("0", "1"):
        assert f"{REAL}, fold {fold}: {why}" in refused(["-d", "902", "--for", "901", "-f", fold], capsys)
    splits, parents, unknown = read_splits(real), parents_of(synthetic), unknown_origins(synthetic)
    assert _sound_folds(synthetic, real, parents, unknown, splits, None) == ["all"]
    assert f"{REAL}, fold 0, 1, 2, 3, 4: {why}" in caplog.text
    assert _sound_folds(synthetic, real, parents, unknown, splits, ["all"]) == ["all"]
    Manifest(synthetic.folder).append({"case_id": "syn_0"})  # the user's own scan
    assert unknown_origins(synthetic) == []


def test_scans_with_maps_of_ones_own_are_held_by_their_content(
    sets: tuple[RawDataset, RawDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    """No manifest, no parents: scans of 901 under other names, with maps that the user has written."""
    real, raw = sets[0], sets[0].folder.parent
    (held_out,) = read_splits(real)[0]["val"]
    case = random_case("mine", int(held_out[-1]), confidence=True)
    write_case(raw / COPY, case)
    write_dataset_json(raw / COPY, real.labels, 1)
    message = refused(["-d", "910", "--for", "901", "-f", "0"], capsys)
    assert f"got {held_out} (the scan of {COPY}'s mine, which is among the synthetic cases)" in message


@pytest.fixture
def pretrained(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root of its own with both sets preprocessed, no raw data, and a checkpoint on a set made from 901's fold 1."""
    root = tmp_path / "cluster"
    root.mkdir()
    make_root(root)
    shutil.copytree(prepared.root / "preprocessed", root / "preprocessed", dirs_exist_ok=True)
    (root / "preprocessed" / REAL / "splits_final.json").unlink(missing_ok=True)
    parents = parents_in(prepared.real, read_splits(prepared.real)[1]["train"])
    shutil.copy(prepared.root / "preprocessed" / REAL / CONTENTS_FILE, root / "preprocessed" / REAL)
    for name, value in Prepared(root, "").environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_extTrainer", ext_trainer_value())
    dataset_json = prepared.synthetic.dataset_json | {PARENTS_KEY: to_json(parents)}
    plans = deepcopy(read_plans(prepared.synthetic, MOVED_PLANS)) | {"continue_training": False}
    trainer = trainers.nnUNetTrainerCAL(plans, "3d_fullres", "all", dataset_json, CPU)
    trainer.initialize()
    path = tmp_path / "checkpoint_final.pth"
    trainer.save_checkpoint(str(path))
    return path


def train(fold: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *, dataset: str = "901") -> None:
    """nnUNetv2_train's own entry, up to the first epoch."""
    arguments = [dataset, "3d_fullres", fold, "-p", PLANS, "-tr", "nnUNetTrainerCALFinetune_1epoch", "-device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["nnUNetv2_train", *arguments, "-pretrained_weights", str(checkpoint)])
    monkeypatch.setattr(trainers.nnUNetTrainerCALFinetune, "on_epoch_start", _stop)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # the tests that follow keep theirs
    run_training_entry()


class Started(Exception):
    """The first epoch begins."""


def _stop(trainer: object) -> None:
    raise Started


def test_nnunet_refuses_a_leaking_fold(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"fold 0: validation cases must be none that Dataset902_HeartFCaS was made"):
        train("0", pretrained, monkeypatch)
    with pytest.raises(Started):
        train("1", pretrained, monkeypatch)


def test_nnunet_refuses_a_renamed_case(pretrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preprocessed set under another name: its ids say nothing, its contents do."""
    folder = pretrained.parent / "cluster" / "preprocessed"
    (folder / REAL).rename(folder / COPY)
    plans = json.loads((folder / COPY / f"{PLANS}.json").read_text())
    (folder / COPY / f"{PLANS}.json").write_text(json.dumps(plans | {"dataset_name": COPY}))
    with pytest.raises(ValueError, match=rf"{COPY}, fold 0: .* \(the scan of {REAL}'s real_\d, which trained"):
        train("0", pretrained, monkeypatch, dataset="910")
    monkeypatch.setenv("FCAS_ALLOW_LEAKS", "1")
    with pytest.raises(Started):
        train("0", pretrained, monkeypatch, dataset="910")
    logs = (pretrained.parent / "cluster" / "results" / COPY).glob("*CALFinetune*/fold_0/training_log_*.txt")
    assert "WARNING, allowed by FCAS_ALLOW_LEAKS" in "".join(log.read_text() for log in logs)


def test_pretraining_refuses_real_cases_it_validates_on(prepared: Prepared) -> None:
    """Real cases in a synthetic set, one of them a parent under another name; or perhaps, of a case without origin."""
    own = [Parent(SYNTHETIC, f"syn_{i}", None, (Role.PRETRAINING,)) for i in (0, 1, 3)]
    parent = Parent(REAL, "real_0", training_contents(prepared.synthetic)["syn_1"], (Role.TEMPLATE,))
    dataset_json = prepared.synthetic.dataset_json | {PARENTS_KEY: to_json([parent])}
    plans = deepcopy(read_plans(prepared.synthetic, MOVED_PLANS)) | {"continue_training": False}
    unsure = prepared.synthetic.dataset_json | {PARENTS_KEY: to_json(own), UNKNOWN_KEY: ["syn_3", "syn_0"]}
    learnt, doubted = (
        r"syn_1 \(the scan of Dataset901_Heart's real_0, which was a temp",
        "got no line .* for syn_3, syn_0",
    )
    for fold, described, leaking in (
        (0, dataset_json, learnt), (1, dataset_json, None), (0, unsure, doubted), (1, unsure, None),
    ):  # fmt: skip
        trainer = trainers.nnUNetTrainerCAL(deepcopy(plans), "3d_fullres", fold, described, CPU)
        splits = [{"train": ["syn_0"], "val": ["syn_1"]}, {"train": ["syn_1"], "val": ["syn_0"]}]
        path = Path(trainer.preprocessed_dataset_folder_base) / "splits_final.json"
        assert not path.exists(), "four cases have no folds of nnU-Net's own"
        path.write_text(json.dumps(splits))
        try:
            if leaking:
                with pytest.raises(ValueError, match=leaking):
                    trainer.do_split()
            else:
                assert trainer.do_split() == (["syn_1"], ["syn_0"])
        finally:
            path.unlink()
