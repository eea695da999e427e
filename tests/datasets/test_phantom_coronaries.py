"""The coronary trees: branches where they belong, radii that taper, both kinds of dominance."""

from __future__ import annotations

import numpy as np
import pytest

from fcas_nnunet.datasets.phantom import Patient, draw_patient
from fcas_nnunet.datasets.phantom.coronaries import SMALLEST_RADIUS_MM, Tree, Vessel

STEMS = {"LM": Tree.LEFT, "RCA": Tree.RIGHT}


@pytest.fixture(scope="module")
def patients() -> list[Patient]:
    return [draw_patient(seed) for seed in range(16)]


def vessels(patient: Patient) -> dict[str, Vessel]:
    return {vessel.name: vessel for vessel in patient.coronaries.vessels}


def parent_of(name: str, patient: Patient) -> str:
    if name == "PDA":
        return "RCA" if patient.coronaries.dominance == Tree.RIGHT else "LCX"
    return {"LAD": "LM", "LCX": "LM", "D": "LAD", "OM": "LCX", "AM": "RCA", "PLV": "RCA"}[name.rstrip("123")]


def test_both_trees_have_their_branches(patients: list[Patient]) -> None:
    for patient in patients:
        named = vessels(patient)
        assert {"LM", "LAD", "LCX", "D1", "OM1", "RCA"} <= named.keys()
        assert {named[name].tree for name in ("LM", "LAD", "LCX", "D1", "OM1")} == {Tree.LEFT}
        assert named["RCA"].tree == Tree.RIGHT


def test_dominance_decides_which_tree_has_the_posterior_descending_artery(patients: list[Patient]) -> None:
    found = set()
    for patient in patients:
        posterior = vessels(patient).get("PDA")
        if posterior is not None:
            assert posterior.tree.value == patient.coronaries.dominance.value
            found.add(patient.coronaries.dominance)
    assert found == {Tree.LEFT, Tree.RIGHT}
    right = sum(patient.coronaries.dominance == Tree.RIGHT for patient in patients)
    assert 9 <= right <= 15  # 85 % are drawn right dominant


def test_radii_taper_and_branches_are_thinner_than_their_parents(patients: list[Patient]) -> None:
    for patient in patients:
        named = vessels(patient)
        for name, vessel in named.items():
            assert (np.diff(vessel.radii) <= 1e-12).all(), name
            assert vessel.radii.min() >= SMALLEST_RADIUS_MM - 1e-9
            assert vessel.radii.max() <= 2.3
            if name not in STEMS:
                parent = named[parent_of(name, patient)]
                gap = np.linalg.norm(parent.path - vessel.path[0], axis=1)
                assert gap.min() < 0.75, name
                assert vessel.radii[0] <= parent.radii[gap.argmin()] + 0.06, name


def test_stems_leave_the_aorta_and_the_rest_runs_on_the_heart(patients: list[Patient]) -> None:
    for patient in patients:
        heart, named = patient.heart, vessels(patient)
        for stem in STEMS:
            assert heart.aorta(named[stem].path[:1].T)[0] < 0
            assert heart.aorta(named[stem].path[-1:].T)[0] > 4
        for name, vessel in named.items():
            height = heart.coronary_bed(np.ascontiguousarray(vessel.path[16:].T))
            assert np.percentile(height, 5) > 0.3, name  # not in the muscle
            assert np.percentile(height, 95) < 8, name  # nor far off


def test_lengths_are_physiological(patients: list[Patient]) -> None:
    limits_mm = {"LM": (8, 35), "LAD": (70, 140), "LCX": (70, 140), "RCA": (60, 180)}
    for patient in patients:
        named = vessels(patient)
        for name, (low, high) in limits_mm.items():
            assert low < named[name].length_mm < high, name
        assert 450 < sum(vessel.length_mm for vessel in named.values()) < 950


def test_trees_keep_apart(patients: list[Patient]) -> None:
    for patient in patients:
        left, right = (
            np.concatenate([v.path for v in patient.coronaries.vessels if v.tree == tree])
            for tree in (Tree.LEFT, Tree.RIGHT)
        )
        closest = min(np.linalg.norm(left - point, axis=1).min() for point in right[::4])
        assert closest > 8.0


def test_plaques_sit_in_the_wall_and_not_in_everyone(patients: list[Patient]) -> None:
    counts = [len(patient.coronaries.plaques) for patient in patients]
    assert min(counts) == 0
    assert max(counts) >= 4
    for patient in patients:
        lines, radii = patient.coronaries.points()
        for plaque in patient.coronaries.plaques:
            distance = np.linalg.norm(lines - plaque.center, axis=1)
            nearest = distance.argmin()
            assert distance[nearest] < 1.1 * radii[nearest]
            assert 0 < plaque.semi_axes[1] < radii[nearest]
