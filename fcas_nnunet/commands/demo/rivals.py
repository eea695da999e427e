"""Make scans for the same masks without a generator, to compare with: warped real scans, or random painting."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial

import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from fcas_nnunet.case import Case
from fcas_nnunet.generator.mgm.recipe import Recipe
from fcas_nnunet.generator.mgm.resampling import deform_image
from fcas_nnunet.integration.dataset.folders import new_dataset_folder
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.synthetic_cases import case_is_written
from fcas_nnunet.integration.provenance.parents import PARENTS_KEY, parents_of, to_json
from fcas_nnunet.seeds import derive_seed

#: Range of HU in which structures are painted: from fat to dense contrast medium.
PAINT_RANGE_HU = (-120.0, 600.0)
NOISE_RANGE_HU = (5.0, 50.0)
BLUR_RANGE_VOXELS = (0.3, 1.0)
#: Number of tissues into which the background is divided before it is painted.
NUM_TISSUES = 6
TISSUE_BLUR_VOXELS = 1.0


class Rival(StrEnum):
    """Ways to make the scan of a mask without a generator."""

    WARPED = "warped"
    PAINTED = "painted"


def warp_case(source: Case, mask: Case, recipe: Recipe) -> Case:
    """Deform a real scan as its new mask was deformed; confidence is 1."""
    assert source.image is not None, "a real scan is warped"
    assert not recipe.local_changes, "a local change of the mask has no field to warp the scan by"
    image = deform_image(source.image, recipe.deformation, source.spacing_mm)
    return replace(mask, image=np.rint(image).astype(np.int16), confidence=np.ones(mask.shape, np.float32))


def paint_case(warped: Case, seed: int) -> Case:
    """Paint a scan in random contrasts: one HU per label and per tissue of the background, blurred, with noise.

    The mask of `warped` is painted; its image divides the background into tissues. Confidence is 1.

    Source: the idea of SynthSeg, arXiv 2107.09559, with the background in clusters.
    """
    rng = np.random.default_rng(seed)
    regions = np.where(warped.mask > 0, warped.mask + np.int16(NUM_TISSUES), _tissues(warped))
    levels = rng.uniform(*PAINT_RANGE_HU, size=int(regions.max()) + 1)
    texture = gaussian_filter(rng.standard_normal(warped.shape), 1.0)
    painted = levels[regions] + rng.uniform(*NOISE_RANGE_HU) * texture / texture.std()
    painted = gaussian_filter(painted, rng.uniform(*BLUR_RANGE_VOXELS))
    painted += rng.uniform(*NOISE_RANGE_HU) * rng.standard_normal(warped.shape)
    return replace(warped, image=np.rint(painted).astype(np.int16), confidence=np.ones(warped.shape, np.float32))


def _tissues(case: Case) -> np.ndarray:
    """Cluster every voxel by its smoothed HU: int16 [D, H, W] in [0, NUM_TISSUES); fitted to the background."""
    from sklearn.cluster import KMeans

    assert case.image is not None, "the image divides the background"
    smooth = gaussian_filter(case.image.astype(np.float32), TISSUE_BLUR_VOXELS)
    background = smooth[case.mask == 0]
    sample = background[:: max(1, background.size // 20_000), None]
    clusters = KMeans(NUM_TISSUES, n_init=1, random_state=0).fit(sample)
    return clusters.predict(smooth.reshape(-1, 1)).reshape(case.shape).astype(np.int16)


def write_rivals(synthetic: RawDataset, source: RawDataset, rival: Rival, name: str, seed: int) -> None:
    """Write a data set with the masks of a synthetic one and a rival's scans; existing cases are skipped.

    Each mask was made by MGM from a case of `source`, which has the same label ids.
    """
    output = new_dataset_folder(name, default_name="")
    records = Manifest(synthetic.folder).read()
    for case_id in tqdm(synthetic.case_ids, desc=f"{rival} scans", unit="case"):
        if case_is_written(output, case_id):
            continue
        record = records[case_id]
        real = source.load_case(record["reference"])
        case = warp_case(real, synthetic.load_mask(case_id), Recipe.from_dict(record["mgm"]))
        if rival is Rival.PAINTED:
            case = paint_case(case, derive_seed(seed, "paint", case_id))
        line = {key: record[key] for key in ("case_id", "seed", "reference", "masks", "mgm")}
        line |= {"template": record["reference"], "scan": str(rival), "confidence": "uniform"}
        write_case(output, case, before_label=partial(Manifest(output).append, line))
    write_dataset_json(
        output, synthetic.labels, len(synthetic.case_ids), channel_names=source.channel_names,
        description=f"Masks of {synthetic.name}, scans {rival}.",
        more={PARENTS_KEY: to_json(parents_of(synthetic))},
    )  # fmt: skip
