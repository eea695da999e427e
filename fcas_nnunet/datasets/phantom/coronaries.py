"""The coronary arteries: centre lines that run on the epicardium, with tapering radii."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d, map_coordinates, spline_filter
from scipy.spatial import cKDTree

from fcas_nnunet.datasets.phantom.heart import Heart
from fcas_nnunet.datasets.phantom.shapes import Union

#: Distance of points on a centre line.
STEP_MM = 0.5
#: Radius at which an artery is no longer drawn.
SMALLEST_RADIUS_MM = 0.7
#: The left and the right tree keep this distance, so that each stays one component on coarse grids.
_TREES_APART_MM = 9.0


class Tree(StrEnum):
    """The ostium a vessel belongs to; that of the vessel at the back of the heart is called the patient's dominance."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True)
class Vessel:
    """A stretch of artery."""

    name: str  # as cardiologists abbreviate it (LM, LAD, D1, LCX, OM1, RCA, AM, PDA, PLV …)
    tree: Tree
    path: np.ndarray  # [n, 3] mm, `STEP_MM` apart, from its origin to its end
    radii: np.ndarray  # [n] mm

    @property
    def length_mm(self) -> float:
        """Length of the centre line."""
        return float(np.linalg.norm(np.diff(self.path, axis=0), axis=1).sum())


@dataclass(frozen=True)
class Plaque:
    """A calcification in an artery's wall."""

    center: np.ndarray  # [3] mm
    semi_axes: tuple[float, float]  # (along the vessel, across) mm
    direction: np.ndarray  # [3], unit vector along the vessel


@dataclass(frozen=True)
class CoronaryTree:
    """Both trees of a patient, and the veins beside them."""

    dominance: Tree
    vessels: list[Vessel]  # arteries; a branch begins on the centre line of the one it leaves
    veins: list[Vessel]  # great cardiac vein and coronary sinus, drawn like arteries
    plaques: list[Plaque]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre-line points [n, 3] mm and radii [n] mm of all arteries."""
        paths, radii = zip(*((vessel.path, vessel.radii) for vessel in self.vessels), strict=True)
        return np.concatenate(paths), np.concatenate(radii)


class _Epicardium:
    """Finds positions on the heart's surface, whose distance field it samples once on a coarse lattice."""

    _cell_mm = 2.5

    def __init__(self, heart: Heart, clearance_mm: float) -> None:
        low, high = Union([heart.lv_wall, heart.rv_wall, heart.la_wall, heart.ra_wall]).bounds
        self._low = low - 12.0
        ticks = [np.arange(first, last + 12.0, self._cell_mm) for first, last in zip(self._low, high, strict=True)]
        lattice = np.stack(np.meshgrid(*ticks, indexing="ij")).astype(np.float32)
        self._heights = spline_filter(heart.coronary_bed(lattice).astype(np.float64) - clearance_mm)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Height of [n, 3] mm above the course of the vessels, [n] mm."""
        index = (points - self._low).T / self._cell_mm
        return map_coordinates(self._heights, index, mode="nearest", prefilter=False)

    def normals(self, points: np.ndarray, step_mm: float = 0.5) -> np.ndarray:
        """Unit normals of the surface at [n, 3] mm."""
        steps = step_mm * np.eye(3)
        gradient = np.stack([self.distance(points + step) - self.distance(points - step) for step in steps], axis=-1)
        return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-9)

    def cast(self, origins: np.ndarray, directions: np.ndarray, reach_mm: float = 75.0) -> np.ndarray:
        """Find where rays from [3] or [n, 3] mm first leave the heart: deep in a groove, below what overhangs it."""
        directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        origins = np.broadcast_to(origins, directions.shape)
        steps = np.arange(8.0, reach_mm, 0.5)
        samples = origins[:, None] + directions[:, None] * steps[None, :, None]
        outside = self.distance(samples.reshape(-1, 3)).reshape(samples.shape[:2]) > 0
        return self.project(origins + directions * steps[outside.argmax(axis=1)][:, None])

    def project(self, points: np.ndarray, iterations: int = 8, most_mm: float = 3.0) -> np.ndarray:
        """[n, 3] mm moved along the surface's normals onto it, in steps of at most `most_mm`."""
        points = points.copy()
        for _ in range(iterations):
            points -= self.normals(points) * np.clip(self.distance(points), -most_mm, most_mm)[:, None]
        return points

    def course(self, waypoints: np.ndarray, wiggle_mm: float, rng: np.random.Generator) -> np.ndarray:
        """A smooth, tortuous line on the surface through waypoints [n, 3] mm, `STEP_MM` apart."""
        line = resample(waypoints)
        wiggle = gaussian_filter1d(rng.standard_normal(line.shape), 5 / STEP_MM, axis=0, mode="nearest")
        fade = np.minimum(1, np.arange(len(line)) * STEP_MM / 8)[:, None]
        line = self.project(line + fade * wiggle_mm * 4 * wiggle, iterations=5)
        smooth = gaussian_filter1d(line, 2.5 / STEP_MM, axis=0, mode="nearest")
        return resample(np.concatenate([line[:1], smooth[3:-3], line[-1:]]))


def resample(waypoints: np.ndarray, step_mm: float = STEP_MM) -> np.ndarray:
    """A line through [n, 3] waypoints without overshoot, its points about `step_mm` apart."""
    along = np.concatenate([[0], np.linalg.norm(np.diff(waypoints, axis=0), axis=1).cumsum()])
    keep = np.concatenate([[True], np.diff(along) > 1e-6])
    curve = PchipInterpolator(along[keep], waypoints[keep], axis=0)
    return curve(np.linspace(0, along[-1], max(2, round(along[-1] / step_mm) + 1)))


def grow_coronaries(heart: Heart, rng: np.random.Generator) -> CoronaryTree:
    """Draw a patient's coronary tree; `rng` draws dominance, branches, tortuosity and plaques."""
    dominance = Tree.RIGHT if rng.random() < 0.85 else Tree.LEFT
    surface = _Epicardium(heart, clearance_mm=2.4)
    lines = _CourseFinder(heart, surface, rng)
    left = _left_tree(lines, dominance, rng)
    right = [_trimmed(vessel, left) for vessel in _right_tree(lines, dominance, rng)]
    vessels = _without_orphans([*left, *(vessel for vessel in right if vessel is not None)])
    return CoronaryTree(dominance, vessels, _veins(lines, rng), _plaques(vessels, rng))


class _CourseFinder:
    """Centre lines in the heart's grooves and over its walls."""

    def __init__(self, heart: Heart, surface: _Epicardium, rng: np.random.Generator) -> None:
        self.heart, self.surface, self.rng = heart, surface, rng
        self.place, self.length = heart.placement, heart.sizes.lv_length

    def around_ventricle(self, u: np.ndarray, angle_deg: np.ndarray) -> np.ndarray:
        """Points of the surface around the left ventricle's axis.

        Args:
            u: [n] mm from the base toward the apex.
            angle_deg: [n], 0 = septum, 90 = toward the diaphragm, 180 = free wall, −90 = upper front.
        """
        angle = np.radians(angle_deg)
        origins = np.stack([self.place.frame(min(value, 0.8 * self.length), 0, 0) for value in u])
        # beyond the ellipsoid's waist rays lean toward the apex, so that they still meet the surface
        lean = np.maximum(np.asarray(u) - 0.8 * self.length, 0) / 14
        directions = [self.place.direction(x, np.cos(a), np.sin(a)) for x, a in zip(lean, angle, strict=True)]
        return self.surface.cast(origins, np.stack(directions))

    def groove_angle(self, u: float, side: int) -> float:
        """Angle at which right ventricle and pulmonary artery leave the left one, in deg; side −1: front, 1: below."""
        angles = side * np.arange(20.0, 150.0, 2.0)
        radial = np.stack([self.place.direction(0, np.cos(a), np.sin(a)) for a in np.radians(angles)])
        steps = np.arange(10.0, 50.0, 1.0)
        samples = self.place.frame(u, 0, 0) + radial[:, None] * steps[None, :, None]
        outside = self.heart.lv_wall(samples.reshape(-1, 3).T).reshape(samples.shape[:2]) > 0
        on_wall = samples[np.arange(len(angles)), outside.argmax(axis=1)]
        neighbours = Union([self.heart.rv_wall, self.heart.pa_wall])
        apart = neighbours(np.ascontiguousarray(on_wall.T)) > 2.0
        return float(angles[apart.argmax()]) if apart.any() else side * 60.0

    def interventricular(self, side: int, start: float, end: float) -> np.ndarray:
        """The anterior (−1) or inferior (1) groove, u from `start` to `end` mm."""
        u = np.linspace(start, end, 9)
        angles = gaussian_filter1d([self.groove_angle(value, side) for value in np.minimum(u, 0.85 * self.length)], 1.0)
        return self.around_ventricle(u, angles)

    def left_groove(self, start_deg: float, end_deg: float) -> np.ndarray:
        """The groove between left atrium and left ventricle, from the front over the free wall to the back."""
        angles = np.linspace(start_deg, end_deg, 10)
        return self.around_ventricle(np.full(10, 1.0), angles)

    def right_groove(self, start_deg: float, end_deg: float) -> np.ndarray:
        """The groove between right atrium and right ventricle; −90 = top, 0 = free wall, 90 = diaphragm."""
        normal = self.heart.tricuspid_normal
        down = self.place.direction(0, 0, 1)
        down -= (down @ normal) * normal
        down /= np.linalg.norm(down)
        free = np.cross(down, normal)
        free *= np.sign(free @ self.place.direction(0, 1, 0))
        angle = np.radians(np.linspace(start_deg, end_deg, 12))[:, None]
        return self.surface.cast(self.heart.tricuspid_center, np.cos(angle) * free + np.sin(angle) * down)

    def ostium(self, toward: np.ndarray) -> np.ndarray:
        """[2, 3]: a point inside the aortic sinus and one on its wall, on the side of `toward`."""
        center, above = self.heart.aorta_path[1], self.heart.aorta_path[2]
        axis = (above - center) / np.linalg.norm(above - center)
        center = center + 3 * axis
        sideways = toward - center
        sideways -= (sideways @ axis) * axis
        sideways /= np.linalg.norm(sideways)
        samples = center + sideways * np.arange(6.0, 26.0, 0.25)[:, None]
        wall = samples[(self.heart.aorta(np.ascontiguousarray(samples.T)) > 0).argmax()]
        return np.stack([wall - 1.5 * sideways, wall + 2.5 * sideways])


def _left_tree(lines: _CourseFinder, dominance: Tree, rng: np.random.Generator) -> list[Vessel]:
    """LM, LAD with diagonals, LCX with obtuse marginals; PDA when left dominant."""
    length = lines.length
    radius = rng.uniform(1.85, 2.3)
    front = lines.interventricular(-1, rng.uniform(13, 17), length * rng.uniform(0.88, 1.03))
    lcx_end = 62 if dominance == Tree.LEFT else rng.uniform(95, 140)
    side = lines.left_groove(-115, lcx_end - 360)
    fork = lines.surface.project(0.5 * (front[:1] + side[:1]))[0]
    ostium = lines.ostium(fork)
    stem = np.concatenate([ostium, lines.surface.course(np.stack([ostium[1], fork]), 0.0, rng)[1:]])
    wiggle = rng.uniform(0.3, 1.1)
    lad_line = lines.surface.course(np.concatenate([fork[None], front]), wiggle, rng)
    lcx_line = lines.surface.course(np.concatenate([fork[None], side]), wiggle, rng)
    lm = _tapered("LM", Tree.LEFT, resample(stem), radius, 0.95 * radius)
    lad = _tapered("LAD", Tree.LEFT, lad_line, 0.88 * radius, SMALLEST_RADIUS_MM)
    lcx = _tapered("LCX", Tree.LEFT, lcx_line, rng.uniform(0.76, 0.86) * radius, 0.85)
    vessels = [lm, lad, lcx]
    for number, fraction in enumerate(np.sort(rng.uniform(0.12, 0.6, rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15])))):
        angle, u = rng.uniform(-150, -115), fraction * length
        end = (u + rng.uniform(22, 38), angle)
        vessels.append(_branch(lines, f"D{number + 1}", lad, fraction, end, wiggle, rng))
    for number, fraction in enumerate(np.sort(rng.uniform(0.2, 0.8, rng.choice([1, 2, 3], p=[0.5, 0.4, 0.1])))):
        angle = -115 + fraction * (lcx_end - 360 + 115)
        end = (length * rng.uniform(0.45, 0.8), angle + rng.uniform(-10, 25))
        vessels.append(_branch(lines, f"OM{number + 1}", lcx, fraction, end, wiggle, rng))
    if dominance == Tree.LEFT:
        vessels.append(_posterior_descending(lines, lcx, wiggle, rng))
    return vessels


def _right_tree(lines: _CourseFinder, dominance: Tree, rng: np.random.Generator) -> list[Vessel]:
    """RCA with acute marginal; PDA and a posterolateral branch when right dominant."""
    length = lines.length
    radius = rng.uniform(1.6, 2.1) if dominance == Tree.RIGHT else rng.uniform(1.1, 1.4)
    groove = lines.right_groove(-68, rng.uniform(108, 118) if dominance == Tree.RIGHT else rng.uniform(35, 70))
    ostium = lines.ostium(groove[0])
    wiggle = rng.uniform(0.3, 1.1)
    line = lines.surface.course(np.concatenate([ostium[1:], groove]), wiggle, rng)
    last = 0.55 * radius if dominance == Tree.RIGHT else SMALLEST_RADIUS_MM
    rca = _tapered("RCA", Tree.RIGHT, resample(np.concatenate([ostium[:1], line])), radius, last)
    vessels = [rca]
    start = rca.path[int(rng.uniform(0.45, 0.6) * len(rca.path))]
    apex = lines.interventricular(1, 0.55 * length, 0.8 * length)[-1]
    end = start + rng.uniform(0.45, 0.7) * (apex - start)
    middle = lines.place.frame(34, 28, -3)
    chord = start + np.linspace(0, 1, 6)[1:, None] * (end - start)
    waypoints = np.concatenate([start[None], lines.surface.cast(middle, chord - middle)])
    vessels.append(_hanging("AM", rca, lines.surface.course(waypoints, wiggle, rng)))
    if dominance == Tree.RIGHT:
        vessels.append(_posterior_descending(lines, rca, wiggle, rng))
        angles = np.linspace(80, rng.uniform(110, 140), 5)
        back = lines.around_ventricle(np.linspace(5, rng.uniform(25, 45), 5), angles)
        waypoints = np.concatenate([rca.path[-1:], back])
        vessels.append(_hanging("PLV", rca, lines.surface.course(waypoints, wiggle, rng)))
    return vessels


def _branch(
    lines: _CourseFinder, name: str, parent: Vessel, fraction: float, end: tuple[float, float], wiggle: float,
    rng: np.random.Generator,
) -> Vessel:  # fmt: skip
    """A branch over the free wall that leaves `parent` at a fraction of its length and ends at (u, angle)."""
    start = parent.path[int(fraction * (len(parent.path) - 1))]
    u, p, q = lines.place.frame_coordinates(start)
    angle = np.degrees(np.arctan2(q, p))
    # the short way round
    turn = (end[1] - angle + 180) % 360 - 180
    way = np.linspace(0, 1, 7)[1:]
    over_wall = lines.around_ventricle(u + way * (end[0] - u), angle + way * turn)
    return _hanging(name, parent, lines.surface.course(np.concatenate([start[None], over_wall]), wiggle, rng))


def _posterior_descending(lines: _CourseFinder, parent: Vessel, wiggle: float, rng: np.random.Generator) -> Vessel:
    """The artery of the inferior groove, from the end of `parent`."""
    groove = lines.interventricular(1, 32.0, lines.length * rng.uniform(0.6, 0.8))
    return _hanging("PDA", parent, lines.surface.course(np.concatenate([parent.path[-1:], groove]), wiggle, rng))


def _tapered(name: str, tree: Tree, line: np.ndarray, first: float, last: float) -> Vessel:
    """A vessel whose radius falls from `first` to `last` mm."""
    return Vessel(name, tree, line, np.linspace(first, last, len(line)))


def _hanging(name: str, parent: Vessel, line: np.ndarray) -> Vessel:
    """A branch that begins on its parent's centre line, thinner than the parent there."""
    nearest = int(np.linalg.norm(parent.path - line[0], axis=1).argmin())
    line = resample(np.concatenate([parent.path[nearest][None], line[1:]]))
    first = max(0.8 * parent.radii[nearest], SMALLEST_RADIUS_MM + 0.1)
    return _tapered(name, parent.tree, line, min(first, 1.5), SMALLEST_RADIUS_MM)


def _trimmed(vessel: Vessel, others: list[Vessel]) -> Vessel | None:
    """The part of a vessel before it comes near other vessels, or None when nothing worth drawing is left."""
    near = cKDTree(np.concatenate([other.path for other in others])).query(vessel.path)[0] < _TREES_APART_MM
    length = int(near.argmax()) if near.any() else len(vessel.path)
    short = replace(vessel, path=vessel.path[:length], radii=vessel.radii[:length])
    return None if length * STEP_MM < 8 else short


def _without_orphans(vessels: list[Vessel]) -> list[Vessel]:
    """Drop branches whose origin was trimmed away with their parent."""
    kept: list[Vessel] = []
    for vessel in vessels:
        is_stem = vessel.name in ("LM", "RCA")
        if is_stem or any(np.linalg.norm(other.path - vessel.path[0], axis=1).min() < STEP_MM for other in kept):
            kept.append(vessel)
    return kept


def _veins(lines: _CourseFinder, rng: np.random.Generator) -> list[Vessel]:
    """The great cardiac vein beside LAD and LCX, and the coronary sinus toward the right atrium."""
    shift = rng.uniform(5.0, 7.0)
    u = np.linspace(0.7 * lines.length, 12, 7)
    front = lines.around_ventricle(u, np.array([lines.groove_angle(value, -1) for value in u]) - 6 - shift)
    back = lines.around_ventricle(np.full(9, -3.0 - 0.3 * shift), np.linspace(-125, 65 - 360, 9))
    line = lines.surface.course(np.concatenate([front, back]), 0.4, rng)
    return [_tapered("GCV", Tree.LEFT, line, 0.9, rng.uniform(2.4, 3.6))]


def _plaques(vessels: list[Vessel], rng: np.random.Generator) -> list[Plaque]:
    """Calcifications, most of them in the proximal halves; many patients have none."""
    plaques: list[Plaque] = []
    for _ in range(int(rng.choice([0, 0, 2, 4, 8]))):
        vessel = vessels[rng.integers(len(vessels))]
        index = int(rng.beta(1.2, 2.2) * (len(vessel.path) - 4)) + 1
        direction = vessel.path[index + 1] - vessel.path[index - 1]
        direction /= np.linalg.norm(direction)
        aside = np.cross(direction, rng.standard_normal(3))
        aside /= np.linalg.norm(aside)
        radius = vessel.radii[index]
        semi_axes = (rng.uniform(1.5, 4.5), rng.uniform(0.4, 0.75) * radius)
        plaques.append(Plaque(vessel.path[index] + 0.75 * radius * aside, semi_axes, direction))
    return plaques
