"""Tables of files that commands read, and of what can be wrong with them, with their places and with their rights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from damages import CHECKPOINT, CONTENT, FOLDS, GONE, JSON, LABEL, SCAN, WEIGHTS, YAML, Damage, cut, folder
from fault_world import GENERATOR, NETWORK, PLANS, REAL, SYNTHETIC, write

#: A file, or a file and what is named instead of it; ways to damage it; lines that read it.
READ: list[tuple[str, dict[str, Damage], str]] = [
    (f"{REAL}/dataset.json", JSON, "train masks generate prepare report merge reading images memorisation"),
    (f"{REAL}/dataset.json", GONE, "train masks merge"),
    (f"{REAL}/labelsTr/p1.nii.gz", GONE, "train masks prepare"),
    (f"{REAL}/imagesTr/p1_0000.nii.gz", GONE, "train prepare images"),
    (f"{SYNTHETIC}/imagesTr/fcas_00001_0000.nii.gz", GONE, "prepare medsam"),
    (f"{SYNTHETIC}/confidenceTr/fcas_00001.nii.gz", GONE, "prepare medsam"),
    (f"{GENERATOR}/tcdm/ema.safetensors", GONE, "generate"),
    (f"{NETWORK}/plans.json", GONE, "export confidence fidelity"),
    (f"{NETWORK}/fold_0/checkpoint_final.pth", GONE, "export confidence fidelity"),
    ("predictions/p1.nii.gz", GONE, "segmentations"),
    (f"{REAL}/surroundings.json", JSON, "train generate"),
    (f"{REAL}/imagesTr/p1_0000.nii.gz", SCAN, "train prepare images memorisation"),
    (f"{REAL}/labelsTr/p1.nii.gz", LABEL, "train masks prepare"),
    (f"{REAL}/labelsTr/p1.nii.gz", {"cut": cut, "a folder": folder}, "segmentations"),
    (f"{REAL}/surroundingsTr/p1.nii.gz", LABEL, "train"),
    (f"{SYNTHETIC}/dataset.json", JSON, "prepare report medsam confidence fidelity"),
    (
        f"{SYNTHETIC}/fcas_manifest.jsonl",
        {"garbage": lambda path: write(path, b"\x00\n\xff\n")},
        "prepare report confidence",
    ),
    (f"{SYNTHETIC}/imagesTr/fcas_00001_0000.nii.gz", SCAN, "prepare medsam images"),
    (f"{SYNTHETIC}/confidenceTr/fcas_00001.nii.gz", SCAN, "prepare medsam"),
    ("short.yaml", YAML, "generate"),
    ("other.yaml", YAML, "train"),
    (f"{GENERATOR}/tcdm/config.yaml", YAML, "generate"),
    (f"{GENERATOR}/tcdm/ema.safetensors", WEIGHTS, "generate"),
    (f"{GENERATOR}/autoencoder/model.safetensors", WEIGHTS, "generate"),
    (PLANS, CONTENT, "prepare"),
    ("nnUNet_preprocessed/Dataset901_Small/splits_final.json", FOLDS, "fold prepare"),
    ("a.json", JSON, "compare"),
    ("predictions/p1.nii.gz", LABEL, "segmentations merge"),
    ("predictions/dataset.json", CONTENT, "segmentations merge"),
    (f"{NETWORK}/plans.json", JSON, "export confidence fidelity"),
    (f"{NETWORK}/dataset.json", JSON, "confidence fidelity"),
    (f"{NETWORK}/fold_0/checkpoint_final.pth", CHECKPOINT, "export confidence fidelity"),
    ("reading/key.json", JSON, "results"),
    ("ada.json", JSON, "results"),
    ("public/training/patient001/patient001_frame01.nii.gz", {**SCAN, "a folder": cut}, "convert"),
    (
        "public/training/patient001/patient001_frame01_gt.nii.gz",
        {name: LABEL[name] for name in LABEL if name not in ("a folder", "another shape")},  # skipped; resampled
        "convert",
    ),
]

#: Damages that would run code or be of another's making, rather than an accident's.
HOSTILE = ("an object to build", "hostile")
#: What another file is put in the place of: line, file, the other, what is named.
SWAPPED = [
    ("generate", f"{GENERATOR}/tcdm/ema.safetensors", f"{GENERATOR}/autoencoder/model.safetensors", "ema.safetensors"),
    (
        "generate",
        f"{GENERATOR}/autoencoder/model.safetensors",
        f"{GENERATOR}/tcdm/ema.safetensors",
        "model.safetensors",
    ),
    ("generate", f"{GENERATOR}/tcdm/config.yaml", f"{GENERATOR}/autoencoder/config.yaml", "config.yaml"),
    ("generate", "short.yaml", f"{GENERATOR}/tcdm/config.yaml", "short.yaml"),
    ("train", "other.yaml", f"{GENERATOR}/run.yaml", "other.yaml"),
    ("train", f"{REAL}/labelsTr/p1.nii.gz", f"{REAL}/imagesTr/p1_0000.nii.gz", "p1"),
    ("masks", f"{REAL}/labelsTr/p1.nii.gz", f"{REAL}/imagesTr/p1_0000.nii.gz", "p1"),
    ("prepare", f"{SYNTHETIC}/confidenceTr/fcas_00001.nii.gz", f"{SYNTHETIC}/confidenceTr/fcas_00002.nii.gz", "00001"),
    ("prepare", f"{SYNTHETIC}/labelsTr/fcas_00001.nii.gz", f"{SYNTHETIC}/labelsTr/fcas_00002.nii.gz", "fcas_00001"),
    (
        "prepare",
        f"{SYNTHETIC}/imagesTr/fcas_00001_0000.nii.gz",
        f"{SYNTHETIC}/imagesTr/fcas_00002_0000.nii.gz",
        "00001",
    ),
    ("prepare", f"{SYNTHETIC}/dataset.json", f"{REAL}/surroundings.json", "dataset.json"),
    ("prepare", PLANS, f"{REAL}/dataset.json", "nnUNetPlans.json"),
    ("report", f"{SYNTHETIC}/dataset.json", f"{SYNTHETIC}/fcas_manifest.jsonl", "dataset.json"),
    ("report", f"{SYNTHETIC}/fcas_manifest.jsonl", f"{GENERATOR}/measurements.jsonl", "fcas_manifest.jsonl"),
    ("results", "reading/key.json", "ada.json", "key.json"),
    ("results", "ada.json", "reading/key.json", "ada.json"),
    ("results", "ada.json", "a.json", "ada.json"),
    ("compare", "a.json", "reading/key.json", "a.json"),
    ("results_of", "a.json", "ada.json", "a.json"),
    ("fidelity_of", "a.json", "ada.json", "a.json"),
    ("segmentations", "predictions/p1.nii.gz", f"{REAL}/imagesTr/p1_0000.nii.gz", "p1"),
    ("segmentations", "predictions/dataset.json", f"{REAL}/surroundings.json", "p1|dataset.json"),
    ("merge", "predictions/p1.nii.gz", "public/training/patient001/patient001_frame01.nii.gz", "p1"),
    ("convert", "public/training/patient001/patient001_frame01_gt.nii.gz", f"{REAL}/labelsTr/p1.nii.gz", "frame01"),
    ("export", f"{NETWORK}/fold_0/checkpoint_final.pth", f"{GENERATOR}/tcdm/ema.safetensors", "checkpoint_final.pth"),
    ("confidence", f"{NETWORK}/dataset.json", f"{NETWORK}/plans.json", "dataset.json"),
    ("confidence", f"{NETWORK}/plans.json", f"{NETWORK}/dataset.json", "plans.json"),
    ("fidelity", f"{NETWORK}/plans.json", f"{NETWORK}/dataset.json", "plans.json"),
    ("medsam", f"{SYNTHETIC}/labelsTr/fcas_00001.nii.gz", f"{SYNTHETIC}/imagesTr/fcas_00001_0000.nii.gz", "fcas_00001"),
    ("images", f"{REAL}/labelsTr/p1.nii.gz", f"{REAL}/imagesTr/p1_0000.nii.gz", "p1"),
    ("replay", f"{SYNTHETIC}/fcas_manifest.jsonl", f"{GENERATOR}/measurements.jsonl", "fcas_manifest.jsonl"),
]


@dataclass(frozen=True)
class Damaged:
    """A damaged file: its kind, the line that reads it, the file, the damage and its name."""

    kind: str
    line: str
    file: str
    name: str
    damage: Damage
    is_quick: bool

    @property
    def id(self) -> str:
        return f"{self.line}-{Path(self.file).name}-{self.name}".replace(" ", "_")


def damaged() -> Iterator[Damaged]:
    """Every row of `READ`; quick are the first reader of each damaged file, and each reader's first damage."""
    for file, damages, lines in READ:
        for number, line in enumerate(lines.split()):
            for place, (name, damage) in enumerate(damages.items()):
                kind = "hostile" if name in HOSTILE else "missing" if name in GONE else "damaged"
                yield Damaged(kind, line, file, name, damage, number == 0 or place == number % len(damages))
