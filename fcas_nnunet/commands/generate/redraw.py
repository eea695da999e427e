"""What a judge of a set's cases changes in its plan: cases that are made again, and references that get more cases.

The changes are a file of the data set, from which every later run plans the same cases.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.config.options import SEGMENTER
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.generator.plan import CasePlan, Changes
from fcas_nnunet.integration.dataset.locks import exclusive
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import reopen_dataset
from fcas_nnunet.integration.dataset.synthetic_cases import remove_case
from fcas_nnunet.json_files import read_json
from fcas_nnunet.listing import listed
from fcas_nnunet.seeds import derive_seed

REDRAWN_FILE = "fcas_redrawn.json"
#: A case that is below the threshold this often stays: its mask may be hard, not wrong.
MOST_ATTEMPTS = 3
_ATTEMPTS, _FIRST_HARD, _HARD = "attempts", "first_hard", "hard"

logger = logging.getLogger(__name__)

Records = Mapping[str, Mapping[str, Any]]


def read_changes(output: Path) -> Changes:
    """Read what earlier runs have changed in a set's plan.

    Raises:
        InputError: If the file is damaged.
    """
    path = output / REDRAWN_FILE
    if not path.is_file():
        return Changes()
    content = read_json(path)
    try:
        attempts = {str(case_id): int(number) for case_id, number in content[_ATTEMPTS].items()}
        return Changes(attempts, int(content[_FIRST_HARD]), tuple(map(str, content[_HARD])))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: it must hold {_ATTEMPTS}, {_FIRST_HARD} and {_HARD} as fcas_generate wrote them, got {error}. "
            "Put it back, or delete the data set and generate it again."
        ) from error


def planned_number(args: argparse.Namespace, changes: Changes) -> int:
    """Number of cases that can be planned: those on hard references follow when the others were judged."""
    return args.n if not args.hard or changes.hard else args.n - math.floor(args.hard * args.n)


def outdated_cases(records: Records, plans: Sequence[CasePlan]) -> list[str]:
    """List the cases that are to be made again, and of which the records tell an earlier attempt."""
    return [p.case_id for p in plans if p.case_id in records and records[p.case_id].get("attempt", 0) < p.attempt]


def discard_outdated(output: Path, plans: Sequence[CasePlan], num_channels: int) -> None:
    """Remove cases that are to be made again, as a run that was killed may have left them.

    Args:
        output: Folder of the synthetic set.
        plans: Plans of all its cases.
        num_channels: Of the scans.
    """
    records = Manifest(output).read() if any(plan.attempt for plan in plans) else {}
    old = outdated_cases(records, plans)
    if not old:
        return
    from fcas_nnunet.commands.confidence.maps import GENERATED_FOLDER  # nnU-Net's imports take seconds

    with exclusive(output):
        reopen_dataset(output)
        for case_id in old:
            remove_case(output, case_id, num_channels, (GENERATED_FOLDER,))
        Manifest(output).finalise(records.keys() - set(old))


def next_changes(args: argparse.Namespace, plans: Sequence[CasePlan], changes: Changes, records: Records) -> Changes:
    """Decide what is to be made again or besides, from the scores of a finished set's cases."""
    scores = {plan.case_id: records[plan.case_id][SEGMENTER]["score"] for plan in plans}
    attempts = dict(changes.attempts)
    for plan in plans:
        if args.redraw_below is not None and scores[plan.case_id] < args.redraw_below:
            attempts[plan.case_id] = min(plan.attempt + 1, MOST_ATTEMPTS - 1)
    changed = replace(changes, attempts=attempts)
    if attempts != changes.attempts or not args.hard or changes.hard or len(plans) == args.n:
        return changed
    by_reference: dict[str, list[float]] = {}
    for plan in plans:
        by_reference.setdefault(plan.reference, []).append(1 - scores[plan.case_id])
    names = sorted(by_reference)
    doubts = np.array([np.mean(by_reference[name]) for name in names])
    chances = doubts / doubts.sum() if doubts.sum() > 0 else np.full(len(names), 1 / len(names))
    rng = np.random.default_rng(derive_seed(args.seed, "hard"))
    hard = tuple(names[pick] for pick in rng.choice(len(names), args.n - len(plans), p=chances))
    return replace(changed, first_hard=len(plans), hard=hard)


def note_changes(output: Path, before: Changes, after: Changes) -> bool:
    """Write the changes, and say what they are; returns whether there are any."""
    if after == before:
        return False
    again = [case_id for case_id, number in after.attempts.items() if before.attempts.get(case_id, 0) != number]
    if again:
        logger.info(f"{len(again)} cases are made again, since their labels were hard to find: {listed(sorted(again))}")
    if after.hard != before.hard:
        logger.info(f"{len(after.hard)} cases follow, from {len(set(after.hard))} references in proportion to doubt")
    content = {_ATTEMPTS: dict(sorted(after.attempts.items())), _FIRST_HARD: after.first_hard, _HARD: list(after.hard)}
    atomic_write_json(output / REDRAWN_FILE, content)
    return True
