"""Of many things that are wrong alike, the first ones and how many more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MOST_LISTED = 5
_SUBJECT = re.compile(r"[^:\n]+: (?!must )")  # a rule that begins with must is about its subject alone, a setting say
_OF_A_CASE = re.compile(r"\S*[\d/]\S*\s?")  # numbers and paths differ from case to case


def listed(words: Sequence[str], most: int = MOST_LISTED) -> str:
    """Words with commas between; of many, the first ones and how many more."""
    rest = len(words) - most
    return ", ".join(words[:most]) + (f" and {rest} more" if rest > 0 else "")


def few_of_a_kind(faults: Sequence[str], most: int = MOST_LISTED) -> list[str]:
    """The faults, of each kind the first ones alone, and behind them how many more there are.

    Args:
        faults: lines `<case or path>: <what> must be <rule>, got <value>. ...`. Those that differ in case, numbers,
            paths and value are of one kind; a line of another form is of no kind.
        most: of a kind.
    """
    kinds = [_kind(fault) for fault in faults]
    totals = Counter(kinds)
    seen: Counter[str] = Counter()
    lines = []
    for fault, kind in zip(faults, kinds, strict=True):
        seen[kind] += 1
        if not kind or seen[kind] <= most:
            lines.append(fault)
        elif seen[kind] == most + 1:
            lines.append(f"and {totals[kind] - most} more: {kind}")
    return lines


def _kind(fault: str) -> str:
    """What a fault has in common with those of other cases; empty where that is not told."""
    subject = _SUBJECT.match(fault)
    if subject is None:
        return ""
    return _OF_A_CASE.sub("", fault[subject.end() :].partition(", got")[0]).strip(" ,;:.[](){}")
