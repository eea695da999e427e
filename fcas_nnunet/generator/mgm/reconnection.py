"""Join again what nearest sampling tore apart: a thin vessel's voxels are neighbours in the source, so the places they
are moved to are joined by a line.

Sampling, not folding, is what breaks a vessel a voxel wide: between two output voxels there may be no source voxel of
it. The source knows which pieces belong together. The repair forms a graph of the source's voxels (joined where they
touch) and of the output's pieces (joined to the source voxels they were sampled from), takes the spanning tree that
needs the fewest new voxels, prunes it to what joins pieces, and draws it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from fcas_nnunet.generator.mgm.deformation import Deformation, output_points_mm, source_points_mm
from fcas_nnunet.geometry import Box, Triple
from fcas_nnunet.labels.components import label_components
from fcas_nnunet.labels.morphology import loose_pairs

#: Half of the 26 neighbours; the other half are the same pairs seen from the other side.
_HALF_NEIGHBOURS = [
    (d, h, w) for d in (0, 1) for h in (-1, 0, 1) for w in (-1, 0, 1) if (d, h, w) > (0, 0, 0)
]  # fmt: skip
_FREE = 1e-3  # scipy's sparse graphs take 0 for "no edge"


@dataclass(frozen=True)
class _Edges:
    """Possible joints. `first`, `second`: graph nodes [E]; `start`, `stop`: their places in output voxels [E, 3]."""

    first: np.ndarray
    second: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def line_voxels(self) -> np.ndarray:
        """Voxels along each edge, int [E, samples, 3]; successive ones touch."""
        longest = np.abs(self.stop - self.start).max(initial=0.0)
        fractions = np.linspace(0, 1, 2 * int(np.ceil(longest)) + 1)[None, :, None]
        points = self.start[:, None] + fractions * (self.stop - self.start)[:, None]
        return np.rint(points).astype(np.int64)

    def take(self, chosen: np.ndarray) -> _Edges:
        return _Edges(self.first[chosen], self.second[chosen], self.start[chosen], self.stop[chosen])


def reconnect_class(
    source: np.ndarray,
    source_box: Box,
    output: np.ndarray,
    origin: np.ndarray,
    deformation: Deformation,
    spacing_mm: Triple[float],
) -> np.ndarray:
    """The voxels to add to a class so that its pieces hang together as the source's do.

    Args:
        source: the class's voxels in the source, bool, cropped to `source_box`.
        source_box: where that crop lies in the source volume.
        output: the class's voxels after sampling, bool, a region of the output.
        origin: index of the region's first voxel in the output volume, int [3].
        deformation: what moved source to output.
        spacing_mm: voxel size along (D, H, W).

    Returns:
        int [N, 3], indices within the region; none where nothing is torn.
    """
    spacing, corner = np.array(spacing_mm), np.array([s.start for s in source_box])
    pairs = _loose_pairs(source)
    is_node = _lone_voxels(source)
    is_node[tuple(pairs.reshape(-1, 3).T)] = True
    node_voxels = np.argwhere(is_node)
    node_at = np.full(source.shape, -1, dtype=np.int64)
    node_at[is_node] = np.arange(len(node_voxels))
    places = output_points_mm(deformation, (node_voxels + corner) * spacing) / spacing - origin
    first, second = (node_at[tuple(pairs[:, end].T)] for end in (0, 1))
    neighbours = _Edges(first, second, places[first], places[second])

    pieces, num_pieces = label_components(output)
    piece_voxels = np.argwhere(output)
    came_from = np.rint(source_points_mm(deformation, (piece_voxels + origin) * spacing) / spacing).astype(int) - corner
    came_from = np.clip(came_from, 0, np.array(source.shape) - 1)
    node = node_at[tuple(came_from.T)]
    known = node >= 0
    piece_node = len(node_voxels) - 1 + pieces[tuple(piece_voxels.T)].astype(np.int64)
    samples = _Edges(node[known], piece_node[known], places[node[known]], piece_voxels[known].astype(float))

    num_nodes = len(node_voxels) + num_pieces
    forest = _spanning_forest([neighbours, samples], output, num_nodes)
    has_piece = _reaches_piece(forest, len(node_voxels), num_nodes)
    joints = _prune(forest, has_piece[: len(node_voxels)], num_nodes).line_voxels().reshape(-1, 3)
    lost = np.rint(places[~has_piece[: len(node_voxels)]]).astype(np.int64)  # of these no voxel was sampled
    voxels = np.concatenate([joints, lost])
    voxels = np.unique(voxels[_inside(voxels, output.shape)], axis=0)
    return voxels[~output[tuple(voxels.T)]]


def _loose_pairs(source: np.ndarray) -> np.ndarray:
    """Neighbours that sampling may tear apart, int [E, 2, 3]: vessels consist of them, chambers have few."""
    found = []
    for offset in _HALF_NEIGHBOURS:
        first = np.argwhere(loose_pairs(source, offset))
        found.append(np.stack([first, first + offset], axis=1))
    return np.concatenate(found)


def _lone_voxels(source: np.ndarray) -> np.ndarray:
    """Components of a single voxel, which no pair names."""
    components, _ = label_components(source)
    return source & (np.bincount(components.ravel()) == 1)[components]


def _spanning_forest(groups: list[_Edges], output: np.ndarray, num_nodes: int) -> _Edges:
    """The spanning forest that draws the fewest voxels outside the class."""
    edges = _Edges(
        *(np.concatenate([getattr(g, name) for g in groups]) for name in ("first", "second", "start", "stop"))
    )
    voxels = edges.line_voxels()
    inside = _inside(voxels, output.shape)
    clipped = np.clip(voxels, 0, np.array(output.shape) - 1)
    drawn = ~(output[tuple(np.moveaxis(clipped, -1, 0))] & inside)
    weight = _FREE + drawn.mean(axis=1) * np.abs(edges.stop - edges.start).max(axis=1).clip(min=1)
    # a voxel and a piece can be joined in several ways: the cheapest stands for the pair
    order = np.lexsort((weight, edges.second, edges.first))
    pair = edges.first[order] * num_nodes + edges.second[order]
    best = order[np.r_[True, pair[1:] != pair[:-1]]] if len(order) else order
    graph = sparse.coo_matrix(
        (weight[best], (edges.first[best], edges.second[best])), shape=(num_nodes, num_nodes)
    ).tocsr()
    chosen = sparse.csgraph.minimum_spanning_tree(graph).tocoo()
    index_of = dict(zip((edges.first[best] * num_nodes + edges.second[best]).tolist(), best.tolist(), strict=True))
    keys = chosen.row.astype(np.int64) * num_nodes + chosen.col
    return edges.take(np.array([index_of[key] for key in keys.tolist()], dtype=np.int64))


def _reaches_piece(forest: _Edges, num_voxel_nodes: int, num_nodes: int) -> np.ndarray:
    """Whether a node's tree holds a piece of the output, bool [num_nodes]."""
    ones = np.ones(len(forest.first), dtype=np.int8)
    graph = sparse.coo_matrix((ones, (forest.first, forest.second)), shape=(num_nodes, num_nodes))
    num_trees, tree_of = sparse.csgraph.connected_components(graph, directed=False)
    has_piece = np.zeros(num_trees, dtype=bool)
    has_piece[tree_of[num_voxel_nodes:]] = True
    return has_piece[tree_of]


def _prune(forest: _Edges, prunable: np.ndarray, num_nodes: int) -> _Edges:
    """Cut the branches that lead to no piece. A tree without any piece is a lost component, and is kept whole."""
    prunable = np.pad(prunable, (0, num_nodes - len(prunable)))  # the pieces themselves stay
    while True:
        degree = np.bincount(forest.first, minlength=num_nodes) + np.bincount(forest.second, minlength=num_nodes)
        leaf = prunable & (degree == 1)
        kept = ~(leaf[forest.first] | leaf[forest.second])
        if kept.all():
            return forest
        forest = forest.take(kept)


def _inside(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.all((voxels >= 0) & (voxels < np.array(shape)), axis=-1)
