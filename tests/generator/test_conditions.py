"""The raw condition: 17 channels that lose nothing."""

import pytest
import torch

from fcas_nnunet.generator.conditions import binarize_labels, build_condition


def test_bits_spell_the_code():
    codes = torch.arange(256, dtype=torch.uint8).view(1, 1, 4, 8, 8)
    bits = binarize_labels(codes)
    assert bits.shape == (1, 8, 4, 8, 8)
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
    with pytest.raises(ValueError, match="must have one shape"):
        build_condition(codes, codes, torch.zeros(1, 1, 4, 4, 8))
