"""Exports: a model that nnU-Net alone loads and that predicts the same, and slices that MedSAM's loader reads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_cases import Prepared, build
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from fcas_nnunet.commands.export import main
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case
from fcas_nnunet.integration.environment.trainer_lookup import ext_trainer_value
from fcas_nnunet.integration.models.export import SliceSettings, export_model, export_slices


@pytest.fixture
def model(prepared: Prepared) -> Path:
    """The folder of a model that has just begun; its weights are as good as any."""
    trainer = build(prepared, "nnUNetTrainerCAL_1epoch")
    trainer.initialize()
    trainer.on_train_start()
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.on_train_end()
    return Path(trainer.output_folder_base)


def logits(model: Path, image: torch.Tensor) -> torch.Tensor:
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), use_folds=("all",))
    predictor.network.load_state_dict(predictor.list_of_parameters[0])
    return predictor.predict_sliding_window_return_logits(image)


def test_exported_model_predicts_the_same_without_the_plugin(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(1, 40, 40, 40, generator=torch.Generator().manual_seed(0))
    monkeypatch.setenv("nnUNet_extTrainer", ext_trainer_value())
    wanted = logits(model, image)
    monkeypatch.delenv("nnUNet_extTrainer")
    (written,) = export_model(model, tmp_path / "plain")
    assert written == tmp_path / "plain" / "fold_all" / "checkpoint_final.pth"
    assert torch.equal(logits(tmp_path / "plain", image), wanted)
    code = (
        "import sys; sys.modules['fcas_nnunet'] = None; import torch;"
        "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor;"
        "p = nnUNetPredictor(device=torch.device('cpu'));"
        f"p.initialize_from_trained_model_folder({str(tmp_path / 'plain')!r}, use_folds=('all',))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0, "nnU-Net loads it where fcas-nnunet is gone"


def test_exported_training_log_has_nnunets_keys_alone(model: Path, tmp_path: Path) -> None:
    before = read_checkpoint(model / "fold_all" / "checkpoint_final.pth")
    export_model(model, tmp_path / "plain")
    after = read_checkpoint(tmp_path / "plain" / "fold_all" / "checkpoint_final.pth")
    assert set(before["logging"]) - set(after["logging"]) == {"confidence_mean", "confidence_shares"}
    assert after["trainer_name"] == "nnUNetTrainer"


def test_a_result_is_not_overwritten_and_an_empty_model_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(ValueError, match="export folder must not exist yet"):
        export_model(model, tmp_path / "plain")
    with pytest.raises(FileNotFoundError, match=r"must hold dataset\.json and plans\.json"):
        export_model(tmp_path, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_slices_are_what_medsams_loader_asks_for(prepared: Prepared, tmp_path: Path) -> None:
    """Its NpyDataset pairs gts/*.npy with imgs/*.npy of the same name, and asserts images in [0, 1]."""
    dataset, settings = prepared.synthetic, SliceSettings(size=64)
    number = export_slices(dataset, tmp_path, settings)
    masks = sorted((tmp_path / "gts").glob("*.npy"))
    assert len(masks) == number > 0
    boxes = json.loads((tmp_path / "boxes.json").read_text())
    for path in masks:
        image, mask = np.load(tmp_path / "imgs" / path.name), np.load(path)
        confidence = np.load(tmp_path / "confidence" / path.name)
        assert (image.shape, image.dtype) == ((64, 64, 3), np.float32)
        assert 0 <= image.min() <= image.max() <= 1
        assert (mask.shape, mask.dtype) == (confidence.shape, confidence.dtype) == ((64, 64), np.uint8)
        for label, (x_min, y_min, x_max, y_max) in boxes[path.stem].items():
            rows, columns = np.where(mask == int(label))
            assert (columns.min(), rows.min(), columns.max(), rows.max()) == (x_min, y_min, x_max, y_max)
        assert set(boxes[path.stem]) == {str(label) for label in np.unique(mask) if label}


def test_a_slice_is_the_volumes_own(prepared: Prepared, tmp_path: Path) -> None:
    """At the volume's own size nothing is resampled: the numbers are those of the files."""
    dataset = prepared.synthetic
    case = dataset.load_case(dataset.case_ids[0])
    axial = int(np.abs(case.affine[2, :3]).argmax())
    mask, image, confidence = (np.moveaxis(v, axial, 0) for v in (case.mask, case.image[0], case.confidence))
    size = max(mask.shape[1:])
    export_slices(dataset, tmp_path, SliceSettings(size=size, window=(0, 500), min_pixels=1))
    number = int(np.argmax((mask > 0).sum(axis=(1, 2))))
    name = f"CT_{case.case_id}-{number:03d}.npy"
    height, width = mask.shape[1:]
    assert np.array_equal(np.load(tmp_path / "gts" / name)[:height, :width], mask[number])
    assert np.allclose(np.load(tmp_path / "imgs" / name)[:height, :width, 1], np.clip(image[number] / 500, 0, 1))
    assert np.array_equal(
        np.load(tmp_path / "confidence" / name)[:height, :width], np.rint(255 * confidence[number]).astype(np.uint8)
    )


def test_slices_go_on_and_other_settings_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    export_slices(prepared.synthetic, tmp_path, SliceSettings(size=64))
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "imgs").iterdir()}
    export_slices(prepared.synthetic, tmp_path, SliceSettings(size=64))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "imgs").iterdir()} == done
    with pytest.raises(ValueError, match="Choose another folder with -o"):
        export_slices(prepared.synthetic, tmp_path, SliceSettings(size=32))
    with pytest.raises(ValueError, match="must be new, empty or begun by fcas_export, got other files: confidence"):
        export_slices(prepared.synthetic, prepared.synthetic.folder, SliceSettings(size=64))


def test_slices_of_changed_cases_are_cut_again_and_stale_ones_are_removed(prepared: Prepared, tmp_path: Path) -> None:
    folder, out, settings = tmp_path / prepared.synthetic.name, tmp_path / "out", SliceSettings(size=64, min_pixels=1)
    shutil.copytree(prepared.synthetic.folder, folder)
    dataset = RawDataset.open(folder, any_kind=True)
    ids = dataset.case_ids
    assert len(ids) >= 4
    export_slices(dataset, out, settings)
    before = {path: path.read_bytes() for path in out.rglob("*.npy")}
    emptied, altered, doubted, *others = (dataset.load_case(case_id) for case_id in ids)
    axis = int(np.abs(emptied.affine[2, :3]).argmax())
    np.moveaxis(emptied.mask, axis, 0)[1:] = 0  # one slice at most is left
    np.moveaxis(emptied.mask, axis, 0)[0, :5, :5] = 1
    write_case(folder, emptied)
    write_case(folder, replace(altered, image=altered.image + 100))
    write_case(folder, replace(doubted, confidence=np.full(doubted.shape, 0.2)))
    for path in (*dataset.image_paths(ids[-1]), dataset.mask_path(ids[-1])):
        path.unlink()
    changed = RawDataset.open(folder, any_kind=True)
    assert changed.case_ids == ids[:-1]
    number = export_slices(changed, out, settings)

    after = {path: path.read_bytes() for path in out.rglob("*.npy")}

    def parts(case_id: str) -> set[str]:
        own = [path for path in before.keys() & after.keys() if path.stem.startswith(f"CT_{case_id}-")]
        return {path.parent.name for path in own if before[path] != after[path]}

    assert [path.name for path in after if emptied.case_id in path.name] == [f"CT_{emptied.case_id}-000.npy"] * 3
    assert parts(altered.case_id) == {"imgs"}
    assert parts(doubted.case_id) == {"confidence"}
    assert not any(ids[-1] in path.name for path in after)
    assert not (out / "cases" / f"{ids[-1]}.json").exists()
    assert {path.stem for path in after} == set(json.loads((out / "boxes.json").read_text()))
    assert len(after) == 3 * number
    export_slices(changed, tmp_path / "new", settings)
    new = {path.relative_to(tmp_path / "new"): path.read_bytes() for path in (tmp_path / "new").rglob("*.*")}
    assert new == {path.relative_to(out): path.read_bytes() for path in out.rglob("*.*")}


def test_slices_of_an_earlier_version_which_knew_no_content_are_cut_again(prepared: Prepared, tmp_path: Path) -> None:
    settings = SliceSettings(size=64)
    export_slices(prepared.synthetic, tmp_path, settings)
    case_id = prepared.synthetic.case_ids[0]
    record, stale = tmp_path / "cases" / f"{case_id}.json", tmp_path / "gts" / f"CT_{case_id}-999.npy"
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole)["boxes"] | {stale.stem: {}}))
    stale.touch()
    export_slices(prepared.synthetic, tmp_path, settings)
    assert record.read_text() == whole
    assert not stale.exists()


def test_bad_arguments_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([], "-i: model folder must be given"),
        (["medsam", "-d", "902", "-o", str(tmp_path / "out"), "--window", "5", "5"], "LOW must be below HIGH"),
        (["medsam", "-d", "902", "-o", str(tmp_path / "out"), "--size", "2"], "at least 16 pixels"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
