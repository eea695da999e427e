"""What cases have taken, kept beside the model, and what more of them will take: time and disk."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MEASUREMENTS_FILE = "measurements.jsonl"
#: Cases of a run that are written down, and the latest of them that an estimate rests on.
KEPT_PER_RUN, LATEST = 20, 100

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


@dataclass(frozen=True)
class Measurement:
    """What one case has taken."""

    device: str  # model of the GPU or CPU
    processes: int  # that worked side by side
    masks: str  # where the mask came from
    settings: Mapping[str, Any]  # of the reverse diffusion and the confidence
    voxels: int
    seconds: float  # from reading its reference to its last file
    num_bytes: int  # on disk
    first: bool  # of its process, so that it holds what happens once


def append_measurement(model: Path, measurement: Measurement) -> None:
    """Write a case down; where the model's folder cannot be written, nothing is."""
    line = json.dumps(asdict(measurement), sort_keys=True) + "\n"
    try:  # one short write at the end of the file: processes that share it do not mix their lines
        with (model / MEASUREMENTS_FILE).open("ab", buffering=0) as stream:
            stream.write(line.encode())
    except OSError as error:
        logger.debug(f"{model}: measurements are not kept: {error}")


def read_measurements(model: Path) -> list[Measurement]:
    """All that is written down, oldest first; broken lines are left out."""
    path = model / MEASUREMENTS_FILE
    measurements = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            measurements.append(Measurement(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return measurements


def estimate_time(
    cases: Iterable[tuple[str, int]],
    measurements: Sequence[Measurement],
    device: str,
    processes: int,
    settings: Mapping[str, Any],
) -> tuple[float, int] | None:
    """What cases will take where others were measured with the same device, processes and settings.

    Args:
        cases: Kind of mask and number of voxels of each; time grows with the voxels.
        measurements: What was measured with the model.
        device: Model of the GPU or CPU.
        processes: Number of processes that work side by side.
        settings: As in the measurements.

    Returns:
        Seconds, and the number of cases that they rest on; None where nothing comparable was measured.
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
    """What a voxel of image, labels and confidence takes on disk together; None where nothing was measured."""
    latest = measurements[-LATEST:]
    return sum(m.num_bytes for m in latest) / sum(m.voxels for m in latest) if latest else None


def check_disk(folder: Path, num_bytes: float, num_cases: int) -> None:
    """Raise a ValueError where the disk of a folder, which need not exist, cannot hold so many bytes."""
    free = free_bytes(folder)
    if num_bytes > free:
        raise ValueError(
            f"{folder}: free disk space must be at least {num_bytes / 1e9:.1f} GB for {num_cases} cases, "
            f"got {free / 1e9:.1f} GB. Free some, ask for fewer cases (-n), "
            "or go as far as it lasts with --ignore_disk."
        )


def free_bytes(folder: Path) -> int:
    """Room left on the disk of a folder that need not exist."""
    return shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free


def format_duration(seconds: float) -> str:
    """In the two largest units: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 1.5 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < _DAY_S:
        hours, minutes = divmod(round(seconds / _MINUTE_S), 60)
        return f"{hours} h {minutes} min"
    days, hours = divmod(round(seconds / _HOUR_S), 24)
    return f"{days} d {hours} h"
