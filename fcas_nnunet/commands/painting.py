"""The cheap rival: the same masks, painted with random contrasts as SynthSeg does, without any generator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from fcas_nnunet.case import Case
from fcas_nnunet.integration.folders import new_dataset_folder
from fcas_nnunet.integration.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.synthetic_cases import case_is_written
from fcas_nnunet.seeds import derive_seed

#: HU that structures are painted with: anything between fat and dense contrast medium.
PAINT_RANGE_HU = (-120.0, 600.0)
NOISE_RANGE_HU = (5.0, 50.0)
BLUR_RANGE_VOXELS = (0.3, 1.0)


def paint_case(case: Case, seed: int) -> Case:
    """A scan painted from a label map alone: one random HU per label, blurred, with noise; confidence 1.

    Args:
        case: its mask is painted.
        seed: same seed, same scan.

    Source: the idea of SynthSeg, arXiv 2107.09559.
    """
    rng = np.random.default_rng(seed)
    levels = rng.uniform(*PAINT_RANGE_HU, size=256)
    texture = gaussian_filter(rng.standard_normal(case.shape), 1.0)
    painted = levels[case.mask] + rng.uniform(*NOISE_RANGE_HU) * texture / texture.std()
    painted = gaussian_filter(painted, rng.uniform(*BLUR_RANGE_VOXELS))
    painted += rng.uniform(*NOISE_RANGE_HU) * rng.standard_normal(case.shape)
    return replace(case, image=np.rint(painted).astype(np.int16), confidence=np.ones(case.shape, np.float32))


def paint_dataset(masks: RawDataset, name: str, seed: int) -> None:
    """Paint every mask of a data set into a new one; cases that are there are skipped.

    Args:
        masks: data set whose labels are painted.
        name: DatasetNNN_Name of the new one.
        seed: of the whole set.
    """
    output = new_dataset_folder(name, default_name="")
    for case_id in tqdm(masks.case_ids, desc="painting", unit="case"):
        if not case_is_written(output, case_id):
            write_case(output, paint_case(masks.load_mask(case_id), derive_seed(seed, "paint", case_id)))
    write_dataset_json(
        output, masks.labels, len(masks.case_ids), description=f"Masks of {masks.name} in random contrasts."
    )
