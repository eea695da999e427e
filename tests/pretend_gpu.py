"""A pretend GPU: its tensors hold CPU data, and refuse to meet the CPU's own tensors as a GPU's do.

Registering a device with torch cannot be undone, so it happens in a process of its own (see `test_pretend_gpu`).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import library as operators
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE_TYPE = "pretend"

#: Operators that take tensors of both devices, as CUDA's do.
_COPIES = {"aten::copy_", "aten::_to_copy"}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
#: Registrations, which torch undoes when they are collected.
_registered: list[operators.Library] = []
_TO_PYTHON = {"aten::_local_scalar_dense", "aten::equal"}


class _Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device's module."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class PretendTensor(torch.Tensor):
    """A tensor whose device is the pretend GPU.

    Args:
        held: its values, on the CPU.
    """

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(DEVICE_TYPE, 0),
        )  # fmt: skip
        made.held = held.detach()
        return made

    def __repr__(self) -> str:
        return f"PretendTensor({self.held})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.__reduce_ex__(protocol)  # saved, it is a plain tensor

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees calls that make tensors from nothing, or bring them to the pretend GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operator on the values that are held, as the device that its arguments decide."""
    name = func._schema.name
    _refuse_mixed(name, args, kwargs)
    there = any(isinstance(leaf, PretendTensor) for leaf in tree_leaves((args, kwargs)))
    if name in _COPIES:  # of two devices, the result is the first one's unless `device` says otherwise
        there = isinstance(args[0], PretendTensor)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == DEVICE_TYPE
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name in _TO_PYTHON:
        return result
    if func._schema.is_mutable and args and result is _held(args[0]):  # in place
        return args[0]
    return tree_map(_wrap, result) if there else result


def _refuse_mixed(name: str, args: tuple, kwargs: dict[str, Any]) -> None:
    """CUDA's rules: tensors of one device, but for copies, numbers, and indices that lie on the CPU."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
    here = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.dim() > 0]
    if not there or not here or name in _COPIES:
        return
    if name in _INDEXING and isinstance(args[0], PretendTensor):
        values = args[2:3]  # of index_put
        if all(isinstance(value, PretendTensor) or value.dim() == 0 for value in values):
            return
    raise RuntimeError(
        f"{name}: all tensors must be on one device, got {DEVICE_TYPE} {[tuple(t.shape) for t in there]} and cpu "
        f"{[tuple(t.shape) for t in here]}"
    )


def _held(value: Any) -> Any:
    return value.held if isinstance(value, PretendTensor) else value


def _wrap(value: Any) -> Any:
    return PretendTensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, PretendTensor) else value


def _no_inference_mode(mode: Any = True) -> Any:
    """`torch.inference_mode` for tensors made in Python, which it cannot hold: as `torch.no_grad`."""
    return torch.no_grad()(mode) if callable(mode) else torch.no_grad()


def _tensor_then_moved(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`torch.tensor`, whose `device` no dispatch mode sees."""

    def tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
        made = make(data, **options)
        return made if device is None else made.to(device)

    return tensor


def register() -> None:
    """Make the device known to torch, for good; call it in a process of its own, before what decorates with
    `torch.inference_mode` is imported.
    """
    backend_registration._setup_privateuseone_for_python_backend(DEVICE_TYPE, backend_module=_Backend())
    library = operators.Library("_", "IMPL")
    library.fallback(operators.fallthrough_kernel, "AutocastPrivateUse1")
    _registered.append(library)
    torch.inference_mode = _no_inference_mode  # type: ignore[assignment, misc]


@contextmanager
def pretend_gpu() -> Iterator[torch.device]:
    """While it lasts, `pretend:0` is a device like another."""
    threads = mock.patch("fcas_nnunet.generator.train._threads", return_value=1)  # a mode is its thread's alone
    with mock.patch("torch.tensor", _tensor_then_moved(torch.tensor)), threads, _Mode():
        yield torch.device(DEVICE_TYPE, 0)


def _main(path: Path) -> None:
    """Write how every check of `device_checks` ends, and what the device refuses, as JSON: a traceback, or null."""
    register()
    from device_checks import CHECKS

    torch.set_num_threads(1)
    reports: dict[str, str | None] = {}

    def attempt(name: str, run: Callable[[], Any]) -> None:
        try:
            run()
            reports[name] = None
        except Exception:
            reports[name] = traceback.format_exc()

    with pretend_gpu() as device:
        here, there = torch.ones(3), torch.ones(3).to(device)
        attempt("refused: sum", lambda: here + there)
        attempt("refused: index", lambda: here[there.long()])
        attempt("refused: numpy", there.numpy)
        for name in CHECKS:
            attempt(name, partial(CHECKS[name].run, device))
    path.write_text(json.dumps(reports))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
