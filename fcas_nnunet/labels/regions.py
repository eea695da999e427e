"""Single ids of a label map and their names, also where `dataset.json` names regions of several ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles, roles_of

#: Entries of `labels` in `dataset.json`: name → id, or the ids of a region.
Entries = Mapping[str, Any]


def ids_of(entry: int | Sequence[int]) -> list[int]:
    """The ids of an entry, sorted, each once."""
    return sorted(set(entry if isinstance(entry, list | tuple) else [entry]))


def regions_of(entries: Entries) -> dict[str, list[int]]:
    """Name → ids of the regions: the entries that stand for several ids, without the background's."""
    found = {name: ids_of(entry) for name, entry in entries.items() if name != IGNORE}
    return {name: [i for i in ids if i] for name, ids in found.items() if len(ids) > 1}


def single_ids(entries: Entries, names: Mapping[str, int] | None = None) -> dict[str, int]:
    """Name every id of the label map, without the ignore label.

    An id has the name that a user has given it, or else that of the entry which stands for it alone. Others are named
    after the smallest region that contains them, and their number: `whole_heart_2`.

    Args:
        entries: Name → id or ids, as in `dataset.json`.
        names: Name → id that a user has given to ids without a name of their own.

    Returns:
        Name → id: in the order of the entries without regions, else in the order of the ids.
    """
    found = {i: name for name, i in (names or {}).items()}
    for name, entry in entries.items():
        if name != IGNORE and len(ids := ids_of(entry)) == 1 and (ids[0] or name == BACKGROUND):
            found.setdefault(ids[0], name)
    regions = regions_of(entries)
    if not regions:
        return {name: i for i, name in found.items()}
    for label in sorted({i for ids in regions.values() for i in ids} - found.keys()):
        name = f"{_smallest_region(label, regions)}_{label}"
        while name in entries or name in found.values():
            name += "_"
        found[label] = name
    return {found[i]: i for i in sorted(found)}


def roles_of_regions(given: GivenRoles, entries: Entries, singles: Mapping[str, int]) -> GivenRoles:
    """Turn roles of regions into roles of single ids.

    Roles that a user gives to a region are those of all its ids, unless an id, or a smaller region, has its own. An id
    that is named after its region has the roles that follow from the region's name.

    Args:
        given: Name of a single id or region → roles.
        entries: Name → id or ids.
        singles: Result of `single_ids`.
    """
    regions = regions_of(entries)
    roles = {name: given_roles for name, given_roles in given.items() if name in singles}
    for name, label in singles.items():
        inside = sorted((r for r, ids in regions.items() if label in ids), key=lambda region: len(regions[region]))
        chosen = next((region for region in inside if region in given), None)
        if name in roles or not inside:
            continue
        if chosen is not None:
            roles[name] = given[chosen]
        elif name not in entries and name.startswith(inside[0]) and (implied := roles_of(inside[0])):
            roles[name] = tuple(implied)
    return roles


def _smallest_region(label: int, regions: Mapping[str, Sequence[int]]) -> str:
    return min((name for name, ids in regions.items() if label in ids), key=lambda name: len(regions[name]))
