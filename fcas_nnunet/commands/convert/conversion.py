"""A whole data set: everything is checked, then what is missing is written, then what describes it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.convert.cases import PLANNED, Job, check_case, write_case
from fcas_nnunet.commands.convert.summary import summary_lines
from fcas_nnunet.commands.runtime.case_files import stream_cases
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.datasets.layout import Layout, PublicSet, Split
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.folders import Root
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE, Manifest
from fcas_nnunet.integration.dataset.ownership import CONVERT, sole_writer
from fcas_nnunet.integration.dataset.raw_dataset import reopen_dataset, training_cases, write_dataset_json
from fcas_nnunet.integration.preprocessing.splits import SPLITS_FILE
from fcas_nnunet.labels.anatomy import BACKGROUND

logger = logging.getLogger(__name__)

_BYTES_PER_VOXEL = 24.0  # of a float64 scan; one of int16 takes 12


def convert(
    folder: Path, source: Path, public: PublicSet, layout: Layout, offset: int, num_processes: int
) -> list[str]:
    """Write the cases that are not there yet, `dataset.json` and the folds.

    Args:
        folder: Of the raw data set.
        source: The user's folder.
        public: The set.
        layout: Its cases.
        offset: What stored intensities exceed HU by.
        num_processes: Worker processes; the result does not depend on their number.

    Returns:
        The summary.

    Raises:
        InputError: If a case cannot be converted, or the folder holds something else; all faults are listed. What
            could be written is kept, but `dataset.json` is not written.
    """
    jobs = {scan.case_id: Job(folder, source, public, scan, offset) for scan in layout.scans}
    with sole_writer(folder, CONVERT):
        manifest = Manifest(folder)
        records = manifest.read()
        if faults := _conflicts(folder, jobs, layout, records):
            raise InputError("\n".join(faults))
        missing = {
            case_id: job for case_id, job in jobs.items()
            if case_id not in records or not all(path.is_file() for path in job.files())
        }  # fmt: skip
        logger.info(f"{folder.name}: {len(jobs) - len(missing)} of {len(jobs)} cases are there")
        if missing:
            _write(manifest, missing, num_processes)
        manifest.finalise()
        write_dataset_json(
            folder, {BACKGROUND: 0} | dict(public.labels), len(training_cases(folder)),
            channel_names={"0": public.channel},
            description=f"{public.name}, converted by fcas_convert; {MANIFEST_FILE} tells the files of each case.",
            more={key: text for key, text in (("reference", public.reference), ("licence", public.licence)) if text},
        )  # fmt: skip
        folds = _write_folds(folder, layout)
        records = manifest.read()
    return summary_lines(public, layout, {case_id: records[case_id] for case_id in jobs}, folds)


def _write(manifest: Manifest, missing: Mapping[str, Job], num_processes: int) -> None:
    """Check all missing cases, then write them."""
    need = MemoryNeed.of((job.scan.image for job in missing.values()), _BYTES_PER_VOXEL)
    for _ in stream_cases(check_case, missing, workers=num_processes, description="checking", need=need):
        pass
    reopen_dataset(manifest.path.parent)
    for _, record in stream_cases(write_case, missing, workers=num_processes, description="converting", need=need):
        manifest.append(record)


def _conflicts(folder: Path, jobs: Mapping[str, Job], layout: Layout, records: Mapping[str, Any]) -> list[str]:
    """Why these cases cannot be written into a folder."""
    faults = []
    for case_id, job in jobs.items():
        made, wanted = records.get(case_id, {}), job.record()
        different = [key for key in PLANNED if key in made and made[key] != wanted[key]]
        if different:
            asked, there = ({key: record[key] for key in different} for record in (wanted, made))
            faults.append(
                f"{folder.name}, {case_id}: case must be converted with {asked}, got one with {there} there. Take "
                "another id for -d, or the same arguments as before."
            )
    written = {case_id for names in layout.skipped.values() for case_id in names} & records.keys()
    faults += [
        f"{folder.name}, {case_id}: case must be left out, got one that is converted. Take another id for -d, or leave "
        "out --skip."
        for case_id in sorted(written)
    ]
    others = sorted({str(record.get("set")) for record in records.values()} - {job.public.key for job in jobs.values()})
    if others:
        faults.append(
            f"{folder.name}: must hold cases of one set, got some of {', '.join(others)}. Take another id for -d."
        )
    return faults


def _write_folds(folder: Path, layout: Layout) -> str:
    """Write the folds beside `dataset.json`, and where nnU-Net reads them; says what was done."""
    folds = layout.folds(training_cases(folder)) if layout.folds else []
    if not folds:
        return "none are published; nnU-Net makes its own five folds"
    path = folder / SPLITS_FILE
    earlier = _read(path)
    atomic_write_json(path, folds)
    kind = f"{len(folds)} fold{'s' if len(folds) > 1 else ''} of {layout.folds_origin}: {path}"
    root = os.environ.get(Root.PREPROCESSED.value)
    if not root or not Path(root).is_dir():
        return f"{kind}; copy it to $nnUNet_preprocessed/{folder.name}, where nnU-Net reads it"
    read_by_nnunet = Path(root) / folder.name / SPLITS_FILE
    if _read(read_by_nnunet) not in (None, earlier, folds):
        return f"{kind}; nnU-Net reads other folds, {read_by_nnunet}, which were there and are kept"
    atomic_write_json(read_by_nnunet, folds)
    return f"{kind}, and where nnU-Net reads it: {read_by_nnunet}"


def _read(path: Path) -> Sequence[Split] | None:
    """Folds that are there; None where there are none, or nothing that can be read."""
    try:
        folds: Sequence[Split] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return folds
