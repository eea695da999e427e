"""Real and synthetic cases in the same batches, with a share of synthetic patches that changes by the epoch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawValue
from typing import Any

import numpy as np

from fcas_nnunet.integration.cal.dataloading import ConfidenceDataset, ImageWithDoubt
from fcas_nnunet.integration.cal.weighting import SHARE_VARIABLE, SYNTHETIC_VARIABLE, read_numbers


@dataclass(frozen=True)
class Mixing:
    """Which synthetic set is mixed in, and how much of it."""

    synthetic: str | None = None  # id or full name; None where the environment names none
    first: float = 1.0  # share of synthetic patches in the first epoch
    last: float = 0.0  # in the last epoch

    @classmethod
    def from_environment(cls) -> Mixing:
        """Read the settings.

        Raises:
            InputError: when the shares are malformed.
        """
        first, last = read_numbers(
            SHARE_VARIABLE, (1.0, 0.0), "shares must be two numbers FIRST LAST in [0, 1]",
            lambda first, last: 0 <= first <= 1 and 0 <= last <= 1,
        )  # fmt: skip
        return cls(os.environ.get(SYNTHETIC_VARIABLE), first, last)

    def share(self, epoch: int, num_epochs: int) -> float:
        """Return the share of synthetic patches in an epoch, from the first to the last linearly; a single one has the
        mean of both.
        """
        progress = epoch / (num_epochs - 1) if num_epochs > 1 else 0.5
        return self.first + (self.last - self.first) * progress


class MixedCases:
    """Real cases, then synthetic ones, as nnU-Net's loader takes them; a synthetic id is preceded by its data set.

    Args:
        real: training cases of the fold.
        synthetic: all cases of the synthetic set.
        name: full name of that set.
    """

    def __init__(self, real: ConfidenceDataset, synthetic: ConfidenceDataset, name: str) -> None:
        self.num_real, self.num_synthetic = len(real.identifiers), len(synthetic.identifiers)
        self._cases = {case_id: (real, case_id) for case_id in real.identifiers} | {
            f"{name}:{case_id}": (synthetic, case_id) for case_id in synthetic.identifiers
        }
        self.identifiers = list(self._cases)

    def load_case(self, identifier: str) -> tuple[ImageWithDoubt, Any, Any, dict[str, Any]]:
        """Load a case as `ConfidenceDataset` does."""
        dataset, case_id = self._cases[identifier]
        return dataset.load_case(case_id)

    __getitem__ = load_case


class SamplingProbabilities(Sequence[float]):
    """nnU-Net's `sampling_probabilities` of `MixedCases`, alike for all cases of a kind.

    The loader's processes hand this to numpy at every draw, which turns it into an array. All that it holds is one
    number in memory that the processes share, so each sees a new share at once, and never half of a change.

    Args:
        cases: that are drawn.
        share: of synthetic ones.
    """

    def __init__(self, cases: MixedCases, share: float) -> None:
        self._numbers = (cases.num_real, cases.num_synthetic)
        self._share = RawValue("d", share)

    @property
    def share(self) -> float:
        """The share of synthetic cases among those that are drawn."""
        return float(self._share.value)

    @share.setter
    def share(self, share: float) -> None:
        self._share.value = share

    def __len__(self) -> int:
        return sum(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        share, (num_real, num_synthetic) = self.share, self._numbers
        return np.repeat([(1 - share) / num_real, share / num_synthetic], self._numbers).astype(dtype or np.float64)
