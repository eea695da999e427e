"""Check a generator, its data set and the output folder before cases are made."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fcas_nnunet.commands.generate.redraw import outdated_cases
from fcas_nnunet.commands.generate.workers import Job
from fcas_nnunet.commands.runtime.channels import generator_channel_faults
from fcas_nnunet.commands.runtime.leaks import fold_faults
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.checkpoint import GeneratorRecord
from fcas_nnunet.generator.data.grid import GEOMETRY
from fcas_nnunet.generator.data.tensors import FileIdentity
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.generator.run_file import generator_faults
from fcas_nnunet.generator.substitutes import refuse_made_otherwise
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, is_dataset
from fcas_nnunet.integration.dataset.synthetic_cases import label_path
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.intensities import CT_UNIT
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)


def report_lacking_templates(
    plans: Sequence[CasePlan],
    labels_of: Mapping[str, Collection[int]],
    labels: Mapping[str, int],
    record: GeneratorRecord | None,
    unit: str = CT_UNIT,
) -> None:
    """Warn of structures that a mask has but its template lacks, so that their appearance comes from elsewhere.

    `labels_of` gives the ids of the structures that each case has; `record` is the generator's, None before training.
    """
    for name, label in labels.items():
        lacking = [p for p in plans if label in labels_of[p.reference] and label not in labels_of[p.template]]
        if not lacking:
            continue
        usual = "its mean over the training cases"
        if record is not None:
            mean = record.label_means.get(label) if record.tcdm.prior else None
            usual = "no example" if mean is None else f"{usual}, {_shown(mean)} {unit}"
        templates = listed(sorted({plan.template for plan in lacking}))
        logger.warning(
            f"{len(lacking)} of {len(plans)} cases have {name}, which their templates ({templates}) lack: it is drawn "
            f"after {usual}. Label it in more cases, or name --templates that have it."
        )


def check_model(
    record: GeneratorRecord,
    source: RawDataset,
    fold: int | None,
    requested: FCaSConfig | None,
    files: dict[str, FileIdentity | None] | None,
    folder: Path,
) -> None:
    """Check that the generator belongs to the data set, fold, settings and weights; an InputError lists every fault.

    Args:
        record: Record of the generator.
        source: The data set.
        fold: The fold whose training cases it may know; None means all cases.
        requested: The requested settings; None means those of the generator.
        files: The requested weights; None means those that it was made from.
        folder: Folder of the generator.
    """
    faults = []
    if dict(record.labels) != dict(source.labels):
        faults.append(f"{folder}: the generator's labels must be the data set's, got {record.labels}. Train it anew.")
    faults += generator_channel_faults(folder, record, source)
    faults += fold_faults(folder, record, source, fold)
    faults += generator_faults(folder, record.config, requested, files)
    if faults:
        raise InputError("\n".join(faults))
    if record.geometry != GEOMETRY:
        logger.warning(
            f"{folder}: the generator was trained by another version, which resampled scans to the working grid "
            "differently, so images are worse than they could be. Delete the folder to train it anew."
        )


def report_changes(record: GeneratorRecord, source: RawDataset) -> None:
    """Name training cases whose scan has changed since the generator was trained."""
    present = [case_id for case_id in source.case_ids if case_id in record.images]
    for case_id, sha256 in training_contents(source, present).items():
        if record.images[case_id] != sha256:
            logger.warning(f"{case_id}: its scan has changed since the generator was trained")


def check_output(plans: Sequence[CasePlan], job: Job) -> None:
    """Check that the content of the output folder belongs to this plan.

    Raises:
        InputError: If a case was made with other settings, or would be written over though the manifest lacks it.
    """
    records = Manifest(job.output).read()
    if is_dataset(job.output):  # it is finished, and so is the manifest
        unknown = [p.case_id for p in plans if p.case_id not in records and label_path(job.output, p.case_id).exists()]
        if unknown:
            raise InputError(
                f"{job.output}: cases to be made must be new, got some there without a line in the manifest: "
                f"{listed(unknown)}. Restore their lines, move them away, or choose another -o."
            )
    old = set(outdated_cases(records, plans))  # of an earlier attempt, and so of another seed
    plans = [plan for plan in plans if plan.case_id not in old]
    rule = "its cases must have been made with the same generator, seed, masks and labels and the same sampling"
    refuse_made_otherwise(records, plans, job.shared, f"{job.output}: {rule}", job.of_scan)


def _shown(means: Sequence[float]) -> str:
    return ", ".join(f"{mean:.0f}" for mean in means)
