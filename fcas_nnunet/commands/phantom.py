"""fcas_phantom: write a data set of invented patients with every label known."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fcas_nnunet.commands.cli import MOST_CASES, command, count, make_parser, positive, processes
from fcas_nnunet.commands.runtime.pool import as_finished
from fcas_nnunet.datasets.phantom import LABELS, SURROUNDINGS, patient_seed, phantom_case
from fcas_nnunet.files import file_sha256
from fcas_nnunet.integration.dataset.folders import new_dataset_folder, parse_name
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.ownership import COMMAND, PHANTOM, sole_writer
from fcas_nnunet.integration.dataset.raw_dataset import (
    is_dataset,
    reopen_dataset,
    training_cases,
    write_case,
    write_dataset_json,
)
from fcas_nnunet.integration.dataset.volumes import FILE_ENDING
from fcas_nnunet.labels.anatomy import BACKGROUND
from fcas_nnunet.machine import available_cores

logger = logging.getLogger(__name__)

_EXAMPLE = """
fcas_phantom -d 901 -n 24 --shape 64 64 64 --seed 0
fcas_phantom -d 903 -n 6 --num-test 6 --start 24 --acquisitions 3   # other patients, three scans of each
"""
_NAME = "Phantom"
_SMALLEST_GRID, _LARGEST_GRID = 16, 1024


@dataclass(frozen=True)
class Scan:
    """One case to write.

    Attributes:
        case_id: `phantom_0007`, or `phantom_0007_a1` where a patient is scanned several times.
        patient: `phantom_0007`: what the scans of one patient share.
        seed: of the patient.
        acquisition: number of the scan.
        shape: voxels along (D, H, W).
        split: "Tr" or "Ts".
    """

    case_id: str
    patient: str
    seed: int
    acquisition: int
    shape: tuple[int, int, int]
    split: str

    def record(self) -> dict[str, Any]:
        """What the manifest says about the case before it is made."""
        return {
            "case_id": self.case_id,
            "patient": self.patient,
            "seed": self.seed,
            "acquisition": self.acquisition,
            "shape": list(self.shape),
            "split": self.split,
        }


def build_parser() -> argparse.ArgumentParser:
    """The command line of fcas_phantom."""
    parser = make_parser(
        "fcas_phantom",
        "Write an nnU-Net data set of invented patients: cardiac CTA with the eight classes, the surroundings, and a "
        "manifest that says which scans show the same patient. Interrupted, or called with a larger -n, the same "
        "command resumes.",
        _EXAMPLE,
    )
    parser.add_argument("-d", required=True, metavar="ID", help="data set to write: an id or DatasetXXX_Name")
    parser.add_argument("-n", type=count, default=24, metavar="N", help="number of patients in imagesTr (24)")
    parser.add_argument(
        "--num-test", type=count, default=0, metavar="N", help="further patients, in imagesTs and labelsTs (0)"
    )
    parser.add_argument(
        "--shape", type=positive, nargs=3, default=[64, 64, 64], metavar=("D", "H", "W"),
        help="voxels; the field of view stays about 14 cm (64 64 64)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="names the population (0)")
    parser.add_argument(
        "--start", type=count, default=0, metavar="I",
        help="number of the first patient; sets whose numbers do not overlap share no patient (0)",
    )  # fmt: skip
    parser.add_argument(
        "--acquisitions", type=positive, default=1, metavar="K",
        help="scans of each patient: the same anatomy and mask, other contrast, texture and noise (1)",
    )  # fmt: skip
    parser.add_argument("--name", help=f"name of a new data set when -d is an id ({_NAME})")
    parser.add_argument("-np", type=processes, default=available_cores(), metavar="P", help="processes (one per core)")
    return parser


def plan_scans(
    num_training: int, num_test: int, shape: tuple[int, int, int], seed: int, start: int = 0, acquisitions: int = 1
) -> list[Scan]:
    """Every case of a data set.

    Args:
        num_training: Patients in imagesTr.
        num_test: Patients in imagesTs, which follow them.
        shape: Voxels along (D, H, W).
        seed: Seed of the population.
        start: Number of the first patient.
        acquisitions: Scans of each patient.
    """
    scans = []
    for index in range(start, start + num_training + num_test):
        patient = f"phantom_{index:04d}"
        for acquisition in range(acquisitions):
            case_id = patient if acquisitions == 1 else f"{patient}_a{acquisition}"
            split = "Tr" if index < start + num_training else "Ts"
            scans.append(Scan(case_id, patient, patient_seed(seed, index), acquisition, shape, split))
    return scans


def write_phantoms(folder: Path, scans: Sequence[Scan], num_processes: int) -> None:
    """Write the cases that are not there yet, and `dataset.json` last.

    Args:
        folder: Folder of the raw data set.
        scans: All cases that it is to hold.
        num_processes: Worker processes; the result does not depend on their number.

    Raises:
        ValueError: if the folder holds something else, listing every conflict.
    """
    with sole_writer(folder, PHANTOM):
        _write_phantoms(folder, scans, num_processes)


def _write_phantoms(folder: Path, scans: Sequence[Scan], num_processes: int) -> None:
    manifest = Manifest(folder)
    records = manifest.read()
    faults = _conflicts(folder, scans, records)
    if faults:
        raise ValueError("\n".join(faults))
    missing = [scan for scan in scans if not _is_written(folder, scan, records)]
    logger.info(f"{folder.name}: {len(scans) - len(missing)} of {len(scans)} cases are there")
    if missing:
        reopen_dataset(folder)
        with closing(as_finished(partial(_make, folder), missing, num_processes)) as finished:
            for record in tqdm(finished, total=len(missing), desc="phantoms", unit="case"):
                manifest.append(record)
    manifest.finalise()
    write_dataset_json(
        folder,
        {BACKGROUND: 0} | LABELS,
        len(training_cases(folder)),
        surroundings=SURROUNDINGS,
        description="Invented patients, made by fcas_phantom; fcas_manifest.jsonl says which scans show the same one.",
    )


def _make(folder: Path, scan: Scan) -> dict[str, Any]:
    """Write one case; returns its manifest record."""
    write_case(folder, phantom_case(scan.case_id, scan.shape, scan.seed, scan.acquisition), split=scan.split)
    image, label, _ = _files(folder, scan)
    hashes = {"image_sha256": file_sha256(image), "label_sha256": file_sha256(label)}
    return scan.record() | hashes | {COMMAND: PHANTOM, "versions": versions()}


def _files(folder: Path, scan: Scan) -> tuple[Path, Path, Path]:
    """Image, labels and surroundings of a case."""
    return (
        folder / f"images{scan.split}" / f"{scan.case_id}_0000{FILE_ENDING}",
        folder / f"labels{scan.split}" / f"{scan.case_id}{FILE_ENDING}",
        folder / f"surroundings{scan.split}" / f"{scan.case_id}{FILE_ENDING}",
    )


def _is_written(folder: Path, scan: Scan, records: Mapping[str, Any]) -> bool:
    return scan.case_id in records and all(path.is_file() for path in _files(folder, scan))


def _conflicts(folder: Path, scans: Sequence[Scan], records: Mapping[str, Any]) -> list[str]:
    """Why these cases cannot be written into a folder."""
    faults = []
    if is_dataset(folder):  # a finished one, so the manifest is, too
        faults += [
            f"{folder.name}, {scan.case_id}: case must be new, got one that the manifest does not name. Move it away, "
            "or take another id."
            for scan in scans
            if scan.case_id not in records and any(path.exists() for path in _files(folder, scan))
        ]
    splits = {record["patient"]: record["split"] for record in records.values() if "patient" in record}
    for scan in scans:
        made = records.get(scan.case_id, {})
        different = {key: made[key] for key, value in scan.record().items() if key in made and made[key] != value}
        if different:
            wanted = {key: scan.record()[key] for key in different}
            faults.append(
                f"{folder.name}, {scan.case_id}: case must be made with {wanted}, got one with {different} there. "
                "Take another id or the same arguments as before."
            )
        elif splits.get(scan.patient, scan.split) != scan.split:
            faults.append(
                f"{folder.name}, {scan.case_id}: a patient must be in training or test cases, got both. "
                "Take another id or another --start."
            )
    return faults


def _check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse numbers out of range, all at once."""
    at_least = {"-n": (arguments.n, 1), "--num-test": (arguments.num_test, 0), "--seed": (arguments.seed, 0),
                "--start": (arguments.start, 0), "--acquisitions": (arguments.acquisitions, 1),
                "--shape": (min(arguments.shape), _SMALLEST_GRID)}  # fmt: skip
    faults = [
        f"{name}: must be at least {least}, got {value}. Give a higher number."
        for name, (value, least) in at_least.items()
        if value < least
    ]
    at_most = {"-n": (arguments.n, MOST_CASES), "--num-test": (arguments.num_test, MOST_CASES),
               "--acquisitions": (arguments.acquisitions, MOST_CASES),
               "--shape": (max(arguments.shape), _LARGEST_GRID)}  # fmt: skip
    faults += [
        f"{name}: must be at most {most:,}, got {value}. Give a lower number."
        for name, (value, most) in at_most.items()
        if value > most
    ]
    if faults:
        raise ValueError("\n".join(faults))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_phantom."""
    arguments = build_parser().parse_args(argv)
    _check_arguments(arguments)
    default_name = _NAME if arguments.name is None else arguments.name
    folder = new_dataset_folder(arguments.d, default_name=default_name, by="-d")
    if arguments.name not in (None, parse_name(folder.name)[1]):
        raise ValueError(
            f"--name: must be the name that -d has, got {arguments.name} for {folder.name}. Leave it out, or "
            "take a free id for -d."
        )
    depth, height, width = arguments.shape
    scans = plan_scans(
        arguments.n, arguments.num_test, (depth, height, width), arguments.seed, arguments.start, arguments.acquisitions
    )
    write_phantoms(folder, scans, arguments.np)
    print(f"{folder}: {len(scans)} cases")


if __name__ == "__main__":
    main()
