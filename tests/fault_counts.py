"""Counts the faults that are tried, by kind and command, for docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from fault_arguments import CONTRADICTORY, CROWDED, MISSING, OUT_OF_RANGE
from fault_files import SWAPPED, damaged
from fault_lines import LINES
from fault_strangers import HOSTILE, LINKS
from fault_surroundings import FOLDERS, FULL, MEMORY, NO_FOLDERS, NO_NUMBERS, NUMBERS, RIGHTS

#: Errors that a lack of memory is tried with.
MEMORY_ERRORS = 2


def faults() -> Iterator[tuple[str, str]]:
    """(kind, name of a line, or a command line) of every fault that is tried."""
    yield from ((fault.kind, fault.line) for fault in damaged())
    yield from (("swapped", row[0]) for row in SWAPPED)
    yield from (("hostile", row[0]) for row in (*HOSTILE, *LINKS))
    for kind, table in (
        ("out of range", OUT_OF_RANGE), ("missing", MISSING), ("contradictory", CONTRADICTORY), ("crowded", CROWDED),
    ):  # fmt: skip
        yield from ((kind, line) for line, _ in table)
    yield from (("variable", name) for names in FOLDERS.values() for name in names.split() for _ in NO_FOLDERS)
    yield from (("variable", name) for _, names in NUMBERS for name in names.split() for _ in NO_NUMBERS)
    yield from (("full disk", name) for name, _ in FULL)
    yield from (("no rights", name) for *_, names in RIGHTS for name in names.split())
    yield from (("no memory", name) for name in MEMORY.split() for _ in range(MEMORY_ERRORS))


def table() -> str:
    """The table of the page: a row for each command, a column for each kind."""
    counts = Counter((kind, LINES.get(line, line).split()[0]) for kind, line in faults())
    kinds = list(dict.fromkeys(kind for kind, _ in faults()))
    commands = sorted({command for _, command in counts})
    rows = [["command", *kinds, "all"], ["---", *["---:" for _ in kinds], "---:"]]
    for command in commands:
        numbers = [counts[kind, command] for kind in kinds]
        rows.append([f"`fcas_{command}`", *(str(number or "–") for number in numbers), str(sum(numbers))])
    totals = [sum(counts[kind, command] for command in commands) for kind in kinds]
    rows.append(["all", *map(str, totals), str(sum(totals))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
