"""The stages of fcas_demo: every one a command that users type, or a few lines around one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.demo_results import write_picture, write_table
from fcas_nnunet.commands.demo_scale import Names
from fcas_nnunet.commands.painting import paint_dataset
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.environment import preprocessing_processes
from fcas_nnunet.integration.planning import ensure_plans, moved_plans_name, plans_path, shrink_plans
from fcas_nnunet.integration.preprocessing import ensure_fingerprint

CONFIGURATION = "3d_fullres"
DEMO_PLANS = "nnUNetPlansDemo"
BASELINE, PRETRAIN, FINETUNE = "nnUNetTrainer_fcasDemo", "nnUNetTrainerCAL_demo", "nnUNetTrainerCALFinetune_demo"

#: Runs an installed command: (name, *arguments).
Run = Callable[..., None]


@dataclass(frozen=True)
class Stage:
    """One step of the demo.

    Attributes:
        name: shown to the user.
        estimate_s: seconds it takes on two cores at full size.
        run: does it; goes on where it was when killed.
    """

    name: str
    estimate_s: float
    run: Callable[[], None]


def demo_stages(names: Names, run: Run) -> list[Stage]:
    """All stages, in order.

    Args:
        names: folders and sizes.
        run: runs an installed command.
    """
    scale = names.scale
    shape = ["--shape", *map(str, scale.shape)]
    return [
        Stage("phantoms", 25, lambda: _phantoms(names, run, shape)),
        Stage("train the generator", 600, lambda: run("fcas_train", "-d", names.source, "--preset", scale.preset)),
        Stage("generate synthetic scans", 80, lambda: run(
            "fcas_generate", "-d", names.source, "-o", names.synthetic, "-n", scale.num_synthetic,
            "--for", names.real, "--preset", scale.preset)),
        Stage("paint the same masks (the cheap rival)", 3, lambda: _paint(names)),
        Stage("plan and preprocess", 75, lambda: _prepare(names, run)),
        Stage("real-only nnU-Net", 85, lambda: _train_baseline(names, run)),
        Stage("pretrain on painted scans", 80, lambda: _pretrain(names, run, names.painted)),
        Stage("fine-tune from painted", 85, lambda: _finetune(names, run, names.painted)),
        Stage("pretrain on FCaS scans with confidence", 80, lambda: _pretrain(names, run, names.synthetic)),
        Stage("fine-tune from FCaS", 85, lambda: _finetune(names, run, names.synthetic)),
        Stage("score", 60, lambda: _score(names, run)),
    ]  # fmt: skip


def _phantoms(names: Names, run: Run, shape: list[str]) -> None:
    scale = names.scale
    run("fcas_phantom", "-d", names.source, "--name", "PhantomSource", "-n", scale.num_source, *shape, "--seed", 0)
    run(
        "fcas_phantom", "-d", names.real, "--name", "PhantomReal", "-n", scale.num_real, *shape, "--seed", 0,
        "--start", scale.num_source, "--num-test", scale.num_test,
    )  # fmt: skip


def _paint(names: Names) -> None:
    paint_dataset(names.dataset(names.synthetic), f"Dataset{names.painted:03d}_PhantomPainted", seed=0)


def _prepare(names: Names, run: Run) -> None:
    """nnU-Net's plans, narrowed for a CPU under their own name, then both synthetic sets prepared for the real one."""
    scale, real = names.scale, names.dataset(names.real)
    if not plans_path(real, DEMO_PLANS).is_file():
        ensure_fingerprint(real, preprocessing_processes(), keep_existing=True)
        plans = shrink_plans(
            ensure_plans(real, "nnUNetPlans", [CONFIGURATION]), CONFIGURATION, plans_name=DEMO_PLANS,
            features_per_stage=scale.features_per_stage, batch_size=scale.batch_size, patch_size=scale.patch_size,
        )  # fmt: skip
        atomic_write_json(plans_path(real, DEMO_PLANS), plans)
    for dataset_id in (names.synthetic, names.painted):
        run("fcas_prepare", "-d", dataset_id, "--for", names.real, "-c", CONFIGURATION, "-p", DEMO_PLANS)


def _train(run: Run, dataset_id: int, plans: str, trainer: str, *more: object) -> None:
    run("nnUNetv2_train", dataset_id, CONFIGURATION, "all", "-p", plans, "-tr", trainer, "-device", "cpu", *more)


def _results(names: Names, dataset_id: int, plans: str, trainer: str) -> Path:
    dataset = names.dataset(dataset_id)
    results = names.folder / "nnUNet_results" / dataset.name
    return results / f"{trainer}__{plans}__{CONFIGURATION}" / "fold_all"


def _train_baseline(names: Names, run: Run) -> None:
    _train(run, names.real, DEMO_PLANS, BASELINE, *_continue(_results(names, names.real, DEMO_PLANS, BASELINE)))


def _pretrain(names: Names, run: Run, dataset_id: int) -> None:
    plans = moved_plans_name(names.dataset(names.real), DEMO_PLANS)
    _train(run, dataset_id, plans, PRETRAIN, *_continue(_results(names, dataset_id, plans, PRETRAIN)))


def _finetune(names: Names, run: Run, dataset_id: int) -> None:
    """Fine-tune, predict, and put the model aside: the other fine-tuning takes its place."""
    moved = moved_plans_name(names.dataset(names.real), DEMO_PLANS)
    weights = _results(names, dataset_id, moved, PRETRAIN) / "checkpoint_final.pth"
    fold = _results(names, names.real, DEMO_PLANS, FINETUNE)
    kept = names.folder / "models" / str(dataset_id)
    if not kept.is_dir():
        more: tuple[Any, ...] = _continue(fold) or ("-pretrained_weights", weights)
        _train(run, names.real, DEMO_PLANS, FINETUNE, *more)
        kept.parent.mkdir(exist_ok=True)
        fold.parent.rename(kept)


def _continue(fold: Path) -> tuple[str, ...]:
    """nnU-Net's flag to go on, when there is something to go on from."""
    return ("--c",) if (fold / "checkpoint_latest.pth").is_file() else ()


def _score(names: Names, run: Run) -> None:
    """Predict the held-out scans with every model, score, and write table and picture."""
    real = names.dataset(names.real)
    baseline = _results(names, names.real, DEMO_PLANS, BASELINE).parent
    models = {
        "real only": baseline,
        "painted masks, then real": names.folder / "models" / str(names.painted),
        "FCaS, then real": names.folder / "models" / str(names.synthetic),
    }
    scores = {}
    for number, (title, model) in enumerate(models.items()):
        predictions = names.folder / "predictions" / str(number)
        run(
            "nnUNetv2_predict_from_modelfolder", "-i", real.folder / "imagesTs", "-o", predictions, "-m", model,
            "-f", "all", "-device", "cpu", "--disable_tta", "-step_size", 1, "--continue_prediction",
            "-npp", 1, "-nps", 1,
        )  # fmt: skip
        scores[title] = names.folder / f"scores_{number}.json"
        run("fcas_evaluate", "segmentations", "-r", real.folder / "labelsTs", "-p", predictions, "-o", scores[title])
    write_table(
        scores,
        names.folder / "results.txt",
        f"{len(real.case_ids)} real scans, {names.scale.num_synthetic} "
        f"synthetic, {names.scale.num_test} held-out phantoms",
    )
    write_picture(real, names.dataset(names.synthetic), names.folder / "demo.png")
