"""Intensities per structure: scipy's distance, known shifts, and equal weight of cases."""

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from fcas_nnunet.evaluation.images.intensities import compare_intensities, structure_histograms

LABELS = {"background": 0, "aorta": 1, "lung": 2}


def scan(seed, mean, size=4000):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 3, size=(size, 1, 1)).astype(np.uint8)
    image = np.rint(np.where(mask == 1, rng.normal(mean, 30, mask.shape), rng.normal(-700, 80, mask.shape)))
    return image, mask


def test_distance_equals_scipys():
    (first, mask), (second, other) = scan(0, 350), scan(1, 420)
    result = compare_intensities(
        [structure_histograms(first, mask, LABELS)], [structure_histograms(second, other, LABELS)]
    )
    assert set(result) == {"aorta", "lung"}
    for name, label in (("aorta", 1), ("lung", 2)):
        expected = wasserstein_distance(first[mask == label], second[other == label])
        assert result[name].wasserstein == pytest.approx(expected, rel=1e-9)
    assert result["aorta"].real.mean == pytest.approx(first[mask == 1].mean())
    assert result["aorta"].real.std == pytest.approx(first[mask == 1].std())


def test_a_shift_is_moved_by_itself():
    image, mask = scan(0, 350)
    shifted = structure_histograms(image + 25, mask, LABELS)
    result = compare_intensities([structure_histograms(image, mask, LABELS)], [shifted])
    assert result["aorta"].wasserstein == pytest.approx(25)


def test_every_case_counts_alike_and_their_spread_is_told():
    small, large = scan(0, 300, size=600), scan(1, 500, size=60_000)
    histograms = [structure_histograms(*case, LABELS) for case in (small, large)]
    aorta = compare_intensities(histograms, histograms[:1])["aorta"]
    means = [case[0][case[1] == 1].mean() for case in (small, large)]
    assert aorta.real.mean == pytest.approx(np.mean(means))
    assert aorta.real.between_cases == pytest.approx(np.std(means, ddof=1))
    assert (aorta.real.count, aorta.synthetic.count) == (2, 1)


def test_what_only_one_set_shows_is_not_compared():
    image, mask = scan(0, 350)
    without = structure_histograms(image, np.where(mask == 2, 0, mask), LABELS)
    assert set(compare_intensities([structure_histograms(image, mask, LABELS)], [without])) == {"aorta"}
    assert "background" not in without


def test_values_beyond_ct_are_counted_at_the_ends():
    image, mask = np.array([[[-3000.0, 5000.0]]]), np.ones((1, 1, 2), dtype=np.uint8)
    histogram = structure_histograms(image, mask, LABELS)["aorta"]
    assert histogram[0] == histogram[-1] == 0.5
