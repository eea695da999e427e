"""The error model: predict a drawn image's error at every voxel from the voxel's surroundings.

A structure's interior is nearly flat in CT, so that most errors of a drawing show in the drawing itself: as a
departure from its structure's mean, as texture, as blur along walls. A small network per voxel turns such local
measures into the expected absolute error after matching contrast, the mean over the channels. It is fitted on drawings
of training cases in new shapes, whose real scans are known (`calibrate`), and needs none of the intermediate images of
SSV.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.labels.morphology import label_changes

#: Edge lengths of the cubes, in voxels, over which departures, texture and walls are averaged.
DEPARTURE_CUBES, TEXTURE_CUBES, WALL_CUBES = (3, 7), (3, 7), (3, 5, 9)
#: Measures of each channel, and those of the mask.
CHANNEL_MEASURES, MASK_MEASURES = 1 + 1 + len(DEPARTURE_CUBES) + 1 + len(TEXTURE_CUBES), 1 + len(WALL_CUBES)
#: Voxels on either side of a slab that its measures reach: half the largest cube, and one for the walls' neighbours.
HALO = max(*DEPARTURE_CUBES, *TEXTURE_CUBES, *WALL_CUBES) // 2 + 1
SLAB_VOXELS = 2**21

#: Standard units per unit of the network; summand before a logarithm, about CT's noise; usual value of that logarithm.
_UNIT, _FLOOR, _USUAL_LOG = 100.0, 5.0, 3.5


class ErrorModel(nn.Module):
    """Expected absolute error of a drawn image, after matching contrast; `width` features in the hidden layers."""

    def __init__(self, width: int, num_channels: int = 1) -> None:
        super().__init__()
        self.first = nn.Linear(num_channels * CHANNEL_MEASURES + MASK_MEASURES, width)
        self.of_code = nn.Embedding(NUM_CODES, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 1)
        for parameters in (self.of_code.weight, self.last.weight, self.last.bias):
            nn.init.zeros_(parameters)  # begins at the usual error; a structure never seen in training stays neutral

    @property
    def width(self) -> int:
        """Features of the hidden layers."""
        return self.second.in_features

    def forward(self, measures: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Logarithm of the expected error in standard units, [N], from `local_measures` [N, M] and codes, int64 [N]."""
        hidden = F.silu(self.first(measures) + self.of_code(codes))
        return self.last(F.silu(self.second(hidden)))[:, 0] + _USUAL_LOG

    @torch.no_grad()
    def expected_error(self, image: torch.Tensor, codes: torch.Tensor, slab_voxels: int = SLAB_VOXELS) -> torch.Tensor:
        """Expected error of a whole volume, float32 [D, H, W]; see `measured_slabs` for the arguments."""
        result = torch.empty(codes.shape, dtype=torch.float32, device=image.device)
        for start, stop, measures in measured_slabs(image, codes, slab_voxels):
            logs = self(measures.flatten(1).T, codes[start:stop].flatten().long())
            result[start:stop] = logs.exp().view(stop - start, *codes.shape[1:])
        return result


def measured_slabs(
    image: torch.Tensor, codes: torch.Tensor, slab_voxels: int = SLAB_VOXELS
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """The local measures of a volume, slab by slab along D.

    Args:
        image: Image in standard units, [C, D, H, W].
        codes: Mask that it was drawn from, uint8 [D, H, W].
        slab_voxels: Approximate number of voxels to compute at once.

    Yields:
        First slice, one past the last, and the measures, float32 [M, d, H, W].
    """
    means = torch.stack([means_by_code(channel.float(), codes)[0] for channel in image])
    depth = codes.shape[0]
    thickness = max(1, slab_voxels // codes[0].numel())
    for start in range(0, depth, thickness):
        stop = min(start + thickness, depth)
        first, last = max(0, start - HALO), min(depth, stop + HALO)
        measures = local_measures(image[:, first:last].float(), codes[first:last], means)
        yield start, stop, measures[:, start - first : stop - first]


def measures_at(
    image: torch.Tensor, codes: torch.Tensor, voxels: torch.Tensor, slab_voxels: int = SLAB_VOXELS
) -> torch.Tensor:
    """The local measures of some voxels, float32 [N, M], without those of the whole volume in memory at once.

    `voxels` are flat indices in rising order, int64 [N]; all three tensors lie on one device.
    """
    area = codes[0].numel()
    parts = []
    for start, stop, measures in measured_slabs(image, codes, slab_voxels):
        wanted = voxels[(voxels >= start * area) & (voxels < stop * area)] - start * area
        parts.append(measures.flatten(1)[:, wanted].T)
    return torch.cat(parts)


def local_measures(image: torch.Tensor, codes: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Measure the surroundings of every voxel of an image.

    Args:
        image: Image in standard units, [C, D, H, W].
        codes: Mask that it was drawn from, uint8 [D, H, W].
        means: Mean of each code over the whole volume, [C, 256].

    Returns:
        float32 [M, D, H, W]. Of each channel: departure from the structure's mean; logarithms of its absolute value, of
        that averaged over cubes, of the gradient and of the standard deviation in cubes. Then whether the label changes
        here, and how much of the surrounding cubes are such walls.
    """
    measures = []
    for channel, of_codes in zip(image, means, strict=True):
        departure = channel - of_codes[codes.long()]
        size = departure.abs()
        gradient = torch.stack([_slope(channel, axis) for axis in range(3)]).norm(dim=0)
        measures += [departure / _UNIT, _log(size)]
        measures += [_log(_average(size, cube)) for cube in DEPARTURE_CUBES]
        measures += [_log(gradient)] + [_log(_deviation(departure, cube)) for cube in TEXTURE_CUBES]
    walls = label_changes(codes).float()
    measures += [walls] + [_average(walls, cube) for cube in WALL_CUBES]
    return torch.stack(measures)


def means_by_code(
    image: torch.Tensor, codes: torch.Tensor, num_codes: int = NUM_CODES
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean intensity of every code, and whether it occurs; float32 and bool [num_codes], a mean of 0 where it does not.

    Sums are in double precision, so that their order, which a GPU does not fix, does not show.
    """
    flat = codes.flatten().long()
    sums = torch.zeros(num_codes, dtype=torch.float64, device=image.device)
    sums.index_add_(0, flat, image.flatten().double())
    counts = torch.bincount(flat, minlength=num_codes)
    return (sums / counts.clamp_min(1)).float(), counts > 0


def _log(values: torch.Tensor) -> torch.Tensor:
    return torch.log(values + _FLOOR) - _USUAL_LOG


def _average(values: torch.Tensor, cube: int) -> torch.Tensor:
    """Mean over the part of a cube around every voxel that lies inside the volume."""
    reach = cube // 2
    for axis, size in enumerate(values.shape):  # a cube's mean is the mean along one axis after the other
        lines = values.movedim(axis, -1)
        rows = F.pad(lines, (reach, reach)).reshape(-1, 1, size + 2 * reach)
        index = torch.arange(size, device=values.device)
        inside = (index + reach).clamp_max(size - 1) - (index - reach).clamp_min(0) + 1
        means = F.avg_pool1d(rows, cube, stride=1)[:, 0] * (cube / inside)
        values = means.view(*lines.shape).movedim(-1, axis)
    return values


def _deviation(values: torch.Tensor, cube: int) -> torch.Tensor:
    return (_average(values**2, cube) - _average(values, cube) ** 2).clamp_min(0).sqrt()


def _slope(image: torch.Tensor, axis: int) -> torch.Tensor:
    """Central difference, one-sided at the ends; 0 along an axis of one voxel."""
    return torch.gradient(image, dim=axis)[0] if image.shape[axis] > 1 else torch.zeros_like(image)
