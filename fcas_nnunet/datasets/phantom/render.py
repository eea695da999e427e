"""Render solids to voxels: paint tissues and labels with partial volume onto a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import label
from scipy.spatial import cKDTree

from fcas_nnunet.datasets.phantom.acquisition import Acquisition, Tissue
from fcas_nnunet.datasets.phantom.coronaries import CoronaryTree, Plaque, Vessel
from fcas_nnunet.datasets.phantom.fields import Warp
from fcas_nnunet.datasets.phantom.shapes import Bounds, Shape, dot

_FULL_CONNECTIVITY = np.ones((3, 3, 3), bool)
#: A voxel of an artery is divided by this along each axis.
_SUPERSAMPLING = 3


@dataclass(frozen=True)
class Grid:
    """Voxels in the patient."""

    affine: np.ndarray  # [4, 4], array index (d, h, w, 1) → LPS mm
    shape: tuple[int, int, int]  # voxels along (D, H, W)
    warp: Warp  # takes positions in the patient to the undeformed anatomy

    @property
    def spacing_mm(self) -> np.ndarray:
        """[3], along D, H, W."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def positions(self) -> np.ndarray:
        """[3, D, H, W] float32 LPS mm of the voxel centres."""
        return self.at(np.indices(self.shape, dtype=np.float32))

    def at(self, index: np.ndarray) -> np.ndarray:
        """[3, ...] fractional array indices → LPS mm."""
        rows = zip(self.affine[:3, :3], self.affine[:3, 3], strict=True)
        return np.stack([dot(row, index) + index.dtype.type(origin) for row, origin in rows])

    def indices(self, anatomy_points: np.ndarray) -> np.ndarray:
        """[n, 3] mm of the undeformed anatomy → [n, 3] fractional array indices."""
        positions = self.warp.inverse(np.ascontiguousarray(anatomy_points.T)).T
        return (positions - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T


class Canvas:
    """Collects tissue HU and structure codes; what is painted later covers what was painted before.

    Attributes:
        hu: [D, H, W] float32.
        codes: [D, H, W] uint8.
        positions: [3, D, H, W] mm in the patient.
    """

    def __init__(self, grid: Grid, acquisition: Acquisition) -> None:
        self.grid, self.acquisition = grid, acquisition
        self.positions = grid.positions()
        self._anatomy = grid.warp(self.positions)
        self._fine = acquisition.fine(self.positions)
        self._coarse = acquisition.coarse(self.positions)
        self._voxel_mm = np.float32(np.prod(grid.spacing_mm) ** (1 / 3))
        self.hu = np.full(grid.shape, acquisition.hu[Tissue.AIR], np.float32)
        self.codes = np.zeros(grid.shape, np.uint8)
        # per array axis: the lowest and highest coordinate of each of its slices, to find a solid's box
        others = [(2, 3), (1, 3), (1, 2)]
        self._lowest = [self._anatomy.min(axis=axes) for axes in others]
        self._highest = [self._anatomy.max(axis=axes) for axes in others]

    def paint(self, solid: Shape, tissue: Tissue, code: int) -> None:
        """Fill a solid with a tissue.

        Args:
            solid: Solid in the undeformed anatomy.
            tissue: Tissue that sets the HU, in proportion to the part of a voxel inside.
            code: Code of voxels whose larger part lies inside.
        """
        box = self._box(solid.bounds)
        if box is None:
            return
        # the surface is flat at the size of a voxel: the part inside follows from its distance
        occupancy = np.clip(0.5 - solid(self._anatomy[(slice(None), *box)]) / self._voxel_mm, 0, 1)
        self._blend(box, occupancy, tissue)
        self.codes[box][occupancy >= 0.5] = code

    def keep_largest(self, code: int, otherwise: int) -> None:
        """Leave a code to its largest 6-connected component; specks become `otherwise`."""
        parts, count = label(self.codes == code)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            self.codes[(parts > 0) & (parts != sizes.argmax())] = otherwise

    def paint_vessels(
        self, vessels: Sequence[Vessel], tissue: Tissue, code: int | None, wrapped_mm: float = 0.0
    ) -> None:
        """Fill vessels, which may be thinner than a voxel.

        Args:
            vessels: Vessels with their centre lines.
            tissue: Tissue that sets the HU.
            code: Code of voxels whose larger part lies inside and of every voxel that a centre line passes, so
                that a tree stays connected; None leaves the codes as they are.
            wrapped_mm: Thickness of the fat put around them first.
        """
        radii = np.concatenate([vessel.radii for vessel in vessels])
        tree = cKDTree(np.concatenate([vessel.path for vessel in vessels]))
        candidates = self._near(tree, float(radii.max()) + wrapped_mm)
        height = self._height(candidates, tree, radii)
        if wrapped_mm:
            self._blend_at(candidates, self._share_below(height, wrapped_mm), Tissue.EPICARDIAL_FAT)
        occupancy = self._share_below(height, 0.0)
        filled = self._blend_at(candidates, occupancy, tissue)
        if code is None:
            return
        passed = self._passed(vessels)
        members = passed | (filled >= 0.5)
        parts, _ = label(members, structure=_FULL_CONNECTIVITY)
        self.codes[members & np.isin(parts, np.unique(parts[passed]))] = code

    def paint_plaques(self, plaques: Sequence[Plaque], tree: CoronaryTree) -> None:
        """Blend calcium into the vessel walls; the codes stay as they are."""
        if not plaques:
            return
        lines, radii = tree.points()
        candidates = self._near(cKDTree(np.stack([plaque.center for plaque in plaques])), 5.0)
        samples = self._subvoxels(candidates)
        in_artery = cKDTree(lines)
        distance, nearest = in_artery.query(samples.reshape(-1, 3))
        inside = distance < 1.15 * radii[nearest]
        calcified = np.zeros(len(distance), bool)
        for plaque in plaques:
            offset = samples.reshape(-1, 3) - plaque.center
            along = dot(plaque.direction, offset.T)
            across = (offset**2).sum(axis=1) - along**2
            calcified |= (along / plaque.semi_axes[0]) ** 2 + across / plaque.semi_axes[1] ** 2 < 1
        self._blend_at(candidates, (inside & calcified).reshape(samples.shape[:2]).mean(axis=1), Tissue.CALCIUM)

    def _blend_at(self, candidates: tuple[np.ndarray, ...], occupancy: np.ndarray, tissue: Tissue) -> np.ndarray:
        """Mix a tissue into single voxels; returns its part of every voxel, [D, H, W]."""
        filled = np.zeros(self.grid.shape, np.float32)
        filled[candidates] = occupancy
        box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in candidates)
        self._blend(box, filled[box], tissue)
        return filled

    def _blend(self, box: tuple[slice, ...], occupancy: np.ndarray, tissue: Tissue) -> None:
        """Mix a tissue into the HU of a box."""
        new = self.acquisition.tissue_hu(
            tissue, self.positions[(slice(None), *box)], self._fine[box], self._coarse[box]
        )
        old = self.hu[box]
        old += occupancy * (new - old)

    def _box(self, bounds: Bounds) -> tuple[slice, slice, slice] | None:
        """The part of the grid that may hold a solid, or None."""
        low, high = bounds[0] - self._voxel_mm, bounds[1] + self._voxel_mm
        slices = []
        for lowest, highest in zip(self._lowest, self._highest, strict=True):
            touched = ((highest >= low[:, None]) & (lowest <= high[:, None])).all(axis=0).nonzero()[0]
            if len(touched) == 0:
                return None
            slices.append(slice(int(touched[0]), int(touched[-1]) + 1))
        return slices[0], slices[1], slices[2]

    def _near(self, tree: cKDTree, radius_mm: float) -> tuple[np.ndarray, ...]:
        """Indices of voxels that a vessel of this radius around the tree's points may touch."""
        reach = radius_mm + float(np.linalg.norm(self.grid.spacing_mm)) * 0.5 + 0.5
        box = self._box((tree.mins - reach, tree.maxes + reach))
        assert box is not None, "the coronary arteries lie inside the field of view"
        points = self._anatomy[(slice(None), *box)].reshape(3, -1).T
        near = np.isfinite(tree.query(points, distance_upper_bound=reach)[0])
        shape = tuple(part.stop - part.start for part in box)
        local = np.unravel_index(near.nonzero()[0], shape)
        return tuple(index + part.start for index, part in zip(local, box, strict=True))

    def _subvoxels(self, candidates: tuple[np.ndarray, ...]) -> np.ndarray:
        """[n, 27, 3] mm of the undeformed anatomy: positions spread evenly within each voxel."""
        ticks = (np.arange(_SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - 0.5
        within = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3)
        index = np.stack(candidates)[:, :, None] + within.T[:, None]
        return self.grid.warp(self.grid.at(index.astype(np.float32))).transpose(1, 2, 0)

    def _height(self, candidates: tuple[np.ndarray, ...], tree: cKDTree, radii: np.ndarray) -> np.ndarray:
        """Distance of each of the positions within voxels from the vessels' walls, [n, 27] mm; positive outside."""
        samples = self._subvoxels(candidates)
        distance, nearest = tree.query(samples.reshape(-1, 3))
        return (distance - radii[nearest]).reshape(samples.shape[:2])

    def _share_below(self, height: np.ndarray, limit_mm: float) -> np.ndarray:
        """The part of each voxel that lies lower than a limit, [n] in [0, 1], given [n, 27] mm."""
        # a soft edge of a subvoxel's width
        edge = self._voxel_mm / _SUPERSAMPLING
        return np.clip(0.5 - (height - limit_mm) / edge, 0, 1).mean(axis=1)

    def _passed(self, vessels: Sequence[Vessel]) -> np.ndarray:
        """Voxels that a centre line passes; those of one vessel are 26-connected."""
        passed = np.zeros(self.grid.shape, bool)
        for vessel in vessels:
            corners = self.grid.indices(vessel.path)
            finest = int(np.ceil(np.abs(np.diff(corners, axis=0)).max() * 2)) if len(corners) > 1 else 1
            ticks = np.linspace(0, 1, finest + 1)[:, None, None]
            dense = corners[:-1] + ticks * (corners[1:] - corners[:-1])
            voxels = np.rint(dense.reshape(-1, 3)).astype(int)
            inside = ((voxels >= 0) & (voxels < self.grid.shape)).all(axis=1)
            passed[tuple(voxels[inside].T)] = True
        return passed
