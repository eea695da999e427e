"""Measure the phantom's difficulty: train stock nnU-Net on a few patients, test it on others, print Dice per class.

Only stock commands run: nnUNetv2_plan_and_preprocess, nnUNetv2_train, nnUNetv2_predict. The network is narrowed in a
copy of the plans so that a CPU trains it in minutes. If it is killed, the same command resumes.

    python scripts/measure_phantom_difficulty.py --work /tmp/phantom_difficulty
    python scripts/measure_phantom_difficulty.py --work /tmp/phantom_difficulty --trainer nnUNetTrainer_5epochs

On a CPU build of torch the trainers besides the plain one are found after `fcas_doctor --fix`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from fcas_nnunet.integration.dataset.folders import (
    FINAL_CHECKPOINT,
    LATEST_CHECKPOINT,
    Root,
    resolve_dataset,
    root_folder,
)
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.prepare import ensure_narrow_plans

_NAME, _CONFIGURATION = "Dataset991_PhantomDifficulty", "3d_fullres"
_BIN = Path(sys.executable).parent


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for data, models, predictions")
    parser.add_argument("--train", type=int, default=6, help="labelled patients (6)")
    parser.add_argument("--test", type=int, default=6, help="held-out patients (6)")
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 64, 64], help="voxels (64 64 64)")
    parser.add_argument("--seed", type=int, default=0, help="population (0)")
    parser.add_argument("--trainer", default="nnUNetTrainer_1epoch", help="250 iterations an epoch (…_1epoch)")
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32, 64], help="width per stage")
    parser.add_argument("--patch", type=int, nargs=3, default=[48, 48, 48], help="patch size (48 48 48)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    started = time.monotonic()
    _set_environment(arguments.work, arguments.threads)
    _run("fcas_phantom", "-d", _NAME, "-n", arguments.train, "--num-test", arguments.test, "--seed", arguments.seed,
         "--shape", *arguments.shape, "-np", 2)  # fmt: skip
    plans = _plan(arguments.features, arguments.patch)
    predictions = arguments.work / "predictions" / f"{arguments.trainer}__{plans}"
    _train(plans, arguments.trainer, arguments.device)
    raw = root_folder(Root.RAW) / _NAME
    if not (predictions / "predict_from_raw_data_args.json").is_file() or len(list(predictions.glob("*.nii.gz"))) < len(
        list((raw / "labelsTs").glob("*.nii.gz"))
    ):
        _run("nnUNetv2_predict", "-d", _NAME, "-i", raw / "imagesTs", "-o", predictions, "-c", _CONFIGURATION, "-f",
             "all", "-p", plans, "-tr", arguments.trainer, "-device", arguments.device, "--disable_tta", "-npp", 1,
             "-nps", 1, "--continue_prediction")  # fmt: skip
    _run("fcas_evaluate", "segmentations", "-r", raw / "labelsTs", "-p", predictions)
    print(f"{time.monotonic() - started:.0f} s in this call")


def _set_environment(work: Path, threads: int) -> None:
    """Set nnU-Net's folders and its settings for a CPU."""
    folders = {Root.RAW: "raw", Root.PREPROCESSED: "preprocessed", Root.RESULTS: "results"}
    for variable, name in folders.items():
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str((work / name).resolve())
    os.environ |= {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "2", "OMP_NUM_THREADS": str(threads)}


def _plan(features: list[int], patch: list[int]) -> str:
    """Plan and preprocess, then narrow the network; returns the name of the narrow plans."""
    folder = root_folder(Root.PREPROCESSED) / _NAME
    name = f"nnUNetPlans_f{'-'.join(map(str, features))}_p{'-'.join(map(str, patch))}"
    if not (folder / "preprocessed").is_file():
        # nnU-Net's planner does not run with nnUNet_n_proc_DA=0
        _run("nnUNetv2_plan_and_preprocess", "-d", "991", "-c", _CONFIGURATION, "-np", 2, nnUNet_n_proc_DA="2")
        (folder / "preprocessed").touch()
    real = RawDataset.open(resolve_dataset(_NAME))
    ensure_narrow_plans(real, name, _CONFIGURATION, features_per_stage=features, patch_size=patch, batch_size=2)
    return name


def _train(plans: str, trainer: str, device: str) -> None:
    """Train on every training case; resume from a checkpoint if there is one."""
    output = root_folder(Root.RESULTS) / _NAME / f"{trainer}__{plans}__{_CONFIGURATION}" / "fold_all"
    if (output / FINAL_CHECKPOINT).is_file():
        return
    resume = ["--c"] if (output / LATEST_CHECKPOINT).is_file() else []
    _run("nnUNetv2_train", _NAME, _CONFIGURATION, "all", "-p", plans, "-tr", trainer, "-device", device, *resume)


def _run(program: str, *arguments: object, **environment: str) -> None:
    """Run a command of this environment; its failure ends the measurement."""
    command = [str(_BIN / program), *map(str, arguments)]
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True, env=os.environ | environment)


if __name__ == "__main__":
    main()
