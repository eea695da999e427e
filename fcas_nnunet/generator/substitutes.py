"""Another reference in the place of one from which MGM can make no mask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fcas_nnunet.generator.masks import NoMaskError
from fcas_nnunet.generator.production import CasePlan

logger = logging.getLogger(__name__)

#: References that are tried for a case: each that fails costs as many draws as a mask may take.
MOST_REFERENCES = 4


def make_with_substitutes(
    plan: CasePlan, references: Sequence[str], make: Callable[[CasePlan], dict[str, Any]]
) -> dict[str, Any]:
    """Make a case by its plan, or from the next reference where MGM refuses the planned one.

    Args:
        plan: of the case.
        references: of the whole set, in an order of their own; the planned one is among them.
        make: makes a case by a plan, and returns what the manifest keeps of it.

    Returns:
        The manifest's record; with `planned_reference` where another one took its place.

    Raises:
        ValueError: when no reference will do; each is named with what was wrong.
    """
    first = references.index(plan.reference)
    candidates = [*references[first:], *references[:first]][:MOST_REFERENCES]
    faults = []
    for reference in candidates:
        try:
            record = make(replace(plan, reference=reference))
        except NoMaskError as error:
            faults.append(str(error))
            logger.warning(f"{plan.case_id}: no mask can be made from {reference}, the next reference takes its place")
            continue
        return record if reference == plan.reference else record | {"planned_reference": plan.reference}
    raise ValueError("\n".join(faults))


def planned(record: Mapping[str, Any]) -> CasePlan:
    """The plan by which a manifest's case was begun."""
    plan = CasePlan.from_record(record)
    return replace(plan, reference=record.get("planned_reference", plan.reference))


def made_otherwise(
    records: Mapping[str, Mapping[str, Any]], plans: Sequence[CasePlan], shared: Mapping[str, Any]
) -> list[str]:
    """Ids of the cases of a manifest that were made by another plan or with other settings, sorted.

    Args:
        records: of the manifest.
        plans: of all cases of the run.
        shared: what every record of the run repeats; versions may differ.
    """
    by_id = {plan.case_id: plan for plan in plans}
    return sorted(
        case_id
        for case_id, record in records.items()
        if (len(record) > 1 or case_id in by_id)  # of a scan of the user's own there is the id alone
        and (
            any(record.get(key) != value for key, value in shared.items() if key != "versions")
            or (case_id in by_id and planned(record) != by_id[case_id])
        )
    )
