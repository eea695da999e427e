"""Labelled scans of two channels: CT, and an MR of black blood in which what is bright in CT is dark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from fcas_nnunet_small import LABELS, ROOTS, SURROUNDINGS, short_config, small_case

from fcas_nnunet.case import Case
from fcas_nnunet.config.files import save_config
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json
from fcas_nnunet.intensities import IntensityScale

CHANNELS = {"0": "CT", "1": "T2"}
SOURCE = "Dataset941_Both"
#: Values of the MR outside of structures, and in each label.
MR = np.array([300, 60, 700, 90], np.float32)
DTYPES = (np.int16, np.uint16)


def two_channels(number: int) -> Case:
    """`small_case` with an MR beside the CT, of the same anatomy and of another scanner gain in every case."""
    case = small_case(number)
    assert case.image is not None
    rng = np.random.default_rng(100 + number)
    mr = (MR[case.mask] + rng.normal(0, 12, case.shape)) * rng.uniform(0.5, 1.5)
    mr = np.where(case.surroundings == 1, 20, mr).clip(0).round().astype(np.uint16)
    image = np.stack([case.image[0], mr.astype(np.float32)])
    return replace(case, image=image, scales=(IntensityScale(), IntensityScale.of(mr, "T2")))


def write_channel_set(folder: Path, num_cases: int = 4) -> Path:
    """nnU-Net's three folders with data set 941, and `short_config` as short.yaml; returns the data set's folder."""
    for name in ROOTS:
        (folder / name).mkdir()
    source = folder / "nnUNet_raw" / SOURCE
    for number in range(num_cases):
        write_case(source, two_channels(number))
    write_dataset_json(source, LABELS, num_cases, surroundings=SURROUNDINGS, channel_names=CHANNELS)
    save_config(short_config(), folder / "short.yaml")
    return source


def means(case: Case) -> np.ndarray:
    """Mean of each label in each channel, in standard units, [C, 3]."""
    return np.array([[channel[case.mask == label].mean() for label in (1, 2, 3)] for channel in case.standard_image])
