"""Load checkpoints and pickles of weights and plain values; refuse others before their code can run."""

from __future__ import annotations

import codecs
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.listing import listed


def read_checkpoint(path: Path, needed: Iterable[str] = ("network_weights",)) -> dict[str, Any]:
    """Load an nnU-Net checkpoint with the needed keys to the CPU. nnU-Net itself would run any code in the file.

    Raises:
        MissingFileError: when there is none.
        InputError: when it is truncated, contains anything but weights and plain values, or lacks a key.
    """
    import torch  # not at the top: pickles are read without it

    if not path.is_file():
        raise MissingFileError(f"{path}: checkpoint must exist, got none. Finish the pretraining, or fix the path.")
    try:
        with torch.serialization.safe_globals([(value, name) for name, value in _PLAIN.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader may raise any error for bytes that are no pickle
        raise _refusal(path, "checkpoint must hold weights", error) from error
    if not isinstance(content, dict) or not content.keys() >= set(needed):
        keys = content.keys() if isinstance(content, dict) else [f"a {type(content).__name__}"]
        missing = ", ".join(sorted(set(needed) - set(keys)))
        found = listed(sorted(map(str, keys))) or "nothing"
        raise InputError(f"{path}: checkpoint must hold {missing}, got {found}. Name one of nnU-Net's.")
    return content


def read_pickle(path: Path) -> Any:
    """Load a pickle of numbers, strings, lists, dicts and NumPy arrays.

    Raises:
        InputError: when it is truncated, or contains anything else.
    """
    try:
        with path.open("rb") as stream:
            return PlainUnpickler(stream).load()
    except OSError:
        raise
    except Exception as error:  # the reader may raise any error for bytes that are no pickle
        raise _refusal(path, "file must hold numbers", error) from error


class PlainUnpickler(pickle.Unpickler):
    """Reads plain values and NumPy arrays; an `UnpicklingError` names anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of NumPy's constructors, the only functions that a pickle may call."""
        if (found := _PLAIN.get(f"{module}.{name}")) is None:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        return found


def _refusal(path: Path, rule: str, error: Exception) -> InputError:
    named = re.search(r"(?:GLOBAL|Global|global) ([\w.]+\.[\w.]+)", str(error))
    got = f"code, {named[1]}" if named else "a file that is cut short or of another kind"
    return InputError(f"{path}: {rule} and plain values alone, got {got}. Take it from its source again.")


def _plain_numpy() -> dict[str, Any]:
    """Dotted name → function that restores NumPy's numbers and arrays, under the names of NumPy 1 and 2."""
    functions = {
        "multiarray.scalar": np.float64(0).__reduce__()[0],
        "multiarray._reconstruct": np.zeros(1).__reduce__()[0],
        "numeric._frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    }
    plain: dict[str, Any] = {
        f"{package}.{name}": function
        for name, function in functions.items()
        for package in ("numpy.core", "numpy._core")
    }
    kinds = [kind for name in dir(np.dtypes) if isinstance(kind := getattr(np.dtypes, name), type)]
    plain |= {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (np.dtype, np.ndarray, *kinds)}
    return plain | {"_codecs.encode": codecs.encode}


_PLAIN = _plain_numpy()
