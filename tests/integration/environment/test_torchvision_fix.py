"""The torchvision hook: it mends a torchvision that does not load, leaves one that does alone, and comes off again."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from fcas_nnunet.integration.environment import torchvision_fix, torchvision_hook

# Stands for a CUDA build beside a CPU build of torch: compiled operators that do not load, an import that needs one.
_BROKEN_TORCHVISION = """
import torch
torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "Meta")
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A site-packages folder with nothing in it but a torchvision that does not import."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(_BROKEN_TORCHVISION)
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"not a library")
    return tmp_path


def python(environment: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code where `environment` comes first and counts as site-packages, without any other .pth file (-S)."""
    paths = os.pathsep.join([str(environment), sysconfig.get_path("purelib")])
    command = [sys.executable, "-S", "-c", f"import site; site.addsitedir({str(environment)!r})\n{code}"]
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_hook_mends_and_comes_off_again(environment: Path) -> None:
    before = python(environment, "import torchvision")
    assert "operator torchvision::nms does not exist" in before.stderr

    written = torchvision_fix.install(environment, force=True)
    assert {path.name for path in written} == {"fcas_torchvision_hook.py", "fcas_torchvision_hook.pth"}
    assert torchvision_fix.is_installed(environment)
    mended = python(
        environment,
        "import importlib.util, sys\n"
        "assert importlib.util.find_spec('torchvision') and 'torch' not in sys.modules, 'looking it up must be free'\n"
        "import torch, torchvision\n"
        "try: torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        "except NotImplementedError: print('calling it fails loudly')",
    )
    assert (mended.returncode, mended.stdout) == (0, "calling it fails loudly\n"), mended.stderr
    assert python(environment, "import torchvision", FCAS_TORCHVISION_HOOK="0").returncode != 0

    assert len(torchvision_fix.remove(environment)) == 2
    assert not torchvision_fix.is_installed(environment)
    assert list(environment.glob("fcas*")) == []


def test_installing_twice_writes_once(tmp_path: Path) -> None:
    assert len(torchvision_fix.install(tmp_path, force=True)) == 2
    assert torchvision_fix.install(tmp_path, force=True) == []
    assert len(torchvision_fix.remove(tmp_path)) == 2
    assert torchvision_fix.remove(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_older_hook_is_replaced(tmp_path: Path) -> None:
    module, _ = torchvision_fix.hook_files(tmp_path)
    module.write_text("# an older one")
    torchvision_fix.install(tmp_path, force=True)
    assert module.read_text() == Path(torchvision_hook.__file__).read_text()


def test_outside_a_virtual_environment_it_takes_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    with pytest.raises(ValueError, match="environment to mend must be a virtual one, got the system's Python"):
        torchvision_fix.install(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert torchvision_fix.install(tmp_path, force=True)
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    assert torchvision_fix.in_virtual_environment()


def test_loadable_operators_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defined: list[str] = []
    monkeypatch.setattr(torch.library, "define", lambda name, schema: defined.append(name))
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    assert not torchvision_hook.declare_missing_operators(str(tmp_path))
    assert defined == []


@pytest.mark.parametrize(
    ("torch_version", "expected"),
    [("2.8.0", "0.23"), ("2.10.1+cu130", "0.25"), ("2.13.0+cpu", "0.28"), ("3.0.0", None)],
)
def test_torchvision_released_with_torch(torch_version: str, expected: str | None) -> None:
    assert torchvision_fix.matching_torchvision(torch_version) == expected


def test_another_release_of_torchvision_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"torch": "2.8.0+cpu", "torchvision": "0.28.0"}
    monkeypatch.setattr(torchvision_fix, "version", versions.__getitem__)
    assert torchvision_fix.releases_match() is False
    versions["torchvision"] = "0.23.0+cu128"
    assert torchvision_fix.releases_match() is True
