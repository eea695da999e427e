"""Real and synthetic scans in one training: what is drawn, how often, and never from a fold's validation cases."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_cases import CPU, MOVED_PLANS, PLANS, REAL, SYNTHETIC, Prepared, quick_nnunet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.cal.dataloading import ConfidenceDataset
from fcas_nnunet.integration.cal.mixing import MixedCases, Mixing, SamplingProbabilities
from fcas_nnunet.integration.cal.pretrained import Pretraining
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCALMixed
from fcas_nnunet.integration.dataset.volumes import read_volume, write_volume
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore
from fcas_nnunet.integration.preprocessing.plans import read_plans, shrink_plans
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, UNKNOWN_KEY, Parent, Role, to_json

pytestmark = pytest.mark.usefixtures("blur_without_a_race")

ALL = (slice(None),) * 4


@pytest.fixture
def own(own_copy: Prepared, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A copy with small networks, whose synthetic set is named to the trainer; nothing is trained in it yet."""
    monkeypatch.setenv("FCAS_CAL_SYNTHETIC", "902")
    for dataset, name in ((own_copy.real, PLANS), (own_copy.synthetic, MOVED_PLANS)):
        plans = shrink_plans(
            read_plans(dataset, name), "3d_fullres", plans_name=name, features_per_stage=[4, 8, 8], batch_size=2
        )
        atomic_write_json(own_copy.preprocessed(dataset.name) / f"{name}.json", plans)
    return own_copy


def make_trainer(own: Prepared, fold: int | str = 0, **plans_changes: Any) -> Any:
    plans = deepcopy(read_plans(own.real, PLANS)) | {"continue_training": False} | plans_changes
    trainer: Any = nnUNetTrainerCALMixed(plans, "3d_fullres", fold, own.real.dataset_json, CPU)  # type: ignore[arg-type]
    torch.manual_seed(0)
    trainer.initialize()
    return trainer


def started(own: Prepared, fold: int | str = 0) -> Any:
    """A trainer about to begin its first epoch."""
    trainer = make_trainer(own, fold)
    trainer.on_train_start()
    return trainer


def describe(own: Prepared, **entries: Any) -> None:
    """Add entries to the dataset.json that fcas_prepare has written for the synthetic set."""
    path = own.preprocessed(SYNTHETIC) / "dataset.json"
    atomic_write_json(path, json.loads(path.read_text()) | entries)


def validation_case(own: Prepared, fold: int) -> str:
    (case_id,) = make_trainer(own, fold).do_split()[1]
    return case_id


def parents_of(own: Prepared, case_id: str) -> dict[str, Any]:
    contents = training_contents(own.real)
    return {PARENTS_KEY: to_json([Parent(REAL, case_id, contents[case_id], (Role.TEMPLATE,))]), UNKNOWN_KEY: []}


class Ids:
    """A data set's ids alone."""

    def __init__(self, *identifiers: str) -> None:
        self.identifiers = list(identifiers)

    def load_case(self, identifier: str) -> tuple[int, str]:
        return id(self), identifier


def test_shares_by_hand() -> None:
    mixing = Mixing(first=0.9, last=0.1)
    assert [mixing.share(epoch, 5) for epoch in range(5)] == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])
    assert mixing.share(0, 1) == pytest.approx(0.5), "a single epoch sees both"
    assert (Mixing().share(0, 1000), Mixing().share(999, 1000)) == (1, 0)


def test_probabilities_by_hand() -> None:
    real, synthetic = Ids("a", "b"), Ids("a", "c", "d", "e")
    cases: Any = MixedCases(real, synthetic, "Dataset902_Syn")  # type: ignore[arg-type]
    assert cases.identifiers == ["a", "b", *(f"Dataset902_Syn:{i}" for i in "acde")]
    assert [cases.load_case(i) for i in ("a", "Dataset902_Syn:a")] == [(id(real), "a"), (id(synthetic), "a")]
    probabilities = SamplingProbabilities(cases, 0.2)
    np.testing.assert_allclose(np.asarray(probabilities), [0.4, 0.4, 0.05, 0.05, 0.05, 0.05])
    probabilities.share = 0.6
    np.testing.assert_allclose(np.asarray(probabilities), [0.2, 0.2, 0.15, 0.15, 0.15, 0.15])
    rng = np.random.RandomState(0)
    drawn = Counter(rng.choice(cases.identifiers, 20000, p=probabilities))
    shares = [drawn[i] / 20000 for i in cases.identifiers]
    np.testing.assert_allclose(shares, np.asarray(probabilities), atol=0.01)


def test_the_folds_training_cases_and_all_synthetic_ones_are_drawn(own: Prepared) -> None:
    trainer = started(own)
    training, validation = make_trainer(own).do_split()
    cases = trainer.cases
    assert cases.identifiers == [*training, *(f"{SYNTHETIC}:syn_{i}" for i in range(4))]
    assert len(training) == 4
    assert trainer.dataloader_val.data_loader._data.identifiers == validation
    assert trainer.dataloader_train.data_loader._data is cases
    doubts = {i: cases.load_case(i)[0][ALL][-1].any() for i in cases.identifiers}
    assert doubts == {i: ":" in i for i in cases.identifiers}, "real labels are trusted"
    assert Path(trainer.output_folder_base).parent.name == REAL


@pytest.mark.parametrize(("share", "real", "synthetic"), [("0 1", True, False), ("1 0", False, True)])
def test_every_patch_of_an_epoch_is_drawn_with_its_share(
    own: Prepared, share: str, real: bool, synthetic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCAS_CAL_SHARE", share)
    trainer = started(own)
    loader = trainer.dataloader_train.data_loader

    def kinds() -> set[bool]:
        return {":" in key for _ in range(50) for key in loader.get_indices()}

    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    assert kinds() == {synthetic}
    batch = next(trainer.dataloader_train)
    assert all((":" in key) == synthetic for key in batch["keys"])
    assert np.isfinite(trainer.train_step(batch)["loss"])
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.on_train_epoch_start()
    assert kinds() == {real}
    trainer.current_epoch = 400
    trainer.on_train_epoch_start()
    assert kinds() == {True, False}
    wanted = trainer.mixing.share(400, 1000)
    assert f"share of synthetic patches: {wanted:.3f}" in Path(trainer.log_file).read_text()
    assert abs(wanted - 0.5) < 0.11


def test_the_loaders_processes_follow(own: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer = make_trainer(own)
    trainer.synthetic = trainer._open_synthetic()
    training, validation = trainer.get_dataloaders()
    try:
        assert all(":" in key for _ in range(10) for key in next(training)["keys"]), "from the first batch on"
        trainer.probabilities.share = 0
        ahead = [next(training)["keys"] for _ in range(60)]
        assert not any(":" in key for keys in ahead[-20:] for key in keys)
    finally:
        for loader in (training, validation):
            loader._finish()


def test_a_resumed_training_begins_with_its_epochs_share(own: Prepared, tmp_path: Path) -> None:
    trainer = started(own)
    trainer.current_epoch = 749
    trainer.save_checkpoint(path := str(tmp_path / "checkpoint_latest.pth"))
    resumed = make_trainer(own)
    resumed.load_checkpoint(path)
    resumed.on_train_start()
    assert resumed.probabilities.share == pytest.approx(1 - 750 / 999)


def test_a_set_made_from_the_folds_validation_case_is_refused(own: Prepared, tmp_path: Path) -> None:
    held_out = validation_case(own, 0)
    describe(own, **parents_of(own, held_out))
    with pytest.raises(ValueError, match=rf"{REAL}, fold 0: validation cases must be none that {SYNTHETIC} was made"):
        started(own)
    other = started(own, 1)
    other.save_checkpoint(path := str(tmp_path / "checkpoint_final.pth"))
    started(own, "all")
    again = make_trainer(own, 0)
    again.load_checkpoint(path)  # as for --val, which opens no synthetic set
    with pytest.raises(ValueError, match=rf"got {held_out} \(was a template\)"):
        again.do_split()


def test_synthetic_cases_of_unknown_origin_leave_fold_all(own: Prepared) -> None:
    describe(own, **{PARENTS_KEY: {}, UNKNOWN_KEY: ["syn_2"]})
    with pytest.raises(ValueError, match=r"it must be known what every case of .* for syn_2"):
        started(own)
    started(own, "all")


def test_checkpoints_name_all_that_their_weights_have_seen(own: Prepared) -> None:
    """Weights that the training started from, and the synthetic set; once each, however often it is continued."""
    describe(own, **parents_of(own, validation_case(own, 1)))
    trainer = make_trainer(own)
    seen = Parent("Dataset500_Other", "x", None, (Role.TRAINING,))
    Pretraining([("Dataset500_Other", "all")], [seen], ["y"]).keep_in(trainer.dataset_json)
    for _ in range(2):
        trainer._open_synthetic()
    record = Pretraining.kept_in(trainer.my_init_kwargs["dataset_json"])
    assert record is not None
    assert record.trained_on == [("Dataset500_Other", "all"), (SYNTHETIC, "all")]
    assert [parent.dataset for parent in record.parents] == ["Dataset500_Other", REAL]
    assert record.unknown == ["y"]


def test_what_is_missing_is_named(own: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FCAS_CAL_SYNTHETIC")
    with pytest.raises(ValueError, match="FCAS_CAL_SYNTHETIC: synthetic data set must be named, got nothing"):
        started(own)
    monkeypatch.setenv("FCAS_CAL_SYNTHETIC", "903")
    with pytest.raises(FileNotFoundError, match=r"FCAS_CAL_SYNTHETIC 903: it must be a folder in nnUNet_preprocessed="):
        started(own)
    monkeypatch.setenv("FCAS_CAL_SYNTHETIC", "901")
    run = re.escape("Run fcas_prepare -d 901 --for 901 -c 3d_fullres -p nnUNetPlans.")
    with pytest.raises(FileNotFoundError, match=rf"nnUNetPlansFrom901\.json: plans .* must exist, got none\. {run}"):
        started(own)
    monkeypatch.setenv("FCAS_CAL_SYNTHETIC", SYNTHETIC)
    shutil.rmtree(own.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres")
    with pytest.raises(FileNotFoundError, match="index of confidence maps must exist, got none. Run fcas_prepare"):
        started(own)
    plans = read_plans(own.synthetic, MOVED_PLANS)
    path = own.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}.json"
    atomic_write_json(path, plans | {"configurations": {"2d": plans["configurations"]["3d_fullres"]}})
    with pytest.raises(ValueError, match="configurations must include 3d_fullres, got none of that name"):
        started(own)


def test_a_set_that_was_prepared_otherwise_is_refused(own: Prepared) -> None:
    plans = read_plans(own.synthetic, MOVED_PLANS)
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
    atomic_write_json(own.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}.json", plans)
    describe(own, labels={"background": 0, "liver": 1})
    with pytest.raises(ValueError, match="patch_size") as caught:
        started(own)
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"FCAS_CAL_SYNTHETIC: patch_size must be that of {SYNTHETIC}, [16, 16, 16], got [")
    assert second.startswith(f"FCAS_CAL_SYNTHETIC: labels must be those of {SYNTHETIC}, {{'background': 0, 'liver'")


@pytest.mark.parametrize("value", ["1", "1 0 0", "-0.1 1", "0 2", "half none"])
def test_malformed_shares_are_refused(own: Prepared, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCAS_CAL_SHARE", value)
    with pytest.raises(ValueError, match=rf"FCAS_CAL_SHARE: shares must be two numbers .* in \[0, 1\], got {value}\."):
        make_trainer(own)
    assert not list((own.root / "results").iterdir())


def test_a_cascades_second_stage_is_refused(own: Prepared) -> None:
    configurations = read_plans(own.real, PLANS)["configurations"]
    configurations["3d_fullres"] |= {"previous_stage": "3d_lowres"}
    with pytest.raises(NotImplementedError, match="3d_fullres: nnUNetTrainerCALMixed must not train a casc"):
        make_trainer(own, configurations=configurations)
    assert not list((own.root / "results").iterdir())


def test_a_training_goes_on_with_its_set_and_shares_alone(
    own: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(own).save_checkpoint(path := str(tmp_path / "checkpoint_latest.pth"))
    monkeypatch.setenv("FCAS_CAL_SHARE", "0.5 0")
    other = make_trainer(own)
    other.load_checkpoint(path)
    with pytest.raises(ValueError, match=r"FCAS_CAL_SHARE: it must be 1\.0 0\.0, as when .* got 0\.5 0\.0"):
        other.on_train_start()


def test_real_maps_weigh_too_and_each_set_has_its_own_means(own: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    for case_id in own.real.case_ids:
        label = read_volume(own.real.mask_path(case_id))
        write_volume(own.real.confidence_path(case_id), np.full(label.array.shape, 0.6, np.float32), label.affine)
    with quick_nnunet():
        prepare("902", "901", ["3d_fullres"], PLANS, 1)
    monkeypatch.setenv("FCAS_CAL_NORMALISE", "1")
    cases = started(own).cases
    real = cases.load_case(cases.identifiers[0])
    assert not real[0][ALL][-1].any(), "0.6 everywhere is divided by 0.6"
    monkeypatch.delenv("FCAS_CAL_NORMALISE")
    cases = started(own).cases
    np.testing.assert_allclose(cases.load_case(cases.identifiers[0])[0][ALL][-1], 0.4, atol=1e-6)
    means = ConfidenceStore.read(own.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres").mean_weights(0)
    assert all(abs(mean - 0.6) > 0.01 for mean in means.values())


def test_batches_of_real_cases_alone_are_nnunets(own: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """At share 0 the loss is nnU-Net's on the same patches: full confidence."""
    monkeypatch.setenv("FCAS_CAL_SHARE", "0 0")
    trainer = started(own)
    native = nnUNetTrainer(
        read_plans(own.real, PLANS) | {"continue_training": False}, "3d_fullres", 0, own.real.dataset_json, CPU
    )
    native.initialize()
    native.network.load_state_dict(trainer.network.state_dict())
    batch = next(trainer.dataloader_train)
    target, weights = trainer._split_batch(batch)[0]["target"], trainer._split_batch(batch)[1]
    assert (weights == 1).all()
    losses = [trainer.train_step(batch)["loss"], native.train_step({"data": batch["data"], "target": target})["loss"]]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-6)


def test_validation_takes_real_cases_without_a_store(own: Prepared) -> None:
    trainer = started(own)
    validation = trainer.dataloader_val.data_loader._data
    assert isinstance(validation, ConfidenceDataset)
    batch = next(trainer.dataloader_val)
    assert np.isfinite(trainer.validation_step(batch)["loss"])
