"""Compare the intensities of every structure in two sets of scans: its contrast, and how much that differs between
patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.evaluation.statistics.means import summarise

#: Range of 12-bit CT; what lies outside is counted at its ends.
LOWEST, HIGHEST = -1024, 3071
_SLICES = 32  # that are counted at once
_VALUES = np.arange(LOWEST, HIGHEST + 1)


@dataclass(frozen=True)
class Intensities:
    """One structure over a set of scans, every scan with equal weight."""

    mean: float  # mean of the scans' means
    std: float  # spread of voxels over all scans
    between_cases: float  # spread of the scans' means: how differently patients are enhanced
    count: int  # number of scans that show the structure


@dataclass(frozen=True)
class IntensityComparison:
    """Intensities of one structure in two sets of scans.

    Attributes:
        real: Intensities in the real scans.
        synthetic: Intensities in the synthetic ones.
        wasserstein: Distance in standard units that intensities have to be moved, on average, to turn one distribution
            into the other.
    """

    real: Intensities
    synthetic: Intensities
    wasserstein: float


def structure_histograms(image: np.ndarray, mask: np.ndarray, labels: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Share of a structure's voxels at each whole standard unit from −1024 to 3071; no entry for what is not there.

    Args:
        image: Standard units [D, H, W].
        mask: Label ids [D, H, W].
        labels: Name → id; the background is left out.
    """
    counts = np.zeros((NUM_CODES, len(_VALUES)), dtype=np.int64)
    for start in range(0, len(mask), _SLICES):  # less memory
        part = slice(start, start + _SLICES)
        bins = np.rint(np.clip(image[part], LOWEST, HIGHEST)).astype(np.int64) - LOWEST
        cells = mask[part].astype(np.int64) * len(_VALUES) + bins
        counts += np.bincount(cells.ravel(), minlength=counts.size).reshape(counts.shape)
    voxels = counts.sum(axis=1)
    return {name: counts[label] / voxels[label] for name, label in labels.items() if label and voxels[label]}


def compare_intensities(
    real: Sequence[Mapping[str, np.ndarray]], synthetic: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, IntensityComparison]:
    """Compare the structures that both sets show.

    Args:
        real: `structure_histograms` of every real scan.
        synthetic: The same of every synthetic scan, under the same names.
    """
    result = {}
    for name in dict.fromkeys(name for case in real for name in case):
        sets = [np.array([case[name] for case in cases if name in case]) for cases in (real, synthetic)]
        if len(sets[1]):
            moved = np.cumsum(sets[0].mean(axis=0) - sets[1].mean(axis=0))
            distance = float(np.abs(moved).sum())
            result[name] = IntensityComparison(_intensities(sets[0]), _intensities(sets[1]), distance)
    return result


def _intensities(histograms: np.ndarray) -> Intensities:
    means = summarise((histograms @ _VALUES).tolist())
    shares = histograms.mean(axis=0)
    variance = float(shares @ _VALUES**2 - (shares @ _VALUES) ** 2)
    return Intensities(means.mean, variance**0.5, means.std, means.count)
