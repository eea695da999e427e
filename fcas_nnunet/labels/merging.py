"""Label maps of several sources joined by named structures: which name goes where, and who wins a voxel."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles, Role, roles_of
from fcas_nnunet.labels.names import name_key, term_of


class Part(StrEnum):
    """Where a structure goes."""

    LABELS = "labels"
    SURROUNDINGS = "surroundings"
    IGNORED = "ignored"


@dataclass(frozen=True)
class Structure:
    """What voxels of a source become.

    Attributes:
        name: of the structure, the same in all sources that hold it.
        part: `labels` or `surroundings`.
        priority: the higher wins where structures meet; among equals the source that is named first.
    """

    name: str
    part: Part
    priority: int


def usual_priority(name: str, roles: GivenRoles | None = None) -> int:
    """1 of a thin vessel, which wins where structures meet, as everywhere in this package; 0 of all else."""
    return int(Role.THIN in roles_of(name, roles))


def name_faults(structures: Iterable[tuple[str, Structure]]) -> list[str]:
    """Structures of one part that have several names, a sentence each.

    A name may be in both parts: what a label does not cover of the surroundings' `aorta`, say, stays there.

    Args:
        structures: (where it is from, structure), in the order of the sources.
    """
    first: dict[Hashable, tuple[str, str]] = {}
    faults: dict[str, None] = {}
    for where, structure in structures:
        key = (structure.part, term_of(structure.name) or name_key(structure.name))
        earlier_where, earlier = first.setdefault(key, (where, structure.name))
        if earlier != structure.name:
            faults[
                f"{where}: a structure must have one name in all sources, got {structure.name} for what is called "
                f'{earlier} in {earlier_where}. Give it one name in a map.yaml: "{structure.name}: {earlier}".'
            ] = None
    return list(faults)


def assign_ids(names: Iterable[str], existing: Mapping[str, int]) -> dict[str, int]:
    """Name → id, without the background: existing names keep theirs, new ones follow in their order, `ignore` last.

    Args:
        names: of the structures, in order; a name may come several times.
        existing: name → id of what was there before.
    """
    ids = {name: i for name, i in existing.items() if name != BACKGROUND}
    new = [name for name in dict.fromkeys(names) if name not in ids]
    for number, name in enumerate(sorted(new, key=lambda name: name == IGNORE), start=1 + max(ids.values(), default=0)):
        ids[name] = number
    return ids


def values_of(labels: np.ndarray) -> set[int]:
    """The whole numbers that a label map [D, H, W] holds."""
    low, high = int(labels.min()), int(labels.max())
    if high - low > 1 << 16:
        return set(np.unique(labels).tolist())
    seen = np.zeros(high - low + 1, dtype=bool)
    for part in labels:
        seen |= np.bincount(part.ravel().astype(np.intp) - low, minlength=len(seen)) > 0
    return set((np.flatnonzero(seen) + low).tolist())


@dataclass
class Canvas:
    """A label map that layers are painted on, the winning ones first: a voxel stays as it was painted.

    Attributes:
        ids: uint8 [D, H, W], 0 where nothing is yet.
        met: voxels that two structures claimed, int64 [256, 256]: row = id that has them, column = id that does not.
    """

    ids: np.ndarray
    met: np.ndarray

    @classmethod
    def blank(cls, shape: Sequence[int]) -> Canvas:
        """Nothing painted, of a shape (D, H, W)."""
        return cls(np.zeros(shape, dtype=np.uint8), np.zeros((NUM_CODES, NUM_CODES), dtype=np.int64))

    def paint(self, layer: np.ndarray) -> None:
        """Give a layer, uint8 [D, H, W] of ids and 0, what is still free."""
        for own, new in zip(self.ids, layer, strict=True):  # slice by slice: less memory
            if not new.any():
                continue
            met = (own > 0) & (new > 0) & (own != new)
            pairs = own[met].astype(np.intp) * NUM_CODES + new[met]
            self.met += np.bincount(pairs, minlength=NUM_CODES**2).reshape(NUM_CODES, NUM_CODES)
            np.copyto(own, new, where=own == 0)

    def give_way(self, labels: np.ndarray) -> np.ndarray:
        """Clear what labels, uint8 [D, H, W], lie on. Returns voxels, int64 [256, 256]: row = label, column = own "
        "id."""
        lost = np.zeros((NUM_CODES, NUM_CODES), dtype=np.int64)
        for own, label in zip(self.ids, labels, strict=True):
            covered = (own > 0) & (label > 0)
            pairs = label[covered].astype(np.intp) * NUM_CODES + own[covered]
            lost += np.bincount(pairs, minlength=NUM_CODES**2).reshape(NUM_CODES, NUM_CODES)
            own[covered] = 0
        return lost

    def counts(self) -> np.ndarray:
        """Voxels of each id, int64 [256]."""
        return sum((np.bincount(part.ravel(), minlength=NUM_CODES) for part in self.ids), np.zeros(NUM_CODES, np.int64))
