"""Data sets of an experiment: the n labelled scans; the same drawings under other maps, or before they were drawn;
real and synthetic scans joined.

python sets.py labelled BANK DATASET -n 8 [--patient REGEX]
python sets.py plans DATASET --name PLANS --features 8 16 32 --convolutions 1 2 2 --patch 32 48 48 --batch 2
python sets.py weigh SYNTHETIC DATASET --weights uniform|mean|shuffled
python sets.py prior SYNTHETIC DATASET --real DATASET --generator FOLDER
python sets.py join REAL SYNTHETIC DATASET
python sets.py folds DATASET -n FOLDS --patient PATTERN
python sets.py judge SYNTHETIC DATASET --network MODEL --rule soft|freemask --device cpu|cuda
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.commands.confidence.command import main as fcas_confidence
from fcas_nnunet.commands.demo.arms import CONFIGURATION
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.generator.checkpoint import load_generator
from fcas_nnunet.generator.drawing import guide, prior_image
from fcas_nnunet.generator.generate import deformation_of, to_own
from fcas_nnunet.generator.sources.registration import Registration
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case
from fcas_nnunet.integration.dataset.synthetic_cases import CONTENTS, case_contents
from fcas_nnunet.integration.preprocessing.prepare import ensure_narrow_plans
from fcas_nnunet.integration.preprocessing.splits import splits_path
from fcas_nnunet.integration.provenance.contents import held_out_contents, training_contents
from fcas_nnunet.json_files import read_json
from fcas_nnunet.seeds import derive_seed

Weighing = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def shuffled(confidence: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The map's values, shuffled inside the structures and outside: the same weights on either side."""
    result = confidence.copy()
    for where in (mask > 0, mask == 0):
        result[where] = rng.permutation(result[where])
    return result


def averaged(confidence: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The map's mean, inside the structures and outside: the map's weights without its knowledge."""
    result = np.empty_like(confidence)
    for where in (mask > 0, mask == 0):
        result[where] = confidence[where].mean() if where.any() else 1.0
    return result


def uniform(confidence: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Full confidence."""
    return np.ones_like(confidence)


WEIGHINGS: dict[str, Weighing] = {"uniform": uniform, "mean": averaged, "shuffled": shuffled}


def labelled(bank: Path, folder: Path, count: int, patient: str) -> None:
    """Copy the scans of the first patients of a data set; a patient's scans stay together.

    Args:
        bank: raw data set.
        folder: raw data set to write.
        count: number of patients.
        patient: pattern whose match in a case's id names its patient.
    """
    source = RawDataset.open(bank, any_kind=True)
    patients = {case_id: re.search(patient, case_id) for case_id in source.case_ids}
    if unknown := [case_id for case_id, match in patients.items() if match is None]:
        raise SystemExit(f"{bank}: ids must hold {patient}, got {', '.join(unknown)}.")
    names = sorted({match[0] for match in patients.values() if match})[:count]
    if len(names) < count:
        raise SystemExit(f"{bank}: must hold {count} patients, got {len(names)}.")
    taken = [case_id for case_id, match in patients.items() if match and match[0] in names]
    held_out = {content: name for name, content in held_out_contents(source).items()}
    if both := [f"{case_id} = {held_out[content]}" for case_id, content in training_contents(source, taken).items()
                if content in held_out]:  # fmt: skip
        raise SystemExit(f"{bank}: labelled scans must not be held out, too, got {', '.join(both)}.")
    for case_id in taken:
        for path in (*source.image_paths(case_id), source.mask_path(case_id)):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / path.parent.name / path.name)
    atomic_write_json(folder / "dataset.json", source.dataset_json | {"numTraining": len(taken), "name": folder.name})


def rewritten(source: Path, folder: Path, change: Callable[[Case, Mapping[str, Any]], Case]) -> None:
    """Copy a synthetic data set, and change its cases; `change` also gets a case's manifest record."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("dataset.json", "fcas_manifest*"))
    dataset, manifest = RawDataset.open(source, any_kind=True), Manifest(folder)
    manifest.begin()
    for case_id, record in Manifest(source).read().items():
        case = change(dataset.load_case(case_id), record)
        write_case(folder, case)
        manifest.append(record | {CONTENTS: case_contents(case)})
    manifest.finalise()
    atomic_write_json(folder / "dataset.json", read_json(source / "dataset.json") | {"name": folder.name})


def weigh(source: Path, folder: Path, weights: str) -> None:
    """Copy a synthetic data set, its scans and labels the same, under other confidence maps."""

    def change(case: Case, record: Mapping[str, Any]) -> Case:
        assert case.confidence is not None, "synthetic cases have maps"
        rng = np.random.default_rng(derive_seed(0, "weights", case.case_id))
        return replace(case, confidence=WEIGHINGS[weights](case.confidence, case.mask, rng).astype(np.float32))

    rewritten(source, folder, change)


def prior(source: Path, folder: Path, real: Path, generator: Path) -> None:
    """Copy a set of drawn scans, each replaced by what its drawing began from: the template brought onto the mask.

    The confidence is 1: there is no model of these scans' errors.
    """
    cpu = torch.device("cpu")
    loaded, scans = load_generator(generator, cpu), RawDataset.open(real, any_kind=True)

    def change(case: Case, record: Mapping[str, Any]) -> Case:
        template, source = (scans.load_case(record[key]) for key in ("template", "reference"))
        same = Registration.identity() if record["template"] == record["reference"] else None
        guided = guide(loaded.record, source, template, deformation_of(record["mgm"]), same)
        image = prior_image(loaded, replace(case, image=None, confidence=None), guided, cpu)
        confidence = np.ones(case.shape, np.float32)
        return replace(case, image=to_own(image, template), scales=template.scales, confidence=confidence)

    rewritten(source, folder, change)


def join(real: Path, synthetic: Path, folder: Path) -> None:
    """Put the real scans, fully trusted, into a copy of a synthetic data set."""
    shutil.copytree(synthetic, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("dataset.json"))
    scans = RawDataset.open(real, any_kind=True)
    for case_id in scans.case_ids:
        for path in (*scans.image_paths(case_id), scans.mask_path(case_id)):
            shutil.copy(path, folder / path.parent.name / path.name)
    content = read_json(synthetic / "dataset.json")
    number = content["numTraining"] + len(scans.case_ids)
    atomic_write_json(folder / "dataset.json", content | {"numTraining": number, "name": folder.name})


def folds(dataset: RawDataset, number: int, patient: str) -> None:
    """Write nnU-Net's folds of a data set: each leaves out every n-th patient, with all scans of it."""
    found = {case_id: re.search(patient, case_id) for case_id in dataset.case_ids}
    patients = {case_id: match[0] for case_id, match in found.items() if match is not None}
    assert patients.keys() == found.keys(), "`labelled` has checked the ids"
    names = sorted(set(patients.values()))
    splits = [
        {key: [i for i, name in patients.items() if (name in names[fold::number]) == (key == "val")]
         for key in ("train", "val")}
        for fold in range(number)
    ]  # fmt: skip
    atomic_write_json(splits_path(dataset), splits)


def judge(source: Path, folder: Path, network: Path, rule: str, device: str) -> None:
    """Copy a synthetic data set, its scans and labels the same, under the maps of a segmenter."""
    rewritten(source, folder, lambda case, record: case)
    flags = ["--network", str(network), "--rule", rule, "-device", device, "-np", "1"]
    fcas_confidence(["-d", str(folder), *flags, "--probabilities", str(network.parent / "probabilities" / folder.name)])


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("labelled")
    one.add_argument("bank", type=Path)
    one.add_argument("folder", type=Path)
    one.add_argument("-n", type=int, required=True)
    one.add_argument("--patient", default=".+")
    one = commands.add_parser("plans")
    one.add_argument("dataset")
    one.add_argument("--name", required=True)
    for name in ("--features", "--convolutions", "--patch"):
        one.add_argument(name, type=int, nargs="+", required=True)
    one.add_argument("--batch", type=int, required=True)
    one = commands.add_parser("weigh")
    one.add_argument("source", type=Path)
    one.add_argument("folder", type=Path)
    one.add_argument("--weights", choices=WEIGHINGS, required=True)
    one = commands.add_parser("prior")
    for name in ("source", "folder"):
        one.add_argument(name, type=Path)
    for name in ("--real", "--generator"):
        one.add_argument(name, type=Path, required=True)
    one = commands.add_parser("join")
    for name in ("real", "synthetic", "folder"):
        one.add_argument(name, type=Path)
    one = commands.add_parser("folds")
    one.add_argument("dataset")
    one.add_argument("-n", type=int, required=True)
    one.add_argument("--patient", default=".+")
    one = commands.add_parser("judge")
    for name in ("source", "folder"):
        one.add_argument(name, type=Path)
    one.add_argument("--network", type=Path, required=True)
    for name in ("--rule", "--device"):
        one.add_argument(name, required=True)
    args = parser.parse_args()
    if args.command == "labelled":
        labelled(args.bank, args.folder, args.n, args.patient)
    elif args.command == "weigh":
        weigh(args.source, args.folder, args.weights)
    elif args.command == "prior":
        prior(args.source, args.folder, args.real, args.generator)
    elif args.command == "join":
        join(args.real, args.synthetic, args.folder)
    elif args.command == "folds":
        folds(RawDataset.open(resolve_dataset(args.dataset), any_kind=True), args.n, args.patient)
    elif args.command == "judge":
        judge(args.source, args.folder, args.network, args.rule, args.device)
    else:
        dataset = RawDataset.open(resolve_dataset(args.dataset), any_kind=True)
        ensure_narrow_plans(
            dataset, args.name, CONFIGURATION, features_per_stage=args.features, patch_size=args.patch,
            batch_size=args.batch, convolutions_per_stage=args.convolutions,
        )  # fmt: skip


if __name__ == "__main__":
    main()
