"""`-pretrained_weights`: what does not fit is refused before training, and segmentation layers are taken over."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import Payload
from nnunet_cases import PLANS, Prepared, build
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.integration.cal.pretrained import Pretraining, pretraining_faults
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.preprocessing.plans import read_plans
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, UNKNOWN_KEY, Parent, Role, to_json


@pytest.fixture
def checkpoint(prepared: Prepared, tmp_path: Path) -> Path:
    """Of a pretraining that has just begun, its segmentation layers unlike any fresh ones."""
    trainer = build(prepared, "nnUNetTrainerCAL")
    trainer.initialize()
    with torch.no_grad():
        for name, tensor in trainer.network.named_parameters():
            if ".seg_layers." in name:
                tensor.fill_(0.125)
    path = tmp_path / "checkpoint_final.pth"
    trainer.save_checkpoint(str(path))
    return path


def fine_tuning(prepared: Prepared) -> Any:
    return build(prepared, "nnUNetTrainerCALFinetune_1epoch", real=True)


def begin(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """Start the training without nnU-Net's own preparations; returns what it logs."""
    logged: list[str] = []
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *words, **_: logged.append(" ".join(map(str, words))))
    trainer.on_train_start()
    return "\n".join(logged)


@pytest.mark.parametrize("initialised", [False, True])
def test_fine_tuning_starts_with_all_pretrained_weights(
    prepared: Prepared, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, initialised: bool
) -> None:
    """From Python as from the command line, which both end in nnU-Net's `maybe_load_checkpoint`."""
    trainer = fine_tuning(prepared)
    if initialised:
        trainer.initialize()
    maybe_load_checkpoint(trainer, False, False, str(checkpoint))
    pretrained = read_checkpoint(checkpoint)["network_weights"]
    heads = [key for key in pretrained if ".seg_layers." in key]
    assert heads
    assert not any(torch.equal(trainer.network.state_dict()[key], pretrained[key]) for key in heads)
    assert f"{len(heads)} tensors of segmentation layers taken over" in begin(trainer, monkeypatch)
    assert all(torch.equal(tensor, pretrained[key]) for key, tensor in trainer.network.state_dict().items())


@pytest.mark.parametrize("initialised", [False, True])
def test_what_does_not_fit_is_listed_and_nothing_is_trained(
    prepared: Prepared, checkpoint: Path, tmp_path: Path, initialised: bool
) -> None:
    content = read_checkpoint(checkpoint)
    plans = content["init_args"]["plans"]
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 16, 16]
    content["init_args"]["dataset_json"]["labels"] = {"background": 0, "liver": 1}
    other = tmp_path / "other.pth"
    torch.save(content, other)
    trainer = fine_tuning(prepared)
    if initialised:
        trainer.initialize()
    with pytest.raises(ValueError, match="Prepare the synthetic set again") as caught:
        maybe_load_checkpoint(trainer, False, False, str(other))
    first, second = str(caught.value).splitlines()
    assert first.startswith("-pretrained_weights: patch_size must be that of the pretraining, [16, 16, 16], got")
    assert second.startswith("-pretrained_weights: labels must be those of the pretraining, {'background': 0, 'liver'")


def test_fine_tuning_from_random_weights_is_refused(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fine_tuning(prepared)
    maybe_load_checkpoint(trainer, False, False, None)
    with pytest.raises(ValueError, match="weights to fine-tune must be given, got none"):
        begin(trainer, monkeypatch)


def test_weights_from_elsewhere_are_said_not_to_be_checked(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fine_tuning(prepared)
    trainer.initialize()
    trainer.network.load_state_dict(trainer.network.state_dict())
    assert "were loaded past nnU-Net" in begin(trainer, monkeypatch)


def test_a_checkpoint_goes_on_as_it_was(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = fine_tuning(prepared)
    trainer.initialize()
    trainer.current_epoch = 2  # written as the next to come
    path = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    resumed = fine_tuning(prepared)
    resumed.load_checkpoint(str(path))
    assert begin(resumed, monkeypatch) == ""
    assert resumed.current_epoch == 3
    assert all(torch.equal(t, trainer.network.state_dict()[key]) for key, t in resumed.network.state_dict().items())


@pytest.mark.parametrize("name", ["nnUNetTrainerCAL", "nnUNetTrainerCALFinetune"])
def test_code_in_a_checkpoint_is_not_run(prepared: Prepared, checkpoint: Path, tmp_path: Path, name: str) -> None:
    """nnU-Net unpickles what it loads."""
    evil = tmp_path / "evil.pth"
    torch.save(read_checkpoint(checkpoint) | {"extra": Payload(str(tmp_path / "was_run"))}, evil)
    trainer = build(prepared, name, real=name.endswith("Finetune"))
    with pytest.raises(ValueError, match=r"evil\.pth: checkpoint must hold .* alone, got code"):
        trainer.load_checkpoint(str(evil))
    with pytest.raises(ValueError, match=r"evil\.pth: checkpoint must hold .* alone, got code"):
        maybe_load_checkpoint(trainer, False, False, str(evil))
    assert not (tmp_path / "was_run").exists()


def test_every_kind_of_difference_is_a_fault(prepared: Prepared, checkpoint: Path) -> None:
    content = read_checkpoint(checkpoint)
    plans = read_plans(prepared.real, PLANS)
    dataset_json = prepared.real.dataset_json
    assert pretraining_faults(content, plans, "3d_fullres", dataset_json) == []
    assert pretraining_faults({"network_weights": {}}, plans, "3d_fullres", dataset_json) == []
    for key, value in (("spacing", [9, 9, 9]), ("normalization_schemes", ["ZScoreNormalization"])):
        changed = deepcopy(plans)
        changed["configurations"]["3d_fullres"][key] = value
        (fault,) = pretraining_faults(content, changed, "3d_fullres", dataset_json)
        assert f"{key} must be that of the pretraining" in fault
    changed = deepcopy(plans)
    changed["foreground_intensity_properties_per_channel"]["0"]["mean"] += 1
    (fault,) = pretraining_faults(content, changed, "3d_fullres", dataset_json)
    assert "intensity statistics must be those of the pretraining" in fault
    partly = content["init_args"]["dataset_json"] | {"labels": dataset_json["labels"] | {"ignore": 3}}
    ignoring = content | {"init_args": content["init_args"] | {"dataset_json": partly}}
    assert pretraining_faults(ignoring, plans, "3d_fullres", dataset_json) == []
    assert pretraining_faults(content, plans, "3d_fullres", dataset_json | {"labels": partly["labels"]}) == []
    (fault,) = pretraining_faults(content, plans, "3d_fullres", dataset_json | {"channel_names": {"0": "MRI"}})
    assert "channel_names must be those of the pretraining" in fault


REAL, SYNTHETIC = "Dataset901_Heart", "Dataset902_HeartFCaS"
PARENT = Parent(REAL, "a", "hash of a", (Role.TRAINING,))


def content_of(name: str, fold: int | str = "all", **dataset_json: Any) -> dict[str, Any]:
    """What of a checkpoint tells what its weights have learnt from."""
    return {"init_args": {"plans": {"dataset_name": name}, "fold": fold, "dataset_json": dataset_json}}


def test_a_checkpoint_tells_what_it_has_learnt_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    told = {PARENTS_KEY: to_json([PARENT]), UNKNOWN_KEY: ["stranger"]}
    known = Pretraining([(SYNTHETIC, "all")], [PARENT], ["stranger"])
    assert Pretraining.of(content_of(SYNTHETIC, **told)) == known
    assert Pretraining.of(content_of(SYNTHETIC)) == Pretraining([(SYNTHETIC, "all")], [], [])
    assert Pretraining.of({}) == Pretraining()
    (tmp_path / SYNTHETIC).mkdir()
    (tmp_path / SYNTHETIC / "dataset.json").write_text(json.dumps(told))  # fcas_prepare, run again
    assert Pretraining.of(content_of(SYNTHETIC)) == known
    described: dict[str, Any] = {}
    assert Pretraining.kept_in(described) is None
    known.keep_in(described)
    assert Pretraining.kept_in(json.loads(json.dumps(described))) == known
    later = {PARENTS_KEY: to_json([Parent(REAL, "b", None, (Role.TEMPLATE,))])}
    chain = Pretraining.of(content_of("Dataset903_Other", 1, **described, **later))
    assert chain.trained_on == [(SYNTHETIC, "all"), ("Dataset903_Other", "1")]
    assert ([parent.case_id for parent in chain.parents], chain.unknown) == (["a", "b"], ["stranger"])


def test_a_fold_that_the_weights_may_have_seen_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set itself anywhere in the chain, a parent, and cases of unknown origin; all at once."""
    said: list[str] = []
    preprocessed = tmp_path / REAL
    seen = Pretraining([(REAL, "all"), (REAL, "0"), (SYNTHETIC, "all")], [PARENT], ["stranger"])
    seen.refuse_leaks(preprocessed, "all", ["a"], said.append)
    assert said == []
    with pytest.raises(ValueError, match=r"validation cases must be none that .* got a \(trained the gene") as caught:
        seen.refuse_leaks(preprocessed, 0, ["a"], said.append)
    first, second, _ = str(caught.value).splitlines()
    assert "got weights that were trained on fold all of the same data set. Take those of fold 0" in first
    assert f"what every case of {SYNTHETIC} was made from, got no line in fcas_manifest.jsonl for stranger." in second
    assert 'write lines {"case_id": "stranger"}; then prepare and pretrain again' in second
    Pretraining([(REAL, "0")], [PARENT]).refuse_leaks(preprocessed, 0, ["b"], said.append)
    assert not any("is not recorded" in line for line in said)
    Pretraining([(SYNTHETIC, "all")]).refuse_leaks(preprocessed, 0, ["b"], said.append)
    assert said[-1].startswith(f"WARNING: it is not recorded which real cases {SYNTHETIC} was made from")


@pytest.mark.parametrize("name", ["nnUNetTrainerCAL", "nnUNetTrainerCALFinetune"])
def test_what_weights_have_learnt_from_is_still_known_when_a_training_goes_on(
    prepared: Prepared, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """nnU-Net's `--c` gives no pretrained weights: the training's own checkpoint has to tell."""
    content = read_checkpoint(checkpoint)
    content["init_args"]["dataset_json"] |= {PARENTS_KEY: to_json([Parent(REAL, "real_0", None, (Role.TRAINING,))])}
    torch.save(content, checkpoint)
    trainer = build(prepared, name, real=name.endswith("Finetune"))
    maybe_load_checkpoint(trainer, False, False, str(checkpoint))
    latest = tmp_path / "own" / "checkpoint_latest.pth"
    latest.parent.mkdir()
    trainer.save_checkpoint(str(latest))
    for _ in range(2):  # what resumes once resumes again
        trainer = build(prepared, name, real=name.endswith("Finetune"))
        trainer.output_folder = str(latest.parent)
        maybe_load_checkpoint(trainer, True, False, None)
        trainer.save_checkpoint(str(latest))
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda self: ([], ["real_0"]))
    monkeypatch.setattr(trainer, "preprocessed_dataset_folder_base", str(prepared.preprocessed(REAL)))
    trainer.fold = 0
    with pytest.raises(ValueError, match=rf"{REAL}, fold 0: .* that {SYNTHETIC} was made from, got real_0 \(trained"):
        trainer.do_split()


def test_a_fine_tuning_that_an_earlier_version_began_is_said_to_be_unknown(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = fine_tuning(prepared)
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    resumed = fine_tuning(prepared)
    resumed.load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))
    logged: list[str] = []
    monkeypatch.setattr(resumed, "print_to_log_file", logged.append)
    monkeypatch.setattr(nnUNetTrainer, "do_split", lambda self: ([], ["real_0"]))
    resumed.fold = 0
    resumed.do_split()
    assert "it is not recorded which real cases the pretraining was made from" in logged[0]
