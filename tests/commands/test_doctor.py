"""fcas_doctor prints what it finds, reads data sets, and mends torchvision only where that helps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fcas_nnunet.case import Case
from fcas_nnunet.commands import doctor
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json
from fcas_nnunet.integration.environment import torchvision_fix
from fcas_nnunet.integration.environment.checks import Finding, Status
from fcas_nnunet.labels.anatomy import Role

TRAP = "RuntimeError: operator torchvision::nms does not exist"


@pytest.fixture(autouse=True)
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the environment it runs in."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(torchvision_fix, "hook_file", lambda: folder / "fcas_torchvision_hook.pth")
    return folder


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_environment", lambda: iter([Finding(Status.OK, "Python", "3.11")]))


def broken_without_hook(monkeypatch: pytest.MonkeyPatch, *, with_hook_too: bool = False) -> None:
    def import_error(*, with_hook: bool) -> str | None:
        return None if with_hook and torchvision_fix.hook_file().is_file() and not with_hook_too else TRAP

    monkeypatch.setattr(torchvision_fix, "import_error", import_error)
    monkeypatch.setattr(torchvision_fix, "releases_match", lambda: True)
    monkeypatch.setattr(torchvision_fix, "in_virtual_environment", lambda: True)


def test_problems_are_named_with_remedies_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def findings() -> Iterator[Finding]:
        yield Finding(Status.OK, "Python", "3.11")
        yield Finding(Status.WARNING, "device", "no GPU", "Use one.")
        yield Finding(Status.PROBLEM, "nnUNet_raw", "must be set", "export nnUNet_raw=...")

    monkeypatch.setattr(doctor, "check_environment", findings)
    with pytest.raises(SystemExit, match="^1$"):
        doctor.main([])
    assert capsys.readouterr().out.splitlines() == [
        "ok      Python: 3.11",
        "note    device: no GPU",
        "        -> Use one.",
        "PROBLEM nnUNet_raw: must be set",
        "        -> export nnUNet_raw=...",
        "1 problem found.",
    ]


@pytest.mark.usefixtures("sound")
def test_a_sound_environment_exits_0(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.main([])
    assert capsys.readouterr().out.endswith("Nothing stands in the way.\n")


@pytest.mark.usefixtures("sound")
def test_a_data_set_is_read_and_its_faults_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    folder = tmp_path / "Dataset901_Heart"
    mask = np.zeros((6, 7, 8), dtype=np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    for case_id in ("heart_0", "heart_1"):
        write_case(folder, Case(case_id, mask.astype(np.int16)[None], mask, np.eye(4)[:, [2, 1, 0, 3]]))
    write_dataset_json(folder, {"background": 0, "aorta": 1, "vessel": 2, "tree": 3}, 2, roles={"tree": [Role.THIN]})
    doctor.main(["-d", "901"])
    printed = capsys.readouterr().out
    assert "2 cases are sound" in printed
    assert "  thin    tree\n  wide    aorta\n  root    aorta\n  no role vessel\n" in printed
    assert '"fcas_roles" in dataset.json' in printed

    (folder / "imagesTr" / "heart_0_0000.nii.gz").unlink()
    write_case(folder, Case("heart_1", mask.astype(np.int16)[None], mask * 7, np.eye(4)[:, [2, 1, 0, 3]]))
    with pytest.raises(SystemExit, match="^1$"):
        doctor.main(["-d", "Dataset901_Heart"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]
    assert len(lines) >= 2
    assert any("heart_0" in line for line in lines)
    assert any("heart_1" in line and "7" in line for line in lines)
    with pytest.raises(SystemExit, match="^1$"):
        doctor.main(["-d", "999"])
    assert "PROBLEM data set 999" in capsys.readouterr().out


def test_fix_says_what_it_wrote_and_unfix_what_it_removed(
    site_packages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_without_hook(monkeypatch)
    doctor.main(["--fix"])
    printed = capsys.readouterr().out
    assert f"wrote {site_packages / 'fcas_torchvision_hook.pth'}" in printed
    doctor.main(["--fix"])
    assert "The hook was in place already." in capsys.readouterr().out
    doctor.main(["--unfix"])
    assert f"removed {site_packages / 'fcas_torchvision_hook.pth'}" in capsys.readouterr().out
    assert list(site_packages.iterdir()) == []
    doctor.main(["--unfix"])
    assert "There is no hook" in capsys.readouterr().out


def test_fix_writes_nothing_where_torchvision_imports(
    site_packages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torchvision_fix, "import_error", lambda *, with_hook: None)
    doctor.main(["--fix"])
    assert "nothing to mend, nothing written" in capsys.readouterr().out
    assert list(site_packages.iterdir()) == []


def test_a_fix_that_does_not_help_is_taken_back(
    site_packages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_without_hook(monkeypatch, with_hook_too=True)
    with pytest.raises(SystemExit, match="^2$"):
        doctor.main(["--fix"])
    assert "The hook was taken out again" in capsys.readouterr().err
    assert list(site_packages.iterdir()) == []


def test_fix_outside_a_virtual_environment_takes_force(
    site_packages: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_without_hook(monkeypatch)
    monkeypatch.setattr(torchvision_fix, "in_virtual_environment", lambda: False)
    with pytest.raises(SystemExit, match="^2$"):
        doctor.main(["--fix"])
    assert "or add --force" in capsys.readouterr().err
    assert list(site_packages.iterdir()) == []
    doctor.main(["--fix", "--force"])
    assert torchvision_fix.hook_file().is_file()


def test_fix_without_torchvision_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torchvision_fix, "import_error", lambda *, with_hook: "ModuleNotFoundError: torchvision")
    monkeypatch.setattr(torchvision_fix, "releases_match", lambda: None)
    with pytest.raises(SystemExit, match="^2$"):
        doctor.main(["--fix"])
    assert "it and torch must be installed" in capsys.readouterr().err


def test_fix_and_unfix_exclude_each_other() -> None:
    with pytest.raises(SystemExit, match="^2$"):
        doctor.main(["--fix", "--unfix"])
