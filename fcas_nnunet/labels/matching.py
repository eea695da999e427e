"""Match the labels of two data sets: by name first, then by the meaning of the names."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.faults import InputError
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE
from fcas_nnunet.labels.names import Term, make_up, name_key, term_of, whole_terms
from fcas_nnunet.listing import MOST_NAMES, listed

Key = Callable[[str], Hashable | None]


class Unmatched(StrEnum):
    """Treatment of labels without a counterpart where the target has labels that no source label stands for."""

    REFUSE = "refuse"
    IGNORE = "ignore"  # nnU-Net's ignore label: nothing is learnt there
    BACKGROUND = "background"


@dataclass(frozen=True)
class LabelMatch:
    """Assignment of a source's labels to a target's.

    Attributes:
        names: Source name → target name, for the labels that match.
        unmatched: Source names that no target label stands for.
        missing: Target names that no source label stands for → the source label that they are a part of, if any.
        incomplete: Unmatched source names → the missing target that they are a part of, whose other parts have no
            label: `LCA` without `RCA` → `coronary_arteries`.
    """

    names: Mapping[str, str]
    unmatched: Sequence[str]
    missing: Mapping[str, str | None]
    incomplete: Mapping[str, str] = field(default_factory=dict)

    def ids(self, source: Mapping[str, int], target: Mapping[str, int], rest: int = 0) -> dict[int, int]:
        """Source id → target id, for every source id; unmatched labels become `rest`."""
        named = {**self.names, BACKGROUND: BACKGROUND}
        return {i: target.get(named[name], 0) if name in named else rest for name, i in source.items()}

    def describe(self, rest: str = BACKGROUND) -> list[str]:
        """List targets whose sources have other names, source labels that become `rest`, and missing targets."""
        sources: dict[str, list[str]] = {}
        for name, target in self.names.items():
            sources.setdefault(target, []).append(name)
        lines = [f"  {target} <- {listed(names)}" for target, names in sources.items() if names != [target]]
        lines += [f"  {rest} <- {listed(self.unmatched, MOST_NAMES)}"] if self.unmatched else []
        missing = [name + self._why_missing(name) for name in self.missing]
        return lines + ([f"  nothing stands for {listed(missing, MOST_NAMES)}"] if missing else [])

    def describe_missing(self) -> str:
        """List the target labels that no source label stands for, with related source labels."""
        return listed(
            name + (f" (part of {whole})" if whole else self._why_missing(name)) for name, whole in self.missing.items()
        )

    def with_incomplete(self) -> LabelMatch:
        """Return the match in which parts stand for their whole although other parts have no label."""
        return replace(
            self,
            names={**self.names, **self.incomplete},
            unmatched=[name for name in self.unmatched if name not in self.incomplete],
            missing={name: whole for name, whole in self.missing.items() if name not in self.incomplete.values()},
            incomplete={},
        )

    def _why_missing(self, name: str) -> str:
        parts = [part for part, whole in self.incomplete.items() if whole == name]
        return f" (only a part of it: {', '.join(parts)})" if parts else ""


def id_table(becomes: Mapping[int, int]) -> np.ndarray:
    """Table [257 or more] that turns label ids into others by indexing; ids that are not named become 0.

    uint8, or uint16 where an id is above 255.
    """
    dtype = np.uint8 if max(becomes.values(), default=0) < NUM_CODES else np.uint16
    table = np.zeros(max([NUM_CODES + 1, *(label + 1 for label in becomes)]), dtype)
    for label, other in becomes.items():
        table[label] = other
    return table


def compare_labels(source: Mapping[str, int], target: Mapping[str, int]) -> LabelMatch:
    """Match the labels of two data sets.

    Equal names match, whatever their case and separators. Of the rest, names that mean one structure match (`LV`,
    `left ventricle cavity`), and parts become their whole where all of them are there (`LCA` and `RCA` both
    `coronary_arteries`, but not `LCA` alone, since the right one would be background; and not the other way, since
    nothing says which voxels belong to which part). `aorta` and `ascending_aorta` match where each data set has only
    one of them.

    Raises:
        InputError: If nothing matches, or several labels may be the counterpart of one.
    """
    sources, targets = ([name for name in labels if name != BACKGROUND] for labels in (source, target))
    names = {name: name for name in sources if name in targets}
    faults: list[str] = []
    _match(names, sources, targets, name_key, faults)
    _match(names, sources, targets, term_of, faults)
    terms = {term for name in sources if (term := term_of(name)) is not None}
    incomplete: dict[str, str] = {}
    for name in [name for name in sources if name not in names]:
        found = [(whole, target) for whole in _wholes(name) for target in targets if term_of(target) == whole]
        if found:
            whole, becomes = found[0]
            (names if make_up(whole, terms) else incomplete)[name] = becomes
    _match(names, sources, targets, _structure, faults)
    if faults:
        raise InputError("\n".join(dict.fromkeys(faults)))
    if not names and not incomplete:
        raise _no_match(source, target)
    unmatched = [name for name in sources if name not in names]
    missing = [name for name in targets if name not in names.values()]
    return LabelMatch(names, unmatched, {name: _holder(name, unmatched) for name in missing}, incomplete)


def match_labels(source: Mapping[str, int], target: Mapping[str, int]) -> dict[int, int]:
    """Source id → target id, for every source id; labels without a counterpart become background.

    Raises:
        InputError: As in `compare_labels`.
    """
    match = compare_labels(source, target)
    if not match.names:
        raise _no_match(source, target)
    return match.ids(source, target)


def labels_to_write(
    source: Mapping[str, int], target: Mapping[str, int], unmatched: Unmatched
) -> tuple[dict[str, int], dict[int, int]]:
    """The labels of a data set drawn from `source` and written for `target`, and which of them each source id becomes.

    Returns:
        Label name → id, the target's, with nnU-Net's `ignore` besides where it is needed; source id → written id.

    Raises:
        InputError: If target labels that no source label stands for are to be refused, or cannot be ignored.
    """
    match = compare_labels(source, target)
    if match.missing and unmatched == Unmatched.REFUSE:
        raise InputError(
            f"--for: every label must have a counterpart among those of -d, got none for {match.describe_missing()}; "
            f"-d has {listed((name for name in source if name != BACKGROUND), MOST_NAMES)}. Rename in dataset.json "
            "what means the same, or choose what pretraining learns where they may be: --unmatched ignore (nothing) or "
            "background."
        )
    if not match.missing or unmatched == Unmatched.BACKGROUND:
        return dict(target), match.with_incomplete().ids(source, target)
    nowhere = [name for name in match.missing if not _may_hide(name, match)]
    if nowhere:
        raise InputError(
            f"--unmatched: ignore must find the labels of -d that hold {listed(nowhere)}, got none. Choose "
            "background, or label them in -d."
        )
    ignore = max(target.values()) + 1
    return dict(target) | {IGNORE: ignore}, match.ids(source, target, rest=ignore)


def _no_match(source: Mapping[str, int], target: Mapping[str, int]) -> InputError:
    return InputError(
        f"labels: at least one must match between {listed(sorted(source))} and {listed(sorted(target))}, got none. "
        "Rename them in dataset.json to standard structure names."
    )


def _match(names: dict[str, str], sources: Sequence[str], targets: Sequence[str], key: Key, faults: list[str]) -> None:
    """Match labels that are their side's only one with a key; several with one key are a fault unless all match."""
    for value in dict.fromkeys(key(name) for name in sources):
        ours, theirs = ([name for name in side if key(name) == value] for side in (sources, targets))
        if value is None or not theirs or all(name in names for name in ours):
            continue
        if len(ours) == len(theirs) == 1:
            names[ours[0]] = theirs[0]
        else:
            faults.append(
                f"labels: one must be the counterpart of one, got {' and '.join(ours)} of one data set for "
                f"{' and '.join(theirs)} of the other. Rename or merge them in dataset.json."
            )


def _structure(name: str) -> str | None:
    """The structure of a name that means more than a part of it."""
    term = term_of(name)
    return None if term is None or term.whole else term.structure


def _wholes(name: str) -> list[Term]:
    term = term_of(name)
    return [] if term is None else whole_terms(term)[1:]


def _holder(missing: str, unmatched: Iterable[str]) -> str | None:
    """The unmatched source label that a missing target label is a part of."""
    return next((name for name in unmatched if term_of(name) in _wholes(missing)), None)


def _may_hide(missing: str, match: LabelMatch) -> bool:
    """Return whether unmatched labels may contain a missing structure: its whole, or one of unknown meaning."""
    unknown = any(term_of(name) is None for name in match.unmatched)
    return match.missing[missing] is not None or unknown or (term_of(missing) is None and bool(match.unmatched))
