"""Count operations and live memory on fake tensors, as a GPU's autocast would have them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def flop_counter() -> FlopCounterMode:
    """Extend torch's counter by the CPU's attention, which it does not know."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    return FlopCounterMode(display=False, custom_mapping={attention: flops})


class LiveTensors(TorchDispatchMode):
    """Bytes of all tensors that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.add, output)
        return output

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Cost:
    """Operations of a call, and the most memory that tensors take while it runs, those it works on included."""

    tflop: float
    gigabytes: float


def cost(prepare: Callable[[torch.device], Callable[[], object]], *, gradients: bool) -> Cost:
    """Count the second call of what `prepare` gives, after the first has made the state that stays.

    bf16 autocast, with CUDA's rule that group norms compute and return float32. Workspaces of kernels and the
    allocator's rounding are not counted.
    """
    stays = mock.patch.object(nn.Module, "to", lambda module, _: module)  # fake tensors do not move
    with FakeTensorMode(allow_non_fake_inputs=True), LiveTensors() as live, cuda_norms(), stays, known_bins():
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
            call = prepare(torch.device("cpu"))
            if gradients:
                call()
            live.peak = live.now
            with flop_counter() as counter:
                call()
    return Cost(counter.get_total_flops() / 1e12, live.peak / 1e9)


@contextmanager
def known_bins() -> Iterator[None]:
    """Histograms of as many bins as are asked for at least, since fake tensors do not tell their largest value."""

    def bincount(values: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
        return (values if weights is None else weights).new_zeros(minlength)

    with mock.patch.object(torch, "bincount", bincount):
        yield


@contextmanager
def cuda_norms() -> Iterator[None]:
    """Group norms in float32, as under CUDA's autocast."""
    plain = F.group_norm

    def group_norm(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return plain(x.float(), *args, **kwargs)

    with mock.patch.object(F, "group_norm", group_norm):
        yield
