"""Choose, for every synthetic case, folds of a trained nnU-Net that have not learnt from the cases it was made from.

The judge of a label must not know the scan that the label comes from: it would find the label that it has learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.plain_files import read_checkpoint
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.models.prediction import TrainedModel
from fcas_nnunet.integration.models.trained_models import checkpoint_path
from fcas_nnunet.integration.preprocessing.splits import SPLITS_FILE
from fcas_nnunet.integration.provenance.contents import training_contents
from fcas_nnunet.integration.provenance.parents import (
    PRETRAINING_KEY,
    Parent,
    Role,
    from_json,
    leaks,
    learnt_cases,
    merged,
    origins_of,
)


@dataclass(frozen=True)
class Judges:
    """The folds that judge a synthetic case."""

    folds: tuple[str, ...]
    know_template: bool = False  # they have learnt from the template, though not from the reference


def learnt_by_fold(model: TrainedModel) -> dict[str, list[Parent]]:
    """Return, for each fold, the cases that it was trained on, and those that its first weights had learnt from.

    A network that was trained on synthetic scans has learnt from the real cases that these were made from.

    Raises:
        InputError: when it is not known what a fold was trained on.
    """
    found = {fold: _learnt_by(model, fold) for fold in model.folds}
    unknown = [fold for fold, learnt in found.items() if not learnt]
    if unknown:
        raise InputError(
            f"{model.folder}: the training cases of every fold must be known, got neither their data set in nnUNet_raw "
            f"nor its {SPLITS_FILE} in nnUNet_preprocessed, for fold {', '.join(unknown)}. Put one of them there."
        )
    return found


def _learnt_by(model: TrainedModel, fold: str) -> list[Parent]:
    own = learnt_cases(model.folder, [fold])
    checkpoint = read_checkpoint(checkpoint_path(model.folder, fold, model.checkpoint), ("init_args",))
    described = checkpoint["init_args"]["dataset_json"]
    before = described.get(PRETRAINING_KEY, {})
    names = sorted({str(name) for name, _ in before.get("trained_on", ())})
    earlier = [parent for name in names for parent in _real_cases(name)]
    return merged([*own, *earlier, *(from_json(described) or []), *(from_json(before) or [])]) if own else []


def _real_cases(name: str) -> list[Parent]:
    """Return the cases of a data set on which weights were trained before; none of a synthetic one, whose parents are
    recorded, nor of one that is not there."""
    try:
        dataset = RawDataset.open(resolve_dataset(name), any_kind=True)
    except (FileNotFoundError, ValueError):
        return []
    if from_json(dataset.dataset_json) is not None:
        return []
    return [Parent(name, i, sha256, (Role.TRAINING,)) for i, sha256 in training_contents(dataset).items()]


def choose_judges(
    records: Mapping[str, Mapping[str, Any]], learnt: Mapping[str, Sequence[Parent]], parents: Sequence[Parent]
) -> dict[str, Judges]:
    """Choose the folds that judge each case; cases without any are left out.

    These are the folds that have learnt neither from the case's reference nor from its template. Where there is none,
    because the two were held out by different folds, those that have not learnt from the reference: it gives the label.

    Args:
        records: Manifest's records of the cases, each with a source.
        learnt: Result of `learnt_by_fold`.
        parents: Parents of the synthetic data set, which have the hashes of their scans.
    """
    hashes = {(parent.dataset, parent.case_id): parent.image_sha256 for parent in parents}
    origins = {origin for record in records.values() for origin in origins_of(record)}
    knows = {
        (name, case_id, fold): bool(leaks(cases, name, {case_id: hashes.get((name, case_id))}))
        for name, case_id in {(name, case_id) for name, case_id, _ in origins}
        for fold, cases in learnt.items()
    }
    found = {}
    for synthetic, record in records.items():
        roles = {role: (name, case_id) for name, case_id, role in origins_of(record)}
        unseen = {role: {fold for fold in learnt if not knows[*roles[role], fold]} for role in roles}
        of_reference = unseen[Role.REFERENCE]
        both = of_reference & unseen.get(Role.TEMPLATE, of_reference)
        if folds := tuple(fold for fold in learnt if fold in (both or of_reference)):
            found[synthetic] = Judges(folds, know_template=not both)
    return found
