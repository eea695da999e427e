"""Every check of `device_checks` on a CUDA device, in full precision and under the autocasts that training uses."""

from __future__ import annotations

import pytest
import torch
from device_checks import CHECKS, fault

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: run it where there is one"),
]
NETWORKS = ("training step", "autoencoder step", "encode and decode")
UNDER_AUTOCAST = [name for name in CHECKS if name.startswith(NETWORKS)]


@pytest.mark.parametrize("name", [*CHECKS])
def test_a_gpu_gives_what_a_cpu_gives(name: str) -> None:
    assert (found := fault(name, torch.device("cuda", 0))) is None, found


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", UNDER_AUTOCAST)
def test_a_gpu_in_lower_precision_stays_near(name: str, precision: torch.dtype) -> None:
    assert (found := fault(name, torch.device("cuda", 0), precision)) is None, found
