"""Variety beyond a scan's own: contrast, noise, thickness of slices and field of view of other labelled scans.

With eight patients, all scans that are made from one have its noise and its contrast; the next patient's differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fcas_nnunet.case import NUM_CODES, Case, spacing_of
from fcas_nnunet.config.sources import VarietyConfig
from fcas_nnunet.generator.data.contrasts import add_contrast
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.sources.resolution import in_thick_slices
from fcas_nnunet.geometry import Box, Triple, triple
from fcas_nnunet.labels.contrast import means_by_code
from fcas_nnunet.orientation import Orientation
from fcas_nnunet.seeds import channel_seeds, derive_seed

#: Slices are as thick as another scan's if they differ by less.
_SAME_THICKNESS = 1.05
#: Voxels that are left around the structures where a scan is cut.
_MARGIN_VOXELS = 2
#: The gain of the second differences along two axes for white noise, (1 + 4 + 1) along either; and of a median.
_LAPLACIAN_GAIN, _MEDIAN_GAIN = 6.0, 0.6745


@dataclass(frozen=True)
class Traits:
    """What differs from scan to scan, measured or to be taken on; None where a scan keeps its own.

    Attributes:
        means: Code of a structure → its mean in each channel, in standard units.
        noise: Standard deviation of the noise in each channel, in standard units.
        thickness_mm: Largest voxel size.
        extent_mm: Size along the axes turned to SPL.
    """

    means: Mapping[int, tuple[float, ...]] | None = None
    noise: tuple[float, ...] | None = None
    thickness_mm: float | None = None
    extent_mm: Triple[float] | None = None

    @property
    def changes_scan(self) -> bool:
        """Whether they concern more than the field of view."""
        return self != Traits(extent_mm=self.extent_mm)

    def to_record(self) -> dict[str, Any]:
        """What is to be taken on, as JSON of a manifest record."""
        means = None if self.means is None else {str(code): list(of_code) for code, of_code in self.means.items()}
        values = {"means": means, "noise": self.noise, "thickness_mm": self.thickness_mm, "extent_mm": self.extent_mm}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
                if value is not None}  # fmt: skip

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Traits:
        """The reverse of `to_record`."""
        means, noise, extent = (record.get(key) for key in ("means", "noise", "extent_mm"))
        return cls(
            None if means is None else {int(code): tuple(of_code) for code, of_code in means.items()},
            None if noise is None else tuple(noise), record.get("thickness_mm"),
            None if extent is None else triple(extent),
        )  # fmt: skip


def measure(case: Case, num_labels: int) -> Traits:
    """Measure a labelled scan; codes up to `num_labels` are labels, those above surroundings."""
    image, codes = case.standard_image, label_codes(case, num_labels)[1]
    of_channels = [means_by_code(channel, codes) for channel in image]
    turn = Orientation.of(case.affine)
    return Traits(
        {code: tuple(means[code] for means in of_channels) for code in of_channels[0] if code},
        tuple(noise_of(channel, case.spacing_mm) for channel in image),
        max(case.spacing_mm),
        triple(n * step for n, step in zip(turn.reorder(case.shape), turn.reorder(case.spacing_mm), strict=True)),
    )


def noise_of(image: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Standard deviation of a scan's noise, in the unit of the image [D, H, W].

    It is the median absolute second difference along the two finest axes, where it is not 0; edges are few, and what
    was cut out or clipped is 0.

    Source: Immerkær, "Fast noise variance estimation", 1996, with a median instead of the mean.
    """
    residual = image.astype(np.float32)
    for axis in sorted(np.argsort(spacing_mm, kind="stable")[:2]):
        if residual.shape[axis] < 3:
            return 0.0
        residual = np.diff(residual, n=2, axis=axis)
    sizes = np.abs(residual[residual != 0])
    return float(np.median(sizes)) / _MEDIAN_GAIN / _LAPLACIAN_GAIN if sizes.size else 0.0


def draw_traits(labelled: Sequence[Traits], config: VarietyConfig, seed: int) -> Traits:
    """Draw what a scan takes on.

    Args:
        labelled: Of the labelled scans, at least one, as `measure` gives them.
        config: How many scans take what.
        seed: Same seed, same traits; each setting changes its own alone.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.random(4)
    first, second, noisy, thick, small = (labelled[pick] for pick in rng.integers(len(labelled), size=5))
    weight = rng.uniform(-config.beyond, 1 + config.beyond)
    return Traits(
        _between(first, second, weight) if chosen[0] < config.contrast else None,
        noisy.noise if chosen[1] < config.noise else None,
        thick.thickness_mm if chosen[2] < config.resolution else None,
        small.extent_mm if chosen[3] < config.field_of_view else None,
    )


def _between(first: Traits, second: Traits, weight: float) -> dict[int, tuple[float, ...]]:
    """The means of what both show: of the first at weight 0, of the second at 1."""
    assert first.means is not None and second.means is not None, "they were measured"
    return {
        code: tuple(a + weight * (b - a) for a, b in zip(first.means[code], second.means[code], strict=True))
        for code in sorted(first.means.keys() & second.means.keys())
    }


def take_on(case: Case, codes: np.ndarray, traits: Traits, seed: int) -> Case:
    """Give a scan contrast, resolution and noise of others.

    Args:
        case: With a scan.
        codes: Its labels and surroundings, uint8 [D, H, W].
        traits: What it takes on; a scan that takes nothing stays as it is, to the byte.
        seed: Of the noise.
    """
    factor = (traits.thickness_mm or 0) / max(case.spacing_mm)
    if traits.means is None and traits.noise is None and factor < _SAME_THICKNESS:
        return case
    image = case.standard_image
    if traits.means is not None:
        image = _with_means(image, codes, traits.means)
    if factor >= _SAME_THICKNESS:
        axis = int(np.argmax(case.spacing_mm))
        image = np.stack([in_thick_slices(channel, axis, factor) for channel in image])
    if traits.noise is not None:
        seeds = channel_seeds(seed, len(image))
        with_noise = [
            _with_noise(channel, wanted**2 - noise_of(channel, case.spacing_mm) ** 2, of_channel)
            for channel, wanted, of_channel in zip(image, traits.noise, seeds, strict=True)
        ]
        image = np.stack(with_noise)
    own = [scale.to_own(channel) for scale, channel in zip(case.scales, image, strict=True)]
    return replace(case, image=np.stack(own))


def _with_noise(image: np.ndarray, variance: float, seed: int) -> np.ndarray:
    """An image [D, H, W] with white noise of a variance; as it is where that is not above 0."""
    if variance <= 0:
        return image
    return image + np.float32(variance**0.5) * np.random.default_rng(seed).standard_normal(image.shape, np.float32)


def _with_means(image: np.ndarray, codes: np.ndarray, means: Mapping[int, Sequence[float]]) -> np.ndarray:
    """An image [C, D, H, W] whose structures have other means."""
    offsets = np.zeros((len(image), NUM_CODES), np.float32)
    for number, channel in enumerate(image):
        for code, mean in means_by_code(channel, codes).items():
            if code in means:
                offsets[number, code] = means[code][number] - mean
    return add_contrast(image, codes, offsets)


def view_box(mask: np.ndarray, affine: np.ndarray, extent_mm: Triple[float], seed: int) -> Box:
    """Where a scan of a smaller field of view lies in one: at random, but with all that is labelled.

    Args:
        mask: Label ids [D, H, W].
        affine: [4, 4] of the mask.
        extent_mm: Size along the axes turned to SPL; where it is no smaller than the scan's, the scan stays.
        seed: Same seed, same place.
    """
    turn, spacing_mm = Orientation.of(affine), spacing_of(affine)
    rng = np.random.default_rng(derive_seed(seed, "view"))
    box = [slice(0, size) for size in mask.shape]
    for axis, mm in zip(turn.axes, extent_mm, strict=True):
        size, place = mask.shape[axis], rng.random()
        shown = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = (shown[0], shown[-1]) if shown.size else (size // 2, size // 2)
        low, high = max(0, first - _MARGIN_VOXELS), min(size, last + 1 + _MARGIN_VOXELS)
        length = min(size, max(round(mm / spacing_mm[axis]), high - low))
        least, most = max(0, high - length), min(low, size - length)
        start = least + int(place * (most - least + 1))
        box[axis] = slice(start, start + length)
    return triple(box)


def cut_to(case: Case, box: Box) -> Case:
    """A part of a case, which stays where it is in space."""
    affine = case.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    whole = {name: getattr(case, name) for name in ("image", "mask", "surroundings", "confidence", "ignored")}
    parts = {name: array[..., *box] for name, array in whole.items() if array is not None}
    return replace(case, affine=affine, **parts)
