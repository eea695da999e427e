"""The stages of fcas_demo: each runs a command that users type, or a few lines around one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fcas_nnunet.commands.demo.arms import CONFIGURATION, DEMO_PLANS, demo_arms, train_arms
from fcas_nnunet.commands.demo.results import Column, write_picture, write_table
from fcas_nnunet.commands.demo.scale import Names
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.environment.checks import preprocessing_processes
from fcas_nnunet.integration.preprocessing.prepare import ensure_narrow_plans


@dataclass(frozen=True)
class Stage:
    """One step of the demo, with the seconds that it takes on two cores at full size; it resumes if it was killed."""

    name: str
    estimate_s: float
    run: Callable[[], None]


def demo_stages(names: Names) -> list[Stage]:
    """Return all stages in order."""
    scale = names.scale
    phantoms = ("--name", "Phantoms", "-n", scale.num_real, "--num-test", scale.num_test, "--shape", *scale.shape)
    preset = ("--preset", scale.preset)
    masks = ("fcas_generate", "-d", names.real, "-n", scale.num_synthetic, *preset)
    return [
        Stage("phantoms", 25, partial(run, "fcas_phantom", "-d", names.real, *phantoms, "--seed", 0)),
        Stage("train the generator", 600, partial(run, "fcas_train", "-d", names.real, *preset)),
        Stage("generate synthetic scans", 105, partial(run, *masks, "-o", names.synthetic)),
        Stage("warp the real scans to the same masks", 8, partial(
            run, *masks, "-o", f"Dataset{names.warped}_PhantomsWarped", "--source", "warped")),
        Stage("paint the same masks", 8, partial(
            run, *masks, "-o", f"Dataset{names.painted}_PhantomsPainted", "--source", "painted")),
        Stage("plan and preprocess", 110, partial(_prepare, names)),
        Stage("train and predict with four networks", 500, partial(train_arms, names)),
        Stage("score", 30, partial(_score, names)),
    ]  # fmt: skip


def run(name: str, *arguments: object) -> None:
    """Run an installed command with its output in the terminal; an InputError reports a failure."""
    executable = Path(sys.executable).with_name(name)
    finished = subprocess.run([str(executable), *map(str, arguments)], check=False)
    if finished.returncode != 0:
        raise InputError(f"{name}: must succeed, got exit code {finished.returncode}. Its own message is above.")


def _prepare(names: Names) -> None:
    """Make nnU-Net's plans, narrowed for a CPU under their own name, and prepare every other set for the real one."""
    scale, real = names.scale, names.dataset(names.real)
    ensure_narrow_plans(
        real, DEMO_PLANS, CONFIGURATION, features_per_stage=scale.features_per_stage, patch_size=scale.patch_size,
        batch_size=scale.batch_size, num_processes=preprocessing_processes(),
    )  # fmt: skip
    for dataset_id in (names.synthetic, names.warped, names.painted):
        run("fcas_prepare", "-d", dataset_id, "--for", names.real, "-c", CONFIGURATION, "-p", DEMO_PLANS)


def _score(names: Names) -> None:
    """Score the held-out scans' segmentations, and write table and picture."""
    real = names.dataset(names.real)
    columns = []
    for arm in demo_arms(names):
        scores = names.folder / f"scores_{arm.key}.json"
        run("fcas_evaluate", "segmentations", "-r", real.folder / "labelsTs", "-p", arm.predictions, "-o", scores)
        columns.append(Column(arm.title, arm.facts, scores))
    write_table(columns, names.folder / "results.txt", names.scale.num_test)
    write_picture(real, names.dataset(names.synthetic), names.folder / "demo.png")
