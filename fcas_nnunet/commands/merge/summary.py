"""What came of a merge: structures, who won from whom, what is absent where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fcas_nnunet.commands.merge.finishing import RECORD_FILE
from fcas_nnunet.commands.merge.jobs import COVERED, MET, VOXELS
from fcas_nnunet.commands.merge.scans import Target
from fcas_nnunet.commands.merge.sources import Source
from fcas_nnunet.labels.merging import Part
from fcas_nnunet.listing import listed

_MOST_PAIRS = 20

Records = Mapping[str, Mapping[str, Mapping[str, Any]]]


def summary_lines(target: Target, sources: Sequence[Source], records: Records) -> list[str]:
    """The summary of a merge, a line each.

    Args:
        target: data set that was written.
        sources: in order.
        records: case id → part → record, of the cases that were written.
    """
    lines = [f"{target.folder}: {len(records)} cases merged"]
    for part in target.parts:
        own = {case_id: parts[part.value] for case_id, parts in records.items() if part.value in parts}
        lines += ["", *_table(target, sources, part, own)]
        lines += _pairs(f"overlaps of {part}, voxels:", own, MET, "{} has them, not {}")
        lines += _pairs("labels lie on surroundings, voxels:", own, COVERED, "{} has them, not {}")
        lines += _absent(part, own)
    return [*lines, "", f"Voxels of every case: {target.folder / RECORD_FILE}"]


def _table(
    target: Target, sources: Sequence[Source], part: Part, records: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    rows = [(part.value, "id", "cases", "voxels", "from")]
    for name, number in target.ids[part].items():
        voxels = [record[VOXELS].get(name, 0) for record in records.values()]
        origin = [source.name for source in sources
                  if any(found.name == name and found.part == part for found in source.structures())]  # fmt: skip
        cases = f"{sum(count > 0 for count in voxels)}"
        rows.append((name, str(number), cases, f"{sum(voxels):,}", ", ".join(origin) or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{name:<{widths[0]}}  {number:>{widths[1]}}  {cases:>{widths[2]}}  {voxels:>{widths[3]}}  {origin}"
        for name, number, cases, voxels, origin in rows
    ]


def _pairs(title: str, records: Mapping[str, Mapping[str, Any]], key: str, text: str) -> list[str]:
    """Who has how many voxels that another claimed, the most first."""
    voxels, cases = _totals(record[key] for record in records.values())
    lines = [
        f"  {count:,} in {cases[pair]} case(s): {text.format(*pair)}"
        for pair, count in sorted(voxels.items(), key=lambda item: (-item[1], item[0]))
    ]
    more = [f"  and {len(lines) - _MOST_PAIRS} more"] if len(lines) > _MOST_PAIRS else []
    return [title, *lines[:_MOST_PAIRS], *more] if lines else []


def _totals(
    rows: Iterable[Sequence[tuple[str, str, int]]],
) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    voxels: Counter[tuple[str, str]] = Counter()
    cases: Counter[tuple[str, str]] = Counter()
    for of_case in rows:
        for winner, loser, count in of_case:
            voxels[winner, loser] += count
            cases[winner, loser] += 1
    return voxels, cases


def _absent(part: Part, records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    without: dict[str, list[str]] = {}
    for case_id, record in records.items():
        for name, count in record[VOXELS].items():
            if not count:
                without.setdefault(name, []).append(case_id)
    if not without:
        return []
    lines = [f"  {name}: {len(cases)} case(s), {listed(cases)}" for name, cases in without.items()]
    return [f"{part} without a voxel in some cases:", *lines]
