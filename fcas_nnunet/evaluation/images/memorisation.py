"""Find copies of training scans: distances of synthetic scans to the nearest one, compared with those of real scans.

3D latent diffusion models do memorise coronary CTA (Dar et al., arXiv 2307.01148 and 2402.01054). A real scan that was
not trained on shows how near two patients' scans come by nature; a scan that comes nearer is suspect.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fcas_nnunet.evaluation.images.centred_scans import CentredScan
from fcas_nnunet.evaluation.images.shared_parents import BOOTSTRAP_SAMPLES, interval_over_parents
from fcas_nnunet.faults import InputError

FEW_HELD_OUT = 20
PERCENTILE = 5.0
#: Two scans at less than this are one scan: independent noise alone keeps others further apart.
IDENTICAL = 1e-4
#: Least share of a query's voxels that a pair must have in common to have a distance.
MIN_SHARED_IMAGE, MIN_SHARED_TEXTURE = 0.5, 0.1


class Measure(StrEnum):
    """Distance by which two scans are compared; all are small for scans alike.

    IMAGE is 1 − normalised cross-correlation in the heart and a margin around it: 0 for copies whatever their contrast
    and brightness, about 1 for scans that have nothing in common, up to 2. CONTRAST_MATCHED is the same inside the
    structures alone, after each structure's mean was taken away on both sides and without the outlines: a scan is not
    near by this measure for having a training scan's contrasts, or for being drawn under its mask. FEATURES is
    1 − cosine of a network's mean features. CONTRAST is the root mean square difference of the structures' means, in
    standard units; a scan that follows another's contrasts is no copy of it.
    """

    IMAGE = "image"
    CONTRAST_MATCHED = "contrast_matched"
    FEATURES = "features"
    CONTRAST = "contrast"


#: Measures by which a scan is called a copy.
COPY_MEASURES = (Measure.IMAGE, Measure.CONTRAST_MATCHED, Measure.FEATURES)


@dataclass(frozen=True)
class Nearest:
    """The training case nearest by one measure."""

    case_id: str | None  # None where no training case can be compared
    distance: float  # NaN where none can be compared


@dataclass(frozen=True)
class Threshold:
    """Distance below which a scan is suspect."""

    value: float  # NaN where there is nothing to take it from
    rule: str  # how the value was taken
    count: int  # number of real scans behind the value
    expected_share: float  # share of new real scans that fall below the value all the same


@dataclass(frozen=True)
class Nearer:
    """Share of synthetic scans that are nearer to the training scans than real ones are.

    Attributes:
        share: Share of the pairs of a synthetic and a real scan in which the synthetic one is nearer to its nearest
            training scan; 0.5 = as near as real scans, 1 = all of them nearer.
        interval: 95 % interval of the share, over templates, references and real scans.
    """

    share: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class CopyRate:
    """Rate at which the nearest training case is the template, or the source of the mask."""

    matches: int  # number of cases for which it is
    count: int  # number of all cases
    rate: float  # matches / count
    chance: float  # what the rate would be if the parents were dealt anew to the same cases at random
    excess_interval: tuple[float, float]  # 95 % interval of rate − chance, over templates and references


def distances(query: CentredScan, library: Sequence[CentredScan]) -> dict[Measure, np.ndarray]:
    """Compute the distances from one scan to each of many, by every measure but FEATURES.

    Args:
        query: Scan whose heart, with the margin around it, is the region of comparison.
        library: Training scans, with the query's label ids.

    Returns:
        float64 [len(library)] each; NaN where a pair shares too little of the query's region.
    """
    by_image = _Correlator(query.image, query.near, MIN_SHARED_IMAGE)
    by_texture = _Correlator(query.texture, query.near, MIN_SHARED_TEXTURE)
    return {
        Measure.IMAGE: np.array([by_image.distance(scan.image) for scan in library]),
        Measure.CONTRAST_MATCHED: np.array([by_texture.distance(scan.texture) for scan in library]),
        Measure.CONTRAST: np.array([contrast_distance(query.means, scan.means) for scan in library]),
    }


def rmse_units(query: CentredScan, other: CentredScan) -> float:
    """Root mean square difference in the query's heart and margin, in standard units; NaN where they share no voxel."""
    difference = query.image[query.near].astype(np.float64) - other.image[query.near]
    present = difference[~np.isnan(difference)]
    return float(np.sqrt(np.mean(np.square(present)))) if present.size else math.nan


def contrast_distance(first: Mapping[int, float], second: Mapping[int, float]) -> float:
    """Root mean square difference of structures' means over the structures that both have; NaN without one."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return math.nan
    return float(np.sqrt(np.mean([(first[label] - second[label]) ** 2 for label in shared])))


def mean_features(features: np.ndarray) -> np.ndarray:
    """Features of a scan's windows [P, C] → their mean scaled to length 1, [C]: dot products are then cosines.

    Raises:
        InputError: when they are not finite, or cancel out.
    """
    mean = np.asarray(features, dtype=np.float64).mean(axis=0)
    length = float(np.linalg.norm(mean))
    if not np.isfinite(length) or length == 0:
        raise InputError(f"features: length of their mean must be finite and not 0, got {length}. Use another model.")
    return mean / length


def feature_distances(query: np.ndarray, library: np.ndarray) -> np.ndarray:
    """1 − cosine from one scan's `mean_features` [C] to each of many [N, C]: float64 [N]."""
    return np.maximum(1 - library @ query, 0.0)


def nearest(found: np.ndarray, case_ids: Sequence[str]) -> Nearest:
    """Find the smallest of some distances; of equal ones the first."""
    if np.isnan(found).all():
        return Nearest(None, math.nan)
    index = int(np.nanargmin(found))
    return Nearest(case_ids[index], float(found[index]))


def held_out_threshold(found: Sequence[float]) -> Threshold:
    """Compute the distance below which a scan is nearer to the training scans than unseen real scans are.

    It is the 5th percentile of the real scans' distances to their nearest training scan, or the minimum of fewer than
    20; NaN are left out.
    """
    present = [value for value in found if not math.isnan(value)]
    count = len(present)
    if not count:
        return Threshold(math.nan, "none: no real scan can be compared", 0, math.nan)
    if count < FEW_HELD_OUT:
        return Threshold(min(present), f"minimum of {count} real scans", count, 1 / (count + 1))
    value = float(np.percentile(present, PERCENTILE))
    return Threshold(value, f"{PERCENTILE:g}th percentile of {count} real scans", count, PERCENTILE / 100)


def nearer_share(
    synthetic: Sequence[float],
    parents: Sequence[tuple[str | None, str | None]],
    held_out: Sequence[float],
    seed: int = 0,
) -> Nearer:
    """Estimate how often a synthetic scan lies nearer to the training scans than a real one does.

    No test is made: synthetic scans share their parents, and so are no independent cases, and the real scans come from
    other patients than the masks and contrasts of the synthetic ones.

    Args:
        synthetic: Distance of each synthetic scan to its nearest training scan; NaN are left out.
        parents: Template and reference of each synthetic scan.
        held_out: Distance of each real scan to its nearest training scan; NaN are left out.
        seed: Seed of the interval's samples.

    Source: Meehan et al., A non-parametric test to detect data-copying in generative models, AISTATS 2020, whose
    statistic this is.
    """
    kept = [number for number, value in enumerate(synthetic) if not math.isnan(value)]
    real = np.array([value for value in held_out if not math.isnan(value)])
    if not kept or not len(real):
        return Nearer(math.nan, (math.nan, math.nan))
    own = np.array([synthetic[number] for number in kept])[:, None]
    nearer = (own < real) + 0.5 * (own == real)  # [synthetic, real]
    times = np.random.default_rng(seed + 1).multinomial(len(real), np.full(len(real), 1 / len(real)), BOOTSTRAP_SAMPLES)

    def shares(weights: np.ndarray) -> np.ndarray:
        reals = times[: len(weights)]
        return np.einsum("bs,sr,br->b", weights, nearer, reals, optimize=True) / weights.sum(axis=1) / len(real)

    interval = interval_over_parents(shares, [parents[number] for number in kept], seed)
    return Nearer(float(nearer.mean()), interval)


def parent_copy_rate(
    nearest_ids: Sequence[str | None],
    dealt_ids: Sequence[str],
    parents: Sequence[tuple[str | None, str | None]],
    seed: int = 0,
) -> CopyRate:
    """Estimate how often the nearest training case is a parent of the drawing (template or mask), compared with chance.

    Chance takes into account that some training cases are everyone's nearest, and some parents picked more often.

    Args:
        nearest_ids: Nearest training case of each synthetic case; None matches nothing.
        dealt_ids: Parent of each synthetic case that its nearest one is compared with.
        parents: Both parents of each synthetic case, for the interval.
        seed: Seed of the interval's samples.
    """
    count = len(dealt_ids)
    if not count:
        return CopyRate(0, 0, math.nan, math.nan, (math.nan, math.nan))
    numbers = {case_id: number for number, case_id in enumerate(sorted({*dealt_ids, *filter(None, nearest_ids)}))}
    found, dealt = np.zeros((2, count, len(numbers)), dtype=np.float32)
    for row, (nearest_id, dealt_id) in enumerate(zip(nearest_ids, dealt_ids, strict=True)):
        dealt[row, numbers[dealt_id]] = 1
        if nearest_id is not None:
            found[row, numbers[nearest_id]] = 1
    matched = (found * dealt).sum(axis=1)

    def chances(weights: np.ndarray) -> np.ndarray:
        return np.sum((weights @ found) * (weights @ dealt), axis=1) / weights.sum(axis=1) ** 2

    def excess(weights: np.ndarray) -> np.ndarray:
        return weights @ matched / weights.sum(axis=1) - chances(weights)

    return CopyRate(
        matches=int(matched.sum()),
        count=count,
        rate=float(matched.mean()),
        chance=float(chances(np.ones((1, count)))[0]),
        excess_interval=interval_over_parents(excess, parents, seed),
    )


def without(found: Mapping[Measure, np.ndarray], index: int) -> dict[Measure, np.ndarray]:
    """Replace a training scan's distances to itself by NaN."""
    return {measure: np.where(np.arange(len(values)) == index, math.nan, values) for measure, values in found.items()}


class _Correlator:
    """1 − normalised cross-correlation, in a region, of a volume to others that share `min_shared` of its values."""

    def __init__(self, volume: np.ndarray, region: np.ndarray, min_shared: float) -> None:
        self._where = np.flatnonzero(region & ~np.isnan(volume))
        self._values = volume.ravel()[self._where].astype(np.float32)
        self._min_shared = max(1.0, min_shared * len(self._where))

    def distance(self, other: np.ndarray) -> float:
        """NaN where too little is shared; 1 where either is constant."""
        values = other.ravel()[self._where].astype(np.float32)
        shared = ~np.isnan(values)
        count = int(np.count_nonzero(shared))
        if count < self._min_shared:
            return math.nan
        x, y = (self._values, values) if count == len(shared) else (self._values[shared], values[shared])
        x, y = x - np.float32(x.mean(dtype=np.float64)), y - np.float32(y.mean(dtype=np.float64))
        lengths = math.sqrt(float(np.dot(x, x)) * float(np.dot(y, y)))
        return 1 - float(np.dot(x, y)) / lengths if lengths > 0 else 1.0
