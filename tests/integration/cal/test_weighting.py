"""Weights of the loss: normalised by the set, limited, ramped in; and 1 wherever a set is trusted everywhere."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_cases import CPU, MOVED_PLANS, SYNTHETIC, Prepared, quick_nnunet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.integration.cal.dataloading import ImageWithDoubt
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL, nnUNetTrainerCALFinetune
from fcas_nnunet.integration.cal.transforms import unpack_confidence
from fcas_nnunet.integration.cal.weighting import CaseWeights, Weighting
from fcas_nnunet.integration.dataset.volumes import read_volume, write_volume
from fcas_nnunet.integration.preprocessing import prepare as preprocessing
from fcas_nnunet.integration.preprocessing.confidence_store import (
    ConfidenceStore,
    index_path,
    open_confidence,
    preprocessed_confidence_path,
)
from fcas_nnunet.integration.preprocessing.plans import read_plans, shrink_plans

pytestmark = pytest.mark.usefixtures("blur_without_a_race")

EVERYTHING = {
    "FCAS_CAL_NORMALISE": "1",
    "FCAS_CAL_CLIP": "0.5 2",
    "FCAS_CAL_RAMP": "0.3",
    "FCAS_CONFIDENCE_FLOOR": "0.1",
}
ALL = (slice(None),) * 4


def prepare_again(own: Prepared) -> None:
    with quick_nnunet():
        prepare("902", "901", ["3d_fullres"], "nnUNetPlans", 1)


def set_maps(own: Prepared, value: float) -> None:
    """The same confidence everywhere in the synthetic set."""
    for case_id in own.synthetic.case_ids:
        path = own.synthetic.confidence_path(case_id)
        volume = read_volume(path)
        write_volume(path, np.full(volume.array.shape, value, np.float32), volume.affine)
    prepare_again(own)


def make_trainer(own: Prepared, kind: type[nnUNetTrainer] = nnUNetTrainerCAL, **description: Any) -> Any:
    """A trainer of the synthetic set with a small network, initialised."""
    plans = shrink_plans(
        read_plans(own.synthetic, MOVED_PLANS), "3d_fullres", plans_name=MOVED_PLANS, features_per_stage=[4, 8, 8],
        batch_size=2,
    )  # fmt: skip
    described = own.synthetic.dataset_json | description
    trainer: Any = kind(plans | {"continue_training": False}, "3d_fullres", "all", described, CPU)  # type: ignore[arg-type]
    torch.manual_seed(0)
    trainer.initialize()
    return trainer


def first_batches(trainer: Any) -> list[dict[str, Any]]:
    """One of training, one of validation, the same for equal data."""
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    return [next(loader) for loader in trainer.get_dataloaders()]


def folder_of(own: Prepared) -> Path:
    return own.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"


def stored(own: Prepared, case_id: str) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and labels of a preprocessed case, read without the code under test."""
    folder = folder_of(own)
    confidence = open_confidence(preprocessed_confidence_path(folder, case_id))[:] / 255
    return confidence, np.maximum(open_confidence(folder / f"{case_id}_seg.b2nd")[:], 0)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_the_index_holds_the_means_of_the_whole_set(prepared: Prepared, floor: float) -> None:
    pairs = [stored(prepared, case_id) for case_id in prepared.synthetic.case_ids]
    confidence, labels = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*pairs, strict=True))
    lifted = floor + (1 - floor) * confidence
    means = ConfidenceStore.read(folder_of(prepared)).mean_weights(floor)
    assert means == pytest.approx({label: lifted[labels == label].mean() for label in (0, 1, 2)})
    assert np.ptp(list(means.values())) > 0.001, "classes differ"


def test_means_above_1_are_lifted_by_what_lacks_alone(tmp_path: Path) -> None:
    """By hand: weights 3, 0.2 and 0 of one label under floor 0.5 are 3, 0.6 and 0.5."""
    store = ConfidenceStore(tmp_path, {"a": "x", "b": None}, {}, {"a": {"4": [3, 765 + 51, 204 + 255]}})
    assert store.mean_weights(0.5) == {4: pytest.approx((3 + 0.6 + 0.5) / 3)}


def test_normalised_weights_cost_no_class_anything(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the set, every class weighs as in nnU-Net's loss, whose mean weight is 1; order is kept."""
    monkeypatch.setenv("FCAS_CAL_NORMALISE", "1")
    training, _ = make_trainer(prepared).get_tr_and_val_datasets()
    sums, counts = np.zeros(3), np.zeros(3)
    for case_id in training.identifiers:
        confidence, labels = stored(prepared, case_id)
        weights = 1 - training.load_case(case_id)[0][ALL][-1:]
        for label in range(3):
            inside = labels == label
            sums[label] += weights[inside].sum()
            counts[label] += inside.sum()
            np.testing.assert_allclose(
                weights[inside] * confidence[inside].mean(), confidence[inside] * weights[inside].mean(), rtol=1e-4,
                atol=1e-6,
            )  # fmt: skip
        assert (weights[confidence == 0] == 0).all()
    np.testing.assert_allclose(sums / counts, 1, rtol=1e-5)


def test_a_patch_is_weighted_as_its_place_in_the_case(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCAS_CAL_NORMALISE", "1")
    training, _ = make_trainer(prepared).get_tr_and_val_datasets()
    image = training.load_case("syn_1")[0]
    part = (slice(None), slice(4, 20), slice(7, 30), slice(1, 9))
    assert np.array_equal(image[part], image[ALL][part])


@pytest.mark.parametrize("variables", [{}, EVERYTHING], ids=["defaults", "every setting"])
def test_a_set_that_is_trusted_everywhere_weighs_exactly_1(
    own_copy: Prepared, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_maps(own_copy, 1)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    native, ours = make_trainer(own_copy, nnUNetTrainer), make_trainer(own_copy)
    for their, our in zip(first_batches(native), first_batches(ours), strict=True):
        targets, weights = ours._split_batch(our)[0]["target"], ours._split_batch(our)[1]
        assert (weights == 1).all()
        assert torch.equal(our["data"], their["data"])
        assert all(torch.equal(a, b) for a, b in zip(targets, their["target"], strict=True))


def test_real_cases_in_the_set_keep_1(own_copy: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their maps are none, and they have no share in the means."""
    monkeypatch.setenv("FCAS_CAL_NORMALISE", "1")
    content = json.loads(index_path(folder_of(own_copy)).read_text())
    content["sha256"]["syn_1"] = None
    del content["sums"]["syn_1"]
    index_path(folder_of(own_copy)).write_text(json.dumps(content))
    training, _ = make_trainer(own_copy).get_tr_and_val_datasets()
    assert not training.load_case("syn_1")[0][ALL][-1].any()
    others = [stored(own_copy, case_id) for case_id in ("syn_0", "syn_2", "syn_3")]
    mean = np.concatenate([confidence[labels == 2] for confidence, labels in others]).mean()
    confidence, labels = stored(own_copy, "syn_0")
    weights = 1 - training.load_case("syn_0")[0][ALL][-1:]
    np.testing.assert_allclose(weights[labels == 2], confidence[labels == 2] / mean, rtol=1e-4, atol=1e-6)


def test_an_index_without_means_is_prepared_again_and_keeps_its_maps(
    own_copy: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = index_path(folder_of(own_copy))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: content[key] for key in ("sha256", "raw")}))
    make_trainer(own_copy).get_tr_and_val_datasets()
    monkeypatch.setenv("FCAS_CAL_NORMALISE", "1")
    with pytest.raises(ValueError, match=r"index\.json: index must hold the sums .* Run fcas_prepare again; it keeps"):
        make_trainer(own_copy).get_tr_and_val_datasets()
    changed = [preprocessed_confidence_path(folder_of(own_copy), f"syn_{i}").stat().st_mtime_ns for i in range(4)]
    prepare_again(own_copy)
    assert json.loads(path.read_text()) == content
    now = [preprocessed_confidence_path(folder_of(own_copy), f"syn_{i}").stat().st_mtime_ns for i in range(4)]
    assert now == changed


def test_only_changed_maps_are_summed_again(own_copy: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[str] = []
    label_sums = preprocessing.label_sums
    monkeypatch.setattr(preprocessing, "label_sums", lambda folder, i: summed.append(i) or label_sums(folder, i))
    path = own_copy.synthetic.confidence_path("syn_2")
    volume = read_volume(path)
    write_volume(path, np.full(volume.array.shape, 0.4, np.float32), volume.affine)
    prepare_again(own_copy)
    assert summed == ["syn_2"]
    sums = ConfidenceStore.read(folder_of(own_copy)).sums["syn_2"]
    assert all(steps == 102 * voxels and doubt == 153 * voxels for voxels, steps, doubt in sums.values())


def test_settings_by_hand() -> None:
    """Floor, then division by the label's mean, then the range, from which weight 0 is excepted."""
    doubt = np.array([1, 0.5, 0, -2, 0.9, 1], np.float32)
    labels = np.array([1, 1, 1, 1, -1, 7])
    weights = 1 - CaseWeights(Weighting(normalise=True), {0: 0.5, 1: 0.8}).doubt(doubt, labels)
    np.testing.assert_allclose(weights, [0, 0.625, 1.25, 3.75, 0.2, 0], atol=1e-6)
    limited = Weighting(normalise=True, low=0.7, high=2)
    np.testing.assert_allclose(
        1 - CaseWeights(limited, {0: 0.5, 1: 0.8}).doubt(doubt, labels), [0, 0.7, 1.25, 2, 0.7, 0], atol=1e-6
    )
    lifted = Weighting(floor=0.2, normalise=True)
    np.testing.assert_allclose(
        1 - CaseWeights(lifted, {0: 0.5, 1: 0.8}).doubt(doubt, labels), [0.25, 0.75, 1.25, 3.75, 0.56, 0.2], atol=1e-6
    )
    nowhere = CaseWeights(Weighting(normalise=True), {1: 0.0}).doubt(np.ones(2, np.float32), np.array([1, 1]))
    assert (nowhere == 1).all(), "a label that weighs nothing anywhere"


def test_label_maps_underneath_decide_for_regions(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole (1 and 2) and core (2): a voxel of the core is divided by the mean of label 2."""
    regions = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    _, plain = unpack_confidence(first_batches(make_trainer(prepared))[0]["target"], CPU)
    monkeypatch.setenv("FCAS_CAL_NORMALISE", "1")
    _, of_labels = unpack_confidence(first_batches(make_trainer(prepared))[0]["target"], CPU)
    targets, of_regions = unpack_confidence(first_batches(make_trainer(prepared, **regions))[0]["target"], CPU)
    assert targets[0].shape[1] == 2
    assert torch.equal(of_regions, of_labels)
    assert (of_labels > plain + 0.1).float().mean() > 0.2


def test_ramp_by_hand() -> None:
    weights = torch.tensor([0, -6e-8, 0.5, 1, 2])  # the second: 0 after interpolation
    ramp = Weighting(ramp=0.4)
    for progress, wanted in ((0, [0, 0, 1, 1, 1]), (0.1, [0, 0, 0.875, 1, 1.25]), (0.4, [0, 0, 0.5, 1, 2])):
        torch.testing.assert_close(
            ramp.ramped(weights, progress), torch.tensor(wanted, dtype=torch.float32), atol=1e-7, rtol=0
        )
    assert ramp.ramped(weights, 0.4) is weights
    assert Weighting().ramped(weights, 0) is weights


def test_the_ramp_follows_the_epoch(own_copy: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    for case_id in own_copy.synthetic.case_ids:
        volume = read_volume(path := own_copy.synthetic.confidence_path(case_id))
        array = volume.array.astype(np.float32) / volume.array.max()
        array[: len(array) // 2] = 0
        write_volume(path, array, volume.affine)
    prepare_again(own_copy)
    plain = make_trainer(own_copy)
    _, confidence = plain._split_batch(first_batches(plain)[0])
    monkeypatch.setenv("FCAS_CAL_RAMP", "0.5")
    trainer = make_trainer(own_copy)
    batch = first_batches(trainer)[0]
    trusted = confidence > 1e-5
    assert 0.1 < trusted.float().mean() < 0.9
    for epoch, share in ((0, 0), (200, 0.5), (400, 1), (799, 1)):  # 800 epochs
        trainer.current_epoch = epoch
        _, weights = trainer._split_batch(batch)
        torch.testing.assert_close(weights[trusted], 1 + share * (confidence[trusted] - 1))
        assert weights[~trusted].abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FCAS_CAL_NORMALISE", "yes", "FCAS_CAL_NORMALISE: must be 0 or 1, got yes. Set or unset it."),
        ("FCAS_CAL_NORMALISE", "0.5", "must be 0 or 1, got 0.5"),
        ("FCAS_CAL_CLIP", "2", "range must be two numbers LOW HIGH, LOW in [0, 1] and HIGH at least 1, got 2."),
        ("FCAS_CAL_CLIP", "1.5 2", "HIGH at least 1, got 1.5 2."),
        ("FCAS_CAL_CLIP", "0 nan", "HIGH at least 1, got 0 nan."),
        ("FCAS_CAL_RAMP", "2", "share of the training must be in [0, 1], got 2"),
        ("FCAS_CAL_RAMP", "", "share of the training must be in [0, 1], got ."),
        ("FCAS_CAL_NORMALIZE", "1", "FCAS_CAL_NORMALIZE: variables FCAS_CAL_… must be among FCAS_CAL_CLIP, FCAS_CAL_"),
    ],
)
@pytest.mark.parametrize("kind", [nnUNetTrainerCAL, nnUNetTrainerCALFinetune])
def test_malformed_settings_are_refused_before_anything_is_written(
    own_copy: Prepared, kind: type[nnUNetTrainer], name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(message)):
        make_trainer(own_copy, kind)
    assert not list((own_copy.root / "results").iterdir())


def test_settings_are_read_and_recorded(own_copy: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Weighting.from_environment() == Weighting()
    assert not Weighting(ramp=0.5).is_fixed
    for name, value in EVERYTHING.items():
        monkeypatch.setenv(name, value)
    assert Weighting.from_environment() == Weighting(0.1, True, 0.5, 2, 0.3)
    trainer = make_trainer(own_copy)
    trainer.on_train_start()
    log = Path(trainer.log_file).read_text()
    assert "'FCAS_CAL_CLIP': '0.5 2.0'" in log
    assert f"Weights are divided by their means over {SYNTHETIC}, 0: 0." in log


def test_a_training_is_continued_with_its_own_settings_alone(
    own_copy: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda self: None)
    monkeypatch.setenv("FCAS_CAL_NORMALISE", "1")
    begun = make_trainer(own_copy)
    begun.save_checkpoint(path := str(tmp_path / "checkpoint_latest.pth"))
    same = make_trainer(own_copy)
    same.load_checkpoint(path)
    same.on_train_start()
    same.save_checkpoint(later := str(tmp_path / "checkpoint_later.pth"))
    monkeypatch.delenv("FCAS_CAL_NORMALISE")
    monkeypatch.setenv("FCAS_CAL_CLIP", "0 3")
    for checkpoint in (path, later):
        other = make_trainer(own_copy)
        other.load_checkpoint(checkpoint)  # as --val does, for which the weights do not matter
        with pytest.raises(
            ValueError, match="FCAS_CAL_NORMALISE: it must be 1, as when the training began, got 0"
        ) as e:
            other.on_train_start()
        assert f"FCAS_CAL_CLIP: it must be 0.0 {math.inf}, as when" in str(e.value)
        assert "RAMP" not in str(e.value)


def test_one_map_without_settings_is_read_as_it_is() -> None:
    steps = np.arange(256, dtype=np.uint8).reshape(1, 4, 8, 8)
    image = ImageWithDoubt(np.zeros((1, 4, 8, 8), np.float32), steps, steps, None)
    assert np.array_equal(image[ALL][-1:], (255 - steps.astype(np.float32)) / np.float32(255))
