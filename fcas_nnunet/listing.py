"""Shorten lists: the first entries, and the number of the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

MOST_LISTED = 5
MOST_NAMES = 20  # where names are what a line is for
_SUBJECT = re.compile(r"[^:\n]+: (?!must )")  # a rule that begins with must is about its subject alone, a setting say
_OF_A_CASE = re.compile(r"\S*[\d/]\S*\s?")  # numbers and paths differ from case to case


def listed(words: Iterable[object], most: int = MOST_LISTED, *, separator: str = ", ") -> str:
    """Join words, or what stands for words; of more than `most`, the first ones and the number of the rest."""
    shown = [str(word) for word in words]
    rest = len(shown) - most
    return separator.join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def few_of_a_kind(faults: Sequence[str], most: int = MOST_LISTED) -> list[str]:
    """Keep the first faults of each kind, and count the rest in a line after them.

    Args:
        faults: Lines `<case or path>: <what> must be <rule>, got <value>. ...`. Lines that differ only in case,
            numbers, paths and value are of one kind; a line of another form is of no kind.
        most: Number of faults to keep of each kind.
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
    """Return the rule that a fault names, without case and numbers; empty for a line of another form."""
    subject = _SUBJECT.match(fault)
    if subject is None:
        return ""
    return _OF_A_CASE.sub("", fault[subject.end() :].partition(", got")[0]).strip(" ,;:.[](){}")
