"""Copies are told from scans that only share contrasts or an outline; thresholds and rates as computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fcas_nnunet.case import Case
from fcas_nnunet.datasets.phantom import phantom_case
from fcas_nnunet.evaluation.centred_scans import CentredScan, centre_scan
from fcas_nnunet.evaluation.image_quality import IntensityRange
from fcas_nnunet.evaluation.memorisation import (
    Measure,
    Nearest,
    contrast_distance_hu,
    distances,
    feature_distances,
    held_out_threshold,
    mean_features,
    nearer_p_value,
    nearest,
    rmse_hu,
    template_copy_rate,
    without,
)

RANGE = IntensityRange(-200, 800, "stated")
SHAPE = (36, 36, 36)


def centred(case: Case, image: np.ndarray | None = None) -> CentredScan:
    used = case.image if image is None else image
    assert used is not None
    return centre_scan(used, case.mask, case.affine, RANGE)


@pytest.fixture(scope="module")
def patients() -> list[Case]:
    return [phantom_case(f"phantom_{seed}", SHAPE, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def library(patients: list[Case]) -> list[CentredScan]:
    return [centred(patient) for patient in patients]


def image_of(case: Case) -> np.ndarray:
    assert case.image is not None
    return case.image.astype(np.float64)


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
        drawn[patient.mask == label] = library[0].means_hu[int(label)]
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
    assert rmse_hu(query, others[0]) == pytest.approx(math.sqrt((1 + 4 + 9 + 16) / 4))
    assert rmse_hu(query, others[4]) == 3


def test_contrast_distance_is_over_shared_structures() -> None:
    assert contrast_distance_hu({1: 100, 2: 300}, {1: 103, 2: 304, 7: 9}) == pytest.approx(math.sqrt((9 + 16) / 2))
    assert math.isnan(contrast_distance_hu({1: 100}, {2: 100}))


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


def test_nearer_as_a_whole() -> None:
    """Of the 20 ways to deal six distances to two sets of three, one puts all small ones into the first."""
    assert nearer_p_value([1, 2, 3], [4, 5, 6]) == pytest.approx(1 / 20)
    assert nearer_p_value([4, 5, 6], [1, 2, 3]) == pytest.approx(1)
    assert math.isnan(nearer_p_value([], [1.0]))


def test_template_copy_rate_by_hand() -> None:
    """Found a, a, b, c; templates a, b, b, a: two match.

    Dealt anew: a is found twice and a template twice, b once and twice, c once and never: (2·2 + 1·2) / 4² of the
    cases match on average. Of the six ways to deal two a and two b, those that leave a at the places 1 and 2, 1 and 4,
    or 2 and 4 match twice or more.
    """
    rate = template_copy_rate(["a", "a", "b", "c"], ["a", "b", "b", "a"])
    assert (rate.matches, rate.count, rate.rate) == (2, 4, 0.5)
    assert rate.chance == pytest.approx(6 / 16)
    assert rate.p_value == pytest.approx(0.5, abs=0.02)
    all_copied = template_copy_rate(list("abcdefgh"), list("abcdefgh"))
    assert all_copied.rate == 1
    assert all_copied.chance == pytest.approx(1 / 8)
    assert all_copied.p_value < 0.001
    unknown = template_copy_rate([None, "a"], ["a", "a"])
    assert (unknown.matches, unknown.chance) == (1, 0.5)
    assert math.isnan(template_copy_rate([], []).rate)
