"""Load readers' files: check that they belong to the reading and are whole, and unblind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcas_nnunet.evaluation.reading.protocol import Bag, Key, Protocol
from fcas_nnunet.faults import InputError
from fcas_nnunet.json_files import check_schema, read_json
from fcas_nnunet.listing import listed

SCORES_SCHEMA, SCORES_VERSION = "fcas-nnunet/reading-scores", 1


@dataclass(frozen=True)
class ScoredImage:
    """Scores that one reader gave one image, unblinded.

    Attributes:
        reader: Name of the reader.
        bag_id: Id of the bag.
        reference: Case whose mask the bag's images share.
        method: Method that made the image.
        case_id: Case id of the image.
        letter: Letter that the reader saw.
        scores: Criterion → score; missing scores are left out.
        total: Sum over the criteria; None where one is missing.
        rank: Rank within the bag, 1 = best, the mean rank where several are equal; None where the bag is incomplete.
    """

    reader: str
    bag_id: str
    reference: str
    method: str
    case_id: str
    letter: str
    scores: dict[str, int]
    total: int | None
    rank: float | None


@dataclass(frozen=True)
class Reader:
    """One reader's file."""

    name: str  # as given on the page
    experience: str
    path: Path
    images: list[ScoredImage]  # everything scored, bag by bag
    incomplete: list[str]  # ids of the bags that lack a score or a decision between equal totals
    comments: dict[str, str]  # bag id → what the reader wrote


def load_readers(key: Key, paths: Sequence[Path], *, partial: bool = False) -> list[Reader]:
    """Read, check and unblind readers' files.

    Args:
        key: Key of the reading.
        paths: Files that the page saved, one for each reader.
        partial: Accept incomplete bags: their scores count, ranks only where a bag is scored whole.

    Raises:
        InputError: with every fault of every file, one a line.
    """
    readers: list[Reader] = []
    faults: list[str] = []
    for path in paths:
        try:
            reader = _load_reader(key, path)
        except InputError as error:
            faults.append(str(error))
            continue
        same = next((other for other in readers if other.name.casefold() == reader.name.casefold()), None)
        if same is not None:
            faults.append(
                f"{path}: reader must be another than in {same.path}, got {reader.name!r} in both. "
                "Keep the later file, or tell the readers apart by name."
            )
        if reader.incomplete and not partial:
            faults.append(
                f"{path}: all {len(key.bags)} bags must be complete, got {len(reader.incomplete)} that are not: "
                f"{listed(reader.incomplete)}. Let {reader.name} finish them, or pass --partial."
            )
        readers.append(reader)
    if faults:
        raise InputError("\n".join(faults))
    return readers


def ranks_of(order: Sequence[Sequence[str]]) -> dict[str, float]:
    """Letter → rank from groups of equal letters, the best first; equal ones share the mean of their ranks."""
    ranks: dict[str, float] = {}
    for group in order:
        shared = len(ranks) + (len(group) + 1) / 2
        ranks |= {letter: shared for letter in group}
    return ranks


def order_by_total(totals: Mapping[str, int]) -> list[list[str]]:
    """Letters in groups of equal totals, the highest first."""
    return [[letter for letter in totals if totals[letter] == total] for total in sorted(set(totals.values()))[::-1]]


def _load_reader(key: Key, path: Path) -> Reader:
    advice = "Name files that the reading's page has saved."
    content = read_json(path, advice)
    check_schema(path, content, {SCORES_SCHEMA: SCORES_VERSION}, advice)
    if content.get("reading_id") != key.reading_id:
        raise InputError(
            f"{path}: reading must be {key.reading_id}, the key's, got {content.get('reading_id')}. "
            "Take the key that was written with this reader's page."
        )
    person = content["reader"] if isinstance(content.get("reader"), dict) else {}
    name = " ".join(str(person.get("name", "")).split())
    entries = content.get("bags")
    faults = [] if name else ["reader must have a name, got none. Fill it in under reader.name."]
    if not isinstance(entries, dict):
        entries, faults = {}, [*faults, "bags must be an object, got none. Take the file as it was saved."]
    unknown = sorted(set(entries) - {bag.bag_id for bag in key.bags})
    if unknown:
        faults.append(f"bags must be those of the key, got {listed(unknown)}. Take the file as it was saved.")
    images: list[ScoredImage] = []
    incomplete, comments = [], {}
    for bag in key.bags:
        entry = entries.get(bag.bag_id, {})
        bag_faults = _bag_faults(bag, entry, key.protocol)
        faults += [f"{bag.bag_id}: {fault}" for fault in bag_faults]
        if bag_faults:
            continue
        found, complete = _unblind(key, bag, entry, name)
        images += found
        if not complete:
            incomplete.append(bag.bag_id)
        if comment := str(entry.get("comment") or "").strip():
            comments[bag.bag_id] = comment
    if faults:
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults))
    return Reader(name, " ".join(str(person.get("experience", "")).split()), path, images, incomplete, comments)


def _bag_faults(bag: Bag, entry: Any, protocol: Protocol) -> list[str]:
    """List the faults of a bag's scores; a missing score is no fault."""
    if not isinstance(entry, dict) or not isinstance(entry.get("scores", {}), dict):
        return ["scores must be an object of letters, got something else. Take the file as it was saved."]
    faults = []
    keys = [criterion.key for criterion in protocol.criteria]
    for letter, scores in entry.get("scores", {}).items():
        if letter not in bag.methods or not isinstance(scores, dict):
            faults.append(
                f"letters must be among {', '.join(bag.methods)}, with an object of scores each, got {letter}."
            )
            continue
        for criterion, score in scores.items():
            if criterion not in keys:
                faults.append(f"{letter}: criteria must be among {', '.join(keys)}, got {criterion}.")
            elif type(score) is not int or not protocol.lowest <= score <= protocol.highest:
                faults.append(
                    f"{letter}: {criterion} must be a whole number from {protocol.lowest} to {protocol.highest}, "
                    f"got {score!r}."
                )
    order = entry.get("order")
    return faults if faults or order is None else _order_faults(bag, entry, order, len(keys))


def _order_faults(bag: Bag, entry: Mapping[str, Any], order: Any, num_criteria: int) -> list[str]:
    """List the faults of a ranking, which must name every letter once and follow the totals."""
    groups = order if isinstance(order, list) and all(isinstance(group, list) for group in order) else []
    named = [letter for group in groups for letter in group]
    if sorted(named, key=str) != sorted(bag.methods):
        return [f"order must be groups that name each of {', '.join(bag.methods)} once, got {order}."]
    totals = _totals(entry, num_criteria)
    if len(totals) < len(bag.methods):
        return ["order must come with every score, got some missing. Take the file as it was saved."]
    along = [totals[letter] for letter in named]
    even = all(len({totals[letter] for letter in group}) == 1 for group in groups)
    if along != sorted(along, reverse=True) or not even:
        return [f"order must follow the totals {totals}, got {order}. Take the file as it was saved."]
    return []


def _totals(entry: Mapping[str, Any], num_criteria: int) -> dict[str, int]:
    """Letter → total, of the letters that have every score."""
    scores = entry.get("scores", {})
    return {letter: sum(given.values()) for letter, given in scores.items() if len(given) == num_criteria}


def _unblind(key: Key, bag: Bag, entry: Mapping[str, Any], reader: str) -> tuple[list[ScoredImage], bool]:
    """A bag's images under their methods' names, and whether the bag is complete."""
    totals = _totals(entry, len(key.protocol.criteria))
    whole = len(totals) == len(bag.methods)
    order = entry.get("order") if whole else None
    ranks = ranks_of(order or order_by_total(totals)) if whole else {}
    images = [
        ScoredImage(
            reader=reader,
            bag_id=bag.bag_id,
            reference=bag.reference,
            method=method,
            case_id=key.case_ids[bag.bag_id][letter],
            letter=letter,
            scores={
                criterion.key: entry["scores"][letter][criterion.key]
                for criterion in key.protocol.criteria
                if criterion.key in entry["scores"][letter]
            },
            total=totals.get(letter),
            rank=ranks.get(letter),
        )
        for letter, method in bag.methods.items()
        if entry.get("scores", {}).get(letter)
    ]
    return images, whole and order is not None
