"""Where a run of the generator takes place, and in which precision."""

from __future__ import annotations

import torch
from accelerate import Accelerator


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        ValueError: when CUDA is asked for and absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("-device: CUDA must be available, got none. Use -device cpu.")
    return torch.device(name)


def supports_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def make_accelerator(device_name: str) -> Accelerator:
    """Device and precision of a training run: bf16 where the hardware has it."""
    device = resolve_device(device_name)
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if supports_bf16(device) else "no")
