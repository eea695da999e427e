"""The phantom: the same bytes for the same seed, plausible anatomy and HU, connected arteries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, distance_transform_edt, label

from fcas_nnunet.case import Case
from fcas_nnunet.datasets.phantom import LABELS, SURROUNDINGS, draw_patient, patient_seed, phantom_case
from fcas_nnunet.datasets.phantom.acquisition import HU_MAX, HU_MIN
from fcas_nnunet.labels.anatomy import Structure, Surrounding

SEEDS = range(5)
FULL = np.ones((3, 3, 3), bool)
SHAPE = (64, 64, 64)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [phantom_case(f"phantom_{seed}", SHAPE, seed) for seed in SEEDS]


def image_of(case: Case) -> np.ndarray:
    assert case.image is not None
    return case.image[0]


def surroundings_of(case: Case) -> np.ndarray:
    assert case.surroundings is not None
    return case.surroundings


def millilitres(case: Case, structure: Structure) -> float:
    return float((case.mask == LABELS[structure]).sum() * np.prod(case.spacing_mm) / 1000)


def hu(case: Case, structure: Structure, depth: int = 1) -> np.ndarray:
    """HU of a structure away from its surface."""
    core = distance_transform_edt(case.mask == LABELS[structure]) > depth
    return image_of(case)[core]


def test_ids_follow_the_order_of_the_structures() -> None:
    assert list(LABELS.items()) == [(s.value, i) for i, s in enumerate(Structure, start=1)]
    assert list(SURROUNDINGS.items()) == [(s.value, i) for i, s in enumerate(Surrounding, start=1)]


def test_same_seed_gives_the_same_bytes(cases: list[Case]) -> None:
    again = phantom_case("phantom_3", SHAPE, 3)
    for name in ("image", "mask", "surroundings", "affine"):
        assert getattr(again, name).tobytes() == getattr(cases[3], name).tobytes()


def test_patients_differ(cases: list[Case]) -> None:
    for first, second in zip(cases[:-1], cases[1:], strict=True):
        overlap = ((first.mask == second.mask) & (first.mask > 0)).sum() / (first.mask > 0).sum()
        assert overlap < 0.85
        assert not np.allclose(first.affine, second.affine)


def test_patient_seeds_differ_between_patients_and_populations() -> None:
    seeds = {patient_seed(population, index) for population in range(20) for index in range(50)}
    assert len(seeds) == 1000
    assert patient_seed(0, 7) == patient_seed(0, 7)


def test_acquisitions_share_anatomy_but_not_the_image(cases: list[Case]) -> None:
    other = phantom_case("phantom_3_a1", SHAPE, 3, acquisition=1)
    np.testing.assert_array_equal(other.mask, cases[3].mask)
    np.testing.assert_array_equal(other.surroundings, cases[3].surroundings)
    np.testing.assert_array_equal(other.affine, cases[3].affine)
    heart = other.mask > 0
    difference = image_of(other)[heart].astype(float) - image_of(cases[3])[heart]
    assert np.sqrt((difference**2).mean()) > 30


def test_chambers_are_one_piece_and_hang_together(cases: list[Case]) -> None:
    touching = [
        (Structure.LEFT_VENTRICLE, Structure.LEFT_MYOCARDIUM),
        (Structure.LEFT_VENTRICLE, Structure.LEFT_ATRIUM),
        (Structure.LEFT_VENTRICLE, Structure.ASCENDING_AORTA),
        (Structure.RIGHT_VENTRICLE, Structure.RIGHT_ATRIUM),
        (Structure.RIGHT_VENTRICLE, Structure.PULMONARY_ARTERY),
        (Structure.RIGHT_VENTRICLE, Structure.LEFT_MYOCARDIUM),
    ]
    for case in cases:
        for structure in Structure:
            if structure != Structure.CORONARY_ARTERIES:
                assert label(case.mask == LABELS[structure])[1] == 1, (case.case_id, structure)
        for first, second in touching:
            # a valve may be a voxel thick
            grown = binary_dilation(case.mask == LABELS[first], iterations=2)
            assert (grown & (case.mask == LABELS[second])).sum() > 10, (case.case_id, first, second)


def test_each_coronary_tree_is_one_piece_and_touches_the_aorta(cases: list[Case]) -> None:
    others = [phantom_case("phantom", (48, 64, 56), seed) for seed in (20, 21)]
    for case in [*cases, *others, phantom_case("phantom", (80, 80, 80), 22)]:
        trees, count = label(case.mask == LABELS[Structure.CORONARY_ARTERIES], structure=FULL)
        aorta = binary_dilation(case.mask == LABELS[Structure.ASCENDING_AORTA], structure=FULL)
        assert count == 2
        assert set(np.unique(trees[aorta])) == {0, 1, 2}


def test_volumes_are_physiological(cases: list[Case]) -> None:
    limits_ml = {
        Structure.LEFT_VENTRICLE: (75, 180),
        Structure.LEFT_MYOCARDIUM: (80, 200),
        Structure.LEFT_ATRIUM: (45, 120),
        Structure.RIGHT_VENTRICLE: (70, 200),
        Structure.RIGHT_ATRIUM: (45, 140),
        Structure.ASCENDING_AORTA: (25, 90),
        Structure.PULMONARY_ARTERY: (25, 90),
        Structure.CORONARY_ARTERIES: (2, 9),
    }
    for case in cases:
        for structure, (low, high) in limits_ml.items():
            assert low < millilitres(case, structure) < high, (case.case_id, structure)


def test_myocardial_wall_and_aorta_measure_what_the_patient_has(cases: list[Case]) -> None:
    for seed, case in zip(SEEDS, cases, strict=True):
        sizes = draw_patient(seed).heart.sizes
        cavity, wall = (case.mask == LABELS[s] for s in (Structure.LEFT_VENTRICLE, Structure.LEFT_MYOCARDIUM))
        to_cavity = distance_transform_edt(~cavity, sampling=case.spacing_mm)
        outermost = wall & binary_dilation(~wall & ~cavity)
        thickness = np.median(to_cavity[outermost])
        assert 8.5 * 0.9 < sizes.scale * sizes.wall < 12 * 1.05
        assert abs(thickness - sizes.scale * sizes.wall) < 2.0
        aorta = case.mask == LABELS[Structure.ASCENDING_AORTA]
        diameter = 2 * distance_transform_edt(aorta, sampling=case.spacing_mm).max()
        assert 24 < diameter < 42
        # the largest ball of whole voxels inside the bent tube
        assert 0.75 < diameter / (2 * sizes.scale * sizes.aorta_radius) < 1.1


def test_hu_of_tissues(cases: list[Case]) -> None:
    for case in cases:
        left = [np.median(hu(case, s)) for s in (Structure.LEFT_VENTRICLE, Structure.LEFT_ATRIUM,
                                                 Structure.ASCENDING_AORTA)]  # fmt: skip
        assert 260 < min(left) and max(left) < 540
        assert max(left) - min(left) < 100  # one bolus fills them all
        assert 60 < np.median(hu(case, Structure.LEFT_MYOCARDIUM)) < 160
        assert 40 < np.median(hu(case, Structure.RIGHT_VENTRICLE)) < 480
        around = surroundings_of(case)
        lungs = image_of(case)[distance_transform_edt(around == SURROUNDINGS[Surrounding.LUNGS]) > 2]
        assert -920 < np.median(lungs) < -740
        bone = image_of(case)[around == SURROUNDINGS[Surrounding.SPINE]]
        assert 80 < np.median(bone) < 400
        assert np.percentile(bone, 98) > 280
        assert image_of(case).dtype == np.int16
        assert HU_MIN <= image_of(case).min() and image_of(case).max() <= HU_MAX


def test_right_heart_is_bright_in_some_scans_and_washed_out_in_others() -> None:
    contrast = []
    for acquisition in range(8):
        case = phantom_case("phantom", (32, 32, 32), 1, acquisition)
        right, wall = hu(case, Structure.RIGHT_VENTRICLE), hu(case, Structure.LEFT_MYOCARDIUM)
        contrast.append(np.median(right) - np.median(wall))
    assert min(contrast) < 40
    assert max(contrast) > 120


def test_arteries_stand_out_from_the_fat_around_them(cases: list[Case]) -> None:
    for case in cases:
        arteries = case.mask == LABELS[Structure.CORONARY_ARTERIES]
        ring = binary_dilation(arteries, iterations=2) & (surroundings_of(case) == SURROUNDINGS[Surrounding.BODY])
        inside, outside = image_of(case)[arteries].mean(), np.percentile(image_of(case)[ring], 25)
        assert outside < -20, case.case_id
        assert inside - outside > 120, case.case_id


def test_surroundings_are_all_there_and_leave_the_labels_alone(cases: list[Case]) -> None:
    seen = set()
    for case in cases:
        assert not (surroundings_of(case)[case.mask > 0]).any()
        seen |= set(np.unique(surroundings_of(case)))
        assert {SURROUNDINGS[s] for s in (Surrounding.BODY, Surrounding.LUNGS, Surrounding.DESCENDING_AORTA,
                                          Surrounding.SPINE)} <= set(np.unique(surroundings_of(case)))  # fmt: skip
    assert seen == {0, *SURROUNDINGS.values()} or seen == set(SURROUNDINGS.values())


def test_affine_is_oblique_orthogonal_and_off_the_origin(cases: list[Case]) -> None:
    for case in cases:
        directions = case.affine[:3, :3] / np.array(case.spacing_mm)
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
        upright = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]])
        tilt_deg = np.degrees(np.arccos((np.trace(directions @ upright) - 1) / 2))
        assert 0.2 < tilt_deg < 12
        assert np.abs(case.affine[:3, 3]).max() > 1
        assert all(1.8 < spacing < 2.6 for spacing in case.spacing_mm)


@pytest.mark.parametrize("shape", [(32, 32, 32), (48, 64, 56)])
def test_another_grid_shows_the_same_anatomy(cases: list[Case], shape: tuple[int, int, int]) -> None:
    case = phantom_case("phantom", shape, 2)
    for structure in (Structure.LEFT_VENTRICLE, Structure.LEFT_MYOCARDIUM, Structure.RIGHT_ATRIUM):
        assert millilitres(case, structure) == pytest.approx(millilitres(cases[2], structure), rel=0.05)
        middles = [
            scan.affine[:3, :3] @ np.argwhere(scan.mask == LABELS[structure]).mean(axis=0) + scan.affine[:3, 3]
            for scan in (case, cases[2])
        ]
        assert np.linalg.norm(middles[0] - middles[1]) < 1.0


def test_senseless_requests_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: shape must be three numbers of at least 16, got \(8, 64, 64\)"):
        phantom_case("x", (8, 64, 64), 0)
    with pytest.raises(ValueError, match="x: seed and acquisition must be at least 0, got -1 and 0"):
        phantom_case("x", SHAPE, -1)
