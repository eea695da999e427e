"""Choose the precision in which a device computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def supports_bf16(device: torch.device) -> bool:
    """Return whether a device computes fast in bf16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():  # Apple silicon: torch is built without it
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def drawing_precision(device: torch.device) -> torch.dtype:
    """Precision of the autocast for drawing scans, whatever that of the training: bf16 where it is fast."""
    return torch.bfloat16 if supports_bf16(device) else torch.float32


def compute_in_bf16(network: nn.Module) -> None:
    """Let a network run under bf16 autocast wherever its input lies on a CPU; what it returns stays float32.

    Weights, gradients, loss and optimiser stay float32, and the weights keep their names, so that checkpoints serve
    with and without. nnU-Net itself autocasts on CUDA only.

    Args:
        network: takes one tensor, and returns one or a sequence of them.
    """
    plain = network.forward

    def forward(images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        if images.device.type != "cpu":
            return plain(images)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = plain(images)
        return [output.float() for output in outputs] if isinstance(outputs, Sequence) else outputs.float()

    network.forward = forward
