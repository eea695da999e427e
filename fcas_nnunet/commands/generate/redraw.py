"""What a judge of a set's cases changes in its plan: cases that are made again, and references that get more cases.

The changes are a file of the data set, from which every later run plans the same cases.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from fcas_nnunet.commands.runtime.shares import Share
from fcas_nnunet.config.options import SEGMENTER
from fcas_nnunet.config.schema import CountOrZero, check_form, form
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.generator.plan import CasePlan, Changes, case_name
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
REDRAW, HARD = "--redraw-below", "--hard"

logger = logging.getLogger(__name__)

Records = Mapping[str, Mapping[str, Any]]


@form
class _ChangesFile:
    """What `note_changes` writes."""

    attempts: dict[str, Annotated[int, Field(ge=0, lt=MOST_ATTEMPTS)]]
    first_hard: CountOrZero
    hard: list[str]


def redraws(args: argparse.Namespace) -> bool:
    """Whether cases may follow from a judgement."""
    return args.redraw_below is not None or args.hard is not None


def check_redraw_arguments(args: argparse.Namespace, share: Share) -> None:
    """Refuse what cannot follow from a judgement; an InputError names the flag."""
    flags = [flag for flag, value in ((REDRAW, args.redraw_below), (HARD, args.hard)) if value is not None]
    faults = []
    if share.count > 1:
        faults += [
            f"{flag}: the set must be made by one run, got {share}. Leave it out, or do not split." for flag in flags
        ]
    if args.both:
        faults += [
            f"{flag}: must go without --both, got both: a case that is made anew has another template, which its judge "
            "may know. Leave one out."
            for flag in flags
        ]
    if args.hard is not None and not 1 <= math.floor(args.hard * args.n) < args.n:
        faults.append(
            f"{HARD}: it must leave some of -n cases, and take at least one, got {args.hard:g} of {args.n}. "
            "Give another share."
        )
    if faults:
        raise InputError("\n".join(faults))


def read_changes(output: Path, references: Collection[str]) -> Changes:
    """Read what earlier runs have changed in a set's plan.

    Args:
        output: Folder of the set.
        references: Cases that its masks are made from.

    Raises:
        InputError: If the file is damaged, or names other references.
    """
    path = output / REDRAWN_FILE
    if not path.is_file():
        return Changes()
    advice = "Put it back as fcas_generate wrote it, or generate another set."
    content = read_json(path, advice)
    check_form(_ChangesFile, content, f"{path}: ", advice)
    if unknown := sorted(set(content["hard"]) - set(references)):
        raise InputError(
            f"{path}: the references that it names must be there, got none of {listed(unknown)}. "
            "Put these cases back, or generate another set."
        )
    return Changes(content["attempts"], content["first_hard"], tuple(content["hard"]))


def planned_number(args: argparse.Namespace, changes: Changes, output: Path) -> int:
    """Number of cases that can be planned: those on hard references follow when the others were judged.

    Raises:
        InputError: If cases that are to follow are there already.
    """
    if args.hard is None or changes.hard:
        return args.n
    number = args.n - math.floor(args.hard * args.n)
    later = sorted(set(Manifest(output).read()) & {case_name(place) for place in range(number, args.n)})
    if later:
        raise InputError(
            f"{HARD}: the last {args.n - number} of {args.n} cases must not be made yet, got {listed(later)}. Give a "
            "larger -n, a smaller share, or leave it out."
        )
    return number


def outdated_cases(records: Records, plans: Sequence[CasePlan]) -> list[str]:
    """List the cases that are to be made again, and of which the records tell an earlier attempt."""
    return [p.case_id for p in plans if p.case_id in records and records[p.case_id].get("attempt", 0) < p.attempt]


def discard_outdated(output: Path, plans: Sequence[CasePlan], num_channels: int) -> None:
    """Remove cases that are to be made again, as a run that was killed may have left them.

    Args:
        output: Folder of the synthetic set, which was found to be of these plans.
        plans: Plans of all its cases.
        num_channels: Of the scans.
    """
    if not any(plan.attempt for plan in plans) or not outdated_cases(Manifest(output).read(), plans):
        return
    from fcas_nnunet.commands.confidence.maps import GENERATED_FOLDER  # nnU-Net's imports take seconds

    with exclusive(output):
        records = Manifest(output).read()  # again: another run may have been waited for
        old = outdated_cases(records, plans)
        if old:
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
    if attempts != changes.attempts or args.hard is None or changes.hard:
        return changed
    by_reference: dict[str, list[float]] = {}
    for case_id, score in scores.items():
        by_reference.setdefault(records[case_id]["reference"], []).append(1 - score)
    names = sorted(by_reference)
    doubts = np.array([np.mean(by_reference[name]) for name in names])
    chances = doubts / doubts.sum() if doubts.sum() > 0 else np.full(len(names), 1 / len(names))
    rng = np.random.default_rng(derive_seed(args.seed, "hard"))
    hard = tuple(names[pick] for pick in rng.choice(len(names), args.n - len(plans), p=chances))
    return replace(changed, first_hard=len(plans), hard=hard)


def note_changes(args: argparse.Namespace, output: Path, plans: Sequence[CasePlan], before: Changes) -> bool:
    """Decide what follows from the scores of a finished set, write it, and say it.

    Returns:
        Whether there is more to make, as this run has decided, or another one meanwhile.
    """
    with exclusive(output):
        records = Manifest(output).read()
        judged = all(SEGMENTER in records.get(plan.case_id, {}) for plan in plans)
        if not judged or read_changes(output, before.hard or [plan.reference for plan in plans]) != before:
            return True  # another run has decided
        after = next_changes(args, plans, before, records)
        if after == before:
            return False
        atomic_write_json(output / REDRAWN_FILE, asdict(after))
    again = sorted(i for i, number in after.attempts.items() if before.attempts.get(i, 0) != number)
    if again:
        logger.info(f"{len(again)} cases are made again, since their labels were hard to find: {listed(again)}")
    if after.hard != before.hard:
        logger.info(f"{len(after.hard)} cases follow, from {len(set(after.hard))} references in proportion to doubt")
    return True
