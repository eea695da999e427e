"""MaskConfig: how far MGM may move a heart."""

from __future__ import annotations

from dataclasses import dataclass

from fcas_nnunet.enums import StrEnum

#: A cubic B-spline field whose control displacements stay below this part of their spacing cannot fold.
#: Source: Choi and Lee, "Injectivity conditions of 2D and 3D uniform cubic B-spline functions", 2000.
MAX_INJECTIVE_FRACTION = 0.403

_INTERVALS = (
    "scale_range", "shear_range", "volume_ratio_range", "chamber_size_mm", "wall_thickness_mm", "vessel_calibre",
    "stenosis", "stenosis_length_mm",
)  # fmt: skip


class Padding(StrEnum):
    """What a deformation finds outside the volume.

    BORDER repeats the outermost voxel: vessels, lungs and body that the crop cuts stay cut at the border, instead of
    ending in the middle of the volume against air. CONSTANT gives background and the fill value.
    """

    BORDER = "border"
    CONSTANT = "constant"


@dataclass(frozen=True)
class MaskConfig:
    """Ranges that `draw_deformation` draws from, and what `generate_mask` accepts.

    Attributes:
        rotation_deg: largest rotation about each of the axes (D, H, W), both senses, in degrees.
        scale_range: smallest and largest factor along each axis.
        shear_range: smallest and largest shear of each pair of axes (mm per mm).
        translation_mm: largest shift along each axis, both senses.
        control_spacing_mm: distance of the B-spline's control points; the wavelength of the elastic part is about
            twice that.
        max_displacement_fraction: largest control displacement per axis as a part of `control_spacing_mm`; from 0 (no
            elastic part) to `MAX_INJECTIVE_FRACTION`, above which the field could fold.
        padding: what lies outside the volume.
        min_jacobian: smallest determinant of the elastic field's Jacobian that is accepted.
        volume_ratio_range: smallest and largest volume of a class, as a part of the source's.
        volume_tolerance: how far a thin class's volume may be from what the deformation's Jacobian predicts, as a part.
        max_tunnel_change: how many tunnels (β1) a thin class may gain or lose.
        max_tries: deformations drawn for one mask before giving up.
        milder: each redraw's ranges are those of the draw before times this, so that a mask that touches the border
            still yields a neighbour of itself; 1 keeps them.
        chamber_size_mm: how far the border of one chamber, drawn at random, moves within the heart; below 0 it shrinks.
            This and what follows is off while its range is a single neutral value.
        wall_thickness_mm: how far the myocardium advances into its chambers; below 0 they advance into it.
        vessel_calibre: factor on the radius of the thin classes.
        stenosis: part of a vessel's radius that a narrowing takes at a random place of a thin class.
        stenosis_length_mm: along the branch, within which a stenosis takes at least half its depth.
    """

    rotation_deg: float = 15.0
    scale_range: tuple[float, float] = (0.85, 1.15)
    shear_range: tuple[float, float] = (-0.08, 0.08)
    translation_mm: float = 8.0
    control_spacing_mm: float = 40.0
    max_displacement_fraction: float = 0.35
    padding: Padding = Padding.BORDER
    min_jacobian: float = 0.1
    volume_ratio_range: tuple[float, float] = (0.4, 2.0)
    volume_tolerance: float = 0.15
    max_tunnel_change: int = 0
    max_tries: int = 10
    milder: float = 0.85
    chamber_size_mm: tuple[float, float] = (0.0, 0.0)
    wall_thickness_mm: tuple[float, float] = (0.0, 0.0)
    vessel_calibre: tuple[float, float] = (1.0, 1.0)
    stenosis: tuple[float, float] = (0.0, 0.0)
    stenosis_length_mm: tuple[float, float] = (4.0, 12.0)

    def __post_init__(self) -> None:
        for name in _INTERVALS:
            object.__setattr__(self, name, tuple(getattr(self, name)))  # YAML gives lists
        object.__setattr__(self, "padding", Padding(self.padding))
        rules = [
            ("rotation_deg", 0 <= self.rotation_deg <= 180, "lie in [0, 180]"),
            ("scale_range", _ordered(self.scale_range) and self.scale_range[0] > 0, "be (low, high), low above 0"),
            ("shear_range", _ordered(self.shear_range), "be (low, high)"),
            ("shear_range", max(map(abs, self.shear_range)) < 1, "lie between -1 and 1"),
            ("translation_mm", self.translation_mm >= 0, "be 0 or more"),
            ("control_spacing_mm", self.control_spacing_mm > 0, "be above 0"),
            (
                "max_displacement_fraction",
                0 <= self.max_displacement_fraction <= MAX_INJECTIVE_FRACTION,
                f"lie in [0, {MAX_INJECTIVE_FRACTION}], or the field could fold",
            ),
            ("min_jacobian", 0 <= self.min_jacobian < 1, "lie in [0, 1)"),
            ("volume_ratio_range", _ordered(self.volume_ratio_range), "be (low, high)"),
            ("max_tunnel_change", self.max_tunnel_change >= 0, "be 0 or more"),
            ("max_tries", self.max_tries >= 1, "be 1 or more"),
            ("milder", 0 < self.milder <= 1, "lie in (0, 1]"),
            ("volume_tolerance", self.volume_tolerance > 0, "be above 0"),
            ("chamber_size_mm", _ordered(self.chamber_size_mm), "be (low, high)"),
            ("wall_thickness_mm", _ordered(self.wall_thickness_mm), "be (low, high)"),
            (
                "vessel_calibre",
                _ordered(self.vessel_calibre) and self.vessel_calibre[0] > 0,
                "be (low, high), low above 0",
            ),
            ("stenosis", _ordered(self.stenosis) and 0 <= self.stenosis[0] <= self.stenosis[-1] < 1, "lie in [0, 1)"),
            (
                "stenosis_length_mm",
                _ordered(self.stenosis_length_mm) and self.stenosis_length_mm[0] > 0,
                "be (low, high), low above 0",
            ),
        ]
        faults = [
            f"MaskConfig: {name} must {rule}, got {getattr(self, name)}." for name, kept, rule in rules if not kept
        ]
        if faults:
            raise ValueError("\n".join(faults))


def _ordered(interval: tuple[float, float]) -> bool:
    return len(interval) == 2 and interval[0] <= interval[1]
