"""SSV: streaming, the map's range, and which steps are compared."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcas_nnunet.config.generator import ConfidenceConfig
from fcas_nnunet.config.options import ConfidenceNorm
from fcas_nnunet.generator.confidence.ssv import Welford, confidence_map, snapshot_steps


def test_streamed_variance_equals_stored():
    snapshots = torch.randn(9, 6, 7, 8, generator=torch.Generator().manual_seed(0)) + 1000
    welford = Welford()
    for snapshot in snapshots:
        welford.update(snapshot)
    torch.testing.assert_close(welford.variance, snapshots.var(dim=0), atol=1e-3, rtol=1e-3)


def test_variance_of_a_known_sequence():
    welford = Welford()
    for value in (1.0, 2.0, 4.0, 9.0):  # mean 4, squared deviations 9 + 4 + 0 + 25 = 38, over 3
        welford.update(torch.tensor([value]))
    assert welford.variance.item() == pytest.approx(38 / 3)


def test_one_snapshot_has_no_variance():
    welford = Welford()
    welford.update(torch.zeros(2))
    with pytest.raises(ValueError, match="at least 2 snapshots, got 1"):
        _ = welford.variance


@given(steps=st.integers(2, 1000), snapshots=st.integers(2, 50))
def test_snapshots_are_spread_from_first_to_last(steps, snapshots):
    chosen = snapshot_steps(steps, snapshots)
    assert chosen[0] == 0
    assert chosen[-1] == steps - 1
    assert len(chosen) == min(steps, snapshots)
    gaps = np.diff(chosen)
    assert gaps.max() - gaps.min() <= 1


def test_robust_map_takes_percentiles_inside_structures():
    spread = np.linspace(0, 1, 101).reshape(1, 1, 101)
    inside = np.zeros_like(spread, dtype=bool)
    inside[0, 0, 50:] = True  # spreads 0.5 … 1: 5 % is 0.525, 95 % is 0.975
    confidence = confidence_map(spread**2, inside, ConfidenceConfig())
    np.testing.assert_allclose(confidence[0, 0, [0, 50, 100]], [1, 1, 0])
    assert confidence[0, 0, 75] == pytest.approx(1 - (0.75 - 0.525) / 0.45, abs=1e-6)


def test_papers_map_is_minmax_of_the_variance():
    variance = np.array([[[1.0, 2.0, 5.0]]])
    config = ConfidenceConfig(norm=ConfidenceNorm.MINMAX_VARIANCE)
    np.testing.assert_allclose(confidence_map(variance, variance > 0, config), [[[1, 0.75, 0]]])


@pytest.mark.parametrize("norm", [ConfidenceNorm.ROBUST_STD, ConfidenceNorm.MINMAX_VARIANCE])
def test_constant_variance_gives_full_confidence_and_no_nan(norm):
    variance = np.full((3, 3, 3), 0.2)
    for structures in (np.ones((3, 3, 3), bool), np.zeros((3, 3, 3), bool)):
        assert (confidence_map(variance, structures, ConfidenceConfig(norm=norm)) == 1).all()


@given(seed=st.integers(0, 1000))
def test_confidence_falls_with_variance(seed):
    rng = np.random.default_rng(seed)
    variance = rng.gamma(1.0, size=(4, 5, 6))
    confidence = confidence_map(variance, rng.random((4, 5, 6)) > 0.5, ConfidenceConfig())
    order = np.argsort(variance.ravel())
    assert (np.diff(confidence.ravel()[order]) <= 0).all()
    assert confidence.min() >= 0
    assert confidence.max() <= 1
