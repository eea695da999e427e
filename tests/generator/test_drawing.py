"""One drawing: its geometry, and its guess where the template lacks a structure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fcas_nnunet_small import small_case

from fcas_nnunet.generator import checkpoint, drawing
from fcas_nnunet.generator.drawing import draw_image, prior_image
from fcas_nnunet.generator.tcdm.conditions import build_condition

CPU = torch.device("cpu")


def test_scans_stored_along_other_axes_are_drawn_as_if_they_were_not(trained):
    """A copy of reference or template with its axes swapped and flipped gives the same drawing, in its own geometry."""
    generator = checkpoint.load_generator(trained, CPU)
    reference, template = small_case(0), small_case(1)
    expected = draw_image(generator, reference, template, 0, CPU, torch.float32)
    swapped = draw_image(generator, swapped_copy(reference), swapped_copy(template), 0, CPU, torch.float32)
    np.testing.assert_array_equal(swapped.image, swap(expected.image))
    np.testing.assert_array_equal(swapped.confidence, swap(expected.confidence))


def swap(volume):
    """Axes (2, 0, 1), and the second of these backwards; of an image, those after the channels."""
    return np.moveaxis(volume, -1, -3)[..., ::-1, :]


def swapped_copy(case):
    affine = case.affine[:, [2, 0, 1, 3]].copy()
    affine[:3, 3] += 31 * affine[:3, 1]
    affine[:3, 1] *= -1
    parts = {name: swap(getattr(case, name)) for name in ("image", "mask", "surroundings")}
    return replace(case, affine=affine, **parts)


def test_a_structure_that_the_template_lacks_is_guessed_at_its_mean(trained, monkeypatch):
    generator = checkpoint.load_generator(trained, CPU)
    case = small_case(1)
    expected = np.mean([small_case(n).image[0][small_case(n).mask == 3].mean() for n in range(4)])
    assert generator.record.label_means[3] == (pytest.approx(expected, abs=0.1),)
    guesses = []

    def seen(*parts, **options):
        guesses.append(build_condition(*parts, **options)[0, 17][parts[0][0, 0] == 3])
        return build_condition(*parts, **options)

    monkeypatch.setattr(drawing, "build_condition", seen)
    lacking = replace(case, mask=np.where(case.mask == 3, 0, case.mask))
    draw_image(generator, small_case(0), lacking, 0, CPU, torch.float32)
    assert guesses[0].mean() == pytest.approx((expected + 1000) / 2000, abs=1e-3)


def test_the_prior_is_the_template_under_the_mask_without_a_drawing(trained):
    """Structures at their means in the template, the template's own scan elsewhere, on the mask's voxels."""
    generator = checkpoint.load_generator(trained, CPU)
    reference, template = small_case(0), small_case(1)
    prior = prior_image(generator, replace(reference, image=None), template, CPU)
    assert prior.shape == (1, *reference.shape)
    inside = reference.mask == 1
    expected = template.image[0][template.mask == 1].mean()
    assert np.median(prior[0][inside]) == pytest.approx(expected, abs=20)
    other = prior_image(generator, replace(reference, image=None), replace(template, image=template.image + 300), CPU)
    assert np.median((other - prior)[0][inside]) == pytest.approx(300, abs=20)
    np.testing.assert_array_equal(prior, prior_image(generator, reference, template, CPU))
