"""Collect the real cases behind a synthetic data set, and refuse those that are test or validation cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.library import CaseLibrary
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.preprocessing.splits import read_splits
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import (
    ALLOW_VARIABLE,
    PARENTS_KEY,
    Parent,
    Role,
    from_json,
    held_out_faults,
    leaks,
    merged,
    refuse_leaks,
    to_json,
)
from fcas_nnunet.json_files import read_json
from fcas_nnunet.listing import listed

if TYPE_CHECKING:
    from fcas_nnunet.generator.checkpoint import GeneratorRecord

logger = logging.getLogger(__name__)

#: File beside an autoencoder of an earlier version.
EARLIER_PARENTS = "parents.json"


def training_parents(source: RawDataset) -> list[Parent]:
    """Return the cases of a generator's training data set as parents, and the parents of these cases."""
    contents = training_contents(source)
    own = [Parent(source.name, case_id, contents[case_id], (Role.TRAINING,)) for case_id in source.case_ids]
    return merged([*own, *(from_json(source.dataset_json) or [])])


def weights_parents(weights: Path) -> list[Parent]:
    """Read the cases that an autoencoder of this package was trained on; none for other autoencoders.

    They are recorded in the metadata of its file, by earlier versions in a file beside it. An InputError names what is
    broken.
    """
    from fcas_nnunet.generator.data.tensors import read_metadata

    recorded, path = read_metadata(weights).get(PARENTS_KEY), weights.with_name(EARLIER_PARENTS)
    if recorded is not None:
        try:
            return from_json({PARENTS_KEY: json.loads(recorded)}) or []
        except json.JSONDecodeError as error:
            raise InputError(
                f"{weights}: {PARENTS_KEY} in its metadata must be JSON, got an error: {error}. Train it again."
            ) from error
    return (from_json(read_json(path)) or []) if path.is_file() else []


def weights_metadata(parents: Sequence[Parent]) -> dict[str, str]:
    """Return the metadata that `weights_parents` reads; a single key, so that equal weights make equal files."""
    return {PARENTS_KEY: json.dumps(to_json(parents), sort_keys=True)} if parents else {}


def generator_parents(model: Path, source: RawDataset, record: GeneratorRecord) -> list[Parent]:
    """Return the cases that a trained generator has learnt from, including cases removed from the data set since.

    `source` contains the cases of the generator's fold alone.
    """
    from fcas_nnunet.generator.checkpoint import AUTOENCODER, MODEL_FILE, load_calibration

    calibration = load_calibration(model)
    missing = [case_id for case_id in record.cases if case_id not in record.images and case_id in source.case_ids]
    contents = {**record.images, **training_contents(source, missing)}
    calibrating = () if calibration is None else calibration.held_out

    def roles(case_id: str) -> tuple[Role, ...]:
        learnt = Role.VALIDATION if case_id in record.validation_cases else Role.TRAINING
        return (learnt, Role.CALIBRATION) if case_id in calibrating else (learnt,)

    own = [Parent(source.name, case_id, contents.get(case_id), roles(case_id)) for case_id in record.cases]
    loaded = [
        p
        for p in weights_parents(model / AUTOENCODER / MODEL_FILE)
        if p.dataset != source.name or p.case_id not in record.cases
    ]
    return merged([*own, *loaded, *(from_json(source.dataset_json) or [])])


def fold_faults(model: Path, record: GeneratorRecord, source: RawDataset, fold: int | None) -> list[str]:
    """List the reason why a generator does not belong to a fold (None means all cases); at most one sentence.

    `source` contains the training cases of the fold alone.
    """
    strangers = sorted(set(record.cases) - set(source.case_ids)) if fold is not None else []
    if not strangers:
        return []
    return [
        f"{model}: the generator's cases must be training cases of fold {fold}, got {listed(strangers)}. "
        "The folds have changed since: delete it to train anew."
    ]


def drawing_parents(library: CaseLibrary) -> list[Parent]:
    """Return references and templates as parents, and the parents of those that are synthetic themselves."""
    parents = [parent for dataset in library.others.values() for parent in from_json(dataset.dataset_json) or []]
    for role, names in ((Role.REFERENCE, library.references), (Role.TEMPLATE, library.templates)):
        cases: dict[str, tuple[RawDataset, list[str]]] = {}
        for dataset, case_id in map(library.dataset_and_id, names):
            cases.setdefault(dataset.name, (dataset, []))[1].append(case_id)
        for name, (dataset, case_ids) in cases.items():
            contents = training_contents(dataset, case_ids)
            parents += [Parent(name, case_id, contents[case_id], (role,)) for case_id in case_ids]
    return parents


def refuse_leaking_parents(
    parents: Iterable[Parent], source: RawDataset, fold: int | None, others: Sequence[RawDataset] = ()
) -> None:
    """Refuse parents that are scans of a test set, or validation cases of the fold that must stay unseen.

    The test sets of `source`, the generator's data set, and of `others` are checked.

    Raises:
        InputError: If there are any, unless the environment allows leaks; the message names each.
    """
    cases = merged(parents)
    tested = {dataset.folder: dataset for dataset in (source, *others)}
    faults = [fault for dataset in tested.values() for fault in held_out_faults(cases, dataset)]
    if fold is not None:
        validation = read_splits(RawDataset.open(source.folder))[fold]["val"]
        leaking = leaks(cases, source.name, training_contents(source, validation))
        if leaking:
            faults.append(
                f"{source.name}, fold {fold}: validation cases must stay unseen, got {listed(leaking)}. Name other "
                f"references, templates or networks, or put scans of one patient on one side of splits_final.json; "
                f"{ALLOW_VARIABLE}=1 allows it, but the validation then proves nothing."
            )
    refuse_leaks(faults, logger.warning)
