"""Scans warped and painted without a generator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fcas_nnunet_small import LABELS, small_case
from scipy.ndimage import binary_erosion

from fcas_nnunet.case import Case
from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.config.options import ReferenceSource, ScanSource
from fcas_nnunet.config.sources import PaintConfig, WarpConfig
from fcas_nnunet.generator.generate import CaseMaker, reference_mask
from fcas_nnunet.generator.mgm.deformation import source_points_mm
from fcas_nnunet.generator.mgm.recipe import Recipe
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.sources.painted import contrast_ranges, tissues_of
from fcas_nnunet.intensities import IntensityScale
from fcas_nnunet.labels.anatomy import label_roles

UNITS = np.array([0, 100, 200, 400], np.float32)  # of the labels
STILL = WarpConfig(contrast_jitter=0.0, surroundings_jitter=0.0)
OTHERS = [ScanSource.WARPED, ScanSource.PAINTED]


def maker(
    case: Case, masks: MaskConfig | None = None, warp: WarpConfig = STILL, paint: PaintConfig | None = None
) -> CaseMaker:
    return CaseMaker(LABELS, {}, lambda _: case, masks or MaskConfig(), warp, paint or PaintConfig())


def plan(scan: ScanSource, masks: ReferenceSource = ReferenceSource.MGM, seed: int = 3) -> CasePlan:
    return CasePlan("fcas_00000", seed, "p0", "p0", masks, scan)


def flat_case(**changes: Any) -> Case:
    """A case whose values follow from its labels, without surroundings."""
    case = small_case(0)
    return replace(case, image=UNITS[case.mask][None], surroundings=None, **changes)


def own_values(dtype: str) -> Case:
    """A case of another modality with values that fit a data type, and surroundings."""
    case = small_case(0)
    low, high = {"float32": (0.05, 1.0), "uint16": (100, 60_000), "int16": (-1000, 1000)}[dtype]
    image = case.image - case.image.min()
    image = (low + image / image.max() * (high - low)).astype(dtype)
    return replace(case, image=image, scales=(IntensityScale.of(image, "MRI"),))


@pytest.mark.parametrize("dtype", ["float32", "uint16", "int16"])
def test_a_scan_that_is_not_deformed_and_keeps_its_contrast_is_the_scan(dtype: str) -> None:
    case = own_values(dtype)
    made, record = maker(case).make(plan(ScanSource.WARPED, ReferenceSource.GIVEN))
    assert made.image is not None
    assert made.image.dtype == dtype
    np.testing.assert_array_equal(made.image, case.image)
    np.testing.assert_array_equal(made.mask, case.mask)
    assert (made.confidence == 1).all()
    assert (record["mean_confidence_in_structures"], record["expected_error"]) == (1.0, None)


def test_jitter_is_in_standard_units_and_of_structures_alone() -> None:
    case = own_values("float32")
    jittered = maker(case, warp=WarpConfig(contrast_jitter=80.0, surroundings_jitter=20.0))
    made, _ = jittered.make(plan(ScanSource.WARPED, ReferenceSource.GIVEN))
    assert made.image is not None
    assert case.image is not None
    assert case.surroundings is not None
    change = (made.image - case.image)[0] / case.scales[0].unit
    nothing = (case.mask == 0) & (case.surroundings == 0)
    cube = np.ones((3, 3, 3))
    inside, around = (binary_erosion(where, cube, iterations=3) for where in (case.mask == 1, case.surroundings == 1))
    nothing = binary_erosion(nothing, cube, iterations=2, border_value=1)
    assert nothing.sum() > 20
    assert change[inside].std() < 0.1
    assert 5 < abs(change[inside].mean()) < 300
    assert 0.5 < abs(change[around].mean()) < 80
    assert np.abs(change[nothing]).max() == 0


def test_a_warped_scan_lies_under_its_new_mask() -> None:
    source = flat_case()
    made, _ = maker(source).make(plan(ScanSource.WARPED))
    assert made.image is not None
    assert source.image is not None
    assert (made.mask != source.mask).mean() > 0.02
    inside = binary_erosion(made.mask == 1, iterations=2)
    assert inside.sum() > 100
    assert made.image[0][inside] == pytest.approx(100, abs=12)  # splines ring at walls
    expected = UNITS[made.mask]
    off, unmoved_off = (np.abs(image - expected).mean() for image in (made.image, source.image))
    assert off < 0.5 * unmoved_off, "the scan moved with its mask"


@pytest.mark.parametrize("scan", OTHERS)
def test_masks_are_mgms_and_confidence_is_where_the_scan_was(scan: ScanSource) -> None:
    source = flat_case()
    wide = MaskConfig(translation_mm=20.0, rotation_deg=25.0)
    made, record = maker(source, wide).make(plan(scan))
    mask, mask_record = reference_mask(plan(scan), source, wide, label_roles(LABELS))
    np.testing.assert_array_equal(made.mask, mask)
    assert record["mgm"] == mask_record
    deformation = Recipe.from_dict(mask_record).deformation
    indices = np.stack(np.meshgrid(*map(np.arange, mask.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    spacing = np.array(source.spacing_mm)
    origins = source_points_mm(deformation, indices * spacing) / spacing
    depth = np.minimum(origins + 0.5, np.array(mask.shape) - 0.5 - origins).min(axis=1).reshape(mask.shape)
    sure = np.abs(depth) > 1e-3  # apart from rounding
    assert made.confidence is not None
    assert 0.02 < (made.confidence == 0).mean() < 0.7
    np.testing.assert_array_equal(made.confidence[sure], (depth > 0)[sure])


def test_masks_of_warped_scans_have_no_local_changes_and_those_of_painted_ones_have() -> None:
    changing = MaskConfig(wall_thickness_mm=(1.5, 2.0))
    records = [maker(flat_case(), changing).make(plan(scan))[1]["mgm"] for scan in OTHERS]
    assert [bool(record["local_changes"]) for record in records] == [False, True]


@pytest.mark.parametrize("scan", OTHERS)
def test_a_case_is_made_again_from_its_line(scan: ScanSource) -> None:
    case = own_values("float32")
    made, record = maker(case, warp=WarpConfig()).make(plan(scan))
    again, its_record = maker(case, warp=WarpConfig()).remake(record)
    np.testing.assert_array_equal(again.image, made.image)
    np.testing.assert_array_equal(again.mask, made.mask)
    assert its_record == record
    assert record["scan"] == scan


def test_painting_gives_each_label_and_tissue_one_level_and_carries_the_tissues_along() -> None:
    case = flat_case()
    thorax = np.where(np.arange(32)[:, None, None] < 16, -800.0, 50.0) + np.zeros(case.shape, np.float32)
    case = replace(case, image=np.where(case.mask > 0, case.image, thorax[None]).astype(np.float32))
    plain = PaintConfig(texture=(0, 0), noise=(0, 0), bias=(0, 0), blur_voxels=(0.3, 0.3), thickness_probability=0)
    masks = MaskConfig(rotation_deg=40.0)
    (painted, record), (other, _) = (
        maker(case, masks, paint=plain).make(plan(ScanSource.PAINTED, seed=seed)) for seed in (3, 3000)
    )
    unmoved, _ = maker(case).make(plan(ScanSource.PAINTED, ReferenceSource.GIVEN))
    background = case.mask == 0
    lung, tissue = (background & binary_erosion(thorax == value, iterations=3) for value in (-800, 50))
    places = [case.mask == 1, case.mask == 2, lung, tissue]
    levels = sorted(float(unmoved.image[0][where].mean()) for where in places)  # type: ignore[index]
    assert np.diff(levels).min() > 5, "labels and tissues of the background have levels of their own"
    assert painted.image is not None
    assert other.image is not None
    assert np.abs(painted.image[0][painted.mask == 1].mean() - other.image[0][other.mask == 1].mean()) > 5
    deformation = Recipe.from_dict(record["mgm"]).deformation
    spacing = np.array(case.spacing_mm)
    apart = binary_erosion(painted.mask == 0, np.ones((3, 3, 3)), iterations=2, border_value=1)
    voxels = np.argwhere(apart & (painted.confidence == 1))
    heights = (source_points_mm(deformation, voxels * spacing) / spacing)[:, 0]
    values = painted.image[0][tuple(voxels.T)]
    low, high = values[heights < 12], values[heights > 20]
    assert min(len(low), len(high)) > 500
    assert max(np.ptp(low), np.ptp(high)) <= 2 < abs(int(low[0]) - int(high[0])), (
        "tissues went where the field took them"
    )


def test_tissues_of_a_scan_that_labels_fill_are_one() -> None:
    image, mask = np.random.default_rng(0).normal(size=(2, 8, 8, 8))
    image = image[None]
    assert set(np.unique(tissues_of(image, np.ones((8, 8, 8), np.uint8), 6))) == {0}
    assert tissues_of(image, (mask > 0).astype(np.uint8), 6).max() == 5
    constant = np.zeros((1, 8, 8, 8), np.float32)
    assert tissues_of(constant, (mask > 0).astype(np.uint8), 6).max() == 0
    (between,) = contrast_ranges(image, np.zeros((8, 8, 8), np.uint8), 0.0)
    assert between == pytest.approx(np.percentile(image, (0.5, 99.5)))
