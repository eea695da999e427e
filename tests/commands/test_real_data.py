"""The whole path on data of every kind: generate, prepare, pretrain, fine-tune, predict.

The real scans are used where they are at hand: `FCAS_TEST_DATA` names the folder of their data sets.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
)
from scipy.stats import wasserstein_distance

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.prepare import main as prepare
from fcas_nnunet.datasets.phantom import LABELS, patient_seed, phantom_case
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume, write_labels, write_volume
from fcas_nnunet.integration.preprocessing.prepare import ensure_narrow_plans

DATA = Path(os.environ.get("FCAS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
SOURCES = ("drawn", "warped", "registered", "painted")
MOST_MOVED = {"drawn": 1.5, "warped": 1.0}  # Wasserstein distance of a structure, in standard deviations of the scan
IGNORED = 4


@dataclass(frozen=True)
class Kind:
    """A kind of data.

    Attributes:
        name: of the data set, whose id ends in 0.
        write: writes it into a folder.
        patch_size: of the network.
    """

    name: str
    write: Callable[[Path], None]
    patch_size: tuple[int, int, int] = (24, 24, 24)


def _copy(name: str, case_ids: tuple[str, ...], folder: Path) -> None:
    """Some cases of a real data set."""
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not here; FCAS_TEST_DATA names its folder")
    for kind, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (folder / kind).mkdir(parents=True)
        for case_id in case_ids:
            shutil.copy(DATA / name / kind / f"{case_id}{suffix}.nii.gz", folder / kind)
    description = json.loads((DATA / name / "dataset.json").read_text()) | {"numTraining": len(case_ids)}
    atomic_write_json(folder / "dataset.json", description)


def _write_regions(folder: Path) -> None:
    """CT and an invented MR channel; atria, left and right ventricle in regions; the uppermost slices unlabelled."""
    ids = np.zeros(len(LABELS) + 1, np.uint8)
    for name, label_id in {"left_atrium": 1, "right_atrium": 1, "left_ventricle": 2, "right_ventricle": 3}.items():
        ids[LABELS[name]] = label_id
    for number in range(4):
        case = phantom_case(f"p{number}", (40, 40, 40), patient_seed(7, number))
        mask = ids[case.mask]
        mask[-6:] = IGNORED
        assert case.image is not None
        signal = np.random.default_rng(number).normal(0.2 + 0.2 * mask, 0.02).astype(np.float32)
        for channel, image in enumerate((case.image[0], signal)):
            write_volume(folder / "imagesTr" / f"p{number}_{channel:04d}.nii.gz", image, case.affine)
        write_labels(folder / "labelsTr" / f"p{number}.nii.gz", mask, case.affine)
    labels = {"background": 0, "chambers": [1, 2, 3], "ventricles": [2, 3], "right_ventricle": 3, "ignore": IGNORED}
    atomic_write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "CT", "1": "T1"}, "labels": labels, "regions_class_order": [1, 2, 3],
            "numTraining": 4, "file_ending": ".nii.gz",
        },
    )  # fmt: skip


KINDS = {
    "two CTAs": Kind("Dataset920_RealCTA", partial(_copy, "Dataset920_RealCTA", ("lidc0001", "totalseg01"))),
    "left atria": Kind(
        "Dataset930_LeftAtrium", partial(_copy, "Dataset930_LeftAtrium", ("la00", "la01", "la02", "la03"))
    ),
    "cine MR of thick slices": Kind(
        "Dataset940_ACDC",
        partial(_copy, "Dataset931_ACDC", tuple(
            f"patient{patient}_frame{frame}" for patient in ("001", "002") for frame in ("01", "12")
        )),
        patch_size=(8, 32, 32),
    ),
    "two channels, regions, ignore": Kind("Dataset950_Regions", _write_regions),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_from_labelled_scans_to_a_fine_tuned_network(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    needs_torchvision()
    make_root(tmp_path)
    kind.write(tmp_path / "raw" / kind.name)
    folders = {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")}
    for name, value in (ENVIRONMENT | folders | ONE_EPOCH).items():
        monkeypatch.setenv(name, value)
    real_id = int(kind.name[7:10])

    generate(["-d", str(real_id), "-n", "4", "--preset", "tiny", "--source", "mixed"])
    synthetic_name = f"Dataset{real_id + 1}_{kind.name[11:]}FCaS"
    real, synthetic = (RawDataset.open(tmp_path / "raw" / name, any_kind=True) for name in (kind.name, synthetic_name))
    _check_synthetic(real, synthetic)

    ensure_narrow_plans(real, NARROW_PLANS, "3d_fullres", features_per_stage=[4, 8, 16], patch_size=kind.patch_size)
    prepare(["-d", str(real_id + 1), "--for", str(real_id), "-p", NARROW_PLANS, "-np", "1"])
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
        assert set(np.unique(predicted.array)) <= set(real.label_ids) - {real.ignore_id}


def _check_synthetic(real: RawDataset, synthetic: RawDataset) -> None:
    """Every source's case lies on its reference's grid, in the units of its template, and knows its doubts."""
    records = Manifest(synthetic.folder).read()
    assert sorted(record["scan"] for record in records.values()) == sorted(SOURCES)
    for key in ("labels", "channel_names", "regions_class_order"):
        assert synthetic.dataset_json.get(key) == real.dataset_json.get(key)
    for case_id in synthetic.case_ids:
        record = records[case_id]
        label, reference = read_volume(synthetic.mask_path(case_id)), read_volume(real.mask_path(record["reference"]))
        assert label.array.shape == reference.array.shape
        np.testing.assert_allclose(label.affine, reference.affine, atol=1e-5)
        assert set(np.unique(label.array)) == set(np.unique(reference.array))
        confidence = read_volume(synthetic.confidence_path(case_id))
        np.testing.assert_allclose(confidence.affine, reference.affine, atol=1e-5)
        ignored = label.array == real.ignore_id
        assert not confidence.array[ignored].any()
        inside = confidence.array[(label.array > 0) & ~ignored]
        if record["scan"] == "drawn":
            assert 0.2 < inside.mean() < 0.98
            assert inside.std() > 0.05, "a constant map would leave CAL without effect"
        else:
            assert np.isin(inside, (0, 1)).all(), "its label is exact, or comes from beyond the scan"
            assert inside.mean() > 0.75, "most of it comes from within the scan, also in stacks of ten slices"
        _check_images(real, synthetic, case_id, record, label.array, ~ignored)


def _check_images(
    real: RawDataset, synthetic: RawDataset, case_id: str, record: dict[str, Any], label: np.ndarray, seen: np.ndarray
) -> None:
    template_label = read_volume(real.mask_path(record["template"])).array
    pairs = zip(synthetic.image_paths(case_id), real.image_paths(record["template"]), strict=True)
    for channel, (path, template_path) in enumerate(pairs):
        image, template = read_volume(path).array, read_volume(template_path).array
        assert image.dtype == template.dtype
        assert image.shape == label.shape
        most = MOST_MOVED.get(record["scan"], np.inf)  # painted scans have any contrast
        for label_id in set(np.unique(label[seen])):
            values = image[(label == label_id) & seen], template[template_label == label_id]
            moved = wasserstein_distance(*(v[:: max(1, v.size // 20_000)] for v in values)) / template.std()
            assert moved < most, f"{record['scan']} {case_id}, channel {channel}, label {label_id}"
