"""MaskConfig: ranges of the masks that MGM draws and accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from fcas_nnunet.config.schema import (
    CountOrZero,
    Interval,
    NotNegative,
    Positive,
    PositiveInterval,
    Removed,
    ShareBelowOne,
    rule,
    settings,
)

#: A cubic B-spline field whose control displacements stay below this part of their spacing cannot fold.
#: Source: Choi and Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", 2000.
MAX_INJECTIVE_FRACTION = 0.403
#: Range of a local change → the value that changes nothing.
_UNCHANGED = {"chamber_size_mm": 0.0, "wall_thickness_mm": 0.0, "vessel_calibre": 1.0, "stenosis": 0.0}

ShearInterval = Annotated[Interval, rule("between -1 and 1", lambda pair: max(map(abs, pair)) < 1)]
#: A distance within a heart.
LengthInterval = Annotated[Interval, rule("between -100 and 100 mm", lambda pair: max(map(abs, pair)) <= 100)]
ShareInterval = Annotated[Interval, rule("in [0, 1)", lambda pair: pair[0] >= 0 and pair[1] < 1)]


@settings
class MaskConfig:
    """Ranges that `draw_deformation` draws from, and bounds of the masks that `generate_mask` accepts.

    Attributes:
        rotation_deg: Largest rotation about each of the axes (D, H, W), both senses, in degrees.
        scale_range: Smallest and largest factor along each axis.
        shear_range: Smallest and largest shear of each pair of axes (mm per mm).
        translation_mm: Largest shift along each axis, both senses.
        control_spacing_mm: Distance of the B-spline's control points; the wavelength of the elastic part is about
            twice that.
        max_displacement_fraction: Largest control displacement per axis as a part of `control_spacing_mm`; from 0 (no
            elastic part) to `MAX_INJECTIVE_FRACTION`, above which the field could fold.
        min_jacobian: Smallest determinant of the elastic field's Jacobian that is accepted.
        volume_ratio_range: Smallest and largest volume of a class, as a part of the source's.
        volume_tolerance: Largest difference of a thin class's volume from the one that the deformation's Jacobian
            predicts, as a part.
        max_tunnel_change: Number of tunnels (β1) that a thin class may gain or lose.
        max_tries: Deformations drawn for one mask before giving up.
        milder: Factor on the ranges at each redraw, so that a mask that touches the border still yields a neighbour of
            itself; 1 leaves them unchanged.
        chamber_size_mm: Distance that the border of one chamber, drawn at random, moves within the heart; below 0 the
            chamber shrinks. This and the settings below are off while their range is a single neutral value.
        wall_thickness_mm: Distance that the myocardium advances into its chambers; below 0 they advance into it.
        vessel_calibre: Factor on the radius of the thin classes.
        stenosis: Part of a vessel's radius that a narrowing takes at a random place of a thin class.
        stenosis_length_mm: Length along the branch within which a stenosis takes at least half its depth.
    """

    REMOVED: ClassVar[Removed] = {"padding": ("border",)}

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 15.0
    scale_range: PositiveInterval = (0.85, 1.15)
    shear_range: ShearInterval = (-0.08, 0.08)
    translation_mm: NotNegative = 8.0
    control_spacing_mm: Positive = 40.0
    max_displacement_fraction: Annotated[float, Field(ge=0, le=MAX_INJECTIVE_FRACTION)] = 0.35
    min_jacobian: ShareBelowOne = 0.1
    volume_ratio_range: Interval = (0.4, 2.0)
    volume_tolerance: Positive = 0.15
    max_tunnel_change: CountOrZero = 0
    max_tries: Annotated[int, Field(ge=1, le=10_000)] = 10
    milder: Annotated[float, Field(gt=0, le=1)] = 0.85
    chamber_size_mm: LengthInterval = (0.0, 0.0)
    wall_thickness_mm: LengthInterval = (0.0, 0.0)
    vessel_calibre: PositiveInterval = (1.0, 1.0)
    stenosis: ShareInterval = (0.0, 0.0)
    stenosis_length_mm: PositiveInterval = (4.0, 12.0)

    @property
    def has_local_changes(self) -> bool:
        """True where the range of a local change is on."""
        return any(set(getattr(self, name)) != {value} for name, value in _UNCHANGED.items())

    def without_local_changes(self) -> MaskConfig:
        """These settings with every local change off."""
        off: dict[str, Any] = {name: (value, value) for name, value in _UNCHANGED.items()}
        return replace(self, **off)
