"""Shift a deformed heart into the volume: the border cuts no class that it did not cut before."""

from __future__ import annotations

import dataclasses

import numpy as np

from fcas_nnunet.generator.mgm.deformation import Deformation, output_points_mm
from fcas_nnunet.generator.mgm.topology import FACES, ClassTopology, class_boxes
from fcas_nnunet.geometry import Triple, triple
from fcas_nnunet.labels.morphology import erode_box3

_VIEW_POINTS = 600  # per class, besides the outermost
_MOST_POINTS = 15_000  # of all classes; up to twenty of them have fewer
_POLAR, _AZIMUTH = np.meshgrid(np.linspace(0.0, np.pi, 9), np.linspace(0.0, 2 * np.pi, 16, endpoint=False))
_DIRECTIONS = np.stack(
    [np.cos(_POLAR), np.sin(_POLAR) * np.cos(_AZIMUTH), np.sin(_POLAR) * np.sin(_AZIMUTH)], axis=-1
).reshape(-1, 3)
_VIEW_MARGIN_VOXELS = 1.5
_VIEW_PASSES = 5


def surface_points(
    mask: np.ndarray, source: dict[int, ClassTopology], spacing_mm: Triple[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Some points of each class's surface, mm [N, 3], and the faces that the class does not touch, bool [N, 3, 2]."""
    points, keeps_off = [], []
    boxes = class_boxes(mask)
    for label, box in boxes.items():
        binary = mask[box] == label
        surface = np.argwhere(binary & ~erode_box3(binary))
        surface_mm = (surface + [s.start for s in box]) * np.array(spacing_mm)
        outermost = np.unique((surface_mm @ _DIRECTIONS.T).argmax(axis=0))  # the affine part keeps them outermost
        some = np.concatenate([surface_mm[outermost], surface_mm[:: -(-len(surface) // _VIEW_POINTS)]])
        some = some[:: -(-len(some) * len(boxes) // _MOST_POINTS)]
        points.append(some)
        free = np.array([face not in source[label].touched_faces for face in FACES]).reshape(1, 3, 2)
        keeps_off.append(free.repeat(len(some), axis=0))
    return np.concatenate(points), np.concatenate(keeps_off)


def shift_into_view(
    deformation: Deformation,
    points_mm: np.ndarray,
    keeps_off: np.ndarray,
    shape: tuple[int, ...],
    spacing_mm: Triple[float],
) -> Deformation:
    """Shift a deformation by the least that brings each class back inside the volume.

    Only faces count that the class does not touch in the source. A heart too large for the volume is shrunk until it
    fits. The elastic part does not move, so a shift changes its effect on the heart: hence several passes.
    """
    first = _VIEW_MARGIN_VOXELS * np.array(spacing_mm)
    last = (np.array(shape) - 1 - _VIEW_MARGIN_VOXELS) * np.array(spacing_mm)
    for _ in range(_VIEW_PASSES):
        moved = output_points_mm(deformation, points_mm)
        lowest = np.where(keeps_off[..., 0], moved, np.inf).min(axis=0)
        highest = np.where(keeps_off[..., 1], moved, -np.inf).max(axis=0)
        least, most = first - lowest, last - highest  # bounds of the shift
        if (least <= 0).all() and (most >= 0).all():
            break
        fit = min(1.0, float(((last - first) / np.maximum(highest - lowest, last - first)).min()))
        shift = np.where(least <= most, np.clip(0.0, least, most), 0.5 * (least + most))
        deformation = dataclasses.replace(
            deformation,
            scale=triple(fit * factor for factor in deformation.scale),
            translation_mm=triple(map(float, shift + deformation.translation_mm)),
        )
    return deformation
