"""Measure every case, and every structure over a set, for the report: volumes, intensities, confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.evaluation.images.intensities import HIGHEST, LOWEST, IntensityComparison, compare_intensities
from fcas_nnunet.evaluation.statistics.means import Summary, summarise
from fcas_nnunet.geometry import triple

CONFIDENCE_LEVELS = 256
_BINS = HIGHEST - LOWEST + 1
_CONFIDENCE = np.arange(CONFIDENCE_LEVELS) / (CONFIDENCE_LEVELS - 1)


@dataclass(frozen=True)
class CaseMeasures:
    """Measures of one case.

    Attributes:
        shape: Number of voxels along (D, H, W).
        spacing_mm: Voxel size along (D, H, W).
        voxels: Structure → number of labelled voxels; 0 where it is not shown.
        intensities: Structure → share of its voxels at each whole standard unit from −1024 to 3071, float32; no entry
            for what is not shown.
        confidence: Structure → share of its voxels at each confidence k/255, float32; empty without a map.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    voxels: dict[str, int]
    intensities: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Structure → volume; 0 where it is not shown."""
        voxel_ml = math.prod(self.spacing_mm) / 1000
        return {name: count * voxel_ml for name, count in self.voxels.items()}

    @property
    def inside(self) -> np.ndarray | None:
        """Share of all labelled voxels at each confidence k/255; None without a map or without a label."""
        total = sum(self.voxels[name] for name in self.confidence)
        if not total:
            return None
        return np.sum([self.voxels[name] * shares for name, shares in self.confidence.items()], axis=0) / total

    @property
    def mean_confidence(self) -> float:
        """Mean confidence inside all structures; NaN without a map."""
        return math.nan if self.inside is None else float(self.inside @ _CONFIDENCE)


@dataclass(frozen=True)
class Spread:
    """Spread of confidence over the voxels of all cases, with equal weight for each case."""

    mean: float  # in [0, 1]
    std: float  # in [0, 1]
    low: float  # 5th percentile
    high: float  # 95th percentile


@dataclass(frozen=True)
class StructureSummary:
    """Summary of one structure over the sets.

    Attributes:
        name: Name of the structure.
        shown: Number of synthetic cases that show it.
        shown_real: Number of real cases that show it; None without a real set.
        volume_ml: Volume over the synthetic cases that show it.
        volume_ml_real: Volume over the real cases that show it; None without a real set.
        mean: Mean of the synthetic cases' means; NaN where none shows it.
        std: Standard deviation of voxels over all synthetic cases.
        contrast: Intensities in both sets; None without a real set, or where one of both does not show it.
        confidence: Spread of its confidence; None without maps.
    """

    name: str
    shown: int
    shown_real: int | None
    volume_ml: Summary
    volume_ml_real: Summary | None
    mean: float
    std: float
    contrast: IntensityComparison | None
    confidence: Spread | None

    @property
    def variety(self) -> float | None:
        """Spread of the cases' means, synthetic over real; None unless both have at least two cases."""
        if self.contrast is None or not self.contrast.real.between_cases > 0:
            return None
        ratio = self.contrast.synthetic.between_cases / self.contrast.real.between_cases
        return None if math.isnan(ratio) else ratio


def measure_case(
    image: np.ndarray,
    mask: np.ndarray,
    confidence: np.ndarray | None,
    labels: Mapping[str, int],
    spacing_mm: tuple[float, float, float],
) -> CaseMeasures:
    """Count a case's voxels, a slice at a time.

    Args:
        image: Standard units [D, H, W].
        mask: Label ids below `NUM_CODES` [D, H, W].
        confidence: Confidence in [0, 1] [D, H, W], or None.
        labels: Structure → id; the background is left out.
        spacing_mm: Voxel size along (D, H, W).
    """
    named = {name: label for name, label in labels.items() if label}
    rows = max(named.values(), default=0) + 1
    row_of = np.zeros(NUM_CODES, dtype=np.int64)
    row_of[list(named.values())] = list(named.values())
    counts = np.zeros((rows, _BINS), dtype=np.int64)
    trust = np.zeros((rows, CONFIDENCE_LEVELS), dtype=np.int64)
    for index in range(len(mask)):
        inside = row_of[mask[index]]
        marked = inside > 0
        label = inside[marked]
        if not label.size:
            continue
        bins = np.rint(np.clip(image[index][marked], LOWEST, HIGHEST)).astype(np.int64) - LOWEST
        counts += np.bincount(label * _BINS + bins, minlength=counts.size).reshape(counts.shape)
        if confidence is not None:
            steps = np.rint(np.clip(confidence[index][marked], 0, 1) * (CONFIDENCE_LEVELS - 1)).astype(np.int64)
            trust += np.bincount(label * CONFIDENCE_LEVELS + steps, minlength=trust.size).reshape(trust.shape)
    voxels = {name: int(counts[label].sum()) for name, label in named.items()}
    shown = {name: label for name, label in named.items() if voxels[name]}
    return CaseMeasures(
        shape=triple(mask.shape),
        spacing_mm=spacing_mm,
        voxels=voxels,
        intensities=_shares(counts, shown, voxels),
        confidence={} if confidence is None else _shares(trust, shown, voxels),
    )


def _shares(counts: np.ndarray, labels: Mapping[str, int], voxels: Mapping[str, int]) -> dict[str, np.ndarray]:
    return {name: (counts[label] / voxels[name]).astype(np.float32) for name, label in labels.items()}


def summarise_structures(
    synthetic: Sequence[CaseMeasures], real: Sequence[CaseMeasures] | None, names: Sequence[str]
) -> list[StructureSummary]:
    """Summarise every structure, in the order of `names`, over the synthetic cases and the real ones, if any."""
    contrasts = compare_intensities([c.intensities for c in real or ()], [c.intensities for c in synthetic])
    own = compare_intensities(*[[c.intensities for c in synthetic]] * 2)
    return [
        StructureSummary(
            name=name,
            shown=_shown(synthetic, name),
            shown_real=None if real is None else _shown(real, name),
            volume_ml=_volume(synthetic, name),
            volume_ml_real=None if real is None else _volume(real, name),
            mean=own[name].synthetic.mean if name in own else math.nan,
            std=own[name].synthetic.std if name in own else math.nan,
            contrast=contrasts.get(name),
            confidence=confidence_spread([c.confidence[name] for c in synthetic if name in c.confidence]),
        )
        for name in names
    ]


def confidence_spread(shares: Sequence[np.ndarray]) -> Spread | None:
    """Mean, standard deviation and 5–95 % range of the cases' shares at each confidence k/255; None without any."""
    if not len(shares):
        return None
    total = np.mean(np.asarray(shares, dtype=np.float64), axis=0)
    total /= total.sum()
    mean = float(total @ _CONFIDENCE)
    variance = float(total @ (_CONFIDENCE - mean) ** 2)
    cumulated = np.cumsum(total)
    low, high = (float(_CONFIDENCE[np.searchsorted(cumulated, p - 1e-9)]) for p in (0.05, 0.95))
    return Spread(mean, math.sqrt(variance), low, high)


def mean_shares(cases: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray | None:
    """A structure's mean histogram over the cases that show it, every case with equal weight."""
    shown = [case[name] for case in cases if name in case]
    return np.mean(np.asarray(shown, dtype=np.float64), axis=0) if shown else None


def _shown(cases: Sequence[CaseMeasures], name: str) -> int:
    return sum(case.voxels.get(name, 0) > 0 for case in cases)


def _volume(cases: Sequence[CaseMeasures], name: str) -> Summary:
    return summarise([case.volumes_ml[name] for case in cases if case.voxels.get(name, 0)])
