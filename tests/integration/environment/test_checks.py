"""Each check of fcas_doctor finds what it is there for."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from fcas_nnunet.integration.dataset.folders import Root
from fcas_nnunet.integration.environment import checks as environment
from fcas_nnunet.integration.environment import torchvision_fix
from fcas_nnunet.integration.environment.checks import Status

_Version = namedtuple("_Version", "major minor micro")
_Usage = namedtuple("_Usage", "total used free")


def test_python_must_be_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.check_python().status is Status.OK
    monkeypatch.setattr(sys, "version_info", _Version(3, 9, 1))
    finding = environment.check_python()
    assert (finding.status, finding.message) == (Status.PROBLEM, "must be 3.11 or newer, got 3.9.1")


def test_versions_outside_their_ranges_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"nnunetv2": "2.9.0", "torch": "2.9.1+cu128", "monai": "1.6.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    required = ["nnunetv2<2.9,>=2.8", "torch!=2.9.*,>=2.8", "monai>=1.6", "edt>=2.4", 'pytest>=8; extra == "test"']
    monkeypatch.setattr(environment, "requires", lambda name: required)
    monkeypatch.setattr(environment, "version", version)
    findings = {finding.subject: finding for finding in environment.check_versions()}
    assert set(findings) == {"nnunetv2", "torch", "edt"}
    assert findings["nnunetv2"].message == "must be <2.9,>=2.8, got 2.9.0"
    assert findings["torch"].remedy == 'pip install "torch!=2.9.*,>=2.8"'
    assert findings["edt"].message == "must be >=2.4, got none"


def test_folders_unset_wrong_and_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "file"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "new" / "results"))
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: _Usage(1, 0, 123e9))
    raw, preprocessed, results = environment.check_folders()
    assert (raw.status, raw.remedy.split("=")[0]) == (Status.PROBLEM, "export nnUNet_raw")
    assert (preprocessed.status, preprocessed.message) == (
        Status.PROBLEM,
        f"must be a folder, got the file {tmp_path / 'file'}",
    )
    assert results.status is Status.OK
    assert results.message == f"{tmp_path / 'new' / 'results'} (will be made), 123 GB free"
    assert not (tmp_path / "new").exists()


def test_a_folder_without_write_access_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in map(str, Root):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(environment.os, "access", lambda path, mode: False)  # root may write anywhere
    for finding in environment.check_folders():
        assert finding.message == f"must be writable, got {tmp_path} without write access"


@pytest.mark.parametrize(
    ("free", "status"), [(0.5e9, Status.PROBLEM), (5e9, Status.WARNING), (50e9, Status.OK)], ids=["full", "low", "fine"]
)
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: Status) -> None:
    for variable in map(str, Root):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: _Usage(1, 0, free))
    assert {finding.status for finding in environment.check_folders()} == {status}


def test_a_cpu_without_settings_gets_them_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in environment.cpu_settings():
        monkeypatch.delenv(name, raising=False)
    device, threads = environment.check_device()
    assert (device.status, threads.status) == (Status.WARNING, Status.WARNING)
    assert f"nnUNet_def_n_proc={environment.available_cores()}" in threads.remedy
    assert "OMP_WAIT_POLICY=passive" in threads.remedy
    assert environment.PLANNING_NOTE in threads.remedy
    for name in environment.cpu_settings():
        monkeypatch.setenv(name, "1")
    assert [finding.subject for finding in environment.check_device()] == ["device"]


@pytest.mark.parametrize(
    ("installed", "alone", "hooked", "status", "says"),
    [
        (False, None, None, Status.OK, "imports"),
        (True, None, None, Status.WARNING, "--unfix"),
        (True, "nms does not exist", None, Status.OK, "by the hook"),
        (False, "nms does not exist", "nms does not exist", Status.PROBLEM, "fcas_doctor --fix"),
        (True, "undefined symbol", "undefined symbol", Status.PROBLEM, "undefined symbol"),
    ],
)
def test_torchvision(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    installed: bool,
    alone: str | None,
    hooked: str | None,
    status: Status,
    says: str,
) -> None:
    path = tmp_path / "hook.pth"
    if installed:
        path.touch()
    monkeypatch.setattr(torchvision_fix, "hook_file", lambda: path)
    monkeypatch.setattr(torchvision_fix, "import_error", lambda *, with_hook: hooked if with_hook else alone)
    monkeypatch.setattr(torchvision_fix, "releases_match", lambda: True)
    finding = environment.check_torchvision()
    assert finding.status is status
    assert says in f"{finding.message} {finding.remedy}"


def test_torchvision_of_another_release_is_to_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_fix, "hook_file", lambda: tmp_path / "hook.pth")
    monkeypatch.setattr(torchvision_fix, "import_error", lambda *, with_hook: "undefined symbol")
    monkeypatch.setattr(torchvision_fix, "releases_match", lambda: False)
    monkeypatch.setattr(environment, "version", lambda name: "2.8.0+cpu")
    assert 'pip install "torchvision==0.23.*"' in environment.check_torchvision().remedy


@pytest.mark.parametrize(
    ("code", "message", "status", "says"),
    [
        (0, "", Status.OK, "nnU-Net finds nnUNetTrainerCAL"),
        (1, "RuntimeError: Could not find requested nnunet trainer nnUNetTrainerCAL", Status.PROBLEM, "fcas_env"),
        (1, "ImportError: cannot import name 'x'", Status.PROBLEM, "cannot import name 'x'"),
    ],
)
def test_trainers(monkeypatch: pytest.MonkeyPatch, code: int, message: str, status: Status, says: str) -> None:
    monkeypatch.setattr(
        environment.subprocess, "run", lambda *args, **kwargs: subprocess.CompletedProcess([], code, "", message)
    )
    finding = environment.check_trainers()
    assert finding.status is status
    assert says in f"{finding.message} {finding.remedy}"


def test_stock_nnunet_finds_a_trainer_outside_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not simulated: nnU-Net's own look-up in a process of its own, which imports its whole trainer tree."""
    (tmp_path / "shim.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerCAL(nnUNetTrainer): pass\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    finding = environment.check_trainers()
    if finding.status is not Status.OK and torchvision_fix.import_error(with_hook=True) is not None:
        pytest.skip("torchvision does not import in this environment: run fcas_doctor --fix")
    assert finding.status is Status.OK, finding.message
