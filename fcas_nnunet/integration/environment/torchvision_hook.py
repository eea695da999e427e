"""Lets `import torchvision` succeed where torch is a CPU build and torchvision is not.

`fcas_doctor --fix` copies this file into an environment's site-packages as `fcas_torchvision_hook.py`, beside a `.pth`
file that imports it whenever Python starts; `fcas_doctor --unfix` removes both. It stands alone: standard library
only, nothing of this package. Set FCAS_TORCHVISION_HOOK=0 to switch it off for one process.

What is mended: torchvision's compiled operators need CUDA libraries that a CPU build of torch does not bring, so they
do not load, and `import torchvision` stops at "operator torchvision::nms does not exist". nnU-Net imports torchvision
by way of timm and uses none of these operators, yet its trainer look-up fails. Here the two operators that the import
asks for are declared without a kernel: the import succeeds, and calling one of them still fails loudly. Where the
compiled operators load, nothing is changed.
"""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_DISABLING_VARIABLE = "FCAS_TORCHVISION_HOOK"
_NMS_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators(torchvision_folder: str) -> bool:
    """Declare torchvision's `nms` and `qnms` to torch if its compiled operators do not load.

    Args:
        torchvision_folder: the installed package's folder.

    Returns:
        True when something had to be declared.
    """
    import torch

    suffix = ".pyd" if sys.platform == "win32" else ".so"
    try:
        torch.ops.load_library(os.path.join(torchvision_folder, "_C" + suffix))
        return False
    except OSError:
        missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    for name in missing:
        torch.library.define(f"torchvision::{name}", _NMS_SCHEMA)
    return bool(missing)


class TorchvisionFinder:
    """A meta path finder for `torchvision` alone: what the path finder finds, mended just before it is executed.

    Looking torchvision up without importing it (as availability checks do) costs and changes nothing.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if fullname != "torchvision":
            return None
        spec = PathFinder.find_spec(fullname)
        if spec is None or spec.loader is None or not spec.submodule_search_locations:
            return None
        loader, folder = spec.loader, spec.submodule_search_locations[0]
        execute = loader.exec_module

        def mend_and_execute(module: ModuleType) -> None:
            declare_missing_operators(folder)
            execute(module)

        loader.exec_module = mend_and_execute  # type: ignore[method-assign]
        return spec


def activate() -> None:
    """Put the finder in front of Python's own, once, unless it is switched off or torchvision is already imported."""
    if os.environ.get(_DISABLING_VARIABLE) == "0" or "torchvision" in sys.modules:
        return
    if not any(type(finder).__name__ == TorchvisionFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())
