"""Rejoin pieces that nearest sampling tore apart: a line joins voxels that are neighbours in the source.

Between two output voxels there may be no source voxel of a thin vessel. The source knows which pieces belong together.
The repair forms a graph of the source's voxels (joined where they touch) and of the output's pieces (joined to the
source voxels they were sampled from), takes the spanning tree that needs the fewest new voxels, prunes it to what joins
pieces, and draws it.
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
    """Possible joints: the graph's nodes `ends`, int [E, 2], and their places `lines` in output voxels, [E, 2, 3]."""

    ends: np.ndarray
    lines: np.ndarray

    def take(self, chosen: np.ndarray) -> _Edges:
        return _Edges(self.ends[chosen], self.lines[chosen])


def reconnect_class(
    source: np.ndarray,
    source_box: Box,
    output: np.ndarray,
    origin: np.ndarray,
    deformation: Deformation,
    spacing_mm: Triple[float],
) -> np.ndarray:
    """Find the voxels to add to a class so that its pieces are connected as the source's are.

    Args:
        source: Voxels of the class in the source, bool, cropped to `source_box`.
        source_box: Box of that crop in the source volume.
        output: Voxels of the class after sampling, bool, a region of the output.
        origin: Index of the region's first voxel in the output volume, int [3].
        deformation: Deformation from source to output.
        spacing_mm: Voxel size along (D, H, W).

    Returns:
        int [N, 3], indices within the region; none where nothing is torn.
    """
    spacing, corner = np.array(spacing_mm), np.array([s.start for s in source_box])
    pairs = _loose_pairs(source)
    components, _ = label_components(source)
    is_node = source & (np.bincount(components.ravel()) == 1)[components]  # single voxels, which no pair names
    is_node[tuple(pairs.reshape(-1, 3).T)] = True
    node_voxels = np.argwhere(is_node)
    node_at = np.full(source.shape, -1, dtype=np.int64)
    node_at[is_node] = np.arange(len(node_voxels))
    places = output_points_mm(deformation, (node_voxels + corner) * spacing) / spacing - origin
    neighbours = node_at[tuple(np.moveaxis(pairs, -1, 0))]

    pieces, num_pieces = label_components(output)
    piece_voxels = np.argwhere(output)
    came_from = np.rint(source_points_mm(deformation, (piece_voxels + origin) * spacing) / spacing).astype(int) - corner
    node = node_at[tuple(np.clip(came_from, 0, np.array(source.shape) - 1).T)]
    piece_node = len(node_voxels) - 1 + pieces[output].astype(np.int64)
    known = node >= 0
    samples = np.stack([node, piece_node], axis=1)[known]
    sampled_lines = np.stack([places[node[known]], piece_voxels[known]], axis=1)
    edges = _Edges(np.concatenate([neighbours, samples]), np.concatenate([places[neighbours], sampled_lines]))

    num_nodes = len(node_voxels) + num_pieces
    forest = _spanning_forest(edges, output, num_nodes)
    has_piece = _reaches_piece(forest, len(node_voxels), num_nodes)[: len(node_voxels)]
    joints = line_voxels(_prune(forest, has_piece, num_nodes).lines).reshape(-1, 3)
    lost = np.rint(places[~has_piece]).astype(np.int64)  # components without a sampled voxel
    voxels = np.concatenate([joints, lost])
    voxels = np.unique(voxels[inside(voxels, output.shape)], axis=0)
    return voxels[~output[tuple(voxels.T)]]


def line_voxels(lines: np.ndarray) -> np.ndarray:
    """Voxels along straight lines, [E, 2, 3] in voxels => int [E, samples, 3]; successive voxels touch."""
    start, way = lines[:, 0], lines[:, 1] - lines[:, 0]
    longest = np.abs(way).max(initial=0.0)
    fractions = np.linspace(0, 1, 2 * int(np.ceil(longest)) + 1)[None, :, None]
    return np.rint(start[:, None] + fractions * way[:, None]).astype(np.int64)


def inside(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """True where voxels, int [..., 3], lie in a volume, bool [...]."""
    return np.all((voxels >= 0) & (voxels < np.array(shape)), axis=-1)


def _loose_pairs(source: np.ndarray) -> np.ndarray:
    """Neighbours that sampling may tear apart, int [E, 2, 3]: vessels consist of them, chambers have few."""
    found = []
    for offset in _HALF_NEIGHBOURS:
        first = np.argwhere(loose_pairs(source, offset))
        found.append(np.stack([first, first + offset], axis=1))
    return np.concatenate(found)


def _spanning_forest(edges: _Edges, output: np.ndarray, num_nodes: int) -> _Edges:
    """The spanning forest that draws the fewest voxels outside the class."""
    voxels = line_voxels(edges.lines)
    clipped = np.clip(voxels, 0, np.array(output.shape) - 1)
    drawn = ~(output[tuple(np.moveaxis(clipped, -1, 0))] & inside(voxels, output.shape))
    lengths = np.abs(edges.lines[:, 1] - edges.lines[:, 0]).max(axis=1)
    weight = _FREE + drawn.mean(axis=1) * lengths.clip(min=1)
    # a voxel and a piece can be joined in several ways: the cheapest stands for the pair
    pair = edges.ends[:, 0] * num_nodes + edges.ends[:, 1]
    order = np.argsort(weight, kind="stable")
    pair, first = np.unique(pair[order], return_index=True)
    best = edges.take(order[first])
    graph = sparse.coo_matrix((weight[order[first]], tuple(best.ends.T)), shape=(num_nodes, num_nodes)).tocsr()
    chosen = sparse.csgraph.minimum_spanning_tree(graph).tocoo()
    return best.take(np.searchsorted(pair, chosen.row.astype(np.int64) * num_nodes + chosen.col))


def _reaches_piece(forest: _Edges, num_voxel_nodes: int, num_nodes: int) -> np.ndarray:
    """True where a node's tree contains a piece of the output, bool [num_nodes]."""
    ones = np.ones(len(forest.ends), dtype=np.int8)
    graph = sparse.coo_matrix((ones, tuple(forest.ends.T)), shape=(num_nodes, num_nodes))
    _, tree_of = sparse.csgraph.connected_components(graph, directed=False)
    return np.isin(tree_of, tree_of[num_voxel_nodes:])


def _prune(forest: _Edges, prunable: np.ndarray, num_nodes: int) -> _Edges:
    """Cut the branches that lead to no piece. A tree without any piece is a lost component, and stays whole."""
    prunable = np.pad(prunable, (0, num_nodes - len(prunable)))  # the pieces themselves stay
    while True:
        leaf = prunable & (np.bincount(forest.ends.ravel(), minlength=num_nodes) == 1)
        remaining = ~leaf[forest.ends].any(axis=1)
        if remaining.all():
            return forest
        forest = forest.take(remaining)
