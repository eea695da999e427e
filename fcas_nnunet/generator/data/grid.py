"""The working grid: turn every volume one way, resample it to one spacing, and pad it to sizes that networks halve."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fcas_nnunet.case import Case
from fcas_nnunet.config.generator import GridConfig, TCDMConfig
from fcas_nnunet.config.options import Architecture
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.data.spline_projection import blend, project
from fcas_nnunet.geometry import triple
from fcas_nnunet.labels.resampling import resample_labels
from fcas_nnunet.orientation import SAR, SPL, Orientation

#: Version of the resampling to the working grid; raised when a change alters what is drawn. 1: area averages, nearest
#: labels, axes as stored. 2: spline projection, thin structures whole, all scans turned one way.
GEOMETRY = 2
#: More voxels of a case than any scanner gives: 1024³, 4 GB a channel.
LARGEST_WORKING_VOLUME = 1 << 30


@dataclass(frozen=True)
class WorkingGrid:
    """Position of a volume on the working grid. Sizes are voxels along (D, H, W) of the turned volume.

    Attributes:
        native_shape: Size of the volume itself.
        resampled_shape: Size of the same extent at working spacing.
        shape: Size padded to a multiple that the networks can halve; the volume lies in the corner at index 0.
        orientation: Turn of the stored volume.
    """

    native_shape: tuple[int, int, int]
    resampled_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    orientation: Orientation = Orientation()

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        working_spacing_mm: Sequence[float],
        multiple: int,
        at_least: Sequence[int] = (0, 0, 0),
        orientation: Orientation | None = None,
    ) -> WorkingGrid:
        """The grid of a stored volume.

        Args:
            shape: Voxels along (D, H, W) of the stored volume.
            spacing_mm: Voxel size of the stored volume.
            working_spacing_mm: Voxel size of the working grid.
            multiple: Padded sizes are multiples of this (`grid_multiple` of the configuration).
            at_least: Voxels along (D, H, W) that smaller volumes are padded to: a training crop.
            orientation: Turn of the stored volume; None = no turn.

        Raises:
            InputError: If the grid would hold more voxels than a scan can have.
        """
        orientation = orientation or Orientation()
        turned, turned_mm = orientation.reorder(shape), orientation.reorder(spacing_mm)
        resampled = [
            max(1, round(n * native / working))
            for n, native, working in zip(turned, turned_mm, working_spacing_mm, strict=True)
        ]
        padded = [-(-max(n, smallest) // multiple) * multiple for n, smallest in zip(resampled, at_least, strict=True)]
        if math.prod(padded) > LARGEST_WORKING_VOLUME:
            extent = [n * mm for n, mm in zip(turned, turned_mm, strict=True)]
            raise InputError(
                f"working volume: must hold at most {LARGEST_WORKING_VOLUME:,} voxels, got {_shown(padded)}, "
                f"{_shown(extent)} mm at a working spacing of {_shown(working_spacing_mm)} mm. Correct the spacing in "
                "the scan's header, or raise grid.spacing_mm."
            )
        return cls(triple(map(int, turned)), triple(resampled), triple(padded), orientation)

    @classmethod
    def of_case(
        cls,
        case: Case,
        working_spacing_mm: Sequence[float],
        config: TCDMConfig,
        at_least: Sequence[int] = (0, 0, 0),
    ) -> WorkingGrid:
        """The grid of a case for a model: padded for its networks, and turned as all its scans are."""
        orientation = Orientation.of(case.affine, orientation_known_to(config))
        return cls.of(case.shape, case.spacing_mm, working_spacing_mm, config.grid_multiple, at_least, orientation)

    def image_to_working(self, image: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
        """Turn a stored image [C, D, H, W], project it onto the working grid's splines and pad it with its border.

        Returns:
            [C, D', H', W'] float32 of `shape`, on the device.
        """
        missing = [s - r for s, r in zip(self.shape, self.resampled_shape, strict=True)]
        padding = [pad for n in reversed(missing) for pad in (0, n)]
        channels = []
        for turned in map(self.orientation.turn, image):
            content = torch.empty(turned.shape).copy_(torch.from_numpy(np.ascontiguousarray(turned)))
            content = project(content.to(device), self.resampled_shape)
            channels.append(F.pad(content[None, None], padding, mode="replicate")[0])
        return torch.cat(channels)

    def labels_to_working(self, labels: np.ndarray, thin: Collection[int] = ()) -> torch.Tensor:
        """Turn a label map, resample it by nearest neighbours and pad it with its border.

        Args:
            labels: Ids [D, H, W] as stored.
            thin: Ids of the structures that keep their pieces and tunnels on a coarser grid.

        Returns:
            uint8 [D', H', W'] of `shape`, on the CPU.
        """
        content = resample_labels(self.orientation.turn(labels), self.resampled_shape, thin)
        missing = [s - r for s, r in zip(self.shape, self.resampled_shape, strict=True)]
        return torch.from_numpy(np.pad(content, [(0, n) for n in missing], mode="edge"))

    def image_to_native(self, image: torch.Tensor) -> np.ndarray:
        """Remove the padding of an image [C, D', H', W'], project it onto the stored grid and turn it back; float32."""
        return np.stack([self._to_native(channel, project) for channel in image])

    def confidence_to_native(self, confidence: torch.Tensor) -> np.ndarray:
        """As `image_to_native` of a map [D', H', W'], but linear: a map never leaves its range; float32 [D, H, W]."""
        return self._to_native(confidence, blend)

    def _to_native(
        self, volume: torch.Tensor, resample: Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
    ) -> np.ndarray:
        d, h, w = self.resampled_shape
        native = resample(volume[:d, :h, :w].float(), self.native_shape)
        return np.ascontiguousarray(self.orientation.turn_back(native.cpu().numpy()))


def working_spacing(cases: Sequence[tuple[Sequence[float], Sequence[float]]], config: GridConfig) -> tuple[float, ...]:
    """Working spacing in mm along (D, H, W) for cases given as (shape, spacing_mm), turned.

    It is the configured spacing, or the median one, scaled alike in all axes until the median volume holds at most
    `max_voxels` and at least `min_voxels`.
    """
    if config.spacing_mm is not None:
        return config.spacing_mm
    spacing = np.median([spacing for _, spacing in cases], axis=0)
    extent = np.median([np.multiply(shape, spacing) for shape, spacing in cases], axis=0)
    voxels = float(np.prod(extent / spacing))
    factor = (voxels / min(max(voxels, config.min_voxels), config.max_voxels)) ** (1 / 3)
    return tuple(round(float(s) * factor, 4) for s in spacing)


def orientation_known_to(config: TCDMConfig) -> str:
    """Directions of D, H and W for a model: MAISI's networks were trained with one orientation only."""
    return SPL if config.architecture == Architecture.PLAIN else SAR


def to_unit_range(image: torch.Tensor, intensity_range: Sequence[float]) -> torch.Tensor:
    """Standard units => [0, 1], clipped."""
    low, high = intensity_range
    return ((image - low) / (high - low)).clamp(0, 1)


def to_standard_range(image: torch.Tensor, intensity_range: Sequence[float]) -> torch.Tensor:
    """[0, 1] => standard units, clipped to the range."""
    low, high = intensity_range
    return image.clamp(0, 1) * (high - low) + low


def label_codes(case: Case, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The 8-bit codes of a case: (labels alone, labels + surroundings), uint8 [D, H, W].

    Codes up to `num_labels` are labels, those above surroundings; without surroundings, both are the same array.
    """
    if case.surroundings is None:
        return case.mask, case.mask
    outside = np.where(case.surroundings > 0, case.surroundings.astype(np.int16) + num_labels, 0)
    return case.mask, np.where(case.mask > 0, case.mask, outside).astype(np.uint8)


def _shown(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.6g}" for value in values)
