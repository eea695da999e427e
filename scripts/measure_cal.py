"""Compare confidence maps by their effect on CAL: pretrain nnU-Net on the same synthetic scans under different maps.

Every drawing is made once; the maps are all that differs between the data sets. For every map and seed nnU-Net is
pretrained with CAL, then fine-tuned on the real scans; both networks segment the held-out real scans. Batches and
initial weights depend on the seed alone, so that maps are compared in pairs. If it is killed, the same command resumes.

    fcas_phantom -d 901 --name PhantomSource -n 16 --shape 64 64 64
    fcas_phantom -d 900 --name PhantomReal -n 6 --num-test 6 --start 16 --shape 64 64 64
    fcas_train -d 901 --preset cpu
    python scripts/measure_cal.py -d 901 --real 900 -o cal
    python scripts/measure_cal.py -d 901 --real 900 -o oracle --known_scans \\
        --arms uniform shuffled error_model oracle oracle_shuffled

The last one asks how much any map could give: `oracle` weighs by the true error of every voxel.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from fcas_nnunet.case import Case
from fcas_nnunet.commands.demo.arms import CONFIGURATION, DEMO_PLANS, FINETUNE, PRETRAIN
from fcas_nnunet.commands.demo.scale import PRETRAIN_EPOCHS_VARIABLE, REAL_EPOCHS_VARIABLE, SCALES, DemoSize
from fcas_nnunet.commands.evaluate.segmentations import evaluate_segmentations
from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.commands.runtime.case_files import case_files
from fcas_nnunet.commands.train import model_folder
from fcas_nnunet.config.options import ConfidenceChoice, ReferenceSource
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.generator.calibrate import new_shape
from fcas_nnunet.generator.checkpoint import Generator, load_generator
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.data.variants import new_shape_of
from fcas_nnunet.generator.drawing import draw_on_grid, drawing_confidence, guide
from fcas_nnunet.generator.generate import reference_mask
from fcas_nnunet.generator.plan import plan_cases
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT, Root, resolve_dataset, root_folder
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.environment.trainer_lookup import all_shim_folders, ext_trainer_value
from fcas_nnunet.integration.models.trained_models import open_predictor
from fcas_nnunet.integration.preprocessing.plans import moved_plans_name, preprocessed_folder
from fcas_nnunet.integration.preprocessing.prepare import ensure_narrow_plans
from fcas_nnunet.labels.anatomy import label_roles
from fcas_nnunet.labels.contrast import matched_error
from fcas_nnunet.labels.matching import id_table, match_labels
from fcas_nnunet.seeds import derive_seed

FIRST_ID = 950
PREFIX = "CalMap"
MapMaker = Callable[[dict[str, np.ndarray], np.ndarray, np.random.Generator], np.ndarray]


def _shuffled(name: str) -> MapMaker:
    """A map's values, shuffled inside the structures and outside: the same weights on either side."""

    def make(maps: dict[str, np.ndarray], mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        result = maps[name].copy()
        for where in (mask > 0, mask == 0):
            result[where] = rng.permutation(result[where])
        return result

    return make


ORACLE = "oracle"
ARMS: dict[str, MapMaker] = {
    "uniform": lambda maps, mask, rng: np.ones(mask.shape, np.float32),
    "shuffled": _shuffled("error_model"),
    "foreground": lambda maps, mask, rng: (mask > 0).astype(np.float32),
    "ssv": lambda maps, mask, rng: maps["ssv"],
    "error_model": lambda maps, mask, rng: maps["error_model"],
    "error_model_one_scale": lambda maps, mask, rng: maps["error_model_one_scale"],
}
#: Only for drawings whose real scans are known.
ORACLE_ARMS: dict[str, MapMaker] = {
    ORACLE: lambda maps, mask, rng: maps[ORACLE],
    "oracle_shuffled": _shuffled(ORACLE),
}


def main() -> None:
    """Run the experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True, help="data set of the calibrated generator")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--real", required=True, help="labelled scans to fine-tune on, held-out ones in imagesTs")
    parser.add_argument("-n", type=int, default=12, help="synthetic scans (12)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings of each map (0 1 2)")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *ORACLE_ARMS], default=list(ARMS))
    parser.add_argument("--known_scans", action="store_true", help="draw real scans in new shapes instead of new masks")
    parser.add_argument("--epochs", type=int, nargs=2, default=[6, 7], help="of pretraining and fine-tuning (6 7)")
    parser.add_argument("-o", type=Path, required=True, help="folder for results.jsonl and the predictions")
    parser.add_argument(
        "--also", type=Path, nargs="+", default=[], help="folders of other seeds, to report on together"
    )
    args = parser.parse_args()
    if set(args.arms) & set(ORACLE_ARMS) and not args.known_scans:
        parser.error(f"{', '.join(ORACLE_ARMS)}: the true errors must be known, got masks alone. Add --known_scans.")
    args.o.mkdir(parents=True, exist_ok=True)
    os.environ.update({
        "nnUNet_extTrainer": ext_trainer_value(folders=all_shim_folders()), "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1", PRETRAIN_EPOCHS_VARIABLE: str(args.epochs[0]),
        REAL_EPOCHS_VARIABLE: str(args.epochs[1]),
    })  # fmt: skip
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    source, real = (RawDataset.open(resolve_dataset(name)) for name in (args.d, args.real))
    scale = SCALES[DemoSize.FULL]
    ensure_narrow_plans(
        real, DEMO_PLANS, CONFIGURATION, features_per_stage=scale.features_per_stage, patch_size=scale.patch_size,
        batch_size=scale.batch_size,
    )  # fmt: skip
    datasets = write_maps(source, real, args)
    for arm, dataset in datasets.items():
        if not (preprocessed_folder(dataset) / "splits_final.json").is_file():
            prepare(dataset.name, real.name, [CONFIGURATION], DEMO_PLANS, 1)
            logging.info(f"{arm}: prepared")
    results = args.o / "results.jsonl"
    done = {(r["arm"], r["seed"]) for r in read(results)}
    for seed in args.seeds:
        for arm in args.arms:
            if (arm, seed) not in done:
                start = time.monotonic()
                record = {"arm": arm, "seed": seed, **run_arm(datasets[arm], real, seed, args.o)}
                with results.open("a") as stream:
                    stream.write(json.dumps(record | {"seconds": round(time.monotonic() - start)}) + "\n")
                logging.info(f"{arm}, seed {seed}: Dice {summary(record)}")
    report([record for folder in (args.o, *args.also) for record in read(folder / results.name)])


def write_maps(source: RawDataset, real: RawDataset, args: argparse.Namespace) -> dict[str, RawDataset]:
    """One data set per map, of the same drawings."""
    first, prefix = (FIRST_ID + len(ARMS), f"{PREFIX}Known") if args.known_scans else (FIRST_ID, PREFIX)
    arms = ARMS | ORACLE_ARMS if args.known_scans else ARMS
    folders = {arm: root_folder(Root.RAW) / f"Dataset{first + i}_{prefix}{arm}" for i, arm in enumerate(arms)}
    if any(not (folder / "dataset.json").is_file() for folder in folders.values()):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        generator = load_generator(model_folder(source, preset(args.preset)), device)
        templates = [c for c in source.case_ids if c not in generator.record.validation_cases]
        lookup = id_table(match_labels(source.labels, real.labels))
        for plan in plan_cases(args.n, source.case_ids, templates, ReferenceSource.MGM, seed=0):
            given = source.load_case(plan.reference)
            if args.known_scans:
                masks, seed = generator.record.config.masks, derive_seed(plan.seed, "shape")
                case = new_shape(given, generator.record, new_shape_of(given.mask, given.spacing_mm, masks, seed))
            else:
                roles = label_roles(generator.record.labels, generator.record.roles)
                mask, _ = reference_mask(plan, given, generator.record.config.masks, roles)
                case = Case(plan.case_id, None, mask, given.affine)
            case, mask = replace(case, case_id=plan.case_id), case.mask
            template = source.load_case(plan.template)
            image, maps = drawn(generator, case, template, derive_seed(plan.seed, "noise"))
            for arm, make in arms.items():
                confidence = make(maps, mask, np.random.default_rng(derive_seed(plan.seed, "shuffle")))
                write_case(folders[arm], Case(plan.case_id, image, lookup[mask], case.affine, confidence=confidence))
            inside = {arm: float(values[mask > 0].mean()) for arm, values in maps.items()}
            outside = {arm: float(values[mask == 0].mean()) for arm, values in maps.items()}
            logging.info(f"{plan.case_id}: mean inside {inside}, outside {outside}")
        for folder in folders.values():
            write_dataset_json(folder, real.labels, args.n, description="One of several maps for the same drawings.")
    return {arm: RawDataset.open(folder) for arm, folder in folders.items() if arm in args.arms}


def drawn(generator: Generator, case: Case, template: Case, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A scan in HU and its confidence maps, on the case's grid; the oracle's among them, where the case has a scan."""
    config = generator.record.config.confidence
    ssv = config.chosen(ConfidenceChoice.SSV)
    device = next(generator.tcdm.parameters()).device
    reference = Case(case.case_id, None, case.mask, case.affine)
    guided = guide(generator.record, case, template)
    drawing = draw_on_grid(generator, reference, guided, seed, device, torch.float32, ssv.for_generator(True))
    own = config.chosen(ConfidenceChoice.ERROR_MODEL)
    choices = {"ssv": ssv, "error_model": own, "error_model_one_scale": replace(own, own_scale_outside=False)}
    maps = {}
    for name, choice in choices.items():
        confidence, _ = drawing_confidence(generator, drawing, choice.for_generator(True))
        maps[name] = drawing.grid.confidence_to_native(torch.from_numpy(confidence))
    low, high = generator.record.config.grid.intensity_range
    image = np.clip(drawing.grid.image_to_native(drawing.image), low, high)
    if case.image is not None:
        structures = label_codes(case, max(generator.record.labels.values()))[1]
        error = matched_error(image, case.image.clip(low, high), structures)
        assert generator.calibrated is not None, "the error model's maps were made"
        maps[ORACLE] = generator.calibrated.calibration.to_confidence(error, case.mask > 0, own_scale_outside=True)
    return np.rint(image).astype(np.int16), maps


def run_arm(dataset: RawDataset, real: RawDataset, seed: int, folder: Path) -> dict[str, Any]:
    """Pretrain, fine-tune, and score both networks on the held-out scans."""
    moved = moved_plans_name(real.dataset_id, DEMO_PLANS)
    pretrained = train(dataset, moved, PRETRAIN, seed, None)
    scores = {"pretrained": score(pretrained.parent, real, folder / "predictions")}
    finetuned = train(real, DEMO_PLANS, FINETUNE, seed, pretrained / FINAL_CHECKPOINT)
    scores["finetuned"] = score(finetuned.parent, real, folder / "predictions")
    for fold in (pretrained, finetuned):
        shutil.rmtree(fold.parent)
    return scores


def train(dataset: RawDataset, plans: str, trainer: str, seed: int, weights: Path | None) -> Path:
    """One training by nnU-Net in this process; returns the fold's folder."""
    from nnunetv2.run.run_training import run_training

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contextlib.redirect_stdout(open(os.devnull, "w")):  # noqa: SIM115
        run_training(
            dataset.name, CONFIGURATION, "all", trainer_class_name=trainer, plans_identifier=plans,
            pretrained_weights=None if weights is None else str(weights), device=device,
        )  # fmt: skip
    return root_folder(Root.RESULTS) / dataset.name / f"{trainer}__{plans}__{CONFIGURATION}" / "fold_all"


def score(model: Path, real: RawDataset, predictions: Path) -> dict[str, dict[str, float]]:
    """Mean Dice and RDice (radius 2) per structure over the held-out scans."""
    shutil.rmtree(predictions, ignore_errors=True)
    predictions.mkdir(parents=True)
    predictor = open_predictor(model, ("all",), FINAL_CHECKPOINT, torch.device("cpu"), use_mirroring=False)
    predictor.tile_step_size = 1.0
    images = case_files(real.folder / "imagesTs")
    with contextlib.redirect_stdout(open(os.devnull, "w")):  # noqa: SIM115
        predictor.predict_from_files_sequential(
            [[str(path)] for path in images.values()], [str(predictions / case_id) for case_id in images],
            save_probabilities=False, overwrite=True,
        )  # fmt: skip
    report = evaluate_segmentations(
        real.folder / "labelsTs", predictions, real.labels, radii=[2], workers=1, overlap_only=True
    )
    labels = report["summary"]["labels"]
    return {
        "dice": {name: entry["dice"]["mean"] for name, entry in labels.items()},
        "rdice": {name: entry["rdice"]["2"]["mean"] for name, entry in labels.items()},
    }


def read(results: Path) -> list[dict[str, Any]]:
    """All results so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def summary(record: dict[str, Any]) -> str:
    """Mean over structures, after pretraining and after fine-tuning."""
    return ", ".join(f"{stage} {100 * np.mean(list(record[stage]['dice'].values())):.1f}"
                     for stage in ("pretrained", "finetuned"))  # fmt: skip


def report(records: list[dict[str, Any]]) -> None:
    """Means over seeds with their spread, and differences in pairs of seeds: to uniform maps and the map's shuffle."""
    arms = list(dict.fromkeys(record["arm"] for record in records))
    for stage in ("pretrained", "finetuned"):
        for measure in ("dice", "rdice"):
            scores = {arm: {r["seed"]: r[stage][measure] for r in records if r["arm"] == arm} for arm in arms}
            means = {
                arm: {seed: 100 * float(np.mean(list(labels.values()))) for seed, labels in of_seed.items()}
                for arm, of_seed in scores.items()
            }
            print(f"\n{stage}, {measure} in %: mean ± sd over seeds, and of every structure")
            for arm, of_seed in scores.items():
                names = list(next(iter(of_seed.values())))
                print(f"{arm:<24}{mean_and_sd(list(means[arm].values()))}  " + "; ".join(
                    f"{name} {mean_and_sd([100 * labels[name] for labels in of_seed.values()])}" for name in names
                ))  # fmt: skip
            print("differences paired by seed: mean [95 % by Student's t], Wilcoxon's p, seeds in which it is positive")
            for arm in arms:
                shuffle = "oracle_shuffled" if arm.startswith(ORACLE) else "shuffled"
                for other in dict.fromkeys(("uniform", shuffle)):
                    if other != arm and other in means:
                        print(f"{arm} − {other}: {difference(means[arm], means[other])}")


def mean_and_sd(values: list[float]) -> str:
    """As in 31.0 ± 5.0."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) if len(values) > 1 else np.nan:.1f}"


def difference(own: dict[int, float], other: dict[int, float]) -> str:
    """Mean of the differences by seed, their interval, and a test."""
    values = np.array([own[seed] - other[seed] for seed in own if seed in other])
    if len(values) < 2:
        return "fewer than two seeds"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    p_value = stats.wilcoxon(values).pvalue if values.any() else 1.0
    return (
        f"{values.mean():+.1f} [{values.mean() - half:+.1f}, {values.mean() + half:+.1f}], p = {p_value:.3f}, "
        f"{(values > 0).sum()} of {len(values)}"
    )


if __name__ == "__main__":
    main()
