"""Features of a trained nnU-Net: those of its own forward pass over its own windows, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_files import Payload
from nnunet_cases import CPU, PLANS, Prepared, build
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.files import file_sha256
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.environment.trainer_lookup import EXT_TRAINER_VARIABLE, ext_trainer_value
from fcas_nnunet.integration.models.features import open_extractor, window_slices
from fcas_nnunet.integration.models.trained_models import channel_faults
from fcas_nnunet.integration.preprocessing.plans import read_plans


def save(trainer: nnUNetTrainer) -> Path:
    """A model that has just begun, with a line of a log as training leaves it."""
    torch.manual_seed(0)
    trainer.initialize()
    trainer.on_train_start()
    trainer.logger.log("train_losses", np.float32(0.5), 0)  # nnU-Net's logs hold NumPy's numbers
    trainer.logger.log("ema_fg_dice", np.mean([0.25, 0.75]), 0)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.on_train_end()
    return Path(trainer.output_folder_base)


@pytest.fixture
def model(prepared: Prepared) -> Path:
    return save(build(prepared, "nnUNetTrainerCAL_1epoch"))


def predictor_of(model: Path, fold: str | int, monkeypatch: pytest.MonkeyPatch) -> nnUNetPredictor:
    monkeypatch.setenv(EXT_TRAINER_VARIABLE, ext_trainer_value())
    predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=CPU, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (fold,))
    return predictor


def hooked_features(predictor: nnUNetPredictor, image_path: Path) -> np.ndarray:
    """The same by a hook while nnU-Net itself predicts."""
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    managers = (predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)
    data, _, _ = preprocessor.run_case([str(image_path)], None, *managers)
    rows = []
    hook = predictor.network.encoder.register_forward_hook(
        lambda module, inputs, output: rows.append(output[-1].mean(dim=tuple(range(2, output[-1].ndim)))[0].numpy())
    )
    predictor.predict_sliding_window_return_logits(torch.from_numpy(data))
    hook.remove()
    return np.stack(rows)


def test_features_are_those_of_nnunets_own_forward_pass(
    prepared: Prepared, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(EXT_TRAINER_VARIABLE, raising=False)
    extractor = open_extractor(model, "all")
    assert EXT_TRAINER_VARIABLE not in os.environ
    assert capsys.readouterr().out == ""
    image_path = prepared.real.image_path(prepared.real.case_ids[0])
    found = extractor.features([image_path])
    predictor = predictor_of(model, "all", monkeypatch)
    wanted = hooked_features(predictor, image_path)
    channels = predictor.configuration_manager.network_arch_init_kwargs["features_per_stage"][-1]
    assert found.dtype == np.float32
    assert found.shape == wanted.shape == (len(wanted), channels)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert found.std() > 0
    np.testing.assert_array_equal(extractor.features([image_path]), found)


def test_the_name_says_which_weights(model: Path) -> None:
    sha256 = file_sha256(model / "fold_all" / "checkpoint_final.pth")
    assert open_extractor(model, "all").name == (
        f"{model.parent.name}/{model.name}, fold all, checkpoint_final.pth, sha256 {sha256[:12]}"
    )
    assert model.parent.name.startswith("Dataset902")


def test_a_2d_model_of_a_numbered_fold_goes_slice_by_slice(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = read_plans(prepared.real, PLANS) | {"continue_training": False}
    model = save(nnUNetTrainer(plans, "2d", 1, prepared.real.dataset_json, CPU))
    image_path = prepared.real.image_path(prepared.real.case_ids[1])
    found = open_extractor(model, "1").features([image_path])
    np.testing.assert_allclose(
        found, hooked_features(predictor_of(model, 1, monkeypatch), image_path), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("shape", "patch_size"), [((40, 33, 64), (16, 32, 64)), ((5, 40, 33), (32, 24)), ((16, 16, 16), (16, 16, 16))]
)
def test_windows_are_nnunets(shape: tuple[int, ...], patch_size: tuple[int, ...]) -> None:
    class Plans:
        pass

    predictor = nnUNetPredictor(perform_everything_on_device=False, device=CPU)
    predictor.configuration_manager = Plans()
    predictor.configuration_manager.patch_size = patch_size
    assert window_slices(shape, patch_size) == predictor._internal_get_sliding_window_slicers(shape)


def test_what_is_missing_is_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"must hold dataset\.json and plans\.json, got no dataset\.json and no"
    ):
        open_extractor(tmp_path, "all")
    with pytest.raises(FileNotFoundError, match=r"fold must be one of all, got 7\. Name one that was trained"):
        open_extractor(model, "7")
    with pytest.raises(FileNotFoundError, match=r"must be one of checkpoint_final\.pth, got checkpoint_best\.pth"):
        open_extractor(model, "all", "checkpoint_best.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.nii\.gz: file must exist"):
        open_extractor(model, "all").features([tmp_path / "none.nii.gz"])


def test_a_checkpoint_that_runs_code_is_refused(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / model.name
    shutil.copytree(model, copy)
    path = copy / "fold_all" / "checkpoint_final.pth"
    torch.save(read_checkpoint(path) | {"extra": Payload(str(tmp_path / "was_run"))}, path)
    with pytest.raises(ValueError, match=r"must hold weights and plain values alone, got code, \w+\.mkdir\."):
        open_extractor(copy, "all")
    path.write_bytes(pickle.dumps({"network_weights": 1}))
    with pytest.raises(ValueError, match="alone, got a file that is cut short or of another kind"):
        open_extractor(copy, "all")
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"checkpoint must hold init_args, network_weights, .*got state_dict\."):
        open_extractor(copy, "all")
    assert not (tmp_path / "was_run").exists()


def test_a_model_that_cannot_serve_is_refused(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / model.name
    shutil.copytree(model, copy)
    path = copy / "fold_all" / "checkpoint_final.pth"
    torch.save(read_checkpoint(path) | {"trainer_name": "nnUNetTrainerNobodyHas"}, path)
    with pytest.raises(ValueError, match="network must be one that nnU-Net loads, got 'Could not find requested"):
        open_extractor(copy, "all")
    content = json.loads((copy / "plans.json").read_text())
    content["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (copy / "plans.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"no second stage of a cascade, got one"):
        open_extractor(copy, "all")
    with pytest.raises(ValueError, match=r"scans must have the model's channels, CT, got CT, PET\. Name another"):
        open_extractor(copy, "all", channel_names=["CT", "PET"])


@pytest.mark.parametrize(
    ("names", "scans", "fits"),
    [(["CT"], ["MRI"], True), (["T1", "T2"], ["t1", "T2"], True), (["T1", "T2"], ["T2", "T1"], False),
     (["T1", "T2"], ["T1"], False)],
)  # fmt: skip
def test_a_model_takes_the_channels_it_has_learnt_from(names: list[str], scans: list[str], fits: bool) -> None:
    faults = channel_faults({"channel_names": {str(i): name for i, name in enumerate(names)}}, scans)
    assert bool(faults) != fits
    assert all(f"{', '.join(names)}, got {', '.join(scans)}" in fault for fault in faults)
