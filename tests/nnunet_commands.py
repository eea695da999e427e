"""The commands that fcas_prepare prints, run as printed: stock nnU-Net in processes of its own, at demo size."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.environment.trainer_lookup import all_shim_folders, ext_trainer_value
from fcas_nnunet.integration.preprocessing.prepare import ensure_narrow_plans

NARROW_PLANS = "nnUNetPlansNarrow"
ONE_EPOCH = {"FCAS_DEMO_PRETRAIN_EPOCHS": "1", "FCAS_DEMO_REAL_EPOCHS": "1"}


def needs_torchvision() -> None:
    """Skip where nnU-Net cannot find its trainers."""
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode != 0:
        pytest.skip("torchvision does not import in this environment: run `fcas_doctor --fix` first")


def write_narrow_plans(real: RawDataset) -> None:
    """Plans of nnU-Net's planner, narrowed by hand: fcas_prepare takes them as they are."""
    ensure_narrow_plans(real, NARROW_PLANS, "3d_fullres", features_per_stage=[4, 8, 16], patch_size=[24, 24, 24])


def printed_commands(printed: str) -> list[str]:
    """Pretrain, fine-tune and predict, as fcas_prepare printed them, with the trainers' demo sizes; one fold's."""
    lines = [line for line in printed.split("Ready. Next")[1].splitlines() if line.startswith("nnUNetv2")]
    commands = [re.sub(r"(-tr \w+)", r"\1_demo", line) for line in lines if " -tr " in line]
    return [re.sub(r"(nnUNetTrainerCAL)(__)", r"\1_demo\2", line) for line in commands]


def run(line: str, environment: dict[str, str]) -> str:
    """Run a line of the shell; returns what it printed."""
    program, *arguments = shlex.split(line, comments=True)
    scripts = Path(sys.executable).parent
    result = subprocess.run(
        [str(scripts / program), *arguments], env=environment, capture_output=True, text=True, errors="replace"
    )
    assert result.returncode == 0, f"{line}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    return result.stdout


def shell_environment() -> dict[str, str]:
    """This process' environment and what `eval "$(fcas_env)"` sets, with the demo's trainers besides."""
    line = run("fcas_env", dict(os.environ))
    variable, _, value = shlex.split(line)[1].partition("=")
    return dict(os.environ) | {variable: ext_trainer_value({variable: value}, all_shim_folders())}
