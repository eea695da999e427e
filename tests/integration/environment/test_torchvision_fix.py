"""The torchvision hook: it mends a torchvision that does not load, leaves one that does alone, and comes off again."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fcas_nnunet.integration.environment import torchvision_fix

#: Stands for a CUDA build beside a CPU build of torch: the operators do not load, and the import needs them.
_REGISTRATIONS = """
import torch
for operator in ("nms", "qnms"):
    torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::" + operator, "Meta")
"""
#: Stands for one whose operators load: whatever declares them again is refused by torch.
_LOADED = """
import torch
for operator in ("nms", "qnms"):
    torch.library.define("torchvision::" + operator, "(Tensor a, Tensor b, float c) -> Tensor")
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages folder with nothing in it but a torchvision that does not import."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "extension.py").touch()
    (tmp_path / "torchvision" / "__init__.py").write_text("from torchvision import extension, _meta_registrations")
    (tmp_path / "torchvision" / "_meta_registrations.py").write_text(_REGISTRATIONS)
    monkeypatch.setattr(torchvision_fix, "hook_file", lambda: tmp_path / "fcas_torchvision_hook.pth")
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

    assert torchvision_fix.install(force=True) == [torchvision_fix.hook_file()]
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

    assert torchvision_fix.remove() == [torchvision_fix.hook_file()]
    assert list(environment.glob("fcas*")) == []


def test_loadable_operators_are_left_alone(environment: Path) -> None:
    (environment / "torchvision" / "extension.py").write_text(_LOADED)
    torchvision_fix.install(force=True)
    result = python(environment, "import torchvision")
    assert result.returncode == 0, result.stderr


def test_installing_twice_writes_once(environment: Path) -> None:
    assert len(torchvision_fix.install(force=True)) == 1
    assert torchvision_fix.install(force=True) == []
    assert len(torchvision_fix.remove()) == 1
    assert torchvision_fix.remove() == []


def test_an_older_hook_of_two_files_is_replaced_and_removed(environment: Path) -> None:
    module = environment / "fcas_torchvision_hook.py"
    for act in (torchvision_fix.install, torchvision_fix.remove):
        module.write_text("def activate(): raise RuntimeError")
        torchvision_fix.hook_file().write_text("import fcas_torchvision_hook; fcas_torchvision_hook.activate()\n")
        act(**({"force": True} if act is torchvision_fix.install else {}))
        assert not module.exists()
        assert python(environment, "").stderr == ""


def test_outside_a_virtual_environment_it_takes_force(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    with pytest.raises(ValueError, match="environment to mend must be a virtual one, got the system's Python"):
        torchvision_fix.install()
    assert list(environment.glob("fcas*")) == []
    assert torchvision_fix.install(force=True)
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    assert torchvision_fix.in_virtual_environment()


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
