"""Local changes: as large as asked for, neighbours stay in contact, vessels stay whole."""

from __future__ import annotations

import dataclasses
import json

import edt
import numpy as np
import pytest

from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.generator.mgm.deformation import draw_deformation
from fcas_nnunet.generator.mgm.local_changes import (
    LocalChange,
    LocalKind,
    apply_local_changes,
    draw_local_changes,
    hopeless_ranges,
)
from fcas_nnunet.generator.mgm.recipe import Recipe
from fcas_nnunet.labels.anatomy import LabelRoles
from fcas_nnunet.labels.morphology import dilate_box3
from tests.labels.test_homotopy import betti

WALL, CHAMBER, OTHER, VESSEL = 1, 2, 3, 4
ROLES = LabelRoles(thin=frozenset([VESSEL]), chambers=frozenset([CHAMBER, OTHER]), walls=frozenset([WALL]))
SPACING_MM = (0.8, 1.0, 1.25)


def heart() -> np.ndarray:
    """A chamber of 14 mm radius in a wall of 6 mm, another chamber beside it, a vessel of 3 mm diameter over both."""
    axes = [(np.arange(n) - n // 2) * step for n, step in zip((64, 52, 62), SPACING_MM, strict=True)]
    d, h, w = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(d**2 + h**2 + w**2)
    mask = np.zeros(radius.shape, np.uint8)
    mask[(np.abs(d) < 10) & (np.abs(h) < 10) & (w > 0) & (w < 34)] = OTHER
    mask[radius < 20] = WALL
    mask[radius < 14] = CHAMBER
    arc = np.hypot(np.hypot(d, w) - 22, h)
    mask[(arc < 1.8) & (d < 5)] = VESSEL
    return mask


def contacts(mask: np.ndarray) -> set[tuple[int, int]]:
    return {
        (label, int(other))
        for label in np.unique(mask)
        for other in np.unique(mask[dilate_box3(mask == label)])
        if label < other
    }


def radius_mm(mask: np.ndarray, label: int) -> float:
    """Of a ball of equal volume."""
    return float((0.75 / np.pi * (mask == label).sum() * np.prod(SPACING_MM)) ** (1 / 3))


@pytest.mark.parametrize("amount", [-2.0, 2.0])
def test_a_chamber_moves_its_border_by_so_many_mm_within_the_heart(amount: float) -> None:
    mask = heart()
    change = LocalChange(LocalKind.CHAMBER_SIZE, CHAMBER, amount)
    changed = apply_local_changes(mask, [change], SPACING_MM, ROLES)
    assert radius_mm(changed, CHAMBER) - radius_mm(mask, CHAMBER) == pytest.approx(amount, abs=0.4)
    np.testing.assert_array_equal(changed > 0, mask > 0)
    np.testing.assert_array_equal(changed == VESSEL, mask == VESSEL)
    assert contacts(changed) == contacts(mask)


@pytest.mark.parametrize("amount", [-2.0, 2.0])
def test_a_wall_grows_inwards(amount: float) -> None:
    mask = heart()
    changed = apply_local_changes(mask, [LocalChange(LocalKind.WALL_THICKNESS, WALL, amount)], SPACING_MM, ROLES)
    assert radius_mm(changed, CHAMBER) - radius_mm(mask, CHAMBER) == pytest.approx(-amount, abs=0.4)
    np.testing.assert_array_equal(changed > 0, mask > 0)
    assert contacts(changed) == contacts(mask)


def test_a_wall_is_never_eaten_through() -> None:
    mask = heart()
    changed = apply_local_changes(mask, [LocalChange(LocalKind.CHAMBER_SIZE, CHAMBER, 30.0)], SPACING_MM, ROLES)
    assert radius_mm(changed, CHAMBER) > radius_mm(mask, CHAMBER) + 2.5
    assert (0, CHAMBER) not in contacts(changed)
    assert contacts(changed) == contacts(mask)


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_a_vessels_calibre_changes_and_its_topology_does_not(factor: float) -> None:
    mask = heart()
    changed = apply_local_changes(mask, [LocalChange(LocalKind.VESSEL_CALIBRE, VESSEL, factor)], SPACING_MM, ROLES)
    assert betti(changed == VESSEL) == betti(mask == VESSEL)
    ratio = (changed == VESSEL).sum() / (mask == VESSEL).sum()
    assert ratio == pytest.approx(factor**2, rel=0.3)
    assert (ratio - 1) * (factor - 1) > 0
    others = changed != VESSEL
    np.testing.assert_array_equal(changed[others & (mask != VESSEL)], mask[others & (mask != VESSEL)])


def test_a_stenosis_narrows_one_place_of_a_branch() -> None:
    mask = heart()
    stenosis = LocalChange(LocalKind.STENOSIS, VESSEL, 0.7, position=0.5, length_mm=8.0)
    changed = apply_local_changes(mask, [stenosis], SPACING_MM, ROLES)
    lost = np.argwhere((mask == VESSEL) & (changed != VESSEL))
    assert betti(changed == VESSEL) == betti(mask == VESSEL)
    assert len(lost) > 10
    reach_mm = np.ptp(lost * SPACING_MM, axis=0)
    assert np.linalg.norm(reach_mm) < 20
    assert not ((changed == VESSEL) & (mask != VESSEL)).any()
    core_mm = edt.edt(changed == VESSEL, anisotropy=SPACING_MM)
    assert core_mm.max() == edt.edt(mask == VESSEL, anisotropy=SPACING_MM).max()


def test_neutral_ranges_draw_nothing_and_each_range_draws_its_change() -> None:
    present = [WALL, CHAMBER, OTHER, VESSEL]
    assert draw_local_changes(MaskConfig(), ROLES, present, 0) == ()
    config = MaskConfig(
        chamber_size_mm=(-3, 3), wall_thickness_mm=(1, 2), vessel_calibre=(0.8, 1.3), stenosis=(0.3, 0.7)
    )
    drawn = [draw_local_changes(config, ROLES, present, seed) for seed in range(40)]
    assert all([change.kind for change in changes] == list(LocalKind) for changes in drawn)
    assert {changes[0].label for changes in drawn} == {CHAMBER, OTHER}
    assert all(-3 <= changes[0].amount <= 3 and 1 <= changes[1].amount <= 2 for changes in drawn)
    assert all(0.8 <= changes[2].amount <= 1.3 and 0.3 <= changes[3].amount <= 0.7 for changes in drawn)
    assert len({changes[0].amount for changes in drawn}) == 40
    assert draw_local_changes(config, ROLES, present, 5) == drawn[5]
    no_vessel = draw_local_changes(config, ROLES, [WALL, CHAMBER], 0)
    assert [change.kind for change in no_vessel] == [LocalKind.CHAMBER_SIZE, LocalKind.WALL_THICKNESS]


@pytest.mark.parametrize(
    ("ranges", "hopeless"),
    [
        ({"vessel_calibre": (5, 9)}, {"vessel_calibre": (5, VESSEL)}),
        ({"vessel_calibre": (0.9, 9)}, {}),  # holds 1, which changes nothing
        ({"wall_thickness_mm": (60, 70)}, {"wall_thickness_mm": (60, CHAMBER)}),
        ({"chamber_size_mm": (-90, -80)}, {}),  # one of the two chambers keeps enough
        ({"chamber_size_mm": (-1, -0.5), "stenosis": (0.3, 0.9)}, {}),
    ],
)
def test_ranges_that_can_give_no_mask_are_known_before_one_is_drawn(
    ranges: dict[str, tuple[float, float]], hopeless: dict[str, tuple[float, int]]
) -> None:
    mask = heart()
    found = hopeless_ranges(mask, MaskConfig(**ranges), SPACING_MM, ROLES)
    assert {each.setting: (each.mildest, each.label) for each in found} == hopeless
    for each in found:
        wide = each.setting == "vessel_calibre"
        kind, label = (LocalKind.VESSEL_CALIBRE, VESSEL) if wide else (LocalKind.WALL_THICKNESS, WALL)
        changed = apply_local_changes(mask, [LocalChange(kind, label, each.mildest)], SPACING_MM, ROLES)
        assert each.ratio == (changed == each.label).sum() / (mask == each.label).sum()
        assert not 0.4 <= each.ratio <= 2


def test_a_change_survives_json() -> None:
    change = LocalChange(LocalKind.STENOSIS, VESSEL, 0.5, 0.25, 6.0)
    recipe = Recipe((change,), draw_deformation(MaskConfig(), (8, 8, 8), SPACING_MM, seed=0))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_source_is_left_as_it_is() -> None:
    mask = heart()
    before = mask.copy()
    for kind, label in ((LocalKind.CHAMBER_SIZE, CHAMBER), (LocalKind.VESSEL_CALIBRE, VESSEL)):
        apply_local_changes(mask, [LocalChange(kind, label, 1.5)], SPACING_MM, ROLES)
    np.testing.assert_array_equal(mask, before)
    assert apply_local_changes(mask, [], SPACING_MM, dataclasses.replace(ROLES)) is mask
