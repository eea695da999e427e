"""Blocks of voxels as channels (space-to-depth)."""

from __future__ import annotations

import torch
from einops import rearrange


def fold_blocks(volume: torch.Tensor, size: int) -> torch.Tensor:
    """[B, C, D, H, W] => [B, C · size³, D/size, H/size, W/size]; nothing is lost."""
    return rearrange(volume, "b c (d p) (h q) (w r) -> b (c p q r) d h w", p=size, q=size, r=size)
