"""Read an experiment: its arms, its sizes, and which comparisons are planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from sets import WEIGHINGS

from fcas_nnunet.commands.confidence.rules import Rule
from fcas_nnunet.config.options import ScanSource

HERE = Path(__file__).parent
#: Ids that are kept for data of so many patients, and of them for the synthetic sets of a seed, so that a further arm
#: or seed leaves those of the others.
IDS, SETS = 300, 24


@dataclass(frozen=True)
class Arm:
    """What the first phase of a network's training sees; the second sees the labelled scans.

    Attributes:
        source: of its synthetic scans, by `fcas_generate --source`; None = the labelled scans in both phases.
        confidence: of drawn scans, by `fcas_generate --confidence`.
        weights: instead of the scans' own confidence.
        judged: the same by `fcas_confidence --rule`, with networks that are trained on parts of the labelled scans.
        augmentation: of nnU-Net; "" is its default.
        joint: labelled and synthetic scans together, for as many steps as both phases have.
        mixed: the same by nnUNetTrainerCALMixed: its first and last share of synthetic patches.
        settings: of the weights in the loss, variables of the environment.
        prior: drawn scans as they are before they are drawn: the template, brought onto the mask.
        shares: of the sources of mixed scans, by `fcas_generate --shares`.
        generator: configuration of the generator in generators/ instead of the scale's.
        length: of its training, as a share of the other arms'; for the learning curve.
    """

    source: str | None = None
    confidence: str = "own"
    weights: str = "own"
    judged: str = ""
    augmentation: str = ""
    joint: bool = False
    mixed: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    prior: bool = False
    shares: Sequence[str] = ()
    generator: str = ""
    length: float = 1.0

    @property
    def made(self) -> str:
        """Name of the set that `fcas_generate` makes for it."""
        parts = [str(self.source), "" if self.confidence == "own" else self.confidence, Path(self.generator).stem]
        return "_".join(filter(None, [*parts, *(share.split("=")[0] for share in self.shares)]))

    @property
    def draws(self) -> bool:
        """Whether some of its scans are drawn."""
        drawn = any(share.startswith(f"{ScanSource.DRAWN}=") for share in self.shares)
        return self.source == ScanSource.DRAWN or (self.source == ScanSource.MIXED and (drawn or not self.shares))

    @property
    def dataset(self) -> str:
        """Name of the set that its network is trained on first."""
        return f"{self.weighed}_joint" if self.joint else self.weighed

    @property
    def weighed(self) -> str:
        """Name of the set that it, or labelled scans and it joined, are trained on first."""
        if self.prior:
            return f"{self.made}_prior"
        if self.judged:
            return f"{self.made}_judged_{self.judged}"
        return self.made if self.weights == "own" else f"{self.made}_{self.weights}"


@dataclass(frozen=True)
class Scale:
    """Sizes of an experiment: what a machine can do."""

    device: str
    labelled: Mapping[int, Sequence[str]]  # patients with labels → arms
    seeds: Sequence[int]
    preset: str  # of the generator
    synthetic: int  # scans of each set
    features: Sequence[int]  # of nnU-Net, per stage
    convolutions: Sequence[int]  # of nnU-Net, per stage
    patch: Sequence[int]
    batch: int
    iterations: int  # of an epoch
    epochs: tuple[int, int]  # of the two phases
    step_size: float  # of nnU-Net's sliding window, over the held-out scans
    config: str = ""  # of the generator instead of the preset, a file in generators/
    phantoms: Mapping[str, Any] | None = None  # instead of the experiment's own scans
    pictures: Sequence[str] = ()  # arms whose scans of one mask are pictured beside each other

    @property
    def judge_epochs(self) -> int:
        """Epochs of a network that judges: half as many as those of an arm's."""
        return max(1, sum(self.epochs) // 2)

    def epochs_of(self, arm: Arm) -> tuple[int, int]:
        """Epochs of the two phases of an arm's training; the second is empty where both learn from the same scans."""
        first, second = (max(1, round(arm.length * number)) for number in self.epochs)
        return (first + second, 0) if arm.joint or arm.mixed else (first, second)

    def generator_of(self, arm: Arm) -> tuple[Path | None, str]:
        """The configuration of an arm's generator, None for a preset; and the name of the preset."""
        name = arm.generator or self.config
        if not name:
            return None, self.preset
        path = HERE / "generators" / name
        return path, yaml.safe_load(path.read_text(encoding="utf-8"))["preset"]

    def steps_of(self, arm: Arm) -> int:
        """Optimiser steps of an arm's networks."""
        return self.iterations * sum(self.epochs_of(arm))


@dataclass(frozen=True)
class Experiment:
    """An experiment at a scale."""

    name: str
    title: str
    short: str  # title, for a column
    bank: str  # folder of the scans, a raw data set with imagesTs and labelsTs
    patient: str  # pattern of a patient's name in ids
    arms: Mapping[str, Arm]
    planned: Sequence[tuple[str, str]]  # comparisons that were decided before the runs: less, of
    scale_name: str
    scale: Scale

    @classmethod
    def read(cls, name: str, scale: str, device: str | None = None) -> Experiment:
        """Read `experiments/NAME.yaml`; `device` replaces the scale's.

        Raises:
            ValueError: listing what is wrong in it, one a line.
        """
        path = HERE / "experiments" / f"{name}.yaml"
        if not path.is_file():
            raise ValueError(f"--experiment: must be one of {', '.join(experiment_names())}, got {name}.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if scale not in content["scales"]:
            raise ValueError(f"--scale: must be one of {', '.join(content['scales'])}, got {scale}.")
        arms = {key: Arm(**(values or {})) for key, values in content["arms"].items()}
        sizes = yaml.safe_load((HERE / "scales.yaml").read_text(encoding="utf-8"))[scale]
        settings = sizes | content["scales"][scale] | ({"device": device} if device else {})
        unknown = settings.keys() - {entry.name for entry in fields(Scale)}
        faults = [f"{path}: scale {scale} must not name {key}. Remove it." for key in sorted(unknown)]
        most = (IDS - 1) // SETS
        if len(settings["seeds"]) > most:
            faults.append(f"scales.yaml: {scale} must have at most {most} seeds, got {len(settings['seeds'])}.")
        planned = [tuple(pair) for pair in content["planned"]]
        named = [*(arm for pair in planned for arm in pair), *(a for s in settings["labelled"].values() for a in s)]
        named += settings.get("pictures", [])
        faults += [f"{path}: arms must have {arm}, got {', '.join(arms)}." for arm in set(named) - arms.keys()]
        for key, arm in arms.items():
            known = arm.source in (None, *ScanSource) and arm.judged in ("", *Rule)
            if not known or arm.weights not in ("own", *WEIGHINGS):
                faults.append(f"{path}: {key} must have a known source, weights and rule, got {arm}.")
        if faults:
            raise ValueError("\n".join(faults))
        settings["epochs"] = tuple(settings["epochs"])
        return cls(
            name, content["title"], content["short"], content["bank"], content.get("patient", ".+"), arms, planned,
            scale, Scale(**settings),
        )  # fmt: skip


def experiment_names() -> list[str]:
    """The experiments that there are."""
    return sorted(path.stem for path in (HERE / "experiments").glob("*.yaml"))
