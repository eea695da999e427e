"""Read from its manifest how a synthetic set was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.seeds import derive_seed

#: Run seeds that are tried: the manifest records each case's seed, which derives from the run's.
TRIED_SEEDS = 10_000


def common_fields(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Fields that all records of a manifest share, in the first one's order; records of an id alone do not count."""
    full = [record for record in records.values() if len(record) > 1]
    if not full:
        return {}
    first, *others = full
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def drawn_records(records: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of scans that a generator drew, which are neither warped nor painted."""
    return [record for record in records.values() if ScanSource.of(record) == ScanSource.DRAWN]


def run_seed(records: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Find the `--seed` of the run that made a set; for older manifests, only where it is a small number."""
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
