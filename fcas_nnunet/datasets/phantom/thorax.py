"""What lies around the heart, as solids in mm: chest wall, ribs, spine, lungs, great vessels, airways, liver.

Positions are LPS, relative to the middle of the left ventricle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcas_nnunet.datasets.phantom.fields import NoiseField
from fcas_nnunet.datasets.phantom.heart import Heart
from fcas_nnunet.datasets.phantom.shapes import Bounds, Ellipsoid, Intersection, Offset, Shape, Tube, Union

_NO_BOUNDS: Bounds = (np.full(3, -np.inf), np.full(3, np.inf))


@dataclass(frozen=True)
class ChestSizes:
    """What differs between patients, mm.

    Attributes:
        midline_x: the body's plane of symmetry.
        half_width, half_depth: of the cavity inside the ribs.
        center_y: middle of the cavity.
        muscle, fat: thickness of the chest wall's layers.
        diaphragm_z: height of the diaphragm under the heart.
        rib_phase_z: height of one rib at the side.
        disc_phase_z: height of one disc of the spine.
        epicardial_fat: thickness away from the grooves.
    """

    midline_x: float
    half_width: float
    half_depth: float
    center_y: float
    muscle: float
    fat: float
    diaphragm_z: float
    rib_phase_z: float
    disc_phase_z: float
    epicardial_fat: float

    @classmethod
    def draw(cls, rng: np.random.Generator, heart_scale: float) -> ChestSizes:
        """A patient's sizes; the heart must fit in.

        Args:
            rng: source of randomness.
            heart_scale: size of the heart, 1 = average.
        """
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
class Chest:
    """A patient's chest. See `build_chest`."""

    sizes: ChestSizes
    skin: Shape
    wall: Shape
    cavity: Shape
    mediastinum: Shape
    abdomen: Shape
    liver: Shape
    epicardial_fat: Shape
    ribs: Shape
    rib_marrow: Shape
    sternum: Shape
    sternum_marrow: Shape
    spine: Shape
    spine_marrow: Shape
    discs: Shape
    spinal_canal: Shape
    descending_aorta: Shape
    oesophagus: Shape
    airways: Shape
    airway_walls: Shape
    lung_vessels: tuple[Shape, ...]


@dataclass(frozen=True)
class _ChestWall:
    """A cylinder along z with a superellipse as cross-section, its surface `grown_mm` outside the cavity's."""

    sizes: ChestSizes
    grown_mm: float = 0.0

    @property
    def bounds(self) -> Bounds:
        return _NO_BOUNDS

    def __call__(self, points: np.ndarray) -> np.ndarray:
        sizes, dtype = self.sizes, points.dtype.type
        x = np.abs(points[0] - dtype(sizes.midline_x)) / dtype(sizes.half_width)
        y = np.abs(points[1] - dtype(sizes.center_y)) / dtype(sizes.half_depth)
        level = np.sqrt(np.sqrt((x * x) ** dtype(1.2) + (y * y) ** dtype(1.2) + dtype(1e-9)))
        # (…)^(1/2.4), close enough to a distance within a few centimetres of the wall
        distance = (level ** dtype(4 / 2.4) - 1) * dtype(0.9 * sizes.half_depth)
        return distance - dtype(self.grown_mm)


@dataclass(frozen=True)
class _Ribs:
    """Arcs in the chest wall that descend toward the front."""

    sizes: ChestSizes
    radius_mm: float

    @property
    def bounds(self) -> Bounds:
        return _NO_BOUNDS

    def __call__(self, points: np.ndarray) -> np.ndarray:
        sizes, dtype = self.sizes, points.dtype.type
        depth = _ChestWall(sizes)(points) - dtype(7.0)
        z = points[2] + dtype(0.35) * (dtype(sizes.center_y) - points[1]) - dtype(sizes.rib_phase_z)
        to_rib = np.abs((z + 13) % 26 - 13) * dtype(0.7)
        return np.sqrt(depth**2 + to_rib**2) - dtype(self.radius_mm)


@dataclass(frozen=True)
class _Discs:
    """Slabs across the spine."""

    phase_z: float

    @property
    def bounds(self) -> Bounds:
        return _NO_BOUNDS

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


def build_chest(sizes: ChestSizes, heart: Heart, rng: np.random.Generator) -> Chest:
    """The solids of a chest.

    Args:
        sizes: the patient's.
        heart: gives the place of mediastinum, airways and great vessels.
        rng: draws the lung vessels and the unevenness of the fat.
    """
    place, mid = heart.placement, sizes.midline_x
    wall = sizes.muscle
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
    return Chest(
        sizes=sizes,
        skin=_ChestWall(sizes, wall + sizes.fat),
        wall=_ChestWall(sizes, wall),
        cavity=cavity,
        mediastinum=Intersection(
            [Union([column, front, hilum, Offset(aorta, 3.0)], fillet_mm=9.0), Offset(cavity, 1.0)]
        ),
        abdomen=Intersection([abdomen, Offset(cavity, 1.0)]),
        liver=Intersection([_Below(sizes.diaphragm_z + 3, (mid - 38, 0), 200), Offset(cavity, -4.0)]),
        epicardial_fat=Intersection([epicardial_fat, Offset(cavity, 1.0)]),
        ribs=_Ribs(sizes, 5.0),
        rib_marrow=_Ribs(sizes, 3.4),
        sternum=sternum,
        sternum_marrow=Offset(sternum, -1.8),
        spine=Union([spine, *_arch_of_spine(mid, y_spine)], fillet_mm=3.0),
        spine_marrow=Offset(spine, -1.8),
        discs=Intersection([_Discs(sizes.disc_phase_z), Offset(spine, 0.5)]),
        spinal_canal=Tube(spine.path + [0, 25, 0], np.full(2, 8.0)),
        descending_aorta=aorta,
        oesophagus=oesophagus,
        airways=airways,
        airway_walls=Offset(airways, 1.5),
        lung_vessels=_lung_vessels(heart, rng),
    )


def _arch_of_spine(mid: float, y_spine: float) -> list[Shape]:
    """Transverse and spinous processes, as bars along the whole spine."""
    ring = Tube(np.array([[mid, y_spine + 25, -200], [mid, y_spine + 25, 200]]), np.full(2, 13.0))
    sides = Ellipsoid(np.array([mid, y_spine + 30, 0.0]), np.array([36.0, 6, 400]), np.eye(3))
    back = Ellipsoid(np.array([mid, y_spine + 45, 0.0]), np.array([4.0, 20, 400]), np.eye(3))
    return [ring, sides, back]


def _lung_vessels(heart: Heart, rng: np.random.Generator, per_side: int = 9) -> tuple[Shape, ...]:
    """Vessels that leave both hila and fork once."""
    vessels: list[Shape] = []
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
    return tuple(vessels)
