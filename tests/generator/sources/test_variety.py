"""What scans take on of others: contrast, noise, thickness of slices, field of view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fcas_nnunet_small import small_case
from hypothesis import given
from hypothesis import strategies as st

from fcas_nnunet.case import Case
from fcas_nnunet.config.sources import VarietyConfig
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.sources.variety import (
    Traits,
    cut_to,
    draw_traits,
    measure,
    noise_of,
    take_on,
    view_box,
)
from fcas_nnunet.orientation import Orientation

NUM_LABELS = 3
ALL = VarietyConfig(contrast=1, noise=1, resolution=1, field_of_view=1)


def case() -> Case:
    found = small_case(0)
    assert found.image is not None
    return replace(found, image=found.image.astype(np.int16))


def means_of(scan: Case) -> dict[int, tuple[float, ...]]:
    means = measure(scan, NUM_LABELS).means
    assert means is not None
    return dict(means)


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 0.7), (8.0, 1.4, 1.4), (1.4, 8.0, 1.4)])
@pytest.mark.parametrize("level", [3.0, 30.0])
def test_noise_is_measured_beside_edges_gradients_and_what_was_cut_out(
    spacing_mm: tuple[float, float, float], level: float
) -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((40, 48, 44), np.float32)
    image[10:30, 12:36, 10:30] = 400  # edges
    image += np.linspace(0, 300, 44, dtype=np.float32)  # a bias field
    image += level * rng.standard_normal(image.shape, np.float32)
    image[:, :8] = 0  # cut out
    assert noise_of(image, spacing_mm) == pytest.approx(level, rel=0.05)
    assert noise_of(np.zeros((4, 4, 4)), spacing_mm) == 0
    assert noise_of(np.zeros((2, 2, 2)), spacing_mm) == 0


def test_a_scan_takes_on_the_means_that_it_is_given() -> None:
    scan = case()
    codes = label_codes(scan, NUM_LABELS)[1]
    wanted = {code: (mean[0] + 50.0 * code,) for code, mean in means_of(scan).items()}
    del wanted[2]  # a structure that the other scans lack keeps its own
    changed = take_on(scan, codes, Traits(means=wanted), 0)
    assert changed.image is not None
    assert scan.image is not None
    assert changed.image.dtype == np.int16
    found = means_of(changed)
    for code, before in means_of(scan).items():
        assert found[code][0] == pytest.approx(wanted.get(code, before)[0], abs=25), "but for partial volume at borders"
    core = np.zeros(codes.shape, bool)
    core[:2, :2, :2] = True
    np.testing.assert_array_equal(changed.image[0][core & (codes == 0)], scan.image[0][core & (codes == 0)])


def test_a_scan_takes_on_more_noise_but_loses_none() -> None:
    image = np.random.default_rng(1).normal(0, 20, (1, *case().shape))  # edges count little in scans of a usual size
    scan = replace(case(), image=image.astype(np.int16))
    codes = label_codes(scan, NUM_LABELS)[1]
    own = noise_of(scan.standard_image[0], scan.spacing_mm)
    louder = take_on(scan, codes, Traits(noise=(own + 40,)), 3)
    assert noise_of(louder.standard_image[0], scan.spacing_mm) == pytest.approx(own + 40, rel=0.05)
    again = take_on(scan, codes, Traits(noise=(own + 40,)), 3)
    np.testing.assert_array_equal(louder.image, again.image)
    assert not np.array_equal(louder.image, take_on(scan, codes, Traits(noise=(own + 40,)), 4).image)
    np.testing.assert_array_equal(take_on(scan, codes, Traits(noise=(own / 2,)), 3).image, scan.image)


def test_a_scan_takes_on_thicker_slices_but_no_thinner_ones() -> None:
    scan = replace(case(), affine=Orientation.affine((2.0, 1.0, 1.0)))
    codes = label_codes(scan, NUM_LABELS)[1]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 100, (1, *scan.shape)).astype(np.int16)
    scan = replace(scan, image=noise)
    thick = take_on(scan, codes, Traits(thickness_mm=8.0), 0)
    assert thick.image is not None
    assert thick.image.std() == pytest.approx(100 / np.sqrt(4), rel=0.25), "four slices in one"
    changes = [np.abs(np.diff(thick.image[0].astype(float), axis=axis)).mean() for axis in range(3)]
    assert changes[0] < 0.5 * min(changes[1:]), "along the coarsest axis alone"
    assert take_on(scan, codes, Traits(thickness_mm=2.05), 0) is scan


@given(
    sizes=st.tuples(*[st.floats(1, 80)] * 3),
    seed=st.integers(0, 2**32),
    along=st.sampled_from(["SPL", "LAI", "PSR"]),
)
def test_a_smaller_view_holds_all_that_is_labelled(sizes: tuple[float, float, float], seed: int, along: str) -> None:
    """Sizes are those of the body's directions, whatever the order of the stored axes."""
    spacing_mm = (2.0, 1.0, 1.5)
    affine = Orientation.affine(spacing_mm, along)
    affine[:3, 3] = 7.0, -5.0, 3.0
    mask = np.zeros((20, 30, 24), np.uint8)
    mask[8:12, 10:25, 3:9] = 1
    turn = Orientation.of(affine)
    box = view_box(mask, affine, sizes, seed)
    image = np.arange(mask.size, dtype=np.int32).reshape(1, *mask.shape)
    cut = cut_to(Case("a", image, mask, affine, confidence=np.ones(mask.shape, np.float32)), box)
    assert (cut.mask == 1).sum() == (mask == 1).sum()
    for axis, mm in zip(turn.axes, sizes, strict=True):
        found, whole = cut.shape[axis], mask.shape[axis]
        labelled = np.ptp(np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))) + 1
        assert found == min(whole, max(round(mm / spacing_mm[axis]), labelled + 4)) or found <= labelled + 4
        assert found <= whole
    index = np.array([1, 2, 3])
    index = np.minimum(index, np.array(cut.shape) - 1)
    before = np.argwhere(image[0] == cut.image[0][tuple(index)])[0]  # type: ignore[index]
    np.testing.assert_allclose(cut.affine @ [*index, 1], affine @ [*before, 1])
    assert view_box(mask, affine, sizes, seed) == box


def test_what_is_drawn_comes_from_the_labelled_scans() -> None:
    """Means lie on the line between those of two scans; each share changes its own alone."""
    labelled = [
        Traits({1: (100.0 * n,), 2: (10.0 * n,)}, (float(n),), 1.0 + n, (50.0 + n, 60.0, 70.0)) for n in (1, 2, 3)
    ]
    drawn = [draw_traits(labelled, ALL, seed) for seed in range(300)]
    assert {traits.noise for traits in drawn} == {(1.0,), (2.0,), (3.0,)}
    assert {traits.thickness_mm for traits in drawn} == {2.0, 3.0, 4.0}
    assert {traits.extent_mm for traits in drawn} == {traits.extent_mm for traits in labelled}
    firsts = [traits.means[1][0] for traits in drawn if traits.means is not None]
    assert len(firsts) == 300
    assert min(firsts) == pytest.approx(100 - 0.25 * 200, abs=30)
    assert max(firsts) == pytest.approx(300 + 0.25 * 200, abs=30)
    assert all(t.means is not None and t.means[1][0] == pytest.approx(10 * t.means[2][0]) for t in drawn)
    half = [draw_traits(labelled, replace(ALL, contrast=0.5, noise=0.0), seed) for seed in range(300)]
    assert 110 < sum(traits.means is not None for traits in half) < 190
    assert all(traits.noise is None for traits in half)
    assert [traits.extent_mm for traits in half] == [traits.extent_mm for traits in drawn]
    assert draw_traits(labelled, VarietyConfig(), 0) == Traits()


def test_records_hold_what_was_taken_on() -> None:
    traits = measure(case(), NUM_LABELS)
    assert Traits.from_record(traits.to_record()) == traits
    assert Traits.from_record({}) == Traits()
    assert Traits().to_record() == {}
