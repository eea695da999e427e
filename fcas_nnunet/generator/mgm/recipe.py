"""Record how a mask was made from another, for the manifest, and cache what is derived from the source mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fcas_nnunet.config.files import to_dict
from fcas_nnunet.generator.mgm.deformation import Deformation
from fcas_nnunet.generator.mgm.framing import surface_points
from fcas_nnunet.generator.mgm.local_changes import LocalChange, LocalKind
from fcas_nnunet.generator.mgm.topology import ClassTopology, class_boxes, describe_mask, fills_volume
from fcas_nnunet.generator.mgm.vessels import Vessel
from fcas_nnunet.geometry import Box, Triple
from fcas_nnunet.labels.anatomy import LabelRoles


@dataclass(frozen=True)
class Recipe:
    """Local changes, in the order in which they are made, then the deformation of their result."""

    local_changes: tuple[LocalChange, ...]
    deformation: Deformation

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, for the manifest."""
        return to_dict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote; other entries of the record are left alone.

        Raises:
            InputError: If the deformation has entries missing or unknown.
        """
        changes = [
            LocalChange(**{**change, "kind": LocalKind(change["kind"])}) for change in record.get("local_changes", ())
        ]
        return cls(tuple(changes), Deformation.from_dict(record["deformation"]))


@dataclass(frozen=True)
class SourceMask:
    """A mask, uint8 [D, H, W], and what is derived from it, computed once for all masks that are made from it."""

    mask: np.ndarray
    spacing_mm: Triple[float]
    roles: LabelRoles

    @cached_property
    def boxes(self) -> dict[int, Box]:
        """Bounding box of each class."""
        return class_boxes(self.mask)

    @cached_property
    def topology(self) -> dict[int, ClassTopology]:
        """Pieces, tunnels and contacts of each class."""
        return describe_mask(self.mask, self.roles.vessels, self.roles.roots)

    @cached_property
    def fills(self) -> bool:
        """Whether labels fill the volume."""
        return fills_volume(self.mask)

    @cached_property
    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Points of each class's surface, and the faces they keep off."""
        return surface_points(self.mask, self.topology, self.spacing_mm)

    @cached_property
    def vessels(self) -> dict[int, Vessel]:
        """Skeleton and volume of each thin class."""
        return {
            label: Vessel.of(self.mask[box] == label, box, self.topology[label])
            for label, box in self.boxes.items()
            if label in self.roles.thin
        }
