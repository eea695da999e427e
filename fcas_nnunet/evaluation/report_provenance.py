"""How a synthetic set was made, from its manifest, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from fcas_nnunet.seeds import derive_seed

#: Run seeds that are tried: the manifest keeps each case's seed, which derives from the run's.
TRIED_SEEDS = 10_000


def common_fields(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What all records of a manifest agree on, in the first one's order; empty without records."""
    if not records:
        return {}
    first, *others = records.values()
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


def remake_command(name: str, records: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The command line that makes a set again, as far as its manifest tells; None where fcas_generate did not make it.

    Args:
        name: of the data set.
        records: its manifest.
    """
    common = common_fields(records)
    if "source" not in common or not all("template" in record for record in records.values()):
        return None
    kinds = {str(record.get("masks")) for record in records.values()}
    words = ["fcas_generate", "-d", common["source"], "-o", name, "-n", len(records)]
    if common.get("fold") is not None:
        words += ["--fold", common["fold"]]
    for key in ("references", "templates"):
        words += [f"--{key}", *common[key]] if common.get(key) else []
    words += ["--masks", kinds.pop() if len(kinds) == 1 else "both"]
    if common.get("preset"):
        words += ["--preset", common["preset"]]
    sampling = common.get("sampling", {})
    for flag, key in (("--solver", "solver"), ("--steps", "num_inference_steps")):
        if sampling.get(key):
            words += [flag, sampling[key]]
    seed = run_seed(records)
    words += ["--seed", "?" if seed is None else seed]
    return " ".join(shlex.quote(str(word)) if word != "?" else "SEED" for word in words)


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
