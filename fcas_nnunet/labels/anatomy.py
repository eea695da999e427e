"""The structures: the eight fine-grained cardiac classes of FCaS, what surrounds them, and the roles of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fcas_nnunet.labels.names import term_of
from fcas_nnunet.listing import MOST_NAMES, listed


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
    """Surroundings of the heart, in the order of the phantom's surroundings ids 1–5."""

    BODY = "body"
    LUNGS = "lungs"
    DESCENDING_AORTA = "descending_aorta"
    SPINE = "spine"
    RIBS = "ribs"


BACKGROUND = "background"
#: nnU-Net's name of the label that training ignores.
IGNORE = "ignore"


class Role(StrEnum):
    """Role of a label in the generation of masks and in the measures of vessels."""

    THIN = "thin"  # vessels a few voxels wide: they win where classes meet, and weigh more in the autoencoder's loss
    WIDE = "wide"  # other vessels; these and the thin ones keep their tunnels
    ROOT = "root"  # vessels that the thin ones branch from and must keep touching
    CHAMBER = "chamber"  # size can be changed within the heart
    WALL = "wall"  # thickness can be changed


#: Label name → roles that a user has given it; they replace those that follow from its name.
GivenRoles = Mapping[str, Sequence[Role]]

_STRUCTURES = {
    Role.THIN: (Structure.CORONARY_ARTERIES,),
    Role.WIDE: (Structure.ASCENDING_AORTA, Structure.PULMONARY_ARTERY),
    Role.ROOT: (Structure.ASCENDING_AORTA,),
    Role.CHAMBER: (Structure.LEFT_ATRIUM, Structure.LEFT_VENTRICLE, Structure.RIGHT_ATRIUM, Structure.RIGHT_VENTRICLE),
    Role.WALL: (Structure.LEFT_MYOCARDIUM,),
}


def structure_of(label_name: str) -> Structure | None:
    """The structure that a label name of some data set means, whole or in part; None when it is none of the eight."""
    term = term_of(label_name)
    return None if term is None else Structure(term.structure)


def roles_of(label_name: str, given: GivenRoles | None = None) -> list[Role]:
    """The roles of a label: those given, or else those of the structure that its name means."""
    if given is not None and label_name in given:
        return list(given[label_name])
    structure = structure_of(label_name)
    return [role for role, structures in _STRUCTURES.items() if structure in structures]


@dataclass(frozen=True)
class LabelRoles:
    """Ids of a data set's labels by their role, in the order of `Role`."""

    thin: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()
    roots: frozenset[int] = frozenset()
    chambers: frozenset[int] = frozenset()
    walls: frozenset[int] = frozenset()

    @property
    def vessels(self) -> frozenset[int]:
        """All vessels."""
        return self.thin | self.wide


def label_roles(labels: Mapping[str, int], given: GivenRoles | None = None) -> LabelRoles:
    """The roles of a data set's labels: those given, or else those that follow from their names."""
    return LabelRoles(*(frozenset(i for name, i in labels.items() if role in roles_of(name, given)) for role in Role))


def thin_label_ids(labels: Mapping[str, int], given: GivenRoles | None = None) -> list[int]:
    """Ids of the thin vessels among a data set's labels."""
    return sorted(label_roles(labels, given).thin)


def describe_roles(labels: Mapping[str, int], given: GivenRoles | None = None) -> list[str]:
    """List the labels of each role: one line for each role, and one for the labels without any."""
    names = [name for name, label_id in labels.items() if label_id]
    players = {role: [name for name in names if role in roles_of(name, given)] for role in Role}
    lines = [f"  {role:<8}{listed(players[role], MOST_NAMES)}" for role in Role if players[role]]
    without = [name for name in names if not roles_of(name, given)]
    return lines + ([f"  no role {listed(without, MOST_NAMES)}"] if without else [])
