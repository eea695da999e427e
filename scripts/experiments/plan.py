"""Lay an experiment out as stages: data, generator, synthetic sets, and every arm's network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from design import HERE, IDS, SETS, Arm, Experiment
from stages import Stage

from fcas_nnunet.commands.demo.arms import BASELINE, CONFIGURATION, FINETUNE, PRETRAIN, model_folder
from fcas_nnunet.commands.demo.scale import (
    ITERATIONS_VARIABLE,
    PRETRAIN_EPOCHS_VARIABLE,
    REAL_EPOCHS_VARIABLE,
    SEED_VARIABLE,
)
from fcas_nnunet.generator.optimisation.precision import supports_bf16
from fcas_nnunet.integration.cal.weighting import SHARE_VARIABLE, SYNTHETIC_VARIABLE
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT, model_name
from fcas_nnunet.integration.preprocessing.splits import SPLITS_FILE

PLANS = "nnUNetPlansBench"
MIXED = "nnUNetTrainerCALMixed_demo"
#: Networks that judge synthetic scans: each has not learnt from one part of the patients.
JUDGES = 4
#: Its first part is raised when trainings learn differently by a change that their commands do not show.
TRAINING = f"1, nnunetv2 {version('nnunetv2')}, torch {version('torch')}"
_GENERATOR = ("fcas_nnunet/generator", "fcas_nnunet/labels", "fcas_nnunet/config")
_SOURCE = ("fcas_nnunet/commands/generate", *_GENERATOR)
_PREPARE = ("fcas_nnunet/integration/preprocessing", "fcas_nnunet/integration/dataset")


@dataclass(frozen=True)
class Run:
    """One network: an arm, trained on so many patients with a seed."""

    labelled: int
    arm: str
    seed: int

    @property
    def key(self) -> str:
        """Name of its stages' folder."""
        return f"n{self.labelled}/seed{self.seed}/{self.arm}"


class Layout:
    """Where an experiment's data sets and results lie, and the stages that make them."""

    def __init__(self, experiment: Experiment, folder: Path, scans: Path | None) -> None:
        self.experiment, self.scale, self.folder = experiment, experiment.scale, folder
        self.raw, self.results = folder / "nnUNet_raw", folder / "nnUNet_results"
        self.bank = folder / "bank" / experiment.bank if self.scale.phantoms else (scans or Path()) / experiment.bank

    def runs(self) -> list[Run]:
        """All networks: every arm with the first seed first, so that the table is whole early."""
        return [
            Run(count, arm, seed)
            for seed in self.scale.seeds
            for count, arms in self.scale.labelled.items()
            for arm in arms
        ]

    def scores(self, run: Run) -> Path:
        """The scores of a network's segmentations of the held-out scans."""
        return self.folder / "scores" / f"{run.key}.json"

    def real(self, count: int) -> str:
        """Name of the data set of so many patients."""
        return f"Dataset{self._first_id(count):03d}_Real{count}"

    def judges(self, count: int) -> Path:
        """The model whose folds judge scans that are made from so many patients."""
        return model_folder(self.folder / "networks" / f"n{count}" / "judges", self.real(count), PLANS, BASELINE)

    def dataset(self, run: Run, name: str) -> str:
        """Name of a synthetic data set."""
        names = list(dict.fromkeys(
            part for arm in self.experiment.arms.values() if arm.source for part in (arm.made, arm.weighed, arm.dataset)
        ))  # fmt: skip
        assert len(names) <= SETS, "ids are kept for no more sets of a seed"
        number = self._first_id(run.labelled) + 1 + names.index(name) + SETS * self.scale.seeds.index(run.seed)
        return f"Dataset{number:03d}_{re.sub('[^A-Za-z]', '', name.title())}"

    def stages(self) -> list[Stage]:
        """All stages in an order in which they can run, without repetition."""
        found = {stage.name: stage for run in self.runs() for stage in self._of_run(run)}
        found |= {stage.name: stage for count in self.scale.labelled for stage in self._picture_stages(count)}
        return list(found.values())

    def picture(self, count: int) -> Path:
        """The picture of one mask's scans."""
        return self.folder / "pictures" / f"n{count}.png"

    def _picture_stages(self, count: int) -> Iterator[Stage]:
        """The picture of one mask's scans, and what it needs."""
        arms = {key: self.experiment.arms[key] for key in self.scale.pictures}
        if not arms:
            return
        yield from self._real_stages(count)
        sets = []
        for key, arm in arms.items():
            run = Run(count, key, self.scale.seeds[0])
            *before, _ = self._set_stages(run, arm)
            yield from before
            sets.append((self.dataset(run, arm.weighed), before[-1].name))
        script = HERE.parent / "picture_sources.py"
        names = ",".join(name for name, _ in sets)
        yield Stage(
            f"n{count}/picture", "picture", 10,
            ("python", str(script), f"{self.real(count)}:{names}", "--titles", *arms, "-o", str(self.picture(count))),
            (self.picture(count),), tuple(needed for _, needed in sets),
        )  # fmt: skip

    def _of_run(self, run: Run) -> Iterator[Stage]:
        arm, scale = self.experiment.arms[run.arm], self.scale
        yield from self._real_stages(run.labelled)
        real, first = self.real(run.labelled), self.real(run.labelled)
        of_real = (f"n{run.labelled}/plans", f"n{run.labelled}/preprocess")
        plans, data = PLANS, of_real
        if arm.source:
            yield from self._set_stages(run, arm)
            first = self.dataset(run, arm.dataset)
            plans, data = f"{PLANS}From{real[7:10]}", (f"n{run.labelled}/seed{run.seed}/prepare_{arm.dataset}",)
        begin, end = PRETRAIN if arm.source else BASELINE, FINETUNE
        if arm.augmentation:
            begin, end = (f"nnUNetTrainer{arm.augmentation}{phase}_bench" for phase in ("", "Finetune"))
        more = dict(arm.settings)
        if arm.mixed:
            more |= {SYNTHETIC_VARIABLE: first, SHARE_VARIABLE: arm.mixed}
            first, plans, data, begin = real, PLANS, (*data, *of_real), MIXED
        networks = self.folder / "networks" / run.key
        epochs = scale.epochs_of(arm)
        environment = {
            "nnUNet_results": str(networks), SEED_VARIABLE: str(run.seed), ITERATIONS_VARIABLE: str(scale.iterations),
            "FCAS_BENCH_TRAINING": f"{TRAINING}, {precision_of(scale.device)}", **more,
        }  # fmt: skip

        def train(
            name: str, dataset: str, plans: str, trainer: str, epochs: int, *more: str, needs: tuple[str, ...]
        ) -> Stage:
            variables = {PRETRAIN_EPOCHS_VARIABLE: str(epochs), REAL_EPOCHS_VARIABLE: str(epochs)}
            model = model_folder(networks, dataset, plans, trainer)
            return Stage(
                f"{run.key}/{name}", name, 300,
                ("python", str(HERE / "network.py"), str(model), dataset, plans, trainer, scale.device, "all", *more),
                (model,), needs, environment=environment | variables,
            )  # fmt: skip

        last = train("phase1", first, plans, begin, epochs[0], needs=data)
        yield last
        if epochs[1]:
            weights = str(last.makes[0] / "fold_all" / FINAL_CHECKPOINT)
            last = train(
                "phase2", real, PLANS, end, epochs[1], "-pretrained_weights", weights,
                needs=(f"{run.key}/phase1", *of_real),
            )  # fmt: skip
            yield last
        predictions = self.folder / "predictions" / run.key
        bank = ("bank",) if scale.phantoms else ()
        yield Stage(
            f"{run.key}/predict", "predict", 120,
            ("nnUNetv2_predict_from_modelfolder", "-i", str(self.bank / "imagesTs"), "-o", str(predictions),
             "-m", str(last.makes[0]), "-f", "all", "-device", scale.device, "--disable_tta",
             "-step_size", str(scale.step_size), "--continue_prediction", "-npp", "1", "-nps", "1"),
            (predictions,), (last.name, *bank), () if bank else (self.bank / "imagesTs",), environment=environment,
            last_is_partial=True,
        )  # fmt: skip
        yield Stage(
            f"{run.key}/score", "score", 30,
            ("fcas_evaluate", "segmentations", "-r", str(self.bank / "labelsTs"), "-p", str(predictions), "-o",
             str(self.scores(run)), "-np", "1", "--labels", str(self.raw / real / "dataset.json")),
            (self.scores(run),), (f"{run.key}/predict", *bank), () if bank else (self.bank / "labelsTs",),
            code=("fcas_nnunet/evaluation/segmentation",),
        )  # fmt: skip

    def _real_stages(self, count: int) -> Iterator[Stage]:
        """The labelled scans, nnU-Net's plans for them, and their preprocessing."""
        scale, real = self.scale, self.real(count)
        needs: tuple[str, ...] = ()
        if scale.phantoms:
            flags = [
                word for key, value in scale.phantoms.items()
                for word in (f"-{key}" if key == "n" else f"--{key}", *map(str, _listed(value)))
            ]  # fmt: skip
            yield Stage(
                "bank", "bank", 60,
                ("fcas_phantom", "-d", self.experiment.bank, *flags, "-np", "1"),
                (self.bank,), code=("fcas_nnunet/datasets/phantom",), environment={"nnUNet_raw": str(self.bank.parent)},
            )  # fmt: skip
            needs = ("bank",)
        reads = () if scale.phantoms else (self.bank / "imagesTr", self.bank / "labelsTr")
        sets = str(HERE / "sets.py")
        yield Stage(
            f"n{count}/labelled", "labelled", 5,
            ("python", sets, "labelled", str(self.bank), str(self.raw / real), "-n", str(count), "--patient",
             self.experiment.patient),
            (self.raw / real,), needs, reads,
        )  # fmt: skip
        sizes = {
            "--features": scale.features, "--convolutions": scale.convolutions, "--patch": scale.patch,
            "--batch": [scale.batch],
        }  # fmt: skip
        prepared = self.folder / "nnUNet_preprocessed" / real
        yield Stage(
            f"n{count}/plans", "plans", 20,
            ("python", sets, "plans", real, "--name", PLANS,
             *(word for flag, numbers in sizes.items() for word in (flag, *map(str, numbers)))),
            (prepared / f"{PLANS}.json",), (f"n{count}/labelled",), code=_PREPARE,
        )  # fmt: skip
        yield Stage(
            f"n{count}/preprocess", "preprocess", 20,
            ("nnUNetv2_preprocess", "-d", real[7:10], "-plans_name", PLANS, "-c", CONFIGURATION, "-np", "1"),
            (prepared / f"nnUNetPlans_{CONFIGURATION}",), (f"n{count}/plans",),
        )  # fmt: skip

    def _set_stages(self, run: Run, arm: Arm) -> Iterator[Stage]:
        """The generator, if scans are drawn; the arm's synthetic set; and its preprocessing."""
        scale, real, prefix = self.scale, self.real(run.labelled), f"n{run.labelled}"
        config, preset = scale.generator_of(arm)
        model, reads = (("--config", str(config)), (config,)) if config else (("--preset", preset), ())
        generator = self.results / real / model_name(preset, None)
        needs = [f"{prefix}/labelled"]
        if arm.draws:
            yield Stage(
                f"{prefix}/generator_{preset}", "generator", 600,
                ("fcas_train", "-d", real, *model, "-device", scale.device), (generator,), tuple(needs), reads,
                _GENERATOR,
            )  # fmt: skip
            needs.append(f"{prefix}/generator_{preset}")
        made = self.dataset(run, arm.made)
        chosen = () if arm.confidence == "own" else ("--confidence", arm.confidence)
        chosen += ("--shares", *arm.shares) if arm.shares else ()
        prefix = f"{prefix}/seed{run.seed}"
        yield Stage(
            f"{prefix}/generate_{arm.made}", f"generate {arm.source}", 200,
            ("fcas_generate", "-d", real, "-o", made, "-n", str(scale.synthetic), "--seed", str(run.seed), "--source",
             str(arm.source), *chosen, *model, "-device", scale.device, "-np", "1"),
            (self.raw / made,), tuple(needs), reads, _SOURCE,
        )  # fmt: skip
        last, name = f"{prefix}/generate_{arm.made}", made
        sets = str(HERE / "sets.py")
        if arm.judged:
            weighed = self.dataset(run, arm.weighed)
            judges = self._judge_stages(run.labelled)
            yield from judges
            yield Stage(
                f"{prefix}/judge_{weighed[11:]}", "judge", 120,
                ("python", sets, "judge", str(self.raw / name), str(self.raw / weighed), "--network",
                 str(self.judges(run.labelled)), "--rule", arm.judged, "--device", scale.device),
                (self.raw / weighed,), (last, *(stage.name for stage in judges)),
                code=("fcas_nnunet/commands/confidence", "fcas_nnunet/integration/models"),
            )  # fmt: skip
            last, name = f"{prefix}/judge_{weighed[11:]}", weighed
        elif arm.weighed != arm.made:
            weighed = self.dataset(run, arm.weighed)
            change: tuple[str, ...] = ("weigh", "--weights", arm.weights)
            if arm.prior:
                change = ("prior", "--real", str(self.raw / real), "--generator", str(generator))
            yield Stage(
                f"{prefix}/{change[0]}_{weighed[11:]}", change[0], 20,
                ("python", sets, change[0], str(self.raw / name), str(self.raw / weighed), *change[1:]),
                (self.raw / weighed,), (last, *needs), code=_GENERATOR if arm.prior else (),
            )  # fmt: skip
            last, name = f"{prefix}/{change[0]}_{weighed[11:]}", weighed
        if arm.joint:
            joined = self.dataset(run, arm.dataset)
            yield Stage(
                f"{prefix}/join_{joined[11:]}", "join", 5,
                ("python", sets, "join", str(self.raw / real), str(self.raw / name), str(self.raw / joined)),
                (self.raw / joined,), (last, f"n{run.labelled}/labelled"),
            )  # fmt: skip
            last, name = f"{prefix}/join_{joined[11:]}", joined
        yield Stage(
            f"{prefix}/prepare_{arm.dataset}", "prepare", 60,
            ("fcas_prepare", "-d", name, "--for", real, "-c", CONFIGURATION, "-p", PLANS, "-np", "1"),
            (self.folder / "nnUNet_preprocessed" / name,),
            (last, f"n{run.labelled}/plans", f"n{run.labelled}/preprocess"), code=_PREPARE,
        )  # fmt: skip

    def _judge_stages(self, count: int) -> list[Stage]:
        """The networks that judge synthetic scans, each trained without a part of the labelled patients."""
        real, model, device = self.real(count), self.judges(count), self.scale.device
        number, prepared = min(JUDGES, count), self.folder / "nnUNet_preprocessed" / real
        folds = Stage(
            f"n{count}/folds", "folds", 5,
            ("python", str(HERE / "sets.py"), "folds", real, "-n", str(number), "--patient", self.experiment.patient),
            (prepared / SPLITS_FILE,), (f"n{count}/plans",),
        )  # fmt: skip
        environment = {
            "nnUNet_results": str(model.parents[1]), SEED_VARIABLE: "0",
            ITERATIONS_VARIABLE: str(self.scale.iterations), REAL_EPOCHS_VARIABLE: str(self.scale.judge_epochs),
            "FCAS_BENCH_TRAINING": f"{TRAINING}, {precision_of(device)}",
        }  # fmt: skip
        return [folds] + [
            Stage(
                f"n{count}/judges/fold{fold}",
                "judge network",
                300,
                ("python", str(HERE / "network.py"), str(model), real, PLANS, BASELINE, device, str(fold)),
                (model / f"fold_{fold}",),
                (folds.name, f"n{count}/plans", f"n{count}/preprocess"),
                environment=environment,
            )  # fmt: skip
            for fold in range(number)
        ]

    def _first_id(self, count: int) -> int:
        return 100 + IDS * list(self.scale.labelled).index(count)


def precision_of(device: str) -> str:
    """Return how networks compute: in bf16 on a CPU that can, as nnU-Net does on a GPU."""
    return device if device != "cpu" else "bf16" if supports_bf16(torch.device("cpu")) else "float32"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
