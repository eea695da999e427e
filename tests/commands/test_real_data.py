"""The whole path on two real CTAs, where they are at hand: generate, prepare, pretrain, fine-tune, predict."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from nnunet_cases import ENVIRONMENT, make_root
from nnunet_commands import (
    NARROW_PLANS,
    ONE_EPOCH,
    needs_torchvision,
    printed_commands,
    run,
    shell_environment,
    write_narrow_plans,
)

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.prepare import main as prepare
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume

REAL, SYNTHETIC = "Dataset920_RealCTA", "Dataset921_RealCTAFCaS"
DATA = Path(os.environ.get("FCAS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / REAL).is_dir(), reason=f"{REAL} is not here; FCAS_TEST_DATA names its folder")
def test_from_two_patients_to_a_fine_tuned_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    needs_torchvision()
    make_root(tmp_path)
    shutil.copytree(DATA / REAL, tmp_path / "raw" / REAL)
    folders = {f"nnUNet_{kind}": str(tmp_path / kind) for kind in ("raw", "preprocessed", "results")}
    for name, value in (ENVIRONMENT | folders | ONE_EPOCH).items():
        monkeypatch.setenv(name, value)

    generate(["-d", "920", "-n", "2", "--preset", "tiny"])
    real, synthetic = (RawDataset.open(tmp_path / "raw" / name) for name in (REAL, SYNTHETIC))
    _check_synthetic(real, synthetic)

    write_narrow_plans(real)
    prepare(["-d", "921", "--for", "920", "-p", NARROW_PLANS, "-np", "1"])
    pretrain, finetune, predict = printed_commands(capfd.readouterr().out)
    finetune = finetune.replace("3d_fullres 0 ", "3d_fullres all ")  # two patients make no five folds
    shell = shell_environment()
    assert "train_loss" in run(pretrain, shell)
    assert "Training done." in run(finetune, shell)
    predict = predict.replace("-f 0", "-f all").replace("INPUT_FOLDER", str(real.folder / "imagesTr"))
    quick = " --disable_tta -step_size 1 -npp 1 -nps 1"
    run(predict.replace("OUTPUT_FOLDER", str(tmp_path / "out")) + quick, shell)
    for case_id in real.case_ids:
        predicted, reference = read_volume(tmp_path / "out" / f"{case_id}.nii.gz"), read_volume(real.mask_path(case_id))
        assert predicted.array.shape == reference.array.shape
        np.testing.assert_allclose(predicted.affine, reference.affine, atol=1e-5)
        assert set(np.unique(predicted.array)) <= set(real.labels.values())


def _check_synthetic(real: RawDataset, synthetic: RawDataset) -> None:
    """Every synthetic case lies on its reference's grid, is CT, bears every label, and knows its doubts."""
    records = Manifest(synthetic.folder).read()
    assert synthetic.labels == real.labels
    for case_id in synthetic.case_ids:
        case, reference = synthetic.load_case(case_id), real.load_case(records[case_id]["reference"])
        assert case.shape == reference.shape
        np.testing.assert_allclose(case.affine, reference.affine, atol=1e-5)
        assert set(np.unique(case.mask)) == set(real.labels.values())
        assert case.image is not None
        assert case.confidence is not None
        assert -1000 <= case.image.min() < -500, "lungs are in view"
        blood = [case.image[0][case.mask == real.labels[name]].mean() for name in ("left_ventricle", "left_atrium")]
        assert min(blood) > 0
        inside = case.confidence[case.mask > 0]
        assert 0.2 < inside.mean() < 0.9
        assert inside.std() > 0.1, "a constant map would leave CAL without effect"
