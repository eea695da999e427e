"""Small random data sets for nnU-Net itself to plan, preprocess and train on; the fixtures are in conftest.py."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.utilities import utils as nnunet_utils
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from fcas_nnunet.case import Case
from fcas_nnunet.commands.demo import trainers as demo_trainers
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.cal import trainers
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.preprocessing.plans import read_plans, shrink_plans

LABELS = {"background": 0, "left_ventricle": 1, "coronary_arteries": 2}
ENVIRONMENT = {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
REAL, SYNTHETIC = "Dataset901_Heart", "Dataset902_HeartFCaS"
PLANS, MOVED_PLANS = "nnUNetPlans", "nnUNetPlansFrom901"
CPU = torch.device("cpu")


def affine_of(spacing_mm: tuple[float, float, float], seed: int) -> np.ndarray:
    """A rotated, shifted grid: (d, h, w) → LPS mm."""
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", rng.uniform(-20, 20, 3), degrees=True).as_matrix()
    affine[:3, :3] = rotation[:, ::-1] * spacing_mm  # d runs along z
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return affine


def random_case(case_id: str, seed: int, *, confidence: bool) -> Case:
    """Random anatomy in a box of tissue with a border of exactly 0 HU, which nnU-Net crops.

    The slices lie along w, so nnU-Net transposes; the spacing varies, so it resamples.
    """
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(34, 44, 3))
    field = gaussian_filter(rng.normal(size=shape), 4)
    mask = (field > np.quantile(field, 0.8)).astype(np.uint8)
    mask[np.abs(gaussian_filter(rng.normal(size=shape), 2)) < 0.003] = 2
    image = 40 + 260 * (mask == 1) + 360 * (mask == 2) + rng.normal(0, 20, shape)
    image[image == 0] = 1
    border = np.ones(shape, bool)
    border[3:-4, 2:-3, 5:-2] = False
    image[border], mask[border] = 0, 0
    trust = gaussian_filter(rng.normal(size=shape), 3)
    trust = np.clip((trust - trust.min()) / np.ptp(trust), 0, 1)
    scale = rng.uniform(0.85, 1.15)
    return Case(
        case_id=case_id,
        image=image.round()[None],
        mask=mask,
        affine=affine_of((0.8 * scale, 0.9, 1.5), seed),
        confidence=trust.astype(np.float32) if confidence else None,
    )


def write_set(folder: Path, case_ids: list[str], first_seed: int, *, confidence: bool) -> RawDataset:
    """A raw data set of random cases."""
    for offset, case_id in enumerate(case_ids):
        write_case(folder, random_case(case_id, first_seed + offset, confidence=confidence))
    write_dataset_json(folder, LABELS, len(case_ids))
    return RawDataset.open(folder)


@dataclass(frozen=True)
class Prepared:
    """What fcas_prepare left behind.

    Attributes:
        root: holds raw, preprocessed and results.
        commands: what it printed to do next.
    """

    root: Path
    commands: str

    @property
    def environment(self) -> dict[str, str]:
        folders = {f"nnUNet_{kind}": str(self.root / kind) for kind in ("raw", "preprocessed", "results")}
        return ENVIRONMENT | folders

    @property
    def real(self) -> RawDataset:
        return RawDataset.open(self.root / "raw" / REAL)

    @property
    def synthetic(self) -> RawDataset:
        return RawDataset.open(self.root / "raw" / SYNTHETIC)

    def preprocessed(self, name: str) -> Path:
        return self.root / "preprocessed" / name


class _Threads:
    """A context of multiprocessing whose pools are threads of this process."""

    Pool = staticmethod(ThreadPool)

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


@contextmanager
def quick_nnunet() -> Iterator[None]:
    """nnU-Net's planning and preprocessing in this process, on fewer voxels.

    Its pools become threads: a spawned process imports for seconds what it needs for a moment. And a fingerprint takes
    a hundred thousand voxels, not a hundred million, which is more than these cases have.
    """
    get_context = multiprocessing.get_context
    begin = fingerprint_extractor.DatasetFingerprintExtractor.__init__

    def with_fewer_voxels(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = 100_000

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda method=None: _Threads(get_context(method)))
        patch.setattr(nnunet_utils, "Pool", ThreadPool)
        patch.setattr(fingerprint_extractor.DatasetFingerprintExtractor, "__init__", with_fewer_voxels)
        yield


def make_root(root: Path) -> None:
    for kind in ("raw", "preprocessed", "results"):
        (root / kind).mkdir()


def build(prepared: Prepared, name: str, *, real: bool = False, **plans_changes: Any) -> Any:
    """A trainer on the synthetic data set, or on the real one."""
    dataset, plans_name = (prepared.real, PLANS) if real else (prepared.synthetic, MOVED_PLANS)
    plans = deepcopy(read_plans(dataset, plans_name)) | {"continue_training": False} | plans_changes
    module = trainers if hasattr(trainers, name) else demo_trainers
    return getattr(module, name)(plans, "3d_fullres", "all", dataset.dataset_json, CPU)


def save_untrained(dataset: RawDataset, patch_size: int = 24) -> Path:
    """A small network of random weights in nnU-Net's results folder, as a training leaves it; returns its folder.

    Args:
        dataset: whose plans it takes.
        patch_size: voxels along each axis; many small windows take longer than a few large ones.
    """
    plans = shrink_plans(
        read_plans(dataset, PLANS), "3d_fullres", plans_name="nnUNetPlansNarrow", features_per_stage=[4, 8, 16],
        patch_size=[patch_size] * 3,
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = trainers.nnUNetTrainerCAL(
        deepcopy(plans) | {"continue_training": False}, "3d_fullres", "0", dataset.dataset_json, CPU
    )
    trainer.initialize()
    folder = Path(trainer.output_folder_base)
    Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    atomic_write_json(folder / "plans.json", plans)
    atomic_write_json(folder / "dataset.json", dataset.dataset_json)
    return folder
