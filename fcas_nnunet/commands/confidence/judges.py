"""Appoint the folds of a network that judge each case of a synthetic set, and refuse those that must not."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fcas_nnunet.commands.runtime.leaks import refuse_leaking_parents
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.folders import resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.models.cross_fitting import Judges, choose_judges, learnt_by_fold
from fcas_nnunet.integration.models.own_labels import members_of
from fcas_nnunet.integration.models.prediction import TrainedModel, find_model
from fcas_nnunet.integration.models.trained_models import channel_faults
from fcas_nnunet.integration.provenance.parents import Parent, Role, merged, refuse_leaks
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

Records = Mapping[str, Mapping[str, Any]]


def appoint(
    model: TrainedModel, records: Records, parents: Sequence[Parent], *, both: bool
) -> tuple[dict[str, Judges], list[Parent]]:
    """Choose the folds that judge each case.

    Args:
        model: The network, with the folds to choose from.
        records: Manifest's records of the cases, each with a source.
        parents: Parents of the set, which have the hashes of their scans.
        both: Refuse cases whose judges have learnt from the template.

    Returns:
        Case id → its judges; and what the judges have learnt from.

    Raises:
        InputError: when no fold may judge a case, or judges know scans that must stay unseen, unless the environment
            allows leaks.
    """
    learnt = learnt_by_fold(model)
    judges = choose_judges(records, learnt, parents)
    refuse_leaks(_judge_faults(model, records, judges, both), logger.warning)
    judges = {i: judges.get(i, Judges(model.folds, know_template=True)) for i in records}
    used = {fold for case in judges.values() for fold in case.folds}
    known = [Parent(p.dataset, p.case_id, p.image_sha256, (Role.JUDGE,)) for f in used for p in learnt[f]]
    _refuse_unseen(records.values(), known)
    return judges, merged(known)


def check_planned(
    args: argparse.Namespace,
    records: Records,
    parents: Sequence[Parent],
    source: RawDataset,
    labels: Mapping[str, int],
    name: str,
) -> None:
    """Check, before a set is made, that the network can judge it.

    Args:
        args: Arguments of `add_judge_arguments`.
        records: Case id → source, reference, template and fold of each planned case.
        parents: Parents of the set.
        source: Data set whose scans are imitated.
        labels: Label name → id that the set will have.
        name: Name of the set.

    Raises:
        MissingFileError: when there is no such network.
        InputError: when it takes other scans or knows other labels; and as `appoint`.
    """
    model = find_model(args.network, args.f, args.chk)
    if faults := channel_faults(model.dataset_json, list(source.channel_names.values())):
        raise InputError("\n".join(f"{model.folder}: {fault}" for fault in faults))
    members_of(model, labels, name)
    appoint(model, records, parents, both=args.both)


def _judge_faults(model: TrainedModel, records: Records, judges: Mapping[str, Judges], both: bool) -> list[str]:
    """List why cases cannot be judged, a sentence for each reference, or with `both` for each pair."""
    lacking: dict[str, list[str]] = {}
    for case_id, record in records.items():
        if case_id not in judges:
            lacking.setdefault(f"the reference {record['reference']}", []).append(case_id)
        elif both and judges[case_id].know_template:
            pair = f"both {record['reference']} and {record['template']}"
            lacking.setdefault(pair, []).append(case_id)
    remedy = "Leave out --both" if both else "Train more folds"
    return [
        f"{model.folder}: at least one fold must not have learnt from {parents}, got none of fold "
        f"{', '.join(model.folds)} for {listed(case_ids)}. {remedy}, or name a network of other scans."
        for parents, case_ids in lacking.items()
    ]


def _refuse_unseen(records: Iterable[Mapping[str, Any]], known: Sequence[Parent]) -> None:
    """Refuse judges that have learnt from scans which must stay unseen: the source's test scans, and the validation
    cases of the fold that the set was made for."""
    for source, fold in sorted({(str(r["source"]), r.get("fold")) for r in records}, key=str):
        try:
            dataset = RawDataset.open(resolve_dataset(source))
        except FileNotFoundError:
            logger.warning(f"{source}: it is not there, so whether the network knows its test scans is not known")
            continue
        refuse_leaking_parents(known, dataset, fold)
