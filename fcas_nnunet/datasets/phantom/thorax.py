"""Build the surroundings of the heart, as solids in mm: chest wall, ribs, spine, lungs, great vessels, airways, liver.

Positions are LPS, relative to the middle of the left ventricle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcas_nnunet.datasets.phantom.acquisition import Tissue
from fcas_nnunet.datasets.phantom.fields import NoiseField
from fcas_nnunet.datasets.phantom.heart import Heart, Layer
from fcas_nnunet.datasets.phantom.shapes import Bounds, Ellipsoid, Intersection, Offset, Shape, Tube, Unbounded, Union
from fcas_nnunet.labels.anatomy import Surrounding


@dataclass(frozen=True)
class ChestSizes:
    """Sizes that differ between patients, mm."""

    midline_x: float  # the body's plane of symmetry
    half_width: float  # half width of the cavity inside the ribs
    half_depth: float  # half depth of the same cavity
    center_y: float  # middle of the cavity
    muscle: float  # thickness of the chest wall's inner layer
    fat: float  # thickness of the chest wall's outer layer
    diaphragm_z: float  # height of the diaphragm under the heart
    rib_phase_z: float  # height of one rib at the side
    disc_phase_z: float  # height of one disc of the spine
    epicardial_fat: float  # thickness away from the grooves

    @classmethod
    def draw(cls, rng: np.random.Generator, heart_scale: float) -> ChestSizes:
        """Draw a patient's sizes; a heart of this size, 1 = average, must fit in."""
        return cls(
            midline_x=rng.normal(-43, 3) * heart_scale,
            half_width=rng.uniform(115, 135),
            half_depth=rng.uniform(78, 86) * heart_scale,
            center_y=rng.normal(25, 1.5) * heart_scale,
            muscle=rng.uniform(13, 18),
            fat=rng.uniform(6, 25),
            diaphragm_z=rng.normal(-43, 2) * heart_scale,
            rib_phase_z=rng.uniform(0, 26),
            disc_phase_z=rng.uniform(0, 27),
            epicardial_fat=rng.uniform(3, 7),
        )


@dataclass(frozen=True)
class _ChestWall(Unbounded):
    """A cylinder along z with a superellipse as cross-section, its surface `grown_mm` outside the cavity's."""

    sizes: ChestSizes
    grown_mm: float = 0.0

    def __call__(self, points: np.ndarray) -> np.ndarray:
        sizes, dtype = self.sizes, points.dtype.type
        x = np.abs(points[0] - dtype(sizes.midline_x)) / dtype(sizes.half_width)
        y = np.abs(points[1] - dtype(sizes.center_y)) / dtype(sizes.half_depth)
        level = np.sqrt(np.sqrt((x * x) ** dtype(1.2) + (y * y) ** dtype(1.2) + dtype(1e-9)))
        # (…)^(1/2.4), close enough to a distance within a few centimetres of the wall
        distance = (level ** dtype(4 / 2.4) - 1) * dtype(0.9 * sizes.half_depth)
        return distance - dtype(self.grown_mm)


@dataclass(frozen=True)
class _Ribs(Unbounded):
    """Arcs in the chest wall that descend toward the front."""

    sizes: ChestSizes
    radius_mm: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        sizes, dtype = self.sizes, points.dtype.type
        depth = _ChestWall(sizes)(points) - dtype(7.0)
        z = points[2] + dtype(0.35) * (dtype(sizes.center_y) - points[1]) - dtype(sizes.rib_phase_z)
        to_rib = np.abs((z + 13) % 26 - 13) * dtype(0.7)
        return np.sqrt(depth**2 + to_rib**2) - dtype(self.radius_mm)


@dataclass(frozen=True)
class _Discs(Unbounded):
    """Slabs across the spine."""

    phase_z: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        z = points[2] - points.dtype.type(self.phase_z)
        return np.abs((z + points.dtype.type(13.5)) % 27 - points.dtype.type(13.5)) - 3


@dataclass(frozen=True)
class _Below:
    """Everything under a dome: what lies below the diaphragm."""

    top_z: float
    center_xy: tuple[float, float]
    curvature_mm: float

    @property
    def bounds(self) -> Bounds:
        return np.full(3, -np.inf), np.array([np.inf, np.inf, self.top_z])

    def __call__(self, points: np.ndarray) -> np.ndarray:
        dtype = points.dtype.type
        from_top = (points[0] - dtype(self.center_xy[0])) ** 2 + (points[1] - dtype(self.center_xy[1])) ** 2
        return (points[2] - dtype(self.top_z) + from_top / dtype(2 * self.curvature_mm)) * dtype(0.85)


@dataclass(frozen=True)
class _UnevenOffset:
    """A solid grown by a thickness that varies from place to place."""

    solid: Shape
    mean_mm: float
    field: NoiseField
    deviation_mm: float

    @property
    def bounds(self) -> Bounds:
        low, high = self.solid.bounds
        reach = self.mean_mm + 4 * self.deviation_mm
        return low - reach, high + reach

    def __call__(self, points: np.ndarray) -> np.ndarray:
        thickness = np.maximum(self.mean_mm + self.deviation_mm * self.field(points), 0.8)
        return self.solid(points) - thickness.astype(points.dtype)


def build_chest(sizes: ChestSizes, heart: Heart, rng: np.random.Generator) -> list[Layer]:
    """Build everything around the heart in the order of painting, from the skin inwards.

    Args:
        sizes: Sizes of the patient's chest.
        heart: Gives the place of mediastinum, airways and great vessels.
        rng: Draws the lung vessels and the unevenness of the fat.
    """
    place, mid = heart.placement, sizes.midline_x
    epicardial_fat = _UnevenOffset(heart.surface, sizes.epicardial_fat, NoiseField.draw(rng, 22.0), 1.6)
    spine = Tube(np.array([[mid, 82.0, -200], [mid, 82.0, 200]]) * [1, sizes.half_depth / 82, 1], np.full(2, 18.0))
    y_spine = spine.path[0, 1]
    aorta_x, aorta_y = mid + rng.normal(21, 1.5), y_spine - rng.normal(22, 1.0)
    arch = place.path((-46, 4, 90), (-38, 20, 101), (-28, 40, 98))
    descending = np.array([[aorta_x, aorta_y - 4, 82], [aorta_x, aorta_y, 55], [aorta_x - 2, aorta_y + 3, -120]])
    aorta = Tube(
        np.concatenate([arch[1:], descending]),
        0.7 * heart.sizes.aorta_radius * place.radii(1.15, 1.1, 1.02, 1.0, 0.9),
    )
    oesophagus = Tube(
        np.array([[mid + 6, y_spine - 27, 120], [mid + 8, y_spine - 26, 40], [mid + 14, y_spine - 27, -90]]),
        np.array([7.0, 7.0, 8.0]),
    )
    airways = Union([
        Tube(place.path((-41, 36, 140), (-40, 38, 86)), place.radii(9, 9)),
        Tube(place.path((-40, 38, 86), (-12, 45, 58), (12, 54, 46)), place.radii(7.5, 6, 4)),
        Tube(place.path((-40, 38, 86), (-68, 42, 64), (-96, 44, 44)), place.radii(7.5, 6, 4)),
    ])  # fmt: skip
    cavity, abdomen = _ChestWall(sizes), _Below(sizes.diaphragm_z + 6, (mid - 30, 5), 260)
    upright = np.eye(3)
    column = Ellipsoid(np.array([mid + 6, y_spine - 26, 30.0]), np.array([30.0, 26, 240]), upright)
    front = Ellipsoid(np.array([mid + 6, -38 * place.scale, 30.0]), np.array([17.0, 27, 110]), upright)
    hilum = Ellipsoid(place.at(-36, 20, 58), place.radii(42, 30, 30), upright)
    sternum = Ellipsoid(np.array([mid, sizes.center_y - sizes.half_depth - 6, 30.0]), np.array([17.0, 6, 150]), upright)
    mediastinum = Union([column, front, hilum, Offset(aorta, 3.0)], fillet_mm=9.0)
    liver = _Below(sizes.diaphragm_z + 3, (mid - 38, 0), 200)
    body, lungs, ribs, bones = Surrounding.BODY, Surrounding.LUNGS, Surrounding.RIBS, Surrounding.SPINE
    return [
        (_ChestWall(sizes, sizes.muscle + sizes.fat), Tissue.FAT, body),
        (_ChestWall(sizes, sizes.muscle), Tissue.MUSCLE, body),
        (_Ribs(sizes, 5.0), Tissue.BONE, ribs),
        (_Ribs(sizes, 3.4), Tissue.MARROW, ribs),
        (sternum, Tissue.BONE, ribs),
        (Offset(sternum, -1.8), Tissue.MARROW, ribs),
        (cavity, Tissue.LUNG, lungs),
        *((vessel, Tissue.LUNG_VESSEL, lungs) for vessel in _lung_vessels(heart, rng)),
        (Intersection([abdomen, Offset(cavity, 1.0)]), Tissue.ABDOMEN, body),
        (Intersection([liver, Offset(cavity, -4.0)]), Tissue.LIVER, body),
        (Intersection([mediastinum, Offset(cavity, 1.0)]), Tissue.FAT, body),
        (Intersection([epicardial_fat, Offset(cavity, 1.0)]), Tissue.EPICARDIAL_FAT, body),
        (Union([spine, *_arch_of_spine(mid, y_spine)], fillet_mm=3.0), Tissue.BONE, bones),
        (Offset(spine, -1.8), Tissue.MARROW, bones),
        (Intersection([_Discs(sizes.disc_phase_z), Offset(spine, 0.5)]), Tissue.DISC, bones),
        (Tube(spine.path + [0, 25, 0], np.full(2, 8.0)), Tissue.SOFT, body),  # the spinal canal
        (oesophagus, Tissue.SOFT, body),
        (Offset(airways, 1.5), Tissue.SOFT, body),
        (airways, Tissue.AIRWAY, body),
        (aorta, Tissue.DESCENDING_BLOOD, Surrounding.DESCENDING_AORTA),
    ]


def _arch_of_spine(mid: float, y_spine: float) -> list[Shape]:
    """Transverse and spinous processes, as bars along the whole spine."""
    ring = Tube(np.array([[mid, y_spine + 25, -200], [mid, y_spine + 25, 200]]), np.full(2, 13.0))
    sides = Ellipsoid(np.array([mid, y_spine + 30, 0.0]), np.array([36.0, 6, 400]), np.eye(3))
    back = Ellipsoid(np.array([mid, y_spine + 45, 0.0]), np.array([4.0, 20, 400]), np.eye(3))
    return [ring, sides, back]


def _lung_vessels(heart: Heart, rng: np.random.Generator, per_side: int = 9) -> list[Tube]:
    """Vessels that leave both hila and fork once."""
    vessels = []
    for side, hilum in ((-1, heart.placement.at(-84, 30, 46)), (1, heart.placement.at(14, 42, 52))):
        for _ in range(per_side):
            heading = np.array([side * rng.uniform(0.3, 1), rng.uniform(-1, 0.9), rng.uniform(-1.2, 0.8)])
            heading /= np.linalg.norm(heading)
            fork = hilum + heading * rng.uniform(18, 34) + rng.normal(0, 3, 3)
            radius = rng.uniform(1.8, 3.4)
            vessels.append(Tube(np.stack([hilum + 6 * heading, fork]), np.array([radius, 0.8 * radius])))
            for _ in range(2):
                turned = heading + rng.normal(0, 0.45, 3)
                turned /= np.linalg.norm(turned)
                ends = np.stack([fork, fork + turned * rng.uniform(25, 60)])
                vessels.append(Tube(ends, np.array([0.75 * radius, 0.5])))
    return vessels
