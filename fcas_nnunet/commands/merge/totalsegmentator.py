"""TotalSegmentator on all scans of a data set, one after another; a killed run goes on with the same command."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk
from tqdm import tqdm

from fcas_nnunet.commands.merge.rules import SourceMap, read_map
from fcas_nnunet.commands.merge.sources import Source, open_source
from fcas_nnunet.commands.runtime.channels import showing
from fcas_nnunet.datasets.totalsegmentator import LICENSED, UnusableError, find_command, segment
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import file_sha256, is_file_name, temporary_folder
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.manifest import CASE_ID, Journal
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import FILE_ENDING
from fcas_nnunet.intensities import is_ct
from fcas_nnunet.labels.merging import Part

logger = logging.getLogger(__name__)

JOURNAL_FILE = "fcas_totalsegmentator.jsonl"
FLAG = "--totalsegmentator"
_FOLDER = "totalsegmentatorTr"


@dataclass(frozen=True)
class TaskRun:
    """A task of TotalSegmentator, whose results become a source.

    Attributes:
        scans: data set of the scans.
        task: of TotalSegmentator.
        map: what becomes of its structures.
        folder: of its results, `<case>.nii.gz`.
        options: further ones of it.
    """

    scans: RawDataset
    task: str
    map: SourceMap
    folder: Path
    options: tuple[str, ...]

    @property
    def is_licensed(self) -> bool:
        """Whether it needs a licence, and so had better fail before the others have taken hours."""
        return self.task in LICENSED

    def do(self) -> None:
        """Run it on every scan that has no result yet.

        A result that this command did not make is taken as it is. One of an earlier scan, or of other options, is made
        again.

        Raises:
            InputError: when a scan failed: at once if it is the first one or no other would do better, else at the end,
                all of them.
        """
        with exclusive(self.folder):
            self._do(Journal(self.folder / JOURNAL_FILE))

    def source(self) -> Source:
        """The results as a source."""
        return open_source(self.folder, self.map, self.scans.case_ids)

    def _do(self, journal: Journal) -> None:
        records, faults, succeeded = journal.read(), [], 0
        for case_id in tqdm(self.scans.case_ids, desc=f"TotalSegmentator {self.task}", unit="case", disable=None):
            image = self.scans.image_path(case_id)
            if not image.is_file():
                faults.append(f"{case_id}: scan must exist, got no file {image}. Add it or remove the case.")
                continue
            record = {CASE_ID: case_id, "image_sha256": file_sha256(image), "options": list(self.options)}
            if self.result(case_id).is_file() and records.get(case_id, record) == record:
                continue
            try:
                self._run(case_id, image)
            except UnusableError as error:
                raise InputError(f"{FLAG}: {error}") from error
            except InputError as error:
                faults.append(f"{case_id}: {error}")
                if not succeeded:
                    break
            else:
                succeeded += 1
                journal.append(record)
        if faults:
            raise InputError("\n".join(faults))

    def result(self, case_id: str) -> Path:
        """Where the result for a case is, or will be."""
        return self.folder / f"{case_id}{FILE_ENDING}"

    def _run(self, case_id: str, image: Path) -> None:
        command, result = find_command(f"{FLAG} {self.task}"), self.result(case_id)
        log = self.folder / f"{case_id}.log"
        with temporary_folder(result) as folder:
            scan = _plainly_named(image, folder)
            segment(command, self.task, scan, folder / f"labels{FILE_ENDING}", self.options, log)
            (folder / f"labels{FILE_ENDING}").replace(result)
        log.unlink()


def plan_runs(
    scans: RawDataset, arguments: Sequence[str], folder: Path | None, options: Sequence[str]
) -> list[TaskRun]:
    """What `--totalsegmentator` asks for; nothing is run.

    Args:
        scans: data set of the scans.
        arguments: `TASK` or `TASK:map.yaml` each.
        folder: of the results, one below it for each task; None = beside the scans.
        options: further ones of TotalSegmentator.

    Raises:
        FileNotFoundError, ValueError: when TotalSegmentator is not there, or a map is at fault.
    """
    runs = []
    for argument in arguments:
        task, _, path = argument.partition(":")
        if not is_file_name(task):
            raise InputError(f"{FLAG} {argument}: it must be a task, or TASK:map.yaml, got neither. Name one: total.")
        into = Part.LABELS if task in LICENSED else Part.SURROUNDINGS
        default = SourceMap(f"{FLAG} {task}", into=into, roles=scans.roles)
        source_map = read_map(Path(path), default) if path else default
        place = (folder or scans.folder / _FOLDER) / task
        runs.append(TaskRun(scans, task, source_map, place, tuple(options)))
        if not all(runs[-1].result(case_id).is_file() for case_id in scans.case_ids):
            find_command(f"{FLAG} {task}")
    kind = showing(scans, 0).channel_name
    if not is_ct(kind) and any(not run.task.endswith("_mr") for run in runs):
        logger.warning(
            f"{scans.name}: its scans are {kind}; TotalSegmentator's tasks for MR end in _mr, as total_mr does"
        )
    return runs


def _plainly_named(image: Path, folder: Path) -> Path:
    """The scan as NIfTI under a name without dots: TotalSegmentator takes `a.b.nii.gz` and other formats for DICOM."""
    if image.name.endswith(FILE_ENDING):
        scan = folder / f"scan{FILE_ENDING}"
        scan.symlink_to(image.resolve())
        return scan
    scan = folder / f"scan{FILE_ENDING}"
    sitk.WriteImage(sitk.ReadImage(str(image)), str(scan))
    return scan
