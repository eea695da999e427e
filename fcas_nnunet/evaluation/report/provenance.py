"""How a synthetic set was made, from its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fcas_nnunet.seeds import derive_seed

#: Run seeds that are tried: the manifest keeps each case's seed, which derives from the run's.
TRIED_SEEDS = 10_000


def common_fields(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What all records of a manifest agree on, in the first one's order; those that give an id alone do not count."""
    told = [record for record in records.values() if len(record) > 1]
    if not told:
        return {}
    first, *others = told
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def run_seed(records: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The `--seed` of the run that made a set; of older manifests, where it is one of the small numbers people give."""
    written = common_fields(records).get("run_seed")
    if isinstance(written, int):
        return written
    for case_id, record in records.items():
        number = case_id.rsplit("_", 1)[-1]
        if number.isdecimal() and isinstance(record.get("seed"), int):
            return next((s for s in range(TRIED_SEEDS) if derive_seed(s, "case", int(number)) == record["seed"]), None)
    return None


def flat_fields(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested fields as (dotted name, text) in their order."""
    if isinstance(value, Mapping) and value:
        return [
            item
            for key, inner in value.items()
            for item in flat_fields(inner, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(str(item) for item in value))]
    return [(prefix, str(value))]
