"""Dice and RDice against hand-derived numbers, other implementations, and the laws they obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_dice
from scipy import ndimage

from fcas_nnunet.evaluation.segmentation.overlap import LabelScores, confusion_matrix, score_case, summarise_labels

ONE_LABEL = {"background": 0, "heart": 1}
LABELS = {"background": 0, "left_ventricle": 1, "aorta": 2, "coronary_arteries": 5}


def row(*voxels: int) -> np.ndarray:
    """A row of twelve voxels with the named ones set."""
    volume = np.zeros((1, 1, 12), dtype=np.uint8)
    volume[0, 0, list(voxels)] = 1
    return volume


def random_labels(seed: int, shape: tuple[int, int, int] = (18, 21, 16)) -> np.ndarray:
    """Smooth blobs of every label in LABELS."""
    generator = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(generator.normal(size=(len(LABELS), *shape)), (0, 1.2, 1.2, 1.2))
    return np.array(list(LABELS.values()), dtype=np.uint8)[field.argmax(axis=0)]


def test_a_20_cube_shifted_by_3() -> None:
    reference, prediction = np.zeros((2, 30, 30, 30), dtype=np.uint8)
    reference[5:25, 5:25, 5:25] = 1
    prediction[5:25, 5:25, 8:28] = 1
    scores = score_case(reference, prediction, ONE_LABEL)["heart"]
    assert scores.dice == pytest.approx(17 / 20)
    # Of the prediction's 20 slabs 17 overlap, and `radius` more lie within reach: 2·17 / (17 + radius + 20).
    assert scores.rdice == pytest.approx({1: 34 / 38, 2: 34 / 39, 3: 34 / 40})
    assert scores.reference_voxels == scores.prediction_voxels == 8000


def test_rdice_along_a_row() -> None:
    #             0 1 2 3 4 5 6 7 8 9 10 11
    # Q                Q Q Q Q
    # P                    P P P P P P          TP = 2
    # Q′ (r = 1)     ' Q Q Q Q '                P′ = {4, 5, 6}
    scores = score_case(row(2, 3, 4, 5), row(4, 5, 6, 7, 8, 9), ONE_LABEL)["heart"]
    assert scores.dice == pytest.approx(4 / 10)
    assert scores.rdice == pytest.approx({1: 4 / 7, 2: 4 / 8, 3: 4 / 9})


def test_the_structuring_element_is_a_ball() -> None:
    reference, prediction = np.zeros((2, 5, 5, 5), dtype=np.uint8)
    reference[2, 2, 2] = prediction[2, 2, 2] = prediction[2, 3, 3] = 1  # the second lies √2 away
    assert score_case(reference, prediction, ONE_LABEL)["heart"].rdice == pytest.approx({1: 1.0, 2: 2 / 3, 3: 2 / 3})


@pytest.mark.parametrize("seed", range(4))
def test_dice_equals_monai(seed: int) -> None:
    reference, prediction = random_labels(seed), random_labels(seed + 100)
    scores = score_case(reference, prediction, LABELS)
    one_hot = [torch.tensor(np.stack([volume == label for label in LABELS.values()])[None])
               for volume in (prediction, reference)]  # fmt: skip
    expected = compute_dice(*one_hot, include_background=False)[0]
    assert [score.dice for score in scores.values()] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_rdice_equals_eq_15_by_morphological_dilation(seed: int, radius: int) -> None:
    reference, prediction = random_labels(seed), random_labels(seed + 100)
    offsets = np.mgrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    ball = (offsets**2).sum(axis=0) <= radius**2
    scores = score_case(reference, prediction, LABELS, radii=[radius])
    for name, label in LABELS.items():
        if label == 0:
            continue
        q, p = reference == label, prediction == label
        p_near = p & ndimage.binary_dilation(q, ball)
        expected = 2 * np.count_nonzero(p_near & q) / (np.count_nonzero(p_near) + np.count_nonzero(q))
        assert scores[name].rdice[radius] == pytest.approx(expected)


label_maps = hnp.arrays(np.uint8, (4, 5, 6), elements=st.sampled_from([0, 0, 0, 1, 2, 5]))


@given(reference=label_maps, prediction=label_maps)
def test_rdice_falls_with_the_radius_towards_dice(reference: np.ndarray, prediction: np.ndarray) -> None:
    for score in score_case(reference, prediction, LABELS, radii=[1, 2, 3, 20]).values():
        if math.isnan(score.dice):
            assert all(math.isnan(value) for value in score.rdice.values())
            continue
        relaxed = [score.rdice[radius] for radius in (1, 2, 3, 20)]
        assert 1.0 >= relaxed[0] >= relaxed[1] >= relaxed[2] >= relaxed[3] >= score.dice
        if score.reference_voxels:
            assert relaxed[3] == pytest.approx(score.dice)  # a ball of 20 covers all: P′ = P


@given(reference=label_maps, prediction=label_maps)
def test_dice_is_symmetric_and_one_for_equals(reference: np.ndarray, prediction: np.ndarray) -> None:
    forth, back = score_case(reference, prediction, LABELS), score_case(prediction, reference, LABELS)
    assert [s.dice for s in forth.values()] == pytest.approx([s.dice for s in back.values()], nan_ok=True)
    for score in score_case(reference, reference, LABELS).values():
        assert score.reference_voxels == 0 or (score.dice == 1.0 and set(score.rdice.values()) == {1.0})


def test_empty_masks_follow_the_policy() -> None:
    empty, full = row(), row(3, 4)
    nothing = score_case(empty, empty, ONE_LABEL)["heart"]
    missed = score_case(full, empty, ONE_LABEL)["heart"]
    invented = score_case(empty, full, ONE_LABEL)["heart"]
    assert math.isnan(nothing.dice)
    assert all(math.isnan(value) for value in nothing.rdice.values())
    for score in (missed, invented):
        assert score.dice == 0.0
        assert set(score.rdice.values()) == {0.0}
    found = score_case(full, full, ONE_LABEL)["heart"]
    summary = summarise_labels([{"heart": score} for score in (nothing, missed, invented, found)])["heart"]
    assert (summary.both_empty, summary.only_prediction_empty, summary.only_reference_empty) == (1, 1, 1)
    assert summary.dice.count == 3
    assert summary.dice.mean == pytest.approx(1 / 3)
    assert summary.dice.std == pytest.approx(math.sqrt(1 / 3))  # of 0, 0, 1, with n − 1


def test_a_label_that_no_case_has_gets_no_score() -> None:
    summary = summarise_labels([{"heart": LabelScores(math.nan, {1: math.nan}, 0, 0)}] * 2)["heart"]
    assert math.isnan(summary.dice.mean)
    assert math.isnan(summary.rdice[1].mean)
    assert (summary.dice.count, summary.both_empty) == (0, 2)


def test_confusion_counts_every_voxel_once() -> None:
    reference, prediction = random_labels(0), random_labels(1)
    confusion = confusion_matrix(reference, prediction, 6)
    assert confusion.sum() == reference.size
    assert confusion[1, 5] == np.count_nonzero((reference == 1) & (prediction == 5))
    assert confusion[3].sum() == confusion[:, 4].sum() == 0


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction: shape must be the reference's \(1, 1, 12\), got \(1, 12, 1\)"):
        score_case(row(1), row(1).swapaxes(1, 2), ONE_LABEL)


def test_every_unknown_value_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"reference: .* got \[7\] as well(.|\n)*prediction: .* got \[0.5, 9.0\] as well"
    ):
        score_case(row(1) * 7, row(1) * 8.5 + 0.5, ONE_LABEL)


def test_further_measures_of_a_vessel_and_of_a_chamber() -> None:
    reference, prediction = np.zeros((2, 24, 12, 40), dtype=np.uint8)
    reference[2:12, 2:10, 5:15] = prediction[2:12, 2:10, 5:17] = 1
    reference[18, 6, 2:38] = prediction[18, 6, 2:38] = 5
    prediction[18, 6, 20:26] = 0
    scores = score_case(reference, prediction, LABELS, spacing_mm=(1.0, 1.0, 2.0))
    assert scores["left_ventricle"].hd95_mm == 4.0  # its end lies two voxels of 2 mm further
    assert math.isnan(scores["left_ventricle"].centreline_dice)
    assert scores["coronary_arteries"].centreline_dice == pytest.approx(2 * 30 / 66)
    assert scores["coronary_arteries"].pieces_error == 1
    assert scores["coronary_arteries"].tunnels_error == 0
    assert math.isnan(scores["aorta"].hd95_mm)
    alone = score_case(reference, prediction, LABELS)
    assert math.isnan(alone["left_ventricle"].hd95_mm)
    assert alone["left_ventricle"].dice == scores["left_ventricle"].dice


@pytest.mark.parametrize("missed", [True, False])
def test_a_label_in_one_mask_alone_gets_the_images_diagonal_and_no_overlap(missed: bool) -> None:
    masks = np.zeros((2, 4, 5, 3), dtype=np.uint8)
    masks[0 if missed else 1, 1, 1, 1] = 1
    scores = score_case(*masks, ONE_LABEL, spacing_mm=(2, 1, 4))["heart"]
    assert scores.hd95_mm == pytest.approx(math.sqrt(6**2 + 4**2 + 8**2))  # from corner to corner, voxel centres
    assert (scores.surface_dice, scores.pieces_error) == (0.0, 1)


@given(st.integers(0, 59), st.integers(0, 59))
def test_no_found_label_is_further_away_than_a_missed_one(first: int, second: int) -> None:
    masks = np.zeros((3, 3, 4, 5), dtype=np.uint8)
    masks[0].flat[first], masks[1].flat[second] = 1, 1
    found = score_case(masks[0], masks[1], ONE_LABEL, spacing_mm=(1, 2, 0.5))["heart"]
    missed = score_case(masks[0], masks[2], ONE_LABEL, spacing_mm=(1, 2, 0.5))["heart"]
    assert found.hd95_mm <= missed.hd95_mm + 1e-6
