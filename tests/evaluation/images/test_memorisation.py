"""Copies are told from scans that only share contrasts or an outline; thresholds and rates as computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fcas_nnunet.case import Case
from fcas_nnunet.datasets.phantom import phantom_case
from fcas_nnunet.evaluation.images.centred_scans import CentredScan, centre_scan
from fcas_nnunet.evaluation.images.memorisation import (
    Measure,
    Nearest,
    contrast_distance,
    distances,
    feature_distances,
    held_out_threshold,
    mean_features,
    nearer_share,
    nearest,
    parent_copy_rate,
    rmse_units,
    without,
)
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.evaluation.images.shared_parents import parents_weights

RANGE = IntensityRange(-200, 800, "stated")
SHAPE = (36, 36, 36)


def centred(case: Case, image: np.ndarray | None = None) -> CentredScan:
    used = case.image[0] if image is None else image
    return centre_scan(used, case.mask, case.affine, RANGE)


@pytest.fixture(scope="module")
def patients() -> list[Case]:
    return [phantom_case(f"phantom_{seed}", SHAPE, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def library(patients: list[Case]) -> list[CentredScan]:
    return [centred(patient) for patient in patients]


def image_of(case: Case) -> np.ndarray:
    assert case.image is not None
    return case.image[0].astype(np.float64)


def test_a_noisy_copy_is_near_and_another_patient_is_not(patients: list[Case], library: list[CentredScan]) -> None:
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    copy = distances(centred(patients[2], image_of(patients[2]) + noise), library)
    stranger = phantom_case("stranger", SHAPE, 50)
    other = distances(centred(stranger), library)
    for measure, limit in ((Measure.IMAGE, 0.01), (Measure.CONTRAST_MATCHED, 0.1)):
        assert copy[measure][2] < limit
        assert np.delete(copy[measure], 2).min() > 5 * limit
        assert other[measure].min() > 5 * limit
    itself = distances(library[1], library)
    assert itself[Measure.IMAGE][1] == pytest.approx(0, abs=1e-6)
    assert itself[Measure.CONTRAST_MATCHED][1] == pytest.approx(0, abs=1e-6)
    assert itself[Measure.CONTRAST][1] == 0


def test_a_shifted_copy_is_still_a_copy(patients: list[Case], library: list[CentredScan]) -> None:
    """The same scan, 4, 3 and 2 voxels further on in a larger volume."""
    patient = patients[1]
    image, mask = (np.pad(array, [(4, 0), (3, 0), (2, 0)]) for array in (image_of(patient), patient.mask))
    found = distances(centre_scan(image, mask, patient.affine, RANGE), library)
    assert found[Measure.IMAGE][1] < 0.02
    assert found[Measure.CONTRAST_MATCHED][1] == pytest.approx(0, abs=1e-3)
    assert nearest(found[Measure.IMAGE], list("abcd")).case_id == "b"


def test_following_contrast_or_outlines_alone_is_no_copy_by_the_contrast_matched_measure(
    patients: list[Case], library: list[CentredScan]
) -> None:
    """Every structure of patient 0 at its mean, with fresh noise: outlines and contrasts are those of the scan."""
    patient = patients[0]
    image = image_of(patient)
    drawn = np.full(SHAPE, image[patient.mask == 0].mean())
    for label in np.unique(patient.mask[patient.mask > 0]):
        drawn[patient.mask == label] = library[0].means[int(label)]
    drawn += np.random.default_rng(1).normal(0, 20, SHAPE)
    found = distances(centred(patient, drawn), library)
    assert found[Measure.CONTRAST][0] < 5 < np.delete(found[Measure.CONTRAST], 0).min()
    assert abs(found[Measure.CONTRAST_MATCHED][0] - 1) < 0.1  # no correlation

    recoloured = image.copy()  # the reverse: a copy under other contrasts
    for number, label in enumerate(np.unique(patient.mask[patient.mask > 0])):
        recoloured[patient.mask == label] += 40 * (-1) ** number
    found = distances(centred(patient, recoloured), library)
    assert found[Measure.CONTRAST][0] > 30
    assert found[Measure.CONTRAST_MATCHED][0] < 0.05


def test_distances_do_not_see_gain_and_offset(patients: list[Case], library: list[CentredScan]) -> None:
    plain = np.clip(image_of(patients[3]), -200, 800)
    found = distances(centred(patients[3], 0.5 * plain + 30), library)
    assert found[Measure.IMAGE][3] == pytest.approx(0, abs=1e-4)


def hand_made(image: np.ndarray, means: dict[int, float] | None = None) -> CentredScan:
    volume = np.asarray(image, dtype=np.float16).reshape(1, 2, -1)
    return CentredScan(volume, volume, np.ones(volume.shape, dtype=bool), means or {})


def test_correlation_by_hand_and_where_too_little_is_shared() -> None:
    query = hand_made(np.array([1, 2, 3, 4]))
    nan = math.nan
    others = [
        hand_made(np.array(values)) for values in ([2, 4, 6, 8], [4, 3, 2, 1], [1, 2, 2, 1], [5, 5, 5, 5],
                                                   [nan, nan, nan, 7], [nan, nan, 1, 3])
    ]  # fmt: skip
    found = distances(query, others)[Measure.IMAGE]
    # the same but for gain; the reverse; unrelated; constant; one of four voxels shared (NaN); two of four: enough
    np.testing.assert_allclose(found, [0, 2, 1, 1, nan, 0], atol=1e-6)
    assert rmse_units(query, others[0]) == pytest.approx(math.sqrt((1 + 4 + 9 + 16) / 4))
    assert rmse_units(query, others[4]) == 3


def test_contrast_distance_is_over_shared_structures() -> None:
    assert contrast_distance({1: 100, 2: 300}, {1: 103, 2: 304, 7: 9}) == pytest.approx(math.sqrt((9 + 16) / 2))
    assert math.isnan(contrast_distance({1: 100}, {2: 100}))


def test_feature_distance_is_one_minus_the_cosine_of_means() -> None:
    first = mean_features(np.array([[3.0, 1.0], [3.0, 7.0]]))  # mean (3, 4)
    np.testing.assert_allclose(first, [0.6, 0.8])
    library = np.stack([mean_features(np.array([row])) for row in ([6.0, 8.0], [4.0, -3.0], [0.0, 2.0])])
    np.testing.assert_allclose(feature_distances(first, library), [0, 1, 0.2], atol=1e-12)
    with pytest.raises(ValueError, match="features: length of their mean must be finite and not 0, got 0.0"):
        mean_features(np.array([[1.0, -1.0], [-1.0, 1.0]]))


def test_nearest_and_a_scan_among_its_own_kind() -> None:
    assert nearest(np.array([3.0, math.nan, 1.0, 1.0]), list("abcd")) == Nearest("c", 1.0)
    assert nearest(np.array([math.nan]), ["a"]).case_id is None
    found = without({Measure.IMAGE: np.array([0.0, 2.0, 1.0])}, 0)
    assert nearest(found[Measure.IMAGE], list("abc")) == Nearest("c", 1.0)


def test_few_held_out_scans_give_the_minimum_and_many_a_percentile() -> None:
    few = held_out_threshold([0.5, math.nan, 0.25, 0.75])
    assert (few.value, few.rule, few.count, few.expected_share) == (0.25, "minimum of 3 real scans", 3, 0.25)
    many = held_out_threshold([index / 20 for index in range(21)])
    assert many.value == pytest.approx(0.05)
    assert (many.rule, many.expected_share) == ("5th percentile of 21 real scans", 0.05)
    none = held_out_threshold([math.nan])
    assert math.isnan(none.value)
    assert none.count == 0


def strangers(count: int) -> list[tuple[str | None, str | None]]:
    """Cases that share no parent."""
    return [(f"t{number}", f"r{number}") for number in range(count)]


def test_nearer_as_a_whole() -> None:
    assert nearer_share([1, 2, 3], strangers(3), [4, 5, 6]).share == 1
    assert nearer_share([4, 5, 6], strangers(3), [1, 2, 3]).share == 0
    assert nearer_share([1, 2, math.nan], strangers(3), [2, 0, 3, math.nan]).share == pytest.approx(3.5 / 6)
    assert math.isnan(nearer_share([], [], [1.0]).share)


@pytest.mark.parametrize("copies", [1, 50])
def test_more_scans_of_the_same_parents_are_no_more_evidence(copies: int) -> None:
    """Six templates and masks, half of them near; drawn once, and fifty times over: the interval must not shrink."""
    rng = np.random.default_rng(0)
    real = rng.normal(1.0, 0.1, 40).tolist()
    parents = strangers(6) * copies
    found = nearer_share([0.2, 2, 0.3, 2, 0.1, 2] * copies, parents, real)
    assert found.share == pytest.approx(0.5)
    assert found.interval == (0, 1)
    rate = parent_copy_rate(["t0", "x", "t2", "x", "t4", "x"] * copies, [t for t, _ in parents], parents)
    assert rate.rate == 0.5
    assert rate.excess_interval == pytest.approx((0.0, 0.56))


def test_what_shares_one_parent_says_nothing_of_others() -> None:
    one = [("t", f"r{number}") for number in range(5)]
    assert math.isnan(nearer_share([1.0] * 5, one, [2.0]).interval[0])
    assert math.isnan(parent_copy_rate(["t"] * 5, ["t"] * 5, one).excess_interval[1])


def test_weights_are_products_of_how_often_parents_are_drawn() -> None:
    parents = [("a", "x"), ("a", "y"), ("b", "x"), (None, "y"), (None, None)]
    weights = parents_weights(parents, 0, 4000)
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.1)  # every case counts once on average
    assert np.all(weights[:, 0] * weights[:, 4] >= 0)
    # drawing both a and x k times each: independent of one another, so that the second moments multiply
    assert np.mean(weights[:, 0] ** 2) == pytest.approx((2 - 1 / 4) * (2 - 1 / 3), rel=0.15)  # 4 templates, 3 masks


def test_copy_rate_by_hand() -> None:
    """Found a, a, b, c; templates a, b, b, a: two match.

    Dealt anew: a is found twice and a template twice, b once and twice, c once and never: (2·2 + 1·2) / 4² of the
    cases match on average.
    """
    rate = parent_copy_rate(["a", "a", "b", "c"], ["a", "b", "b", "a"], strangers(4))
    assert (rate.matches, rate.count, rate.rate) == (2, 4, 0.5)
    assert rate.chance == pytest.approx(6 / 16)
    low, high = rate.excess_interval
    assert low < 0.5 - 6 / 16 < high
    all_copied = parent_copy_rate(list("abcdefgh"), list("abcdefgh"), strangers(8))
    assert all_copied.rate == 1
    assert all_copied.chance == pytest.approx(1 / 8)
    assert all_copied.excess_interval[0] > 0.2
    unknown = parent_copy_rate([None, "a"], ["a", "a"], strangers(2))
    assert (unknown.matches, unknown.chance) == (1, 0.5)
    assert math.isnan(parent_copy_rate([], [], []).rate)
