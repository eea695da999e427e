"""The raw condition: 17 channels that lose nothing, and the guess."""

from dataclasses import replace

import pytest
import torch

from fcas_nnunet.config.options import TemplateRegistration
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.sources.registered import MIRRORED, OWN
from fcas_nnunet.generator.tcdm.conditions import (
    build_condition,
    guess_of,
    origin_of,
    transfer_template,
    usual_intensities,
)


def test_bits_spell_the_code():
    codes = torch.arange(256, dtype=torch.uint8).view(1, 1, 4, 8, 8)
    bits = build_condition(codes, codes, torch.zeros(codes.shape))[:, :8]
    assert bits[0, :, 0, 0, 5].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]  # 5 = 1 + 4
    powers = (2 ** torch.arange(8)).view(1, 8, 1, 1, 1)
    assert torch.equal((bits * powers).sum(1, keepdim=True), codes.float())


def test_condition_is_reference_then_template_then_image():
    reference, template = torch.full((1, 1, 2, 2, 2), 3, dtype=torch.uint8), torch.full((1, 1, 2, 2, 2), 128)
    image = torch.full((1, 1, 2, 2, 2), 0.25)
    condition = build_condition(reference, template.to(torch.uint8), image)
    assert condition[0, :, 0, 0, 0].tolist() == [1, 1] + [0] * 6 + [0] * 7 + [1] + [0.25]


def test_shapes_must_agree():
    codes = torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="must have one size"):
        build_condition(codes, codes, torch.zeros(1, 1, 4, 4, 8))


def left_and_right():
    """Label 1 on the left third of the reference, on the middle third of the template; label 2 only in the reference;
    a surrounding structure, 5, on the template's right."""
    reference = torch.zeros(1, 1, 12, 12, 12, dtype=torch.uint8)
    reference[..., :4], reference[..., 10, 10] = 1, 2
    template = torch.zeros_like(reference)
    template[..., 4:8], template[..., 8:] = 1, 5
    image = torch.full(reference.shape, 0.1)
    image[..., 4:6], image[..., 6:8], image[..., 8:] = 0.6, 0.8, 0.3
    return reference, template, image


def test_guess_lays_the_templates_contrast_into_the_reference():
    guess = transfer_template(*left_and_right(), num_labels=2)
    assert torch.allclose(guess[..., :4], torch.tensor(0.7))  # the mean of 0.6 and 0.8
    assert torch.equal(guess[..., 8:10], torch.full((1, 1, 12, 12, 2), 0.3))  # the template's surroundings stay
    bare = guess[..., 4:8]
    assert bare.min() >= 0.1
    assert bare.max() <= 0.3 + 1e-6, "what the template's structure leaves bare is filled from around it"


def test_guess_leaves_what_the_template_lacks_to_its_surroundings():
    reference, template, image = left_and_right()
    assert torch.allclose(transfer_template(reference, template, image, 2)[..., 10, 10], torch.tensor(0.3))


def test_guess_of_one_volume_does_not_depend_on_the_others_of_the_batch():
    reference, template, image = left_and_right()
    other = (torch.full_like(reference, 5), torch.full_like(template, 2), torch.rand(image.shape))
    batch = transfer_template(*(torch.cat(pair) for pair in zip((reference, template, image), other, strict=True)), 2)
    assert torch.equal(batch[:1], transfer_template(reference, template, image, 2))


def test_guess_is_the_eighteenth_channel():
    reference, template, image = left_and_right()
    condition = build_condition(reference, template, image, guess_labels=2)
    assert torch.equal(condition[:, :17], build_condition(reference, template, image))
    assert torch.equal(condition[:, 17:], transfer_template(reference, template, image, 2))


def test_each_channel_is_guessed_as_if_it_were_alone():
    reference, template, image = left_and_right()
    images = torch.cat([image, 0.5 * image, 1 - image], dim=1)
    usual = usual_intensities({2: (250.0, -1000.0, 500.0)}, (-1000, 1000), num_channels=3)
    assert usual[:, 2].tolist() == [0.625, 0, 0.75]
    condition = build_condition(reference, template, images, 2, usual)
    assert torch.equal(condition[:, 16:19], images)
    for channel in range(3):
        alone = build_condition(reference, template, images[:, channel : channel + 1], 2, usual[channel : channel + 1])
        assert torch.equal(condition[:, 19 + channel], alone[:, 17])
    batch = [torch.cat([part, part.flip(-1)]) for part in (reference, template, images)]
    assert torch.equal(build_condition(*batch, 2, usual)[:1], condition)


def test_a_structure_that_the_template_lacks_is_guessed_at_its_usual_intensity():
    reference, template, image = left_and_right()
    usual = usual_intensities({2: (250.0,)}, (-1000, 1000))
    assert usual[0, 2] == 0.625
    assert usual.isnan().sum() == 255
    guess = transfer_template(reference, template, image, 2, usual)
    assert (guess[reference == 2] == 0.625).all()
    elsewhere = reference != 2
    assert torch.equal(guess[elsewhere], transfer_template(reference, template, image, 2)[elsewhere])
    twice = transfer_template(*(torch.cat([part, part]) for part in (reference, template, image)), 2, usual)
    assert torch.equal(twice[1:], guess)
    template[..., 0] = 2  # a template that has it knows better
    known = transfer_template(reference, template, image, 2, usual)
    assert torch.equal(known, transfer_template(reference, template, image, 2))


def test_a_registered_template_comes_with_its_guess_and_where_that_is_from():
    reference, template, image = left_and_right()
    guess, origin = torch.rand(image.shape), torch.zeros(reference.shape, dtype=torch.uint8)
    origin[..., :3], origin[..., 3:5] = MIRRORED, OWN
    condition = build_condition(reference, template, image, 2, registered=(guess, origin))
    config = replace(TINY.tcdm, registration=TemplateRegistration.DEFORMABLE)
    assert condition.shape[1] == config.condition_channels == 19
    assert torch.equal(condition[:, :17], build_condition(reference, template, image))
    assert origin_of(condition, config)[0, 0, 0, 0, :6].tolist() == [0.5, 0.5, 0.5, 1, 1, 0]
    assert torch.equal(guess_of(condition, config), guess)
    without = build_condition(reference, template, image, registered=(guess, origin))
    assert torch.equal(without, condition[:, :18])
    assert guess_of(without, replace(config, prior=False)) is None
