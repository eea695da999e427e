"""The raw condition of TCDM: reference mask, template mask, template image (paper §3.1.1)."""

from __future__ import annotations

import torch

from fcas_nnunet.config import CONDITION_CHANNELS

NUM_BITS = 8


def binarize_labels(codes: torch.Tensor) -> torch.Tensor:
    """8-bit codes to one channel per bit, lowest first, as MAISI does.

    Args:
        codes: uint8 [B, 1, D, H, W].

    Returns:
        float32 [B, 8, D, H, W] of 0 and 1.
    """
    return _bits(codes).float()


def build_condition(
    reference_codes: torch.Tensor, template_codes: torch.Tensor, template_image: torch.Tensor
) -> torch.Tensor:
    """c_raw = M'_A © M'_B © I_B.

    Args:
        reference_codes: uint8 [B, 1, D, H, W], the mask to draw.
        template_codes: uint8 [B, 1, D, H, W], the template's mask with its surroundings.
        template_image: [B, 1, D, H, W] in [0, 1].

    Returns:
        float32 [B, 17, D, H, W].

    Raises:
        ValueError: when the shapes differ.
    """
    if not reference_codes.shape == template_codes.shape == template_image.shape:
        raise ValueError(
            f"condition: reference mask, template mask and template image must have one shape, got "
            f"{tuple(reference_codes.shape)}, {tuple(template_codes.shape)}, {tuple(template_image.shape)}."
        )
    # bytes are turned into floats as they are joined: on a CPU, doing so before costs a tenth of a training step
    condition = torch.cat([_bits(reference_codes), _bits(template_codes), template_image.float()], dim=1)
    assert condition.shape[1] == CONDITION_CHANNELS, "8 + 8 + 1"
    return condition


def _bits(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 1, D, H, W] => uint8 [B, 8, D, H, W] of 0 and 1."""
    shifts = torch.arange(NUM_BITS, dtype=torch.uint8, device=codes.device).view(1, NUM_BITS, 1, 1, 1)
    return (codes >> shifts) & 1
