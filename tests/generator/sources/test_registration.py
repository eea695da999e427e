"""Templates registered to references: known maps are found again, nothing folds, and what is brought over is mended."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.config.options import ReferenceSource, ScanSource
from fcas_nnunet.config.sources import PaintConfig, WarpConfig
from fcas_nnunet.datasets.phantom import LABELS, patient_seed, phantom_case
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.generate import CaseMaker
from fcas_nnunet.generator.mgm.deformation import IDENTITY, draw_deformation, mask_center_mm, output_points_mm
from fcas_nnunet.generator.mgm.resampling import deform_image, deform_labels
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.sources.registered import Brought, bring, mend
from fcas_nnunet.generator.sources.registration import Registration, register

NUM_LABELS = max(LABELS.values())
IDENTICAL = Registration(np.eye(3), np.zeros(3), np.zeros((3, 4, 4, 4), np.float32), (40.0,) * 3, (0.0,) * 3)


@lru_cache
def phantom(number: int) -> Case:
    return phantom_case("p", (40, 44, 48), patient_seed(0, number))


def turned(case: Case) -> Case:
    """The same case, stored along other axes."""
    affine = case.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += (case.shape[0] - 1) * affine[:3, 1]
    affine[:3, 1] *= -1
    parts = {}
    for name in ("image", "mask", "surroundings"):
        parts[name] = np.moveaxis(getattr(case, name), -1, -3)[..., ::-1, :]
    return replace(case, affine=affine, **parts)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Dice of the chambers and the myocardium."""
    return float(np.mean([
        2 * ((one == label) & (other == label)).sum() / ((one == label).sum() + (other == label).sum())
        for label in range(1, 6)
    ]))  # fmt: skip


def test_a_known_deformation_is_found_again() -> None:
    template = phantom(0)
    deformation = draw_deformation(
        MaskConfig(),
        template.shape,
        template.spacing_mm,
        3,
        center_mm=mask_center_mm(template.mask, template.spacing_mm),
    )
    moved = [deform_labels(part, deformation, template.spacing_mm) for part in (template.mask, template.surroundings)]
    image = deform_image(template.image, deformation, template.spacing_mm)
    reference = replace(template, image=image, mask=moved[0], surroundings=moved[1])
    found = register(reference, template, NUM_LABELS)
    there = np.argwhere((template.mask > 0) & (template.mask <= 5))[::50]
    spacing = np.array(template.spacing_mm)
    source_mm = there * spacing  # from the first voxel's centre
    output_mm = output_points_mm(deformation, source_mm)
    assert np.linalg.norm(output_mm - source_mm, axis=1).mean() > 5, "it is no small one"
    mapped = found.points_mm(torch.tensor(output_mm + spacing / 2, dtype=torch.float32)).numpy() - spacing / 2
    errors = np.linalg.norm(mapped - source_mm, axis=1)
    assert errors.mean() < 1.5
    assert found.volume_ratios().min() > 0


def test_another_patients_heart_comes_to_lie_on_the_reference_and_nothing_folds() -> None:
    reference, template = phantom(1), phantom(0)
    found = register(reference, template, NUM_LABELS)
    brought = bring(reference, IDENTITY, template, found, NUM_LABELS)
    before = overlap(label_codes(template, NUM_LABELS)[0], reference.mask)
    assert overlap(brought.codes, reference.mask) > max(0.85, before + 0.1)
    assert found.volume_ratios().min() > 0
    again = register(turned(reference), turned(template), NUM_LABELS)
    np.testing.assert_allclose(again.displacement_mm, found.displacement_mm, atol=1e-3)
    other = bring(turned(reference), IDENTITY, turned(template), again, NUM_LABELS)
    np.testing.assert_array_equal(np.moveaxis(other.codes[:, ::-1], 0, -1), brought.codes)


def test_a_template_that_lies_there_already_is_brought_as_it_is() -> None:
    case = phantom(0)
    brought = bring(case, IDENTITY, case, IDENTICAL, NUM_LABELS)
    np.testing.assert_allclose(brought.image, case.standard_image, atol=0.5)
    np.testing.assert_array_equal(brought.codes, label_codes(case, NUM_LABELS)[1])
    assert brought.inside.all()
    np.testing.assert_array_equal(mend(brought, brought.codes, brought.image).image, brought.image)


def test_every_voxel_gets_an_intensity_of_its_own_structure() -> None:
    """Each code has values of its own, so that a wrong one shows; the part beyond the template follows its contrast."""
    rng = np.random.default_rng(0)
    wanted = np.zeros((12, 12, 12), np.uint8)
    wanted[3:9, 3:9, 3:9] = 1
    wanted[5:7, 5:7, 5:7] = 2
    codes = np.roll(wanted, 1, axis=1)
    inside = np.ones(wanted.shape, bool)
    inside[-2:] = False
    texture = rng.uniform(-5, 5, (1, *wanted.shape)).astype(np.float32)
    image = codes[None] * 100.0 + texture
    image[:, ~inside] = 9999
    own = wanted[None] * 10.0 + 3 + texture
    mended = mend(Brought(image, codes, inside), wanted, own.astype(np.float32)).image
    assert (np.abs(mended[0] - wanted * 100.0)[inside] <= 5).all()
    right = (codes == wanted) & inside
    np.testing.assert_array_equal(mended[0][right], image[0][right])
    assert np.abs(mended[0][~inside]).max() < 20
    lacking = mend(
        Brought(image, np.where(codes == 2, np.uint8(1), codes), inside), wanted, own.astype(np.float32)
    ).image
    np.testing.assert_array_equal(lacking[0][wanted == 2], own[0][wanted == 2].astype(np.float32))


@pytest.mark.parametrize("trust", [1.0, 0.25])
def test_what_was_mended_is_trusted_less_where_the_template_has_another_label(
    trust: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other surroundings are no other label, and beyond the template the reference's own scan is right."""
    reference = phantom(0)
    assert reference.surroundings is not None
    other = replace(
        reference,
        mask=np.where(reference.mask == 3, np.uint8(1), reference.mask),
        surroundings=np.where(reference.surroundings == 1, np.uint8(2), reference.surroundings),
    )
    away = replace(IDENTICAL, offset_mm=np.array([0, 0, 10 * reference.spacing_mm[2]]))
    warp = WarpConfig(mended_confidence=trust)
    cases = {"a": reference, "b": other}
    maker = CaseMaker(LABELS, {}, cases.__getitem__, MaskConfig(), warp, PaintConfig())
    plan = CasePlan("c", 0, "a", "b", ReferenceSource.GIVEN, ScanSource.REGISTERED)
    monkeypatch.setattr(maker, "_registration", lambda *pair: IDENTICAL)
    confidence = maker.make(plan)[0].confidence
    np.testing.assert_array_equal(confidence, np.where(reference.mask == 3, np.float32(trust), 1))
    assert (reference.mask == 3).any()
    monkeypatch.setattr(maker, "_registration", lambda *pair: away)
    confidence = maker.make(plan)[0].confidence
    assert confidence is not None
    assert (confidence[..., -10:] == 1).all(), "beyond the template"
    shifted = np.roll(other.mask, -10, axis=2)[..., :-10]
    np.testing.assert_array_equal(confidence[..., :-10] == trust, (shifted != reference.mask[..., :-10]) | (trust == 1))


def test_a_case_without_labels_is_registered_by_its_image() -> None:
    template = phantom(0)
    empty = replace(template, mask=np.zeros_like(template.mask), surroundings=None)
    shifted = replace(empty, image=np.roll(empty.image, 2, axis=2))
    found = register(shifted, empty, NUM_LABELS)
    middle = (np.array(template.shape) / 2 * template.spacing_mm).astype(np.float32)
    expected = middle - [0, 2 * template.spacing_mm[1], 0]
    assert found.points_mm(torch.from_numpy(middle)[None, None, None]).numpy()[0, 0, 0] == pytest.approx(
        expected, abs=1.5
    )
