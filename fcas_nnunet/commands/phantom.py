"""fcas_phantom: write a data set of procedural patients whose labels are all known."""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.cli import MOST_CASES, command, count, make_parser, positive, processes, seed_number
from fcas_nnunet.commands.runtime.pool import write_missing
from fcas_nnunet.datasets.phantom import LABELS, MODALITIES, SURROUNDINGS, patient_seed, phantom_case
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import file_sha256
from fcas_nnunet.integration.dataset.folders import FIRST_CHANNEL, new_dataset_folder, parse_name
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
from fcas_nnunet.intensities import CT
from fcas_nnunet.labels.anatomy import BACKGROUND
from fcas_nnunet.machine import available_cores

logger = logging.getLogger(__name__)

_EXAMPLE = """
fcas_phantom -d 901 -n 24 --shape 64 64 64 --seed 0
fcas_phantom -d 905 -n 24 --modality MRI             # the same patients in a bright-blood MR scanner
fcas_phantom -d 903 -n 6 --num-test 6 --start 24 --acquisitions 3   # other patients, three scans of each
"""
_NAME = "Phantom"
_SMALLEST_GRID, _LARGEST_GRID = 16, 1024


@dataclass(frozen=True)
class Scan:
    """One case to write."""

    case_id: str  # `phantom_0007`, or `phantom_0007_a1` if a patient is scanned several times
    patient: str  # `phantom_0007`, the same for all scans of a patient
    seed: int  # seed of the patient
    acquisition: int  # number of the scan
    shape: tuple[int, int, int]  # voxels along (D, H, W)
    split: str  # "Tr" or "Ts"
    modality: str = CT  # name of the channel

    def record(self) -> dict[str, Any]:
        """Return the manifest's entries that are known before the case is made."""
        return asdict(self) | {"shape": list(self.shape)}


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of fcas_phantom."""
    parser = make_parser(
        "fcas_phantom",
        "Write an nnU-Net data set of invented patients: cardiac CTA or MR, the eight classes, the surroundings, and a "
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
    parser.add_argument("--modality", choices=MODALITIES, default=CT, help="what the patients are scanned in (CT)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="S", help="seed of the population (0)")
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


def plan_scans(args: argparse.Namespace) -> list[Scan]:
    """Plan every case of the data set; the patients of imagesTs follow those of imagesTr."""
    depth, height, width = args.shape
    scans = []
    for index in range(args.start, args.start + args.n + args.num_test):
        patient, seed = f"phantom_{index:04d}", patient_seed(args.seed, index)
        split = "Tr" if index < args.start + args.n else "Ts"
        for acquisition in range(args.acquisitions):
            case_id = patient if args.acquisitions == 1 else f"{patient}_a{acquisition}"
            scans.append(Scan(case_id, patient, seed, acquisition, (depth, height, width), split, args.modality))
    return scans


def write_phantoms(folder: Path, scans: Sequence[Scan], num_processes: int) -> None:
    """Write the missing cases, and `dataset.json` last; the result does not depend on the number of processes.

    Raises:
        InputError: If the folder contains something else; every conflict is listed.
    """
    records = Manifest(folder).read()
    if faults := _conflicts(folder, scans, records):
        raise InputError("\n".join(faults))
    missing = [
        scan for scan in scans
        if scan.case_id not in records or not all(path.is_file() for path in _files(folder, scan))
    ]  # fmt: skip
    logger.info(f"{folder.name}: {len(scans) - len(missing)} of {len(scans)} cases are there")
    if missing:
        reopen_dataset(folder)
    write_missing(folder, partial(_make, folder), missing, len(scans), num_processes, "phantoms")
    write_dataset_json(
        folder, {BACKGROUND: 0} | LABELS, len(training_cases(folder)), surroundings=SURROUNDINGS,
        channel_names={"0": scans[0].modality},
        description="Invented patients, made by fcas_phantom; fcas_manifest.jsonl says which scans show the same one.",
    )  # fmt: skip


def _make(folder: Path, scan: Scan) -> dict[str, Any]:
    """Write one case; returns its manifest record."""
    case = phantom_case(scan.case_id, scan.shape, scan.seed, scan.acquisition, scan.modality)
    write_case(folder, case, split=scan.split)
    image, label, _ = _files(folder, scan)
    hashes = {"image_sha256": file_sha256(image), "label_sha256": file_sha256(label)}
    return scan.record() | hashes | {COMMAND: PHANTOM, "versions": versions()}


def _files(folder: Path, scan: Scan) -> tuple[Path, Path, Path]:
    """Return the paths of a case's image, labels and surroundings."""
    return (
        folder / f"images{scan.split}" / f"{scan.case_id}{FIRST_CHANNEL}{FILE_ENDING}",
        folder / f"labels{scan.split}" / f"{scan.case_id}{FILE_ENDING}",
        folder / f"surroundings{scan.split}" / f"{scan.case_id}{FILE_ENDING}",
    )


def _conflicts(folder: Path, scans: Sequence[Scan], records: Mapping[str, Any]) -> list[str]:
    """List the reasons why these cases cannot be written into a folder."""
    faults = []
    if is_dataset(folder):  # it is finished, and so is the manifest
        faults += [
            f"{folder.name}, {scan.case_id}: case must be new, got one that the manifest does not name. Move it away, "
            "or take another id."
            for scan in scans
            if scan.case_id not in records and any(path.exists() for path in _files(folder, scan))
        ]
    # earlier versions made CT alone and did not say so
    there = {record.get("modality", CT) for record in records.values()} - {scan.modality for scan in scans}
    if there:
        faults.append(
            f"{folder.name}: --modality must be that of the cases that are there, {', '.join(there)}, got "
            f"{scans[0].modality}. Take another id."
        )
    splits = {record["patient"]: record["split"] for record in records.values() if "patient" in record}
    for scan in scans:
        made, wanted = records.get(scan.case_id, {}), scan.record()
        different = [key for key, value in wanted.items() if key in made and made[key] != value and key != "modality"]
        if different:
            requested, known = ({key: record[key] for key in different} for record in (wanted, made))
            faults.append(
                f"{folder.name}, {scan.case_id}: case must be made with {requested}, got one with {known} there. "
                "Take another id or the same arguments as before."
            )
        elif splits.get(scan.patient, scan.split) != scan.split:
            faults.append(
                f"{folder.name}, {scan.case_id}: a patient must be in training or test cases, got both. "
                "Take another id or another --start."
            )
    return faults


def _check_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers out of range, all at once."""
    ranges = {
        "-n": ([args.n], 1, MOST_CASES),
        "--num-test": ([args.num_test], 0, MOST_CASES),
        "--seed": ([args.seed], 0, math.inf),
        "--acquisitions": ([args.acquisitions], 1, MOST_CASES),
        "--shape": (args.shape, _SMALLEST_GRID, _LARGEST_GRID),
    }
    faults = []
    for flag, (values, least, most) in ranges.items():
        if min(values) < least:
            faults.append(f"{flag}: must be at least {least}, got {min(values)}. Give a higher number.")
        if max(values) > most:
            faults.append(f"{flag}: must be at most {most:,}, got {max(values)}. Give a lower number.")
    scans = (args.n + args.num_test) * args.acquisitions
    if not faults and scans > MOST_CASES:
        faults.append(
            f"-n, --num-test, --acquisitions: must make at most {MOST_CASES:,} scans together, got {scans:,}. Give "
            "lower numbers."
        )
    if faults:
        raise InputError("\n".join(faults))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of fcas_phantom."""
    args = build_parser().parse_args(argv)
    _check_arguments(args)
    folder = new_dataset_folder(args.d, default_name=_NAME if args.name is None else args.name, by="-d")
    if args.name not in (None, parse_name(folder.name)[1]):
        raise InputError(
            f"--name: must be the name that -d has, got {args.name} for {folder.name}. Leave it out, or "
            "take a free id for -d."
        )
    scans = plan_scans(args)
    with sole_writer(folder, PHANTOM):
        write_phantoms(folder, scans, args.np)
    print(f"{folder}: {len(scans)} cases")


if __name__ == "__main__":
    main()
