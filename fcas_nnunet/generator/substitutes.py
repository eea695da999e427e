"""Replace references that MGM makes no mask from, and compare the cases of a manifest with their plans."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fcas_nnunet.config.files import dotted
from fcas_nnunet.config.options import SCAN, ScanSource
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.mgm.masks import NoMaskError
from fcas_nnunet.generator.plan import CasePlan
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

#: References to try for a case; each failure costs all the draws that a mask may take.
MOST_REFERENCES = 4

_VERSIONS, _PACKAGE = "versions", "fcas-nnunet"
_MAPS = ("label_map", "roles")
_NAMED, _LONGEST_VALUE = 5, 60


def make_with_substitutes(
    plan: CasePlan, references: Sequence[str], make: Callable[[CasePlan], dict[str, Any]], remedy: str
) -> dict[str, Any]:
    """Make a case by its plan, or from one of the next references if MGM makes no mask from the planned one.

    Args:
        plan: Plan of the case.
        references: All references of the set, the planned one among them.
        make: Function that makes a case by a plan, and returns its manifest record.
        remedy: Last sentence of the error.

    Returns:
        The manifest record; with `planned_reference` if another one took its place.

    Raises:
        InputError: If no reference gives a mask; the message names each one with the reason.
    """
    faults = []
    for reference in candidates_for(plan, references):
        try:
            record = make(plan.of_reference(reference))
        except NoMaskError as error:
            faults.append(str(error))
            logger.warning(f"{plan.case_id}: no mask can be made from {reference}, the next reference takes its place")
            continue
        return record if reference == plan.reference else record | {"planned_reference": plan.reference}
    raise InputError("\n".join([*faults, f"{plan.case_id}: one of these must give a mask, got none. {remedy}"]))


def candidates_for(plan: CasePlan, references: Sequence[str]) -> list[str]:
    """List the references to try for a case, the planned one first."""
    first = references.index(plan.reference)
    return [*references[first:], *references[:first]][:MOST_REFERENCES]


def planned(record: Mapping[str, Any]) -> CasePlan:
    """Return the original plan of a manifest's case."""
    plan = CasePlan.from_record(record)
    return plan.of_reference(record.get("planned_reference", plan.reference))


def refuse_made_otherwise(
    records: Mapping[str, Mapping[str, Any]],
    plans: Sequence[CasePlan],
    shared: Mapping[str, Any],
    rule: str,
    of_scan: Mapping[ScanSource, Mapping[str, Any]] | None = None,
) -> None:
    """Check that all cases of a manifest were made by these plans and with these settings.

    Args:
        records: Records of the manifest.
        plans: Plans of all cases of the run.
        shared: Entries that all records of the run share; versions may differ.
        rule: Folder, and what its cases must be, for the message.
        of_scan: Source of scans → further entries that all records of its scans share.

    Raises:
        InputError: If some differ; the message names them, the differences, and another version that made them.
    """
    by_id = {plan.case_id: plan for plan in plans}
    common = {key: value for key, value in shared.items() if key != _VERSIONS}
    of_scan = of_scan or {}
    strangers = sorted(
        case_id
        for case_id, record in records.items()
        if (len(record) > 1 or case_id in by_id)  # the record of a user's real scan holds the id alone
        and (
            any(record.get(key) != value for key, value in {**common, **of_scan.get(ScanSource.of(record), {})}.items())
            or (case_id in by_id and planned(record) != by_id[case_id])
        )
    )
    if not strangers:
        return
    record = records[strangers[0]]
    wanted = {**common, **of_scan.get(ScanSource.of(record), {})}
    if strangers[0] in by_id:
        wanted |= {SCAN: str(by_id[strangers[0]].scan), **by_id[strangers[0]].to_record()}
        record = {SCAN: str(ScanSource.of(record)), **record}
    was = {**record, "reference": record["planned_reference"]} if "planned_reference" in record else record
    before, now = dotted({key: was[key] for key in wanted if key in was}, _MAPS), dotted(wanted, _MAPS)
    differ = [key for key in now | before if before.get(key) != now.get(key)]
    theirs, ours = (lines.get(_VERSIONS, {}).get(_PACKAGE, "(version unknown)") for lines in (record, shared))
    changes = [f"{key} {_shortened(now.get(key))} instead of {_shortened(before.get(key))}" for key in differ[:_NAMED]]
    reason = ""
    if theirs != ours or any((key in before) != (key in now) for key in differ):
        which = f"{_PACKAGE} {theirs}, this is {ours}" if theirs != ours else f"an earlier state of {_PACKAGE} {ours}"
        reason = f"They were made by {which}, where settings may differ: resume with that version. Or "
    remedy = "choose another -o, or delete the folder." if reason else "Choose another -o, or delete the folder."
    raise InputError(f"{rule}, got others: {listed(strangers)} ({'; '.join(changes)}). {reason}{remedy}")


def _shortened(value: Any) -> str:
    return textwrap.shorten("none" if value is None else str(value), _LONGEST_VALUE, placeholder=" …")
