"""Measure the time of nnU-Net's training step and of its data loading, with and without confidence, side by side.

Both trainers take turns, batch by batch, in one process, so that a busy machine slows both alike.

    fcas_prepare -d 902 --for 901 -c 3d_fullres
    python scripts/benchmark_cal.py -d 902 -p nnUNetPlansFrom901 -c 3d_fullres -device cpu
"""

from __future__ import annotations

import argparse
import random
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.plans import read_plans


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="prepared synthetic data set")
    parser.add_argument("-p", required=True, help="its plans")
    parser.add_argument("-c", default="3d_fullres", help="configuration (3d_fullres)")
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=30, help="of each trainer, after 3 to warm up (30)")
    parser.add_argument("--load_only", action="store_true", help="fetch batches and do not train on them")
    arguments = parser.parse_args()
    dataset = RawDataset.open(resolve_dataset(arguments.d), any_kind=True)
    plans = read_plans(dataset, arguments.p) | {"continue_training": False}
    device = torch.device(arguments.device)
    trainers = {}
    for kind in (nnUNetTrainer, nnUNetTrainerCAL):
        trainer = kind(dict(plans), arguments.c, "all", dataset.dataset_json, device)  # type: ignore[arg-type]
        trainer.on_train_start()
        trainers[kind.__name__] = trainer
    times: dict[str, dict[str, list[float]]] = {name: {"load": [], "step": []} for name in trainers}
    for number in range(arguments.steps + 3):
        for name, trainer in trainers.items():
            for what, seconds in one_step(trainer, device, number, arguments.load_only).items():
                if number >= 3:
                    times[name][what].append(seconds)
    for what in ("load",) if arguments.load_only else ("load", "step"):
        native, ours = (median(times[name][what]) for name in trainers)
        ratios = sorted(b / a for a, b in zip(*(times[name][what] for name in trainers), strict=True))
        print(
            f"{what}: nnUNetTrainer {1000 * native:.1f} ms, nnUNetTrainerCAL {1000 * ours:.1f} ms (medians of "
            f"{arguments.steps}); ratio of neighbours {median(ratios):.3f}, middle half "
            f"{ratios[len(ratios) // 4]:.3f}–{ratios[3 * len(ratios) // 4]:.3f}"
        )


def one_step(trainer: Any, device: torch.device, seed: int, load_only: bool) -> dict[str, float]:
    """Seconds for a batch, and for a step on it; equal seeds give both trainers the same batch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    start = time.perf_counter()
    batch = next(trainer.dataloader_train)
    loaded = time.perf_counter()
    if load_only:
        return {"load": loaded - start}
    trainer.train_step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"load": loaded - start, "step": time.perf_counter() - loaded}


if __name__ == "__main__":
    main()
