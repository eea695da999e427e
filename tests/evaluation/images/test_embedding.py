"""t-SNE: the same map every time, groups that stay apart, a perplexity that fits the number of points."""

from __future__ import annotations

import numpy as np
import pytest

from fcas_nnunet.evaluation.images.embedding import embed


def groups(size: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.normal(shift, 1, size=(size, 16)) for shift in (0, 8)]).astype(np.float32)


def test_the_map_is_the_same_every_time_and_keeps_groups_apart() -> None:
    features = groups(12)
    first, again = embed(features), embed(features.copy())
    np.testing.assert_array_equal(first.coordinates, again.coordinates)
    assert first.coordinates.shape == (24, 2)
    distances = np.linalg.norm(first.coordinates[:, None] - first.coordinates[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    np.testing.assert_array_equal(nearest < 12, np.arange(24) < 12)
    assert not np.array_equal(embed(features[::-1], seed=1).coordinates, first.coordinates)


@pytest.mark.parametrize(("count", "used"), [(4, 1.0), (24, 23 / 3), (100, 30.0)])
def test_the_perplexity_is_clamped_to_the_number_of_points(count: int, used: float) -> None:
    result = embed(groups(count // 2))
    assert result.perplexity == pytest.approx(used)
    assert np.isfinite(result.coordinates).all()


def test_too_few_points_make_no_map() -> None:
    with pytest.raises(ValueError, match="at least 4 points, got 3"):
        embed(groups(4)[:3])
