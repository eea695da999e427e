"""fcas_env prints a line that a shell can evaluate."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fcas_nnunet.commands.env import main
from fcas_nnunet.integration.environment import trainer_lookup
from fcas_nnunet.integration.environment.trainer_lookup import SHIM, shim_folder


@pytest.mark.skipif(os.name == "nt", reason="eval is a POSIX shell's")
@pytest.mark.parametrize("before", [None, "/a folder/trainers"])
def test_a_shell_evaluates_the_line(before: str | None) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "nnUNet_extTrainer"}
    if before is not None:
        environment["nnUNet_extTrainer"] = before
    script = f'eval "$({sys.executable} -m fcas_nnunet.commands.env)"; printf %s "$nnUNet_extTrainer"'
    result = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split(":") == [*([before] if before else []), str(shim_folder())]


def test_install_and_uninstall_say_what_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer_lookup, "installed_shim", lambda: tmp_path / SHIM)
    main(["--install"])
    assert (tmp_path / SHIM).is_file()
    main(["--uninstall"])
    main(["--uninstall"])
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [f"wrote {tmp_path / SHIM}", f"removed {tmp_path / SHIM}"]
    assert "no such file" in out[2]


def test_the_shim_goes_beside_nnunets_own_variants() -> None:
    folder = trainer_lookup.installed_shim().parent
    assert folder.name == "variants"
    assert (folder / "training_length").is_dir()


def test_both_at_once_is_wrong_usage() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--install", "--uninstall"])
