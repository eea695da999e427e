"""Label names ↔ the structures: the eight fine-grained cardiac classes of FCaS and what surrounds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Structure(StrEnum):
    """The eight classes of the paper (§3.1.1), in the order of the phantom's label ids 1–8."""

    LEFT_MYOCARDIUM = "left_myocardium"
    LEFT_ATRIUM = "left_atrium"
    LEFT_VENTRICLE = "left_ventricle"
    RIGHT_ATRIUM = "right_atrium"
    RIGHT_VENTRICLE = "right_ventricle"
    ASCENDING_AORTA = "ascending_aorta"
    PULMONARY_ARTERY = "pulmonary_artery"
    CORONARY_ARTERIES = "coronary_arteries"


class Surrounding(StrEnum):
    """What lies around the heart, in the order of the phantom's surroundings ids 1–5."""

    BODY = "body"
    LUNGS = "lungs"
    DESCENDING_AORTA = "descending_aorta"
    SPINE = "spine"
    RIBS = "ribs"


BACKGROUND = "background"

#: Structures a few voxels wide: they win where classes meet, and weigh more in the autoencoder's loss.
THIN_STRUCTURES = frozenset({Structure.CORONARY_ARTERIES})

CHAMBERS = frozenset(
    {Structure.LEFT_ATRIUM, Structure.LEFT_VENTRICLE, Structure.RIGHT_ATRIUM, Structure.RIGHT_VENTRICLE}
)
WALLS = frozenset({Structure.LEFT_MYOCARDIUM})
WIDE_VESSELS = frozenset({Structure.ASCENDING_AORTA, Structure.PULMONARY_ARTERY})
#: Where the thin structures spring from.
ROOTS = frozenset({Structure.ASCENDING_AORTA})

_ALIASES: dict[Structure, tuple[str, ...]] = {
    Structure.LEFT_MYOCARDIUM: (
        "myocardium", "myo", "lv_myocardium", "lvmyo", "left_ventricle_myocardium", "left_ventricular_myocardium",
        "myocardium_of_the_left_ventricle", "heart_myocardium",
    ),
    Structure.LEFT_ATRIUM: ("la", "left_atrium_blood_cavity", "heart_atrium_left"),
    Structure.LEFT_VENTRICLE: ("lv", "left_ventricle_blood_cavity", "heart_ventricle_left"),
    Structure.RIGHT_ATRIUM: ("ra", "right_atrium_blood_cavity", "heart_atrium_right"),
    Structure.RIGHT_VENTRICLE: ("rv", "right_ventricle_blood_cavity", "heart_ventricle_right"),
    Structure.ASCENDING_AORTA: ("aorta", "ao", "aa"),
    Structure.PULMONARY_ARTERY: ("pa", "pulmonary_trunk", "pulmonary"),
    Structure.CORONARY_ARTERIES: ("coronary", "coronaries", "coronary_artery", "coronary_tree", "ca", "vessel"),
}  # fmt: skip
_BY_NAME: dict[str, Structure] = {s.value: s for s in Structure} | {
    alias: structure for structure, aliases in _ALIASES.items() for alias in aliases
}


def structure_of(label_name: str) -> Structure | None:
    """The structure that a label name of some data set means, or None when it is none of the eight."""
    key = re.sub(r"[^a-z0-9]+", "_", label_name.strip().lower()).strip("_")
    return _BY_NAME.get(key)


def match_labels(source: Mapping[str, int], target: Mapping[str, int]) -> dict[int, int]:
    """Which target id each source id becomes; what the target does not label becomes background.

    Labels match by structure, or by equal names where a name is no known structure.

    Args:
        source: label name → id of the data set that is read.
        target: label name → id of the data set whose labels are wanted.

    Returns:
        source id → target id, for every source id.

    Raises:
        ValueError: when no label but the background matches.
    """
    by_key = {structure_of(name) or name.lower(): label_id for name, label_id in target.items()}
    mapping = {label_id: by_key.get(structure_of(name) or name.lower(), 0) for name, label_id in source.items()}
    if not any(mapping.values()):
        raise ValueError(
            f"labels: at least one must match between {sorted(source)} and {sorted(target)}, got none. "
            "Rename them in dataset.json to standard structure names."
        )
    return mapping


def thin_label_ids(labels: Mapping[str, int]) -> list[int]:
    """Ids of the thin structures among a data set's labels."""
    return [label_id for name, label_id in labels.items() if structure_of(name) in THIN_STRUCTURES]


@dataclass(frozen=True)
class LabelRoles:
    """What MGM must know of a data set's labels.

    Attributes:
        thin: ids of vessels a few voxels wide: they win where classes meet.
        wide: ids of other vessels; these and the thin ones keep their tunnels.
        roots: ids of what the thin ones spring from and must keep touching.
        chambers: ids whose size can be changed within the heart.
        walls: ids whose thickness can be changed.
    """

    thin: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()
    roots: frozenset[int] = frozenset()
    chambers: frozenset[int] = frozenset()
    walls: frozenset[int] = frozenset()

    @property
    def vessels(self) -> frozenset[int]:
        """All vessels."""
        return self.thin | self.wide


def label_roles(labels: Mapping[str, int]) -> LabelRoles:
    """The roles of a data set's labels, by their names."""

    def ids(structures: frozenset[Structure]) -> frozenset[int]:
        return frozenset(label_id for name, label_id in labels.items() if structure_of(name) in structures)

    return LabelRoles(ids(THIN_STRUCTURES), ids(WIDE_VESSELS), ids(ROOTS), ids(CHAMBERS), ids(WALLS))
