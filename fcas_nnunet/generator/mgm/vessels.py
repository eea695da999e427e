"""Give a thin class after sampling the topology of its source: as many pieces, as many tunnels.

Nearest sampling tears a vessel a voxel wide, and lets two branches touch that run side by side. So the source's
skeleton is moved to the output and drawn beside the sampled voxels, and the vessel is grown again within both: from one
voxel of each piece, by simple points alone, in the order in which the source's skeleton leaves that voxel. A tree
grows, whatever touches: where two branches would fuse, a gap of a voxel stays. Then as many loops are closed as the
source has, drawn voxels without need are removed, and so are those beyond the volume that the Jacobian predicts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from fcas_nnunet.generator.mgm.deformation import Deformation, local_volume_ratio, output_points_mm
from fcas_nnunet.generator.mgm.reconnection import inside, line_voxels
from fcas_nnunet.generator.mgm.topology import ClassTopology
from fcas_nnunet.geometry import Box, Triple
from fcas_nnunet.labels.components import bounding_box, count_pieces_and_tunnels, count_tunnels
from fcas_nnunet.labels.homotopy import HomotopicObject, skeleton
from fcas_nnunet.labels.morphology import dilate_box3, voxel_graph

_LEVEL_VOXELS = 2.0  # growth goes along the skeleton in steps of this
_VOLUME_POINTS = 2000


@dataclass(frozen=True)
class Vessel:
    """A thin class of a source.

    Attributes:
        topology: Pieces and tunnels of the class.
        skeleton: Voxels of the skeleton, int [N, 3].
        neighbours: Pairs of skeleton voxels that touch, int [E, 2].
        piece: Number of the piece that each skeleton voxel belongs to, [N].
        order: Distance from the first voxel of its piece along the skeleton, in voxels, [N].
        voxels: Sample of the class's voxels, int [M, 3].
    """

    topology: ClassTopology
    skeleton: np.ndarray
    neighbours: np.ndarray
    piece: np.ndarray
    order: np.ndarray
    voxels: np.ndarray

    @classmethod
    def of(cls, binary: np.ndarray, box: Box, topology: ClassTopology) -> Vessel:
        """Describe a class of a mask, cropped to its bounding box."""
        corner = np.array([s.start for s in box])
        voxels = np.argwhere(binary)
        core = np.argwhere(skeleton(binary))
        neighbours, graph = voxel_graph(core)
        _, piece = sparse.csgraph.connected_components(graph, directed=False)
        degree = np.bincount(neighbours.ravel(), minlength=len(core))
        roots = _first_of_each(piece, degree)  # an end where there is one
        order = sparse.csgraph.dijkstra(graph, directed=False, indices=roots, min_only=True)
        some = voxels[:: -(-len(voxels) // _VOLUME_POINTS)]
        return cls(topology, core + corner, neighbours, piece, order, some + corner)

    def predicted_voxels(self, deformation: Deformation, spacing_mm: Triple[float]) -> float:
        """Its volume after a deformation by the Jacobian, in voxels."""
        ratio = local_volume_ratio(deformation, self.voxels * np.array(spacing_mm))
        return self.topology.num_voxels * float(ratio.mean())


def fit_vessel(
    vessel: Vessel, sampled: np.ndarray, origin: np.ndarray, deformation: Deformation, spacing_mm: Triple[float]
) -> np.ndarray:
    """Grow the sampled class again with the source's pieces and tunnels.

    Args:
        vessel: Class in the source.
        sampled: Voxels of the class after sampling and closing, bool, a region of the output.
        origin: Index of the region's first voxel in the output volume, int [3].
        deformation: Deformation from source to output.
        spacing_mm: Voxel size along (D, H, W).

    Returns:
        bool, the region's shape. A loop that the deformation shut cannot be opened again.
    """
    spacing = np.array(spacing_mm)
    places = output_points_mm(deformation, vessel.skeleton * spacing) / spacing - origin
    domain = sampled.copy()
    for voxels in (np.rint(places).astype(np.int64), line_voxels(places[vessel.neighbours]).reshape(-1, 3)):
        domain[tuple(voxels[inside(voxels, domain.shape)].T)] = True
    box = bounding_box(domain)
    if box is None:
        return domain
    predicted = round(vessel.predicted_voxels(deformation, spacing_mm))
    fitted = np.zeros(sampled.shape, dtype=bool)
    fitted[box] = _grown_again(vessel, places - [s.start for s in box], domain[box], sampled[box], predicted)
    return fitted


def _grown_again(
    vessel: Vessel, places: np.ndarray, domain: np.ndarray, sampled: np.ndarray, predicted_voxels: int
) -> np.ndarray:
    """Grow a vessel of the source's topology within a domain, near the sampled voxels; all in one box."""
    distance, nearest = cKDTree(places).query(np.argwhere(domain))
    when = np.full(domain.shape, vessel.order.max() + _LEVEL_VOXELS)
    when[domain] = vessel.order[nearest]
    distances = np.zeros(domain.shape)
    distances[domain] = distance

    grown = HomotopicObject(_roots(vessel, places, domain.shape))
    grown.grow_in_order(domain, when, _LEVEL_VOXELS)
    for _ in range((vessel.topology.tunnels or 0) - count_tunnels(grown.binary)):
        if not (grown.close_loop(domain, when) or grown.close_loop(dilate_box3(grown.binary), when)):
            break
        grown.grow(domain)
    grown.shrink(sampled)
    grown.trim(distances, int(grown.binary.sum()) - predicted_voxels)
    return grown.binary


def has_topology(binary: np.ndarray, topology: ClassTopology) -> bool:
    """Return whether an object has as many pieces and tunnels as a class."""
    return count_pieces_and_tunnels(binary) == (topology.components, topology.tunnels)


def _roots(vessel: Vessel, places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A voxel of each piece: the output position of its first skeleton voxel that stays in the volume."""
    nearest = np.rint(places).astype(np.int64)
    within = np.flatnonzero(inside(nearest, shape))
    roots = within[_first_of_each(vessel.piece[within], vessel.order[within])]
    marked = np.zeros(shape, dtype=bool)
    marked[tuple(nearest[roots].T)] = True
    return marked


def _first_of_each(piece: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """For each piece, the index of its member of lowest rank."""
    ordered = np.lexsort((rank, piece))
    return ordered[np.unique(piece[ordered], return_index=True)[1]]
