"""What a user can mend has words; what cannot be foreseen has none, and keeps its traceback."""

from __future__ import annotations

import errno
import os
import pickle

import numpy as np
import pytest
import torch

from fcas_nnunet.faults import InputError, MissingFileError, in_words


def os_error(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def raised_for(error: BaseException, cause: BaseException, *, named: bool) -> BaseException:
    """`error`, raised while `cause` was handled, or from it."""
    try:
        try:
            raise cause
        except BaseException as handled:
            if named:
                raise error from handled
            raise error  # noqa: B904
    except BaseException as caught:
        return caught


def test_bad_input_is_a_value_error_and_a_missing_file_both() -> None:
    error = MissingFileError("a.yaml: the file must exist, got none. Check the path.")
    assert isinstance(error, InputError)
    assert isinstance(error, FileNotFoundError)
    assert isinstance(error, ValueError)
    assert in_words(error) == "a.yaml: the file must exist, got none. Check the path."
    copy = pickle.loads(pickle.dumps(error))  # as it comes back from a worker
    assert (type(copy), in_words(copy)) == (MissingFileError, in_words(error))
    assert InputError.exit_code == 2


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "a/b: must be yours to read and to write, got 'Permission denied'. Choose another folder"),
        (errno.EROFS, "a/b: must be yours to read and to write, got 'Read-only file system'"),
        (errno.EISDIR, "a/b: must be a file, got a folder"),
        (errno.ENOTDIR, "a/b: must be a folder or be new, got 'Not a directory'"),
        (errno.EEXIST, "a/b: must be a folder or be new, got 'File exists'"),
        (errno.ENAMETOOLONG, "a/b: must be a path that can be used, got 'File name too long'"),
        (errno.ENOSPC, "a/b: its disk must have room, got 'No space left on device'. Free some"),
        (errno.EDQUOT, "a/b: its disk must have room"),
        (errno.EFBIG, "a/b: its disk must have room"),
        (errno.EMFILE, "open files: as many as this run needs must be allowed"),
        (errno.ENOMEM, "memory: the machine's must hold this run"),
    ],
)
def test_the_operating_system_s_refusals_have_words(number: int, words: str) -> None:
    said = in_words(os_error(number, "a/b"))
    assert said is not None
    assert said.startswith(words)


def test_a_lack_of_memory_is_told_from_other_runtime_errors() -> None:
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, np.uint8)
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(1 << 60, dtype=torch.uint8)
    for error in (numpys.value, torchs.value, MemoryError(), os_error(errno.EAGAIN)):
        assert (in_words(error) or "").startswith("memory: the machine's must hold this run, got "), error
    for text in ("CUDA out of memory. Tried to allocate 20.00 GiB", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"):
        assert (in_words(torch.OutOfMemoryError(text)) or "").startswith(
            f"GPU: its memory must hold this run, got '{text}"
        )
    assert in_words(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


@pytest.mark.parametrize("named", [False, True])
def test_a_full_disk_is_found_behind_the_error_of_a_library(named: bool) -> None:
    behind = raised_for(RuntimeError("unexpected pos 64 vs 0"), os_error(errno.ENOSPC, "model.pt"), named=named)
    assert (in_words(behind) or "").startswith("model.pt: its disk must have room")


@pytest.mark.parametrize(
    "error", [ValueError("invalid literal"), KeyError("a"), OSError("bare"), os_error(errno.ENOENT), TypeError("None")]
)
def test_an_unforeseen_error_has_no_words(error: Exception) -> None:
    assert in_words(error) is None
    assert in_words(raised_for(error, InputError("a: must be b, got c."), named=True)) is None, "not what ended the run"
