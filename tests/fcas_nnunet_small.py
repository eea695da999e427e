"""Small labelled cases and a generator on them, shared by the generator's tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcas_nnunet.case import Case
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json

LABELS = {"background": 0, "left_ventricle": 1, "left_myocardium": 2, "coronary_arteries": 3}
SURROUNDINGS = {"lungs": 1}
SHAPE = (32, 32, 32)
ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def small_case(number: int) -> Case:
    """A ball in a shell with a straight vessel on it, in lung; 2 mm voxels, off the origin."""
    rng = np.random.default_rng(number)
    d, h, w = np.mgrid[:32, :32, :32] - 15.5 + rng.normal(0, 1, (3, 1, 1, 1))
    radius = np.sqrt(d**2 + h**2 * rng.uniform(0.8, 1.2) + w**2)
    mask = np.zeros(SHAPE, np.uint8)
    mask[radius < 11] = 2
    mask[radius < 7] = 1
    mask[(abs(h - 11.5) < 1.5) & (abs(w) < 1.5)] = 3
    lungs = ((radius > 15) & (mask == 0)).astype(np.uint8)
    image = np.array([-100, 350 + rng.normal(0, 50), 100, 320])[mask] + rng.normal(0, 20, SHAPE)
    image[lungs == 1] = -850
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (5, -7, 9)
    return Case(f"p{number}", image.astype(np.float32)[None], mask, affine, lungs)


def load_small_case(case_id: str) -> Case:
    """`small_case` by id."""
    return small_case(int(case_id[1:]))


def write_small_set(folder: Path, num_cases: int) -> None:
    """nnU-Net's three folders with data set 901 of `small_case`s, and `short_config` as short.yaml."""
    for name in ROOTS:
        (folder / name).mkdir()
    source = folder / "nnUNet_raw" / "Dataset901_Small"
    for number in range(num_cases):
        write_case(source, small_case(number))
    write_dataset_json(source, LABELS, num_cases, surroundings=SURROUNDINGS)
    save_config(short_config(), folder / "short.yaml")


def generate_small(folder: Path) -> None:
    """`write_small_set` of four cases, the generator trained on them, and 902, four cases that it drew."""
    from fcas_nnunet.commands.generate.command import main as generate

    write_small_set(folder, 4)
    with pytest.MonkeyPatch.context() as patch:
        set_roots(patch, folder)
        generate(["-d", "901", "-o", "902", "-n", "4", "--config", str(folder / "short.yaml"), "-np", "1"])


def set_roots(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """nnU-Net's environment variables for its three folders, which are made where they are missing."""
    for name in ROOTS:
        (folder / name).mkdir(exist_ok=True)
        patch.setenv(name, str(folder / name))


def short_config(num_steps: int = 4, validate_every: int = 2) -> FCaSConfig:
    """The tiny preset with a handful of training steps and no calibration."""

    def shortened(part: Any) -> Any:
        schedule = replace(part.optimisation, num_steps=num_steps, validate_every=validate_every, warmup_steps=1)
        return replace(part, optimisation=schedule)

    return replace(TINY, autoencoder=shortened(TINY.autoencoder), tcdm=shortened(TINY.tcdm), calibration=None)
