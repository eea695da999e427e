"""Choose the device and the precision of a run of the generator."""

from __future__ import annotations

import os
import platform
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from fcas_nnunet.commands.runtime.shares import local_rank
from fcas_nnunet.config.options import Precision
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.optimisation.precision import supports_bf16

#: Time that processes wait for each other: caching its share of a data set may take one of them hours longer.
PATIENCE = timedelta(hours=24)


def resolve_device(name: str) -> torch.device:
    """Resolve a device's name: `auto` is CUDA if available; each process of torchrun or srun takes a GPU of its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cuda":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise InputError("-device: CUDA must be available, got none. Use -device cpu.")
    return torch.device("cuda", local_rank(os.environ) % torch.cuda.device_count())


def device_label(device: torch.device) -> str:
    """Return the model of a GPU or CPU, which is recorded beside measured times."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def make_accelerator(device_name: str, precision: Precision = Precision.AUTO) -> Accelerator:
    """Set up device, precision and processes of a training run.

    Under `accelerate launch` or `torchrun`, the processes find each other by their environment variables (NCCL between
    GPUs, gloo between CPUs).

    Args:
        device_name: `auto`, `cuda` or `cpu`.
        precision: Arithmetic of the training; `auto` is bf16 if the hardware supports it.

    Raises:
        InputError: If the device is absent, or cannot compute in this precision.
    """
    device = resolve_device(device_name)
    if precision == Precision.AUTO:
        precision = Precision.BF16 if supports_bf16(device) else Precision.FP32
    if precision == Precision.FP16 and device.type == "cpu":
        raise InputError("--precision: must be fp32 or bf16 on a CPU, got fp16. Leave it out.")
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == Precision.FP32 else str(precision),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=PATIENCE),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
    )
