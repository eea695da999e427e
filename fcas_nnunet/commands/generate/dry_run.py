"""Describe a run of fcas_generate for --dry-run: its plan, and the disk space and time that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.commands.generate.measurements import (
    bytes_per_voxel,
    estimate_time,
    read_measurements,
)
from fcas_nnunet.commands.generate.workers import finished_cases, processes_for
from fcas_nnunet.commands.runtime.devices import device_label, resolve_device
from fcas_nnunet.commands.runtime.durations import format_duration
from fcas_nnunet.commands.runtime.shares import Share
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.integration.dataset.library import CaseLibrary
from fcas_nnunet.integration.dataset.volumes import read_grid
from fcas_nnunet.machine import free_disk_bytes

#: Bytes a voxel takes uncompressed: int16 image, uint8 labels and confidence; a further channel, which may be floats.
UNCOMPRESSED, FURTHER_CHANNEL = 4.0, 4.0
MAX_LISTED = 50

_CONFIDENCE_BYTES = 1.0  # a voxel of confidence, uncompressed
_RECORD_BYTES = 4096  # a line of the manifest


class Outlook:
    """The plan, its finished cases, and the disk space and time that the others need.

    Args:
        plans: All cases of the set.
        share: The share of this process.
        cases: References and templates.
        output: Folder of the data set.
        model: Folder of the generator and its measurements; None where no scan is drawn.
        settings: The settings that decide what a voxel costs.
        device_name: Device to run on.
        num_processes: The requested number of processes; None means as many as suit the device.
    """

    def __init__(
        self,
        plans: Sequence[CasePlan],
        share: Share,
        cases: CaseLibrary,
        output: Path,
        model: Path | None,
        settings: Mapping[str, Any],
        device_name: str,
        num_processes: int | None,
    ) -> None:
        self.plans, self.share, self.output, self.model = plans, share, output, model
        device = resolve_device(device_name)
        self.device, self.processes = device_label(device), processes_for(device, num_processes, cases)
        self.done = finished_cases(output, cases.source.num_channels)
        voxels = {name: int(np.prod(read_grid(cases.mask_path(name))[0])) for name in {p.reference for p in plans}}
        self.missing = [plan for plan in plans if plan.case_id not in self.done]
        self.left = [plan for plan in share.of(plans) if plan.case_id not in self.done]
        measurements = [] if model is None else read_measurements(model)
        per_voxel = bytes_per_voxel(measurements)
        self.is_measured = per_voxel is not None
        if per_voxel is None:
            per_voxel = _source_bytes_per_voxel(cases, voxels)
        self.num_bytes = sum(voxels[plan.reference] * per_voxel + _RECORD_BYTES for plan in self.missing)
        own = [(plan.kind, voxels[plan.reference]) for plan in self.left]
        self.time = estimate_time(own, measurements, self.device, self.processes, settings)

    def describe(self, training: str | None) -> str:
        """Describe the plan, one line per case; of long plans only beginning and end.

        `training` says what the training that comes first will take; None where a generator exists.
        """
        free = free_disk_bytes(self.output)
        judged = "measured on this generator's cases" if self.is_measured else "judged by the labelled data set's files"
        where = f"one {self.device}" + ("" if self.processes == 1 else f", {self.processes} processes")
        if not self.left:
            time = "none, since no case is left to be made"
        elif self.time is None and self.model is None:
            time = f"about what fcas_masks takes for as many masks, on {where}"
        elif self.time is None:
            time = f"not measured yet on {where} with these settings; run a few cases first"
        else:
            seconds, number = self.time
            plural = "s" if number > 1 else ""
            time = f"about {format_duration(seconds)} on {where} (from {number} case{plural} measured)"
        lines = [
            f"{len(self.plans)} cases into {self.output}; {len(self.plans) - len(self.missing)} are there",
            f"generator: {self.model} ({'would be trained first' if training else 'trained'})"
            if self.model
            else "generator: none, since no scan is drawn",
            f"disk: about {self.num_bytes / 1e9:.2f} GB ({judged}), {free / 1e9:.1f} GB free"
            + ("" if free >= self.num_bytes else ": NOT ENOUGH"),
            f"time: {time}",
            *([training] if training else []),
        ]
        if self.share.count > 1:
            lines.append(f"{self.share}: {len(self.share.of(self.plans))} cases, {len(self.left)} of them to be made")
        return "\n".join(lines + self._plan_lines())

    def _plan_lines(self) -> list[str]:
        lines = [
            f"  {plan.case_id}: mask of {plan.reference} ({plan.masks}), "
            + ", ".join(_scan_words(plan))
            + f", seed {plan.seed}"
            + (f", part {number % self.share.count + 1}" if self.share.count > 1 else "")
            + (", there" if plan.case_id in self.done else "")
            for number, plan in enumerate(self.plans)
        ]
        if len(lines) <= MAX_LISTED:
            return lines
        return [*lines[: MAX_LISTED - 1], f"  ... {len(lines) - MAX_LISTED} more ...", lines[-1]]


def _source_bytes_per_voxel(cases: CaseLibrary, voxels: Mapping[str, int]) -> float:
    """Estimate bytes per voxel from the labelled cases' files, plus raw confidence; at most those of raw volumes."""
    files = (path for case in voxels for path in (*cases.image_paths(case), cases.mask_path(case)))
    taken = sum(path.stat().st_size for path in files)
    most = UNCOMPRESSED + FURTHER_CHANNEL * (cases.source.num_channels - 1)
    return min(most, taken / sum(voxels.values()) + _CONFIDENCE_BYTES)


def _scan_words(plan: CasePlan) -> list[str]:
    """What a case's scan is made from; of drawn ones, the source goes without saying."""
    source = [] if plan.scan == ScanSource.DRAWN else [str(plan.scan)]
    return [*source, *([f"template {plan.template}"] if plan.scan.has_template else [])]
