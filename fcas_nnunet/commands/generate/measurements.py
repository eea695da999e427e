"""Save the time and disk space that cases took beside the model, and estimate them for further cases."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fcas_nnunet.config.schema import Count, CountOrZero, NotNegative, from_dict, settings
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import own_file
from fcas_nnunet.machine import free_disk_bytes

logger = logging.getLogger(__name__)

MEASUREMENTS_FILE = "measurements.jsonl"
#: Number of cases of a run that are recorded, and of the latest ones that an estimate uses.
KEPT_PER_RUN, LATEST = 20, 100


@settings
class Measurement:
    """Time and disk space that one case took."""

    device: str  # model of the GPU or CPU
    processes: Count  # number of processes that ran in parallel
    masks: str  # where the mask came from
    settings: dict[str, Any]  # settings of the reverse diffusion and the confidence
    voxels: Count
    seconds: NotNegative  # from reading its reference to its last file
    num_bytes: CountOrZero  # size on disk
    first: bool  # True for the first case of a process, whose time includes what happens once


def append_measurement(model: Path, measurement: Measurement) -> None:
    """Record a case; does nothing if the model's folder cannot be written."""
    line = json.dumps(asdict(measurement), sort_keys=True) + "\n"
    try:  # one short write at the end of the file: processes that share it do not mix their lines
        with open(model / MEASUREMENTS_FILE, "ab", buffering=0, opener=own_file) as stream:
            stream.write(line.encode())
    except OSError as error:
        logger.debug(f"{model}: measurements are not saved: {error}")


def read_measurements(model: Path) -> list[Measurement]:
    """Read all records, oldest first; broken lines are skipped."""
    path = model / MEASUREMENTS_FILE
    measurements = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with suppress(ValueError, RecursionError):
            measurements.append(from_dict(Measurement, json.loads(line)))
    return measurements


def estimate_time(
    cases: Iterable[tuple[str, int]],
    measurements: Sequence[Measurement],
    device: str,
    processes: int,
    settings: Mapping[str, Any],
) -> tuple[float, int] | None:
    """Estimate the time of cases from measurements with the same device, processes and settings.

    Args:
        cases: Kind of mask and number of voxels of each; time grows with the voxels.
        measurements: Measurements of the model.
        device: Model of the GPU or CPU.
        processes: Number of processes that run in parallel.
        settings: Settings of the reverse diffusion and the confidence.

    Returns:
        Seconds, and the number of cases that the estimate uses; None if no comparable case was measured.
    """
    voxels: Counter[str] = Counter()
    for masks, count in cases:
        voxels[masks] += count
    like = (device, processes, json.loads(json.dumps(settings)))  # tuples come back as lists
    alike = [m for m in measurements if (m.device, m.processes, m.settings) == like]
    seconds, num_measured = 0.0, 0
    for masks, count in voxels.items():
        same = [m for m in alike if m.masks == masks]
        measured = ([m for m in same if not m.first] or same)[-LATEST:]
        if not measured:
            return None
        seconds += count * sum(m.seconds for m in measured) / sum(m.voxels for m in measured)
        num_measured += len(measured)
    return seconds / processes, num_measured


def bytes_per_voxel(measurements: Sequence[Measurement]) -> float | None:
    """Return the bytes on disk of a voxel of image, labels and confidence together; None without measurements."""
    latest = measurements[-LATEST:]
    return sum(m.num_bytes for m in latest) / sum(m.voxels for m in latest) if latest else None


def check_disk(folder: Path, num_bytes: float, num_cases: int) -> None:
    """Raise an InputError if the disk of a folder, which need not exist, has too little free space."""
    free = free_disk_bytes(folder)
    if num_bytes > free:
        raise InputError(
            f"{folder}: free disk space must be at least {num_bytes / 1e9:.1f} GB for {num_cases} cases, "
            f"got {free / 1e9:.1f} GB. Free some, ask for fewer cases (-n), "
            "or continue until it is full with --ignore_disk."
        )
