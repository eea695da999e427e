"""WarpConfig, PaintConfig: how scans are made without a generator. VarietyConfig: what they take from other scans."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fcas_nnunet.config.schema import Interval, NotNegative, Share, check, settings


@settings
class WarpConfig:
    """Settings of warped and registered scans. Intensities are in standard units.

    Attributes:
        contrast_jitter: Standard deviation of the offset that each labelled structure gets.
        surroundings_jitter: The same for each structure of the surroundings.
        mended_confidence: Confidence of a registered scan where the template's own label is another than the mask's,
            so that the scan was mended there.
    """

    contrast_jitter: NotNegative = 80.0
    surroundings_jitter: NotNegative = 20.0
    mended_confidence: Share = 1.0


@settings
class PaintConfig:
    """Settings of painting a scan. Values are drawn uniformly from ranges, once a scan, contrasts once a region.

    Attributes:
        num_tissues: Clusters of intensity that what the labels leave over is parted into.
        contrast_margin: Contrasts lie in the range of the labelled voxels (0.5 to 99.5 %), widened on either side by
            so much of it.
        texture: Standard deviation of a region's smooth texture, as a part of that range.
        noise: Standard deviation of the white noise, as a part of that range.
        bias: Largest departure of the bias field from 1.
        blur_voxels: Standard deviation of the blur.
        thickness: Slices along one axis are so much thicker than the voxels.
        thickness_probability: Share of the scans that have thick slices.
    """

    num_tissues: Annotated[int, Field(ge=1, le=64)] = 6
    contrast_margin: NotNegative = 0.5
    texture: Interval = (0.01, 0.08)
    noise: Interval = (0.01, 0.08)
    bias: Interval = (0.0, 0.3)
    blur_voxels: Interval = (0.3, 1.0)
    thickness: Interval = (1.5, 4.0)
    thickness_probability: Share = 0.25

    def __post_init__(self) -> None:
        ranges = {name: getattr(self, name) for name in ("texture", "noise", "bias", "blur_voxels", "thickness")}
        check(
            *((0 <= low <= high, name, "(low, high), low at least 0", (low, high))
              for name, (low, high) in ranges.items()),
            (self.bias[1] < 1, "bias", "below 1", self.bias),
            (self.thickness[0] >= 1, "thickness", "at least 1", self.thickness),
        )  # fmt: skip


@settings
class VarietyConfig:
    """What scans that are not painted take from other labelled scans, besides the anatomy. Each share is of the scans.

    Attributes:
        contrast: Share whose structures have the means of one labelled scan, moved towards those of another.
        beyond: They are moved by −beyond to 1 + beyond of the difference.
        noise: Share that gets as much noise as a labelled scan has, where that has more.
        resolution: Share that gets slices as thick as those of a labelled scan, where those are thicker.
        field_of_view: Share that is cut to the size of a labelled scan, where that is smaller; structures stay whole.
    """

    contrast: Share = 0.0
    beyond: NotNegative = 0.25
    noise: Share = 0.0
    resolution: Share = 0.0
    field_of_view: Share = 0.0

    @property
    def any(self) -> bool:
        """Whether scans take anything."""
        return max(self.contrast, self.noise, self.resolution, self.field_of_view) > 0
