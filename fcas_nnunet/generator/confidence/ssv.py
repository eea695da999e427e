"""SSV: map the spread of decoded intermediate steps to confidence (paper §3.2.1, Eq. 7)."""

from __future__ import annotations

import numpy as np
import torch

from fcas_nnunet.config.generator import ConfidenceConfig
from fcas_nnunet.config.options import ConfidenceNorm
from fcas_nnunet.faults import InputError


class Welford:
    """Mean and unbiased variance of a stream of tensors, in fp32, holding two tensors whatever its length.

    Source: B. P. Welford, Technometrics 4 (1962).
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: torch.Tensor | None = None
        self._m2: torch.Tensor | None = None

    def update(self, value: torch.Tensor) -> None:
        """Add one more tensor; all must have one shape."""
        value = value.float()
        self.count += 1
        if self._mean is None or self._m2 is None:
            self._mean, self._m2 = value.clone(), torch.zeros_like(value)
            return
        delta = value - self._mean
        self._mean += delta / self.count
        self._m2 += delta * (value - self._mean)

    @property
    def variance(self) -> torch.Tensor:
        """Unbiased variance per element.

        Raises:
            InputError: If fewer than two tensors were added.
        """
        if self._m2 is None or self.count < 2:
            raise InputError(f"variance: needs at least 2 snapshots, got {self.count}.")
        return self._m2 / (self.count - 1)


def snapshot_steps(num_steps: int, num_snapshots: int) -> list[int]:
    """Indices of the reverse steps that are compared: `num_snapshots` (r + 1 of Eq. 7) at most, evenly spread.

    The first and the last step are among them.
    """
    return sorted({int(round(i)) for i in np.linspace(0, num_steps - 1, min(num_snapshots, num_steps))})


def confidence_map(variance: np.ndarray, structures: np.ndarray, config: ConfidenceConfig) -> np.ndarray:
    """Confidence from the variance of the intermediate images.

    Eq. 7 as printed is identically zero; it is read as the variance, and inverted so that higher means more certain.

    Args:
        variance: Variance of intensities in [0, 1], [D, H, W].
        structures: Where the reference structures are, bool [D, H, W]; the percentiles are taken there, or over all
            voxels if there are none.
        config: Norm. `robust_std`: 1 − the standard deviation, scaled between two percentiles; `minmax_variance` (the
            paper): 1 − (variance − min) / (max − min).

    Returns:
        float32 [D, H, W] in [0, 1]; 1 everywhere when the spread is constant.
    """
    if config.norm == ConfidenceNorm.MINMAX_VARIANCE:
        spread, inside = variance, variance
        low, high = float(inside.min()), float(inside.max())
    else:
        spread = np.sqrt(variance)
        inside = spread[structures] if structures.any() else spread
        low, high = (float(p) for p in np.percentile(inside, config.percentiles))
    if not high > low:
        return np.ones_like(spread, dtype=np.float32)
    return np.clip(1 - (spread - low) / (high - low), 0, 1).astype(np.float32)
