"""Train the networks that fcas_demo compares, each on the same labelled scans for the same number of iterations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fcas_nnunet.commands.demo.scale import (
    ITERATIONS_PER_EPOCH,
    PRETRAIN_EPOCHS_VARIABLE,
    REAL_EPOCHS_VARIABLE,
    SEED_VARIABLE,
    Names,
)
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT, LATEST_CHECKPOINT, Root
from fcas_nnunet.integration.preprocessing.plans import moved_plans_name
from fcas_nnunet.machine import available_cores

CONFIGURATION = "3d_fullres"
DEMO_PLANS = "nnUNetPlansDemo"
BASELINE, PRETRAIN, FINETUNE = "nnUNetTrainer_fcasDemo", "nnUNetTrainerCAL_demo", "nnUNetTrainerCALFinetune_demo"
SEED = 0
#: Ends the line that nnU-Net prints of every epoch.
_EPOCH_LINE = "Epoch time:"
_LINES_OF_A_FAILURE = 20


@dataclass(frozen=True)
class Arm:
    """One way to train a network: on the real scans alone, or after pretraining on the data set `pretrained_on`."""

    names: Names
    title: str
    pretrained_on: int | None

    @property
    def key(self) -> str:
        """Name of its folder."""
        return "real" if self.pretrained_on is None else str(self.pretrained_on)

    @property
    def folder(self) -> Path:
        """Folder of its models, predictions and log."""
        return self.names.folder / "arms" / self.key

    @property
    def predictions(self) -> Path:
        """Folder of its network's segmentations of the held-out scans."""
        return self.folder / "predictions"

    @property
    def facts(self) -> dict[str, int]:
        """Numbers of scans and iterations that its network has seen, for the head of the table."""
        scale = self.names.scale
        pretraining = 0 if self.pretrained_on is None else scale.pretrain_epochs
        epochs = {"synthetic": pretraining, "real": scale.total_epochs - pretraining, "all": scale.total_epochs}
        return {
            "labelled scans seen": scale.num_real,
            "synthetic scans seen": 0 if self.pretrained_on is None else scale.num_synthetic,
            **{f"iterations, {name}": ITERATIONS_PER_EPOCH * number for name, number in epochs.items()},
        }


def demo_arms(names: Names) -> list[Arm]:
    """Return all arms; the others are compared with the first."""
    return [
        Arm(names, "real only", None),
        Arm(names, "warped, real", names.warped),
        Arm(names, "painted, real", names.painted),
        Arm(names, "FCaS, real", names.synthetic),
    ]


def train_arms(names: Names) -> None:
    """Train every arm's network and predict the held-out scans with it; as many arms run at once as there are cores.

    Each takes one thread if there are no more cores than networks: threads of one network that wait for each other
    beside other work take many times as long. An InputError contains the end of the log of a command that failed.
    """
    arms = demo_arms(names)
    cores = available_cores()
    at_once = min(cores, len(arms))
    done = sum(_epochs_in(arm.folder / "log.txt") for arm in arms)
    total = len(arms) * names.scale.total_epochs
    with (
        tqdm(total=total, initial=min(done, total), desc="four networks", unit="epoch") as progress,
        ThreadPoolExecutor(at_once) as pool,
    ):
        jobs = [pool.submit(_train_arm, arm, cores // at_once, progress) for arm in arms]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _train_arm(arm: Arm, threads: int, progress: tqdm[Any]) -> None:
    """Pretrain if the arm has a data set for it, train on the real scans, predict; each step resumes."""
    names, folder, scale = arm.names, arm.folder, arm.names.scale
    results = folder / Root.RESULTS
    results.mkdir(parents=True, exist_ok=True)
    variables = {
        Root.RESULTS.value: str(results),
        "OMP_NUM_THREADS": str(threads),
        SEED_VARIABLE: str(SEED),
        PRETRAIN_EPOCHS_VARIABLE: str(scale.pretrain_epochs),
        REAL_EPOCHS_VARIABLE: str(scale.total_epochs if arm.pretrained_on is None else scale.real_epochs),
    }
    real = names.dataset(names.real)

    def run(*line: object) -> None:
        _run_logged(line, variables, folder / "log.txt", progress)

    def train(dataset_id: int, plans: str, trainer: str, *more: object) -> Path:
        """Run one training; returns the model's folder."""
        model = model_folder(results, names.dataset(dataset_id).name, plans, trainer)
        if (line := training_line(model, dataset_id, plans, trainer, "cpu", *more)) is not None:
            run(*line)
        return model

    if arm.pretrained_on is None:
        model = train(names.real, DEMO_PLANS, BASELINE)
    else:
        pretrained = train(arm.pretrained_on, moved_plans_name(real.dataset_id, DEMO_PLANS), PRETRAIN)
        weights = pretrained / "fold_all" / FINAL_CHECKPOINT
        model = train(names.real, DEMO_PLANS, FINETUNE, "-pretrained_weights", weights)
    run(
        "nnUNetv2_predict_from_modelfolder", "-i", real.folder / "imagesTs", "-o", arm.predictions,
        "-m", model, "-f", "all", "-device", "cpu", "--disable_tta", "-step_size", 1, "--continue_prediction",
        "-npp", 1, "-nps", 1,
    )  # fmt: skip


def model_folder(results: Path, dataset: str, plans: str, trainer: str) -> Path:
    """The folder that nnU-Net gives a trained model."""
    return results / dataset / f"{trainer}__{plans}__{CONFIGURATION}"


def training_line(
    model: Path, dataset: object, plans: str, trainer: str, device: str, *start: object, fold: str = "all"
) -> list[object] | None:
    """nnU-Net's command that begins a training, with the flags `start`, or goes on with it; None if it has ended."""
    folder = model / f"fold_{fold}"
    if (folder / FINAL_CHECKPOINT).is_file():
        return None
    flags = ("--c",) if (folder / LATEST_CHECKPOINT).is_file() else start
    return ["nnUNetv2_train", dataset, CONFIGURATION, fold, "-p", plans, "-tr", trainer, "-device", device, *flags]


def _run_logged(line: Sequence[object], variables: dict[str, str], log: Path, progress: tqdm[Any]) -> None:
    """Run an installed command with its output in a log; every epoch advances the bar."""
    name, *arguments = map(str, line)
    environment = {**os.environ, **variables, "PYTHONUNBUFFERED": "1"}
    with (
        log.open("a", encoding="utf-8") as stream,
        subprocess.Popen(
            [str(Path(sys.executable).with_name(name)), *arguments], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None, "Popen got stdout=PIPE"
        for printed in process.stdout:
            stream.write(printed)
            stream.flush()
            if _EPOCH_LINE in printed:
                progress.update()
    if process.returncode != 0:
        end = "\n".join(log.read_text(encoding="utf-8").splitlines()[-_LINES_OF_A_FAILURE:])
        raise InputError(f"{name}: must succeed, got exit code {process.returncode}. The end of {log}:\n{end}")


def _epochs_in(log: Path) -> int:
    return log.read_text(encoding="utf-8").count(_EPOCH_LINE) if log.is_file() else 0
