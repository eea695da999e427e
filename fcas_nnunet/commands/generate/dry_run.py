"""What a run of fcas_generate will make, and what disk and time it needs: the text of --dry-run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.commands.generate.measurements import (
    TimeEstimate,
    bytes_per_voxel,
    check_disk,
    estimate_time,
    format_duration,
    free_bytes,
    read_measurements,
)
from fcas_nnunet.commands.generate.workers import finished_cases, processes_for
from fcas_nnunet.commands.runtime.devices import device_label, resolve_device
from fcas_nnunet.commands.runtime.shares import Share
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.integration.dataset.library import CaseLibrary
from fcas_nnunet.integration.dataset.volumes import read_grid

#: Bytes a voxel takes uncompressed: int16 image, uint8 labels and confidence.
UNCOMPRESSED = 4.0
MAX_LISTED = 50

_CONFIDENCE_BYTES = 1.0  # a voxel of confidence, uncompressed
_RECORD_BYTES = 4096  # a line of the manifest


@dataclass(frozen=True)
class Outlook:
    """What is planned, what of it is there, and what the rest needs.

    Attributes:
        plans: all cases of the set.
        done: ids of those that are there.
        share: of this process.
        output: folder of the data set.
        model: folder of the generator.
        num_bytes: on disk, of all that is not there yet.
        measured_bytes: whether they are taken from cases of this generator; else from the labelled data set's files.
        time: of what is not there yet of this share.
        device: the model of GPU or CPU.
        processes: that work side by side.
    """

    plans: Sequence[CasePlan]
    done: frozenset[str]
    share: Share
    output: Path
    model: Path
    num_bytes: float
    measured_bytes: bool
    time: TimeEstimate
    device: str
    processes: int

    @property
    def missing(self) -> list[CasePlan]:
        """The cases that are not there yet, whoever makes them."""
        return [plan for plan in self.plans if plan.case_id not in self.done]

    def check_disk(self) -> None:
        """See that what is missing finds room.

        Raises:
            ValueError: when the disk cannot hold it.
        """
        check_disk(self.output, self.num_bytes, len(self.missing))

    def describe(self, trained: bool) -> str:
        """The plan in words, a line each; of long ones the beginning and the end.

        Args:
            trained: whether there is a generator yet.
        """
        lines = [
            f"{len(self.plans)} cases into {self.output}; {len(self.plans) - len(self.missing)} are there",
            f"generator: {self.model} ({'trained' if trained else 'would be trained first'})",
            self._disk_line(),
            self._time_line(),
        ]
        if self.share.count > 1:
            mine = self.share.of(self.plans)
            left = sum(plan.case_id not in self.done for plan in mine)
            lines.append(f"{self.share}: {len(mine)} cases, {left} of them to be made")
        return "\n".join(lines + self._plan_lines())

    def _disk_line(self) -> str:
        source = (
            "measured on this generator's cases" if self.measured_bytes else "judged by the labelled data set's files"
        )
        free = free_bytes(self.output)
        verdict = "" if free >= self.num_bytes else ": NOT ENOUGH"
        return f"disk: about {self.num_bytes / 1e9:.2f} GB ({source}), {free / 1e9:.1f} GB free{verdict}"

    def _time_line(self) -> str:
        where = f"one {self.device}" if self.processes == 1 else f"one {self.device}, {self.processes} processes"
        if self.time.seconds is None:
            return f"time: not measured yet on {where} with these settings; run a few cases first"
        cases = f"from {self.time.num_measured} case{'s' if self.time.num_measured > 1 else ''} measured"
        return f"time: about {format_duration(self.time.seconds)} on {where} ({cases})"

    def _plan_lines(self) -> list[str]:
        lines = [
            f"  {plan.case_id}: mask of {plan.reference} ({plan.masks}), template {plan.template}, seed {plan.seed}"
            + (f", part {number % self.share.count + 1}" if self.share.count > 1 else "")
            + (", there" if plan.case_id in self.done else "")
            for number, plan in enumerate(self.plans)
        ]
        if len(lines) <= MAX_LISTED:
            return lines
        return [*lines[: MAX_LISTED - 1], f"  ... {len(lines) - MAX_LISTED} more ...", lines[-1]]


def look_ahead(
    plans: Sequence[CasePlan],
    share: Share,
    cases: CaseLibrary,
    output: Path,
    model: Path,
    settings: Mapping[str, Any],
    device_name: str,
    num_processes: int | None,
) -> Outlook:
    """What making the missing cases of a plan needs.

    Args:
        plans: all cases of the set.
        share: of this process.
        cases: references and templates.
        output: folder of the data set.
        model: folder of the generator, with what was measured of it.
        settings: that decide what a voxel costs.
        device_name: where to run.
        num_processes: as asked for; None = as many as suit the device.
    """
    device = resolve_device(device_name)
    label, processes = device_label(device), processes_for(device, num_processes, cases)
    done = frozenset(finished_cases(output))
    voxels = {case: int(np.prod(read_grid(cases.mask_path(case))[0])) for case in {plan.reference for plan in plans}}
    missing = [plan for plan in plans if plan.case_id not in done]
    own = [plan for plan in share.of(plans) if plan.case_id not in done]
    measurements = read_measurements(model)
    measured = bytes_per_voxel(measurements)
    per_voxel = measured if measured is not None else _source_bytes_per_voxel(cases, voxels)
    return Outlook(
        plans, done, share, output, model,
        num_bytes=sum(voxels[plan.reference] * per_voxel + _RECORD_BYTES for plan in missing),
        measured_bytes=measured is not None,
        time=estimate_time(
            [(str(plan.masks), voxels[plan.reference]) for plan in own], measurements, label, processes, settings
        ),
        device=label, processes=processes,
    )  # fmt: skip


def _source_bytes_per_voxel(cases: CaseLibrary, voxels: Mapping[str, int]) -> float:
    """What the labelled cases' image and labels take, and uncompressed confidence; never more than all uncompressed."""
    files = (path for case in voxels for path in (cases.image_path(case), cases.mask_path(case)))
    taken = sum(path.stat().st_size for path in files)
    return min(UNCOMPRESSED, taken / sum(voxels.values()) + _CONFIDENCE_BYTES)
