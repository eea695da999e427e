"""Confidence through nnU-Net's loader and augmentation: batches unchanged, the map voxel for voxel with the label."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.spatial.transpose import TransposeAxesTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nnunet_cases import MOVED_PLANS, SYNTHETIC, Prepared
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.integration.cal.dataloading import ImageWithDoubt
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL
from fcas_nnunet.integration.cal.transforms import unpack_confidence, with_doubt
from fcas_nnunet.integration.preprocessing.confidence_store import preprocessed_confidence_path, write_index
from fcas_nnunet.integration.preprocessing.plans import read_plans, shrink_plans

pytestmark = pytest.mark.usefixtures("blur_without_a_race")


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_trainer(
    kind: type[nnUNetTrainer], prepared: Prepared, configuration: str, patch: list[int] | None = None
) -> Any:
    """A trainer on the synthetic data set, as nnUNetv2_train makes it, with a small network."""
    plans = read_plans(prepared.synthetic, MOVED_PLANS)
    small = shrink_plans(
        plans, configuration, plans_name=MOVED_PLANS, features_per_stage=[4, 8, 8], patch_size=patch, batch_size=2
    )
    small["continue_training"] = False
    return kind(small, configuration, "all", prepared.synthetic.dataset_json, torch.device("cpu"))  # type: ignore[arg-type]


def batches(trainer: Any, number: int) -> list[dict[str, Any]]:
    if not trainer.was_initialized:
        trainer.initialize()
    seed_everything(7)
    training, validation = trainer.get_dataloaders()
    return [next(training) for _ in range(number)] + [next(validation)]


@pytest.fixture
def full_confidence(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stored map read as 1 everywhere."""
    monkeypatch.setattr(
        ImageWithDoubt,
        "__getitem__",
        lambda self, slices: np.concatenate([self.image[slices], np.zeros_like(self.confidence[slices], np.float32)]),
    )


@pytest.mark.parametrize(
    ("configuration", "patch"),
    [("3d_fullres", None), ("3d_fullres", [8, 32, 32]), ("2d", None)],
    ids=["3d", "3d with dummy 2d augmentation", "2d"],
)
@pytest.mark.usefixtures("full_confidence")
def test_full_confidence_gives_nnunets_batches_loss_and_gradients(
    prepared: Prepared, configuration: str, patch: list[int] | None
) -> None:
    native = make_trainer(nnUNetTrainer, prepared, configuration, patch)
    ours = make_trainer(nnUNetTrainerCAL, prepared, configuration, patch)
    assert native.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[1] == (patch == [8, 32, 32])
    theirs = batches(native, 12)
    with_confidence = batches(ours, 12)
    ours.network.load_state_dict(native.network.state_dict())
    for their, our in zip(theirs, with_confidence, strict=True):
        assert torch.equal(our["data"], their["data"])
        assert list(our["keys"]) == list(their["keys"])
        targets, confidence = unpack_confidence(our["target"], torch.device("cpu"))
        assert all(torch.equal(a, b) for a, b in zip(targets, their["target"], strict=True))
        assert confidence.shape == targets[0].shape
        assert torch.equal(confidence, torch.ones_like(confidence))
    np.testing.assert_allclose(
        ours.train_step(with_confidence[0])["loss"], native.train_step(theirs[0])["loss"], rtol=2e-6
    )
    for our, their in zip(ours.network.parameters(), native.network.parameters(), strict=True):
        assert (our.grad is None) == (their.grad is None)
        if their.grad is not None:
            torch.testing.assert_close(our.grad, their.grad, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        theirs_val, ours_val = native.validation_step(theirs[-1]), ours.validation_step(with_confidence[-1])
    np.testing.assert_allclose(ours_val["loss"], theirs_val["loss"], rtol=1e-4)


def test_without_deep_supervision_the_batch_is_nnunets_too(prepared: Prepared) -> None:
    trainer = make_trainer(nnUNetTrainerCAL, prepared, "3d_fullres")
    trainer.enable_deep_supervision = False
    (first, last) = batches(trainer, 1)
    assert isinstance(first["target"], list)
    assert np.isfinite(trainer.train_step(first)["loss"])
    assert np.isfinite(trainer.validation_step(last)["loss"])


def test_confidence_reaches_the_loss_unpadded_places_and_all(prepared: Prepared) -> None:
    """Real maps: values of the batch are those on disk or interpolated between; padding is fully trusted."""
    trainer = make_trainer(nnUNetTrainerCAL, prepared, "3d_fullres", [64, 64, 64])  # larger than the cases
    (first, validation) = batches(trainer, 1)
    for batch in (first, validation):
        _, confidence = unpack_confidence(batch["target"], torch.device("cpu"))
        assert confidence.min() >= 0
        assert confidence.max() <= 1
        assert confidence.std() > 0.05
        assert (confidence[:, :, 0, 0, 0] == 1).all(), "a corner of padding"


def carried(transform: Any, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels through a spatial transform twice at once: as a segmentation, and as the confidence map."""
    image = torch.cat([torch.zeros_like(labels, dtype=torch.float32), 1 - labels.float() / 8])
    seed_everything(seed)
    out = with_doubt(transform)(image=image, segmentation=labels.clone())
    (segmentation, _), confidence = out["segmentation"], 1 - out["segmentation"][-1]
    return segmentation, confidence * 8


EXACT_3D = [
    MirrorTransform((0, 1, 2)),
    Rot90Transform(1, (1, 2, 3), (0, 1, 2)),
    TransposeAxesTransform((0, 1, 2)),
    SpatialTransform((10, 10, 10), 0, False),
    SpatialTransform((16, 20, 18), 0, False, border_mode_seg="constant", padding_value_seg=8),
    ComposeTransforms(
        [
            Convert3DTo2DTransform(),
            SpatialTransform((10, 18), 0, False, border_mode_seg="constant", padding_value_seg=8),
            Convert2DTo3DTransform(),
        ]
    ),
]


@pytest.mark.parametrize("transform", EXACT_3D, ids=["mirror", "rot90", "transpose", "crop", "pad", "dummy 2d"])
@pytest.mark.parametrize("seed", range(6))
def test_the_map_moves_voxel_for_voxel_with_the_label(transform: Any, seed: int) -> None:
    """Labels 0 to 8 as a map of eighths; padding is label 8, which as a map is full confidence."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (1, 12, 12, 12)).astype(np.int16))
    segmentation, confidence = carried(transform, labels, seed)
    assert torch.equal(segmentation.float(), confidence.round())
    torch.testing.assert_close(segmentation.float(), confidence)


@pytest.mark.parametrize("seed", range(6))
def test_under_rotation_and_scaling_the_map_follows_the_label(seed: int) -> None:
    """A two-valued map is ≥ 1/2 exactly where the interpolated label says so (a hair of float16 apart)."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy((rng.random((1, 12, 12, 12)) > 0.5).astype(np.int16)) * 8
    transform = SpatialTransform(
        (12, 12, 12), 0, False, p_rotation=1, rotation=(-0.5, 0.5), p_scaling=1, scaling=(0.7, 1.4),
        border_mode_seg="constant", padding_value_seg=8,
    )  # fmt: skip
    segmentation, confidence = carried(transform, labels, seed)
    clear = (confidence - 4).abs() > 0.02
    assert clear.float().mean() > 0.97
    assert torch.equal(segmentation[clear] == 8, confidence[clear] > 4)


def test_image_and_doubt_slice_as_one_array() -> None:
    image = np.random.default_rng(0).normal(size=(1, 5, 6, 7)).astype(np.float32)
    confidence = np.arange(210, dtype=np.uint8).reshape(1, 5, 6, 7)
    both = ImageWithDoubt(image, confidence)
    assert both.shape == (2, 5, 6, 7)
    part = both[:, 1:3, 2:4, 3:7]
    np.testing.assert_array_equal(part[:1], image[:, 1:3, 2:4, 3:7])
    np.testing.assert_allclose(part[1], 1 - confidence[0, 1:3, 2:4, 3:7] / 255, atol=1e-7)
    trusted = ImageWithDoubt(image, None)[:, 1:3, 2:4, 3:7]
    np.testing.assert_array_equal(trusted[:1], part[:1])
    assert (trusted[1] == 0).all()
    assert trusted.dtype == np.float32


def copied_cases(prepared: Prepared, tmp_path: Path) -> tuple[Any, Path]:
    """An initialised trainer that trains on a copy of the preprocessed cases, and where they are."""
    trainer = make_trainer(nnUNetTrainerCAL, prepared, "3d_fullres")
    folder = tmp_path / "cases"
    shutil.copytree(trainer.preprocessed_dataset_folder, folder)
    trainer.preprocessed_dataset_folder = str(folder)
    trainer.initialize()
    return trainer, folder


def test_bad_maps_are_listed_before_training_starts(prepared: Prepared, tmp_path: Path) -> None:
    """Missing, truncated, swapped: every fault at once."""
    trainer, folder = copied_cases(prepared, tmp_path)
    paths = [preprocessed_confidence_path(folder, f"syn_{i}") for i in range(4)]
    paths[1].unlink()
    content = paths[2].read_bytes()
    paths[2].write_bytes(paths[3].read_bytes())
    paths[3].write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="fcas_prepare") as error:
        trainer.on_train_start()
    missing, altered = str(error.value).splitlines()
    assert "every confidence map of the index must exist, got none for syn_1. Run fcas_prepare again." in missing
    assert "truncated, swapped or altered ones for syn_2, syn_3. Run fcas_prepare again." in altered


def test_maps_on_another_grid_are_named(prepared: Prepared, tmp_path: Path) -> None:
    trainer, folder = copied_cases(prepared, tmp_path)
    path = preprocessed_confidence_path(folder, "syn_2")
    path.unlink()
    blosc2.asarray(np.zeros((1, 3, 3, 3), np.uint8), urlpath=str(path), mode="w")
    write_index(folder, cases := [f"syn_{i}" for i in range(4)], dict.fromkeys(cases, (1, 1)), {})
    with pytest.raises(ValueError, match=r"must have the shape of their segmentations, got others for syn_2\."):
        trainer.get_tr_and_val_datasets()


def test_a_case_that_is_not_in_the_index_is_named(prepared: Prepared, tmp_path: Path) -> None:
    trainer, folder = copied_cases(prepared, tmp_path)
    write_index(folder, cases := ["syn_0", "syn_1", "syn_2"], dict.fromkeys(cases, (1, 1)), {})
    with pytest.raises(ValueError, match=r"must be in the index of confidence maps, got no entry for syn_3\."):
        trainer.get_tr_and_val_datasets()


def test_a_real_case_among_synthetic_ones_is_trusted_everywhere(prepared: Prepared, tmp_path: Path) -> None:
    trainer, folder = copied_cases(prepared, tmp_path)
    preprocessed_confidence_path(folder, "syn_1").unlink()
    write_index(folder, [f"syn_{i}" for i in range(4)], {f"syn_{i}": (1, 1) for i in (0, 2, 3)}, {})
    training, _ = trainer.get_tr_and_val_datasets()
    doubts = [training.load_case(f"syn_{i}")[0][(slice(None),) * 4][-1] for i in range(4)]
    assert [bool(doubt.any()) for doubt in doubts] == [True, False, True, True]
    (first, _) = batches(trainer, 1)
    assert np.isfinite(trainer.train_step(first)["loss"])


def test_a_real_data_set_has_no_maps_and_is_refused(prepared: Prepared) -> None:
    plans = read_plans(prepared.real, "nnUNetPlans") | {"continue_training": False}
    trainer = nnUNetTrainerCAL(plans, "3d_fullres", 0, prepared.real.dataset_json, torch.device("cpu"))
    trainer.initialize()
    with pytest.raises(FileNotFoundError, match="on real scans use nnUNetTrainerCALFinetune"):
        trainer.get_tr_and_val_datasets()


def test_only_the_folder_is_new_to_nnunet(prepared: Prepared) -> None:
    """The maps lie where nnU-Net neither takes them for cases nor stumbles over them."""
    trainer = make_trainer(nnUNetTrainerCAL, prepared, "3d_fullres")
    folder = prepared.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"
    trainer.initialize()
    assert sorted(trainer.dataset_class.get_identifiers(str(folder))) == prepared.synthetic.case_ids


def test_the_floor_lifts_confidence(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(nnUNetTrainerCAL, prepared, "3d_fullres")
    (batch, _) = batches(trainer, 1)
    _, confidence = trainer._split_batch(batch)
    monkeypatch.setenv("FCAS_CONFIDENCE_FLOOR", "0.25")
    raising = make_trainer(nnUNetTrainerCAL, prepared, "3d_fullres")
    _, lifted = raising._split_batch(batches(raising, 1)[0])
    assert lifted.min() >= 0.25 - 1e-6
    torch.testing.assert_close(lifted, 0.25 + 0.75 * confidence)
    for value in ("1", "-0.1", "half"):
        monkeypatch.setenv("FCAS_CONFIDENCE_FLOOR", value)
        with pytest.raises(ValueError, match=rf"FCAS_CONFIDENCE_FLOOR: floor must be in \[0, 1\), got {value}"):
            make_trainer(nnUNetTrainerCAL, prepared, "3d_fullres")
