"""Build the heart and the great vessels of one patient, as solids in mm.

Positions are LPS (x to the left, y to the back, z up), relative to the middle of the left ventricle, in a heart of
average size; `Placement` turns and scales them. Most are given in the ventricle's frame (u, p, q): u from the
base (0) to the apex, p toward the right ventricle, q toward the diaphragm. Centres and sizes follow hearts of
public label maps (centroids and principal axes per structure).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.spatial.transform import Rotation

from fcas_nnunet.datasets.phantom.acquisition import Tissue
from fcas_nnunet.datasets.phantom.fields import NoiseField, NoiseSolid
from fcas_nnunet.datasets.phantom.shapes import Ellipsoid, HalfSpace, Intersection, Offset, Shape, Tube, Union
from fcas_nnunet.labels.anatomy import Structure, Surrounding

APEX_DIRECTION = np.array([0.67, -0.60, -0.44]) / np.linalg.norm([0.67, -0.60, -0.44])
_TO_RV = np.array([-0.69, -0.72, -0.12])
_TO_RV = _TO_RV - (_TO_RV @ APEX_DIRECTION) * APEX_DIRECTION
SEPTAL_DIRECTION = _TO_RV / np.linalg.norm(_TO_RV)
INFERIOR_DIRECTION = np.cross(APEX_DIRECTION, SEPTAL_DIRECTION)
_FRAME = np.stack([APEX_DIRECTION, SEPTAL_DIRECTION, INFERIOR_DIRECTION])
_BASE = -36.0 * APEX_DIRECTION


@dataclass(frozen=True)
class HeartSizes:
    """Sizes that differ between patients; in mm in a heart of average size, unless a note says otherwise."""

    scale: float  # size of the whole heart, 1 = average
    tilt_deg: np.ndarray  # [3], rotation vector of the heart in the chest
    lv_radius: float  # radius of the left ventricle's cavity, short axis
    lv_length: float  # length of the left ventricle's cavity, base to apex
    wall: float  # thickness of the left myocardium
    rv: float  # factor on the size of the right ventricle
    ra: float  # factor on the size of the right atrium
    la: float  # factor on the size of the left atrium
    aorta_radius: float  # radius of the ascending aorta
    pa_radius: float  # radius of the pulmonary trunk
    papillary: float  # radius of the papillary muscles
    trabeculae: float  # threshold of the trabeculation; lower is denser

    @classmethod
    def draw(cls, rng: np.random.Generator) -> HeartSizes:
        """A patient's sizes."""
        return cls(
            tilt_deg=rng.normal(0, 5, 3).clip(-10, 10),
            scale=rng.uniform(0.91, 1.04),
            lv_radius=rng.uniform(23.5, 28.5),
            lv_length=rng.uniform(78, 92),
            wall=rng.uniform(8.5, 12),
            rv=rng.uniform(0.93, 1.07),
            ra=rng.uniform(0.90, 1.12),
            la=rng.uniform(0.90, 1.12),
            aorta_radius=rng.uniform(14, 18),
            pa_radius=rng.uniform(11.5, 14.5),
            papillary=rng.uniform(3, 5),
            trabeculae=rng.uniform(0.1, 0.9),
        )


@dataclass(frozen=True)
class Placement:
    """Placement of the average heart in the patient."""

    scale: float
    rotation: np.ndarray

    def at(self, x: float, y: float, z: float) -> np.ndarray:
        """A position given in LPS."""
        return self.rotation @ (self.scale * np.array([x, y, z]))

    def frame(self, u: float, p: float, q: float) -> np.ndarray:
        """A position given in the left ventricle's frame."""
        return self.at(*(_BASE + np.array([u, p, q]) @ _FRAME))

    def direction(self, u: float, p: float, q: float) -> np.ndarray:
        """A unit vector given in the left ventricle's frame."""
        vector = self.rotation @ (np.array([u, p, q]) @ _FRAME)
        return vector / np.linalg.norm(vector)

    def frame_coordinates(self, position: np.ndarray) -> tuple[float, float, float]:
        """The inverse of `frame`: (u, p, q) of a position in the patient."""
        u, p, q = _FRAME @ (self.rotation.T @ position / self.scale - _BASE)
        return float(u), float(p), float(q)

    def path(self, *positions: tuple[float, float, float]) -> np.ndarray:
        """[n, 3] positions given in LPS."""
        return np.stack([self.at(*position) for position in positions])

    def radii(self, *values: float) -> np.ndarray:
        """[n] lengths."""
        return self.scale * np.array(values)


#: A solid, what it is made of, and what it is labelled as.
Layer: TypeAlias = tuple[Shape, Tissue, Structure | Surrounding]


@dataclass(frozen=True)
class Heart:
    """A patient's heart. Cavities hold blood; walls are the cavities with the muscle or wall around them."""

    sizes: HeartSizes
    placement: Placement
    layers: list[Layer]  # in the order of painting
    lv_wall: Shape  # the left myocardium's outer surface
    rv_wall: Shape
    la_wall: Shape
    ra_wall: Shape
    pa_wall: Shape
    aorta: Shape  # the ascending aorta with the sinuses
    aorta_path: np.ndarray  # [n, 3], its centre line, from the valve upwards
    tricuspid_center: np.ndarray
    tricuspid_normal: np.ndarray  # normal of the valve's plane, into the ventricle
    surface: Shape  # the epicardium and the great vessels, filleted where they meet
    coronary_bed: Shape  # the same without what overhangs the arteries' course: left appendage, the veins' stubs


def build_heart(sizes: HeartSizes, rng: np.random.Generator) -> Heart:
    """Build the solids of a heart; `rng` draws the trabeculation and the course of the great vessels."""
    place = Placement(sizes.scale, Rotation.from_rotvec(sizes.tilt_deg, degrees=True).as_matrix())
    tricuspid_center, tricuspid_normal = place.frame(14, 39, 3.5), place.direction(0.88, -0.27, -0.40)
    aorta, aorta_path = _aorta(place, sizes, rng)
    lv, lv_wall = _left_ventricle(place, sizes, aorta_path)
    rv = _right_ventricle(place, sizes, tricuspid_center, tricuspid_normal)
    ra = _right_atrium(place, sizes, tricuspid_center, tricuspid_normal)
    la_body, la, pulmonary_veins = _left_atrium(place, sizes)
    pa = _pulmonary_artery(place, sizes, rng)
    rv_wall, ra_wall, la_wall = Offset(rv, 3.0), Offset(ra, 2.0), Offset(la, 2.0)
    aorta_wall, pa_wall = Offset(aorta, 1.5), Offset(pa, 1.2)
    lv_muscles = _muscles_of_left_ventricle(place, sizes, lv, rng)
    rv_muscles = _muscles_of_right_ventricle(place, sizes, rv, rng)
    superior_vein = Tube(place.path((-70, 0, 18), (-73, 4, 55), (-72, 4, 110)), place.radii(9.5, 8.5, 8.5))
    inferior_vein = Tube(place.path((-64, 6, -16), (-62, 16, -48), (-62, 20, -90)), place.radii(10, 10, 11))
    body = Surrounding.BODY
    layers: list[Layer] = [  # a wall before its cavity, the left ventricle over the right
        (superior_vein, Tissue.SUPERIOR_BLOOD, body),
        (inferior_vein, Tissue.INFERIOR_BLOOD, body),
        (pulmonary_veins, Tissue.LA_BLOOD, body),
        (ra_wall, Tissue.SOFT, body),
        (rv_wall, Tissue.RV_MUSCLE, body),
        (ra, Tissue.RA_BLOOD, Structure.RIGHT_ATRIUM),
        (rv, Tissue.RV_BLOOD, Structure.RIGHT_VENTRICLE),
        (rv_muscles, Tissue.RV_MUSCLE, Structure.RIGHT_VENTRICLE),
        (la_wall, Tissue.SOFT, body),
        (la, Tissue.LA_BLOOD, Structure.LEFT_ATRIUM),
        (lv_wall, Tissue.MYOCARDIUM, Structure.LEFT_MYOCARDIUM),
        (lv, Tissue.LV_BLOOD, Structure.LEFT_VENTRICLE),
        (lv_muscles, Tissue.MYOCARDIUM, Structure.LEFT_VENTRICLE),
        (pa_wall, Tissue.SOFT, body),
        (pa, Tissue.PULMONARY_BLOOD, Structure.PULMONARY_ARTERY),
        (aorta_wall, Tissue.SOFT, body),
        (aorta, Tissue.AORTIC_BLOOD, Structure.ASCENDING_AORTA),
    ]
    surface = Union([lv_wall, rv_wall, la_wall, ra_wall, aorta_wall, pa_wall], fillet_mm=7.0)
    bed = Union([lv_wall, rv_wall, Offset(la_body, 2.0), ra_wall, aorta_wall, pa_wall], fillet_mm=3.0)
    return Heart(
        sizes, place, layers, lv_wall, rv_wall, la_wall, ra_wall, pa_wall, aorta, aorta_path, tricuspid_center,
        tricuspid_normal, surface, bed,
    )  # fmt: skip


def _aorta(place: Placement, sizes: HeartSizes, rng: np.random.Generator) -> tuple[Shape, np.ndarray]:
    """The ascending aorta: valve, bulging sinuses, waist, ascending part; with its centre line."""
    bend = rng.normal(0, 2, 3)
    path = np.stack([
        place.frame(6, 10.5, -9.5),
        place.frame(2, 12, -13),
        place.at(-31.4, 5.0, 36.0),
        place.at(-34.6, 3.5, 46.5),
        place.at(-43, -1, 67) + bend,
        place.at(-46, 4, 88) + bend,
        place.at(-40, 18, 100),
    ])  # fmt: skip
    radii = sizes.aorta_radius * place.radii(0.74, 0.76, 1.06, 0.90, 1.0, 0.97, 0.9)
    upward = path[2] - path[1]
    upward /= np.linalg.norm(upward)
    return Intersection([Tube(path, radii), HalfSpace(path[1], -upward)], fillet_mm=1.0), path[1:]


def _left_ventricle(place: Placement, sizes: HeartSizes, aorta_path: np.ndarray) -> tuple[Shape, Shape]:
    """Cavity (with the outflow tract up to the aortic valve) and outer surface of the left myocardium."""
    axes = np.stack([place.direction(1, 0, 0), place.direction(0, 1, 0), place.direction(0, 0, 1)])
    center = place.frame(0.27 * sizes.lv_length, 0, 0)
    radius, length, wall = sizes.lv_radius, 0.73 * sizes.lv_length, sizes.wall
    cavity = Ellipsoid(center, place.radii(length, radius, 0.95 * radius), axes)
    outside = Ellipsoid(center, place.radii(length + 0.8 * wall, radius + wall, 0.95 * radius + wall), axes)
    base = HalfSpace(place.frame(0, 0, 0), -axes[0])
    upward = aorta_path[1] - aorta_path[0]
    upward /= np.linalg.norm(upward)
    outflow = Tube(
        np.stack([place.frame(17, 7, -6), aorta_path[0] + 4 * upward]), sizes.aorta_radius * place.radii(0.66, 0.72)
    )
    below_valve = HalfSpace(aorta_path[0], upward)
    # reaches through the myocardium's rim to the left atrium
    inlet = Tube(np.stack([place.frame(14, -4, 3), place.frame(-6, -4, 3)]), place.radii(15, 15))
    return (
        Union(
            [
                Intersection([cavity, base], fillet_mm=3.0),
                Intersection([outflow, below_valve]),
                Intersection([inlet, Offset(base, 1.2)]),
            ],
            fillet_mm=2.0,
        ),
        Intersection([outside, Offset(base, 1.0)], fillet_mm=9.0),
    )


def _right_ventricle(place: Placement, sizes: HeartSizes, valve: np.ndarray, normal: np.ndarray) -> Shape:
    """The crescent around the septum (the left ventricle is painted over it) and the outflow tract."""
    axes = np.stack([place.direction(1, 0.10, 0), place.direction(-0.10, 1, 0), place.direction(0, 0, 1)])
    body = Ellipsoid(place.frame(34, 28, -3), sizes.rv * place.radii(44, 36, 44), axes)
    outflow = Tube(
        np.stack([place.frame(32, 36, -20), place.frame(25, 31, -31), place.at(-15, -20, 37)]),
        sizes.rv * place.radii(15, 14, 12.5),
    )
    return Intersection([Union([body, outflow], fillet_mm=8.0), HalfSpace(valve, -normal)], fillet_mm=2.0)


def _right_atrium(place: Placement, sizes: HeartSizes, valve: np.ndarray, normal: np.ndarray) -> Shape:
    """The right atrium with its appendage, ending at the tricuspid valve."""
    up = np.array([-0.1, 0.1, 1.0])
    up -= (up @ normal) * normal
    up /= np.linalg.norm(up)
    axes = np.stack([normal, up, np.cross(normal, up)])
    body = Ellipsoid(place.frame(-5, 47, 12), sizes.ra * place.radii(27, 31, 25), axes)
    appendage = Tube(place.path((-64, -14, 14), (-58, -22, 24), (-48, -25, 30)), sizes.ra * place.radii(13, 11, 7))
    return Intersection([Union([body, appendage], fillet_mm=6.0), HalfSpace(valve, normal)], fillet_mm=2.0)


def _left_atrium(place: Placement, sizes: HeartSizes) -> tuple[Shape, Shape, Shape]:
    """The left atrium's body; the body with appendage and the stubs of the pulmonary veins; the veins beyond."""
    axes = Rotation.from_rotvec([0.0, 12, 3], degrees=True).as_matrix() @ place.rotation.T
    body = Ellipsoid(place.at(-36, 30, 21), sizes.la * place.radii(32, 22, 27), axes)
    funnel = Tube(np.stack([place.at(-32, 27, 18), place.frame(0, -5, 4)]), place.radii(20, 18.5))
    appendage = Tube(
        place.path((-21, 26, 40), (-8, 21, 51), (4, 10, 53), (12, 0, 49)), sizes.la * place.radii(9, 8, 7, 4)
    )
    veins = [
        Tube(place.path((-52, 28, 30), (-74, 24, 42), (-104, 16, 58)), place.radii(8, 6.5, 5)),
        Tube(place.path((-54, 36, 12), (-74, 42, 6), (-106, 52, 0)), place.radii(8, 6.5, 4.5)),
        Tube(place.path((-20, 33, 32), (2, 34, 48), (36, 28, 66)), place.radii(8, 6.5, 5)),
        Tube(place.path((-18, 38, 14), (6, 47, 8), (40, 58, -2)), place.radii(8, 6.5, 4.5)),
    ]
    stubs = [Tube(vein.path[:1] + np.array([[0.0], [0.7]]) * (vein.path[1] - vein.path[0]), vein.radii[:2])
             for vein in veins]  # fmt: skip
    behind_valve = HalfSpace(place.frame(0.5, 0, 0), place.direction(1, 0, 0))
    chamber = Union([body, funnel, appendage, *stubs], fillet_mm=4.0)
    return (
        Intersection([Union([body, funnel], fillet_mm=4.0), behind_valve], fillet_mm=1.0),
        Intersection([chamber, behind_valve], fillet_mm=1.0),
        Union(veins),
    )


def _pulmonary_artery(place: Placement, sizes: HeartSizes, rng: np.random.Generator) -> Shape:
    """The trunk in front of and left of the aorta, and both branches, from the valve on."""
    bend = rng.normal(0, 1.5, 3)
    radius = sizes.pa_radius
    trunk_path = place.path((-15, -24, 32), (-15, -20, 37), (-14, -8, 52), (-18, 8, 63), (-22, 18, 67))
    trunk_path[2:4] += bend
    trunk = Tube(trunk_path, place.radii(radius, radius, radius, radius, 0.8 * radius))
    right = Tube(place.path((-22, 18, 66), (-45, 25, 64), (-75, 25, 60), (-104, 30, 50)),
                 radius * place.radii(0.75, 0.7, 0.68, 0.5))  # fmt: skip
    left = Tube(place.path((-20, 14, 66), (-2, 32, 70), (16, 46, 64), (34, 56, 48)),
                radius * place.radii(0.8, 0.75, 0.7, 0.5))  # fmt: skip
    upward = trunk_path[2] - trunk_path[1]
    upward /= np.linalg.norm(upward)
    above_valve = HalfSpace(trunk_path[1], -upward)
    return Union([Intersection([trunk, above_valve], fillet_mm=1.0), right, left], fillet_mm=4.0)


def _muscles_of_left_ventricle(place: Placement, sizes: HeartSizes, cavity: Shape, rng: np.random.Generator) -> Shape:
    """Two papillary muscles and the trabeculae of the apical half."""
    radius, length = sizes.lv_radius, sizes.lv_length
    papillary = [
        Tube(
            np.stack([place.frame(0.75 * length, -0.62 * radius * np.cos(angle), 0.62 * radius * np.sin(angle)),
                      place.frame(0.42 * length, -0.55 * radius * np.cos(angle), 0.55 * radius * np.sin(angle))]),
            sizes.papillary * place.radii(1.2, 0.8),
        )
        for angle in (rng.normal(-0.7, 0.15), rng.normal(0.8, 0.15))
    ]  # fmt: skip
    rim = HalfSpace(place.frame(0.45 * length, 0, 0), place.direction(-1, 0, 0))
    strands = NoiseSolid(NoiseField.draw(rng, 5.5), sizes.trabeculae)
    return Intersection([Union([*papillary, Intersection([_Shell(cavity, 5.0), strands, rim])]), cavity])


def _muscles_of_right_ventricle(place: Placement, sizes: HeartSizes, cavity: Shape, rng: np.random.Generator) -> Shape:
    """The moderator band and coarse trabeculae."""
    band = Tube(np.stack([place.frame(42, 28, 2), place.frame(56, 48, 8)]), place.radii(2.5, 3.0))
    strands = NoiseSolid(NoiseField.draw(rng, 6.5), sizes.trabeculae - 0.1)
    inlet = HalfSpace(place.frame(26, 0, -22), place.direction(-1, 0, -1))
    return Intersection([Union([band, Intersection([_Shell(cavity, 7.0), strands, inlet])]), cavity])


@dataclass(frozen=True)
class _Shell:
    """The outermost `depth_mm` of a solid."""

    solid: Shape
    depth_mm: float

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.solid.bounds

    def __call__(self, points: np.ndarray) -> np.ndarray:
        distance = self.solid(points)
        return np.maximum(distance, -distance - points.dtype.type(self.depth_mm))
