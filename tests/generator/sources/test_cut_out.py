"""Scans whose surroundings were cut out: nnU-Net crops and normalises the synthetic ones as the real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fcas_nnunet_small import small_case
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask

from fcas_nnunet.case import Case
from fcas_nnunet.config.options import ReferenceSource, ScanSource
from fcas_nnunet.config.sources import WarpConfig
from fcas_nnunet.generator.checkpoint import load_generator
from fcas_nnunet.generator.generate import CaseMaker, Drawer
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.sources.cut_out import cut_out, filled
from fcas_nnunet.intensities import IntensityScale

CPU = torch.device("cpu")
SOURCES = [ScanSource.DRAWN, ScanSource.WARPED, ScanSource.PAINTED]


def cut_case(case_id: str, unit: float = 1.0) -> Case:
    """A small scan of positive values in a ball, 0 around it."""
    case = small_case(int(case_id[1:]))
    assert case.image is not None
    distance = np.linalg.norm(np.indices(case.shape) - np.array(case.shape)[:, None, None, None] / 2, axis=0)
    inside = (distance < 0.42 * min(case.shape)) | (case.mask > 0)
    image = ((case.image[0] + 1500) * unit * inside)[None].astype(np.float32)
    return replace(case, image=image, scales=(IntensityScale.of(image[0], "MRI"),))


def share(case: Case) -> float:
    """Part of a scan that nnU-Net does not crop."""
    assert case.image is not None
    return float(create_nonzero_mask(case.image).mean())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("masks", list(ReferenceSource)[:2])
def test_what_was_cut_out_is_cut_out_of_synthetic_scans(
    trained: Path, source: ScanSource, masks: ReferenceSource
) -> None:
    maker = CaseMaker.of_generator(Drawer(load_generator(trained, CPU), CPU, torch.float32), cut_case)
    for seed in range(3):
        made, _ = maker.make(CasePlan("x", seed, "p0", "p1", masks, source))
        real = cut_case("p0")
        assert share(real) < 0.6
        assert share(made) == pytest.approx(share(real), abs=0.3 * share(real))
        inside = made.image[0][create_nonzero_mask(made.image)]
        if source == ScanSource.WARPED:  # nothing rings over the edge
            assert inside[inside != 0].min() > 0.5 * real.image[real.image > 0].min() - 300
        else:
            assert (inside == 0).mean() < 0.05


def test_a_still_scan_stays_as_it_was(trained: Path) -> None:
    still = WarpConfig(contrast_jitter=0.0, surroundings_jitter=0.0)
    maker = CaseMaker({"background": 0, "a": 1}, {}, cut_case, load_generator(trained, CPU).record.config.masks, still,
                      load_generator(trained, CPU).record.config.paint)  # fmt: skip
    made, _ = maker.make(CasePlan("x", 0, "p0", "p0", ReferenceSource.GIVEN, ScanSource.WARPED))
    np.testing.assert_array_equal(made.image, cut_case("p0").image)


def test_zeros_among_other_values_are_not_cut_out() -> None:
    image = np.random.default_rng(0).normal(0, 300, (2, 20, 20, 20)).round()
    assert 0 < (image == 0).sum()
    assert cut_out(image) is None
    image[image == 0] = 1
    image[1, :, :, :4] = 0
    image[1, 8:12, 8:12, 8:12] = 0  # within the body
    found = cut_out(image)
    assert found is not None
    assert not found[0].any()
    assert found[1, :, :, :4].all()
    assert not found[1, 9:11, 9:11, 9:11].any()
    whole = filled(image, found)
    np.testing.assert_array_equal(whole[0], image[0])
    np.testing.assert_array_equal(whole[1, 3, 3, :4], np.full(4, image[1, 3, 3, 4]))
    np.testing.assert_array_equal(whole[1, :, :, 4:], image[1, :, :, 4:])
