"""Full disks, files without rights, variables that are no numbers, folders that are gone: a sentence each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_lines import LINES
from fault_surroundings import FOLDERS, FULL, MEMORY, NO_FOLDERS, NO_NUMBERS, NUMBERS, RIGHTS, SLURM, TO_FILE
from fault_world import World, judge, run, write

resource = pytest.importorskip("resource", reason="limits of a process are POSIX")


def lines(names: str) -> list[object]:
    return [pytest.param(LINES[name], id=name) for name in names.split()]


@pytest.mark.parametrize("value", NO_FOLDERS)
@pytest.mark.parametrize(
    ("variable", "line"), [pytest.param(variable, LINES[name], id=f"{variable}-{name}")
                           for variable, names in FOLDERS.items() for name in names.split()]
)  # fmt: skip
def test_a_folder_of_nnunet_that_is_none(
    variable: str, line: str, value: str, world: World, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(variable, str(world.folder / value) if value else "")
    line = line.replace("-np 1", "") if line.startswith("prepare") else line
    judge(run(line, world.folder, capsys), variable)


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize(
    ("variable", "line"), [pytest.param(variable, LINES[name], id=f"{variable}-{name}")
                           for variable, names in NUMBERS for name in names.split()]
)  # fmt: skip
def test_a_variable_that_is_no_number(
    variable: str, line: str, value: str, world: World, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, sound in SLURM.items() if variable.startswith("SLURM") else ():
        monkeypatch.setenv(name, sound)
    if variable in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(variable, value)
    judge(run(line.replace("-np 1", ""), world.folder, capsys), variable)


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """No file may grow beyond this size: the operating system refuses each longer write, as where a disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("name", "most_bytes"), FULL)
def test_a_full_disk(name: str, most_bytes: int, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk(most_bytes):
        outcome = run(LINES[name] + (" -o c.json" if name in TO_FILE else ""), world.folder, capsys)
    judge(outcome, "its disk must have room, got", keeps=True)


@contextmanager
def without_rights(path: Path, mode: int) -> Iterator[None]:
    """Take rights to a file or folder away, from root too: it gives up the capability to ignore them meanwhile."""
    if path.is_file() and path.stat().st_nlink > 1:  # the base's
        write(path, path.read_bytes())
    path.chmod(mode)
    with _obeying_modes():
        yield


@contextmanager
def _obeying_modes() -> Iterator[None]:
    import ctypes

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    class Data(ctypes.Structure):
        _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]

    library = ctypes.CDLL(None, use_errno=True)
    header, data = Header(0x20080522, 0), (Data * 2)()
    assert library.capget(ctypes.byref(header), data) == 0
    effective = data[0].effective
    data[0].effective = effective & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert library.capset(ctypes.byref(header), data) == 0
    try:
        yield
    finally:
        data[0].effective = effective
        assert library.capset(ctypes.byref(header), data) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="gives up root's capabilities by a system call of Linux")
@pytest.mark.parametrize(
    ("path", "mode", "line"), [pytest.param(path, mode, LINES[name], id=f"{mode:o}-{Path(path).name}-{name}")
                               for path, mode, names in RIGHTS for name in names.split()]
)  # fmt: skip
def test_without_rights(path: str, mode: int, line: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    written = [LINES[name] for name in TO_FILE]
    with without_rights(world.folder / path, mode):
        outcome = run(line + (" -o c.json" if path == "." and line in written else ""), world.folder, capsys)
    (world.folder / path).chmod(0o755)
    named = "" if path == "." else Path(path).name.partition(".")[0].removesuffix("_0000")
    judge(outcome, f"{named}.*(must|rights)", keeps=line.startswith(("convert", "merge")))


def test_a_working_directory_that_is_gone(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    gone = world.folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        for line in LINES.values():
            judge(run(line, world.folder, capsys), "working directory: must exist")
    finally:
        os.chdir(world.folder)


#: What a machine without memory makes libraries raise, where it happens.
def _no_memory(*_: object, **__: object) -> None:
    raise MemoryError("Unable to allocate 355. GiB for an array")


def _no_torch_memory(*_: object, **__: object) -> None:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("failure", [_no_memory, _no_torch_memory])
@pytest.mark.parametrize("line", lines(MEMORY))
def test_no_memory(
    line: str, failure: Callable[..., None], world: World, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("fcas_nnunet.integration.dataset.volumes._affine_of", failure)
    judge(run(line, world.folder, capsys), "memory: the machine's must hold this run", keeps=True)
