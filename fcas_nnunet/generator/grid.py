"""The working grid: every volume resampled to one spacing and padded to what the networks divide, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom

from fcas_nnunet.case import Case
from fcas_nnunet.choices import Architecture
from fcas_nnunet.config import GridConfig, TCDMConfig

#: More voxels of a case than any scanner gives: 1024³, 4 GB a channel.
LARGEST_WORKING_VOLUME = 1 << 30


@dataclass(frozen=True)
class WorkingGrid:
    """Where a volume lies on the working grid. Sizes are voxels along (D, H, W).

    Attributes:
        native_shape: of the volume itself.
        resampled_shape: the same extent at working spacing.
        shape: padded to what the networks divide; the volume lies in the corner at index 0.
        flipped_axes: along which the working grid runs the other way.
    """

    native_shape: tuple[int, int, int]
    resampled_shape: tuple[int, int, int]
    shape: tuple[int, int, int]
    flipped_axes: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        working_spacing_mm: Sequence[float],
        multiple: int,
        at_least: Sequence[int] = (0, 0, 0),
        flipped_axes: Sequence[int] = (),
    ) -> WorkingGrid:
        """The grid of a volume.

        Args:
            shape: voxels along (D, H, W).
            spacing_mm: of the volume.
            working_spacing_mm: of the working grid.
            multiple: what the networks divide (`grid_multiple` of the configuration).
            at_least: voxels along (D, H, W) that smaller volumes are padded up to: a training crop.
            flipped_axes: along which the working grid shall run the other way.
        """
        resampled = [
            max(1, round(n * native / working))
            for n, native, working in zip(shape, spacing_mm, working_spacing_mm, strict=True)
        ]
        if math.prod(resampled) > LARGEST_WORKING_VOLUME:
            extent = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
            raise ValueError(
                f"working volume: must hold at most {LARGEST_WORKING_VOLUME:,} voxels, got {_shown(resampled)}, "
                f"{_shown(extent)} mm at a working spacing of {_shown(working_spacing_mm)} mm. Correct the spacing in "
                "the scan's header, or raise grid.spacing_mm."
            )
        padded = [-(-max(n, smallest) // multiple) * multiple for n, smallest in zip(resampled, at_least, strict=True)]
        return cls(_triple(shape), _triple(resampled), _triple(padded), tuple(flipped_axes))

    @classmethod
    def of_case(
        cls,
        case: Case,
        working_spacing_mm: Sequence[float],
        config: TCDMConfig,
        at_least: Sequence[int] = (0, 0, 0),
    ) -> WorkingGrid:
        """The grid of a case for a model: padded to what it divides, and turned the way it knows.

        MAISI's networks have seen hearts in scans that run towards right, anterior and superior alone.
        """
        plain = config.architecture == Architecture.PLAIN
        flipped_axes = () if plain else axes_against_ras(case.affine)
        return cls.of(case.shape, case.spacing_mm, working_spacing_mm, config.grid_multiple, at_least, flipped_axes)

    def image_to_working(self, image: np.ndarray) -> torch.Tensor:
        """Resample an image by cubic splines (by area averages when coarsening) and pad it with its border.

        Linear interpolation there and back would take a third of a thin vessel's contrast.

        Args:
            image: [D, H, W] in any unit.

        Returns:
            [D', H', W'] float32 of `shape`.
        """
        image = np.flip(image, self.flipped_axes)
        tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))[None, None]
        if self.resampled_shape != self.native_shape:
            if all(r <= n for r, n in zip(self.resampled_shape, self.native_shape, strict=True)):
                tensor = F.interpolate(tensor, size=self.resampled_shape, mode="area")
            else:
                tensor = torch.from_numpy(_cubic(tensor[0, 0].numpy(), self.resampled_shape))[None, None]
        return F.pad(tensor, self._padding(), mode="replicate")[0, 0]

    def labels_to_working(self, labels: np.ndarray) -> torch.Tensor:
        """Resample a label map by nearest neighbours and pad it with its border; uint8."""
        labels = np.flip(labels, self.flipped_axes)
        tensor = torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8))[None, None]
        if self.resampled_shape != self.native_shape:
            tensor = F.interpolate(tensor, size=self.resampled_shape, mode="nearest-exact")
        return F.pad(tensor.float(), self._padding(), mode="replicate")[0, 0].to(torch.uint8)

    def image_to_native(self, image: torch.Tensor) -> np.ndarray:
        """Take the padding off an image and resample it by cubic splines to the volume's own grid; float32."""
        content = self._content(image)
        if self.resampled_shape != self.native_shape:
            content = _cubic(content, self.native_shape)
        return np.ascontiguousarray(np.flip(content, self.flipped_axes))

    def confidence_to_native(self, confidence: torch.Tensor) -> np.ndarray:
        """Take the padding off a confidence map and resample it linearly, which never leaves its range; float32."""
        tensor = torch.from_numpy(self._content(confidence))[None, None]
        if self.resampled_shape != self.native_shape:
            tensor = F.interpolate(tensor, size=self.native_shape, mode="trilinear", align_corners=False)
        return np.ascontiguousarray(np.flip(tensor[0, 0].numpy(), self.flipped_axes))

    def _content(self, volume: torch.Tensor) -> np.ndarray:
        d, h, w = self.resampled_shape
        return volume[:d, :h, :w].float().cpu().numpy()

    def _padding(self) -> list[int]:
        missing = [s - r for s, r in zip(self.shape, self.resampled_shape, strict=True)]
        return [pad for n in reversed(missing) for pad in (0, n)]


def working_spacing(cases: Sequence[tuple[Sequence[int], Sequence[float]]], config: GridConfig) -> tuple[float, ...]:
    """Working spacing of a data set in mm along (D, H, W).

    Args:
        cases: (shape, spacing_mm) of every case.
        config: an explicit spacing wins.

    Returns:
        The configured spacing, or the median one, coarsened or refined alike in all axes until the median volume holds
        at most `max_voxels` and at least `min_voxels`.
    """
    if config.spacing_mm is not None:
        return config.spacing_mm
    spacing = np.median([spacing for _, spacing in cases], axis=0)
    extent = np.median([np.multiply(shape, spacing) for shape, spacing in cases], axis=0)
    voxels = float(np.prod(extent / spacing))
    factor = (voxels / min(max(voxels, config.min_voxels), config.max_voxels)) ** (1 / 3)
    return tuple(round(float(s) * factor, 4) for s in spacing)


def is_axial(affine: np.ndarray) -> bool:
    """Whether D, H and W run mostly along the body's axis, front to back, and side to side.

    Args:
        affine: [4, 4], array index (d, h, w, 1) → LPS position in mm.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return np.abs(directions).argmax(axis=0).tolist() == [2, 1, 0]


def axes_against_ras(affine: np.ndarray) -> tuple[int, ...]:
    """Which of D, H and W run away from superior, anterior and right.

    Args:
        affine: [4, 4], array index (d, h, w, 1) → LPS position in mm; of an axial volume.
    """
    along = (affine[2, 0], -affine[1, 1], -affine[0, 2])  # mm towards S, A and R per voxel
    return tuple(axis for axis, step in enumerate(along) if step < 0)


def to_unit_range(image_hu: torch.Tensor, intensity_range_hu: Sequence[float]) -> torch.Tensor:
    """HU => [0, 1], clipped."""
    low, high = intensity_range_hu
    return ((image_hu - low) / (high - low)).clamp(0, 1)


def to_hu(image: torch.Tensor, intensity_range_hu: Sequence[float]) -> torch.Tensor:
    """[0, 1] => HU, clipped to the range."""
    low, high = intensity_range_hu
    return image.clamp(0, 1) * (high - low) + low


def label_codes(case: Case, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The two 8-bit codes of a case (DESIGN: labels first, surroundings after).

    Args:
        case: its mask holds ids up to `num_labels`.
        num_labels: highest label id of the data set.

    Returns:
        (labels alone, labels + surroundings), uint8 [D, H, W]; the same array twice where there are no surroundings.
    """
    if case.surroundings is None:
        return case.mask, case.mask
    outside = np.where(case.surroundings > 0, case.surroundings.astype(np.int16) + num_labels, 0)
    return case.mask, np.where(case.mask > 0, case.mask, outside).astype(np.uint8)


def _cubic(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample an image to another number of voxels over the same extent."""
    factors = [new / old for new, old in zip(shape, image.shape, strict=True)]
    return zoom(image, factors, order=3, mode="nearest", grid_mode=True)


def _shown(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.6g}" for value in values)


def _triple(values: Sequence[int]) -> tuple[int, int, int]:
    d, h, w = (int(v) for v in values)
    return d, h, w
