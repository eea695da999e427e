"""Gradient checkpointing: a module's activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputed(nn.Module):
    """Mixed into a module's class: keeps only its inputs for the backward pass. The module must not be random."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        run = super().forward
        if not torch.is_grad_enabled():
            return run(*args, **kwargs)
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def recompute(module: nn.Module) -> None:
    """Checkpoint a module in place; its parameters keep their names, and copies of it are checkpointed, too."""
    own = type(module)
    module.__class__ = type(own.__name__, (Recomputed, own), {})
