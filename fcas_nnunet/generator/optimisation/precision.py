"""Choose the precision in which a device computes."""

from __future__ import annotations

import torch


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
