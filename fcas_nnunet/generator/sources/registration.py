"""Register a template to a reference, so that its scan lies where the reference's anatomy is.

Labels drive the map where there are any, the image does elsewhere. It takes a point p of the reference to a point q of
the template, both in mm from the corner of the turned volumes:

    q = A (p + u(p)) + t,   u = exp(v), the flow of a stationary velocity field v

A flow does not fold (V. Arsigny et al., MICCAI 2006). Both parts are found by gradient descent on coarse volumes, first
smoothed ones; v lives on control points some voxels apart, beyond the reference's borders, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import BendingEnergyLoss, LocalNormalizedCrossCorrelationLoss
from monai.networks.blocks import DVF2DDF
from scipy.ndimage import gaussian_filter

from fcas_nnunet.case import NUM_CODES, Case
from fcas_nnunet.files import atomic_path
from fcas_nnunet.generator.data.grid import label_codes
from fcas_nnunet.generator.mgm.deformation import uniform_numbers
from fcas_nnunet.geometry import Triple, triple
from fcas_nnunet.orientation import SPL, Orientation

#: Version of the result; raised when a change alters the scans that are made by it.
REGISTRATION = 1
#: Of the volumes that are compared: no finer than this, nor than the scan, and no more voxels than this.
_FINEST_MM, _MOST_VOXELS = 2.0, 80_000
#: u has a grid of its own, so much coarser, and reaches so many of its voxels beyond the reference, so that nothing is
#: held at the borders; the control points of v are so many of its voxels apart.
_FLOW_COARSER, _MARGIN_VOXELS, _CONTROL_VOXELS = 2, 4, 2
_SMOOTHING_MM = (6.0, 2.0)  # of labels and of images, at first
_SHOWN_PERCENT = (1.0, 99.0)
_AFFINE_STEPS, _FLOW_STEPS = 60, 80
_LABEL_WEIGHT, _BENDING_WEIGHT = 3.0, 1.0
#: Labels are points of a space of so many dimensions, each at distance 1 from the background.
_CODE_DIMENSIONS = 4


@dataclass(frozen=True)
class Registration:
    """A map from points of a reference to points of a template, along the axes of turned volumes.

    Attributes:
        matrix: A, float64 [3, 3].
        offset_mm: t, float64 [3].
        displacement_mm: u, float32 [3, d, h, w], at the centres of voxels of `grid_mm`, of which the first begins
            `margin_mm` before the reference's corner.
        grid_mm: Spacing of u.
        margin_mm: What u covers beyond the reference.
    """

    matrix: np.ndarray
    offset_mm: np.ndarray
    displacement_mm: np.ndarray
    grid_mm: Triple[float]
    margin_mm: Triple[float]

    @classmethod
    def identity(cls) -> Registration:
        """The map that leaves every point in its place."""
        return cls(np.eye(3), np.zeros(3), np.zeros((3, 1, 1, 1), np.float32), (1.0,) * 3, (0.0,) * 3)

    def save(self, path: Path) -> None:
        """Write the map into a file."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream, matrix=self.matrix, offset_mm=self.offset_mm, displacement_mm=self.displacement_mm,
                grid_mm=np.array(self.grid_mm), margin_mm=np.array(self.margin_mm),
            )  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Registration:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as content:
            matrix, offset, displacement, grid, margin = (content[field.name] for field in fields(cls))
        return cls(matrix, offset, displacement, triple(map(float, grid)), triple(map(float, margin)))

    def points_mm(self, points_mm: torch.Tensor) -> torch.Tensor:
        """Points of the reference [..., 3] => points of the template [..., 3]; float32."""
        field = torch.from_numpy(self.displacement_mm).to(points_mm.device)[None]
        within = (points_mm + torch.tensor(self.margin_mm).to(points_mm)).reshape(-1, 1, 1, 3)
        moved = points_mm + sampled(field, within, self.grid_mm).reshape(3, -1).T.reshape(points_mm.shape)
        matrix, offset = (torch.from_numpy(part).to(points_mm) for part in (self.matrix, self.offset_mm))
        return moved @ matrix.T + offset

    def volume_ratios(self) -> np.ndarray:
        """Volume in the template over volume in the reference, within the reference; above 0 where nothing folds."""
        field = self.displacement_mm.astype(np.float64)
        gradient = np.stack([np.stack(np.gradient(part, *self.grid_mm), axis=-1) for part in field], axis=-2)
        within = [slice(n, -n or None) for n in map(round, np.divide(self.margin_mm, self.grid_mm))]
        return np.linalg.det(self.matrix) * np.linalg.det(np.eye(3) + gradient)[*within]


@dataclass(frozen=True)
class _Features:
    """What is compared of a case, on a coarse grid: images in [0, 1] and labels' points, [1, C, d, h, w]."""

    image: torch.Tensor
    labels: torch.Tensor
    spacing_mm: Triple[float]

    def smoothed(self) -> _Features:
        """The same, blurred."""
        labels, image = (
            _blurred(volume, [width / step for step in self.spacing_mm])
            for volume, width in zip((self.labels, self.image), _SMOOTHING_MM, strict=True)
        )
        return _Features(image, labels, self.spacing_mm)

    def thinned(self) -> _Features:
        """Every second voxel along each axis."""
        image, labels = (volume[:, :, ::2, ::2, ::2] for volume in (self.image, self.labels))
        return _Features(image, labels, triple(2 * step for step in self.spacing_mm))

    def centre_mm(self) -> torch.Tensor:
        """Centroid of what is labelled, or the volume's middle."""
        weights, points = self.labels.abs().sum((0, 1)), centres_mm(self.image.shape[2:], self.spacing_mm)
        if not weights.any():
            weights = torch.ones_like(weights)
        return (points * weights[..., None]).sum((0, 1, 2)) / weights.sum()


def register(reference: Case, template: Case, num_labels: int, device: torch.device | str = "cpu") -> Registration:
    """Find the map from a reference to a template.

    Args:
        reference: Case with image, and with surroundings where there are any.
        template: As the reference.
        num_labels: Highest label id of the data set.
        device: Device to compute on.

    Returns:
        The map; the same on every run on a CPU.
    """
    table = _label_points()
    target, moving = (_features(case, num_labels, table, torch.device(device)) for case in (reference, template))
    with warnings.catch_warnings():  # of MONAI's, on how it indexes and which of its back ends it takes
        warnings.simplefilter("ignore", UserWarning)
        return _registered(target, moving)


def _registered(target: _Features, moving: _Features) -> Registration:
    similarity = LocalNormalizedCrossCorrelationLoss(spatial_dims=3, kernel_size=7)

    def mismatch(fixed: _Features, found: _Features, points: torch.Tensor) -> torch.Tensor:
        """How badly the template's features at the points fit those of the reference there."""
        labels = sampled(found.labels, points, found.spacing_mm)
        image = sampled(found.image, points, found.spacing_mm)
        difference = (labels - fixed.labels).square().mean() / fixed.labels.square().mean().clamp(min=1e-6)
        channels = [part.transpose(0, 1) for part in (image, fixed.image)]  # each compared by itself
        return _LABEL_WEIGHT * difference + similarity(*channels)

    device, size = target.image.device, target.image.shape[2:]
    points = centres_mm(size, target.spacing_mm).to(device)
    centre, centre_there = target.centre_mm(), moving.centre_mm()
    matrix = torch.eye(3, device=device, requires_grad=True)
    shift = torch.zeros(3, device=device, requires_grad=True)

    def brought(points: torch.Tensor) -> torch.Tensor:
        return (points - centre) @ matrix.T + centre_there + shift

    smooth_target, smooth_moving = target.smoothed(), moving.smoothed()
    optimizer = torch.optim.Adam([{"params": [matrix], "lr": 0.02}, {"params": [shift], "lr": 1.0}])
    thin, thin_points = smooth_target.thinned(), points[::2, ::2, ::2]
    for _ in range(_AFFINE_STEPS):
        _step(optimizer, mismatch(thin, smooth_moving, brought(thin_points)))
    matrix.requires_grad_(False)
    shift.requires_grad_(False)

    flow_mm = triple(_FLOW_COARSER * step for step in target.spacing_mm)
    margin_mm = triple(_MARGIN_VOXELS * step for step in flow_mm)
    flow_size = [-(-n // _FLOW_COARSER) + 2 * _MARGIN_VOXELS for n in size]
    controls = [-(-n // _CONTROL_VOXELS) + 1 for n in flow_size]
    velocity = torch.zeros(1, 3, *controls, device=device, requires_grad=True)
    flow, bending = DVF2DDF(num_steps=5), BendingEnergyLoss()

    def displacement() -> torch.Tensor:
        """u in mm, [1, 3, d, h, w]."""
        voxels = flow(F.interpolate(velocity, flow_size, mode="trilinear", align_corners=True))
        return voxels * torch.tensor(flow_mm, device=device)[:, None, None, None]

    in_flow = points + torch.tensor(margin_mm, device=device)
    optimizer = torch.optim.Adam([velocity], lr=0.3)
    for number in range(_FLOW_STEPS):
        fixed, found = (smooth_target, smooth_moving) if number < _FLOW_STEPS // 2 else (target, moving)
        moved = points + sampled(displacement(), in_flow, flow_mm)[0].movedim(0, -1)
        _step(optimizer, mismatch(fixed, found, brought(moved)) + _BENDING_WEIGHT * bending(velocity))
    with torch.no_grad():
        offset = centre_there + shift - centre @ matrix.T
        return Registration(
            matrix.cpu().double().numpy(), offset.cpu().double().numpy(), displacement()[0].cpu().numpy(), flow_mm,
            margin_mm,
        )  # fmt: skip


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _features(case: Case, num_labels: int, table: torch.Tensor, device: torch.device) -> _Features:
    """A case's features on a grid of its extent."""
    orientation = Orientation.of(case.affine, SPL)
    codes = torch.from_numpy(np.ascontiguousarray(orientation.turn(label_codes(case, num_labels)[1]))).to(device)
    image = torch.from_numpy(np.ascontiguousarray(np.stack([*map(orientation.turn, case.standard_image)]))).to(device)
    extent = np.multiply(codes.shape, orientation.reorder(case.spacing_mm))
    finest = max(_FINEST_MM, min(case.spacing_mm))
    step = max(finest, float(np.prod(extent) / _MOST_VOXELS) ** (1 / 3))
    size = [max(4, round(length / step)) for length in extent]
    low, high = np.percentile(image.cpu().numpy(), _SHOWN_PERCENT, axis=(1, 2, 3))
    bounds = [torch.tensor(part, dtype=torch.float32, device=device)[:, None, None, None] for part in (low, high)]
    unit = ((image - bounds[0]) / (bounds[1] - bounds[0]).clamp(min=1e-6)).clamp(0, 1)
    points = torch.zeros(_CODE_DIMENSIONS, *size, device=device)
    for code in codes.unique().tolist():
        if code:
            share = _resized((codes == code)[None].float(), size)[0]
            points += table[code].to(device)[:, None, None, None] * share
    return _Features(
        _resized(unit, size)[None], points[None],
        triple(float(length / n) for length, n in zip(extent, size, strict=True)),
    )  # fmt: skip


def _label_points() -> torch.Tensor:
    """Points of length 1 that stand for codes, far from each other, float32 [256, dimensions]; 0 for the background.

    The first few are the axes; the others are spread at random.
    """
    spread = uniform_numbers(0, NUM_CODES * _CODE_DIMENSIONS).reshape(NUM_CODES, _CODE_DIMENSIONS) - 0.5
    spread /= np.linalg.norm(spread, axis=1, keepdims=True)
    spread[0] = 0
    spread[1 : _CODE_DIMENSIONS + 1] = np.eye(_CODE_DIMENSIONS)
    return torch.tensor(spread, dtype=torch.float32)


def _resized(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """[C, D, H, W] on another grid of the same extent: area averages where it is coarser, linear where it is finer."""
    down = triple(min(n, m) for n, m in zip(volume.shape[1:], size, strict=True))
    return F.interpolate(F.adaptive_avg_pool3d(volume, down)[None], list(size), mode="trilinear")[0]


def centres_mm(size: Sequence[int], spacing_mm: Sequence[float]) -> torch.Tensor:
    """Centres of a grid's voxels in mm from its corner, float32 [d, h, w, 3]."""
    axes = [(torch.arange(n) + 0.5) * step for n, step in zip(size, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).float()


def sampled(volume: torch.Tensor, points_mm: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """[1, C, d, h, w] at points in mm from its corner, [..., 3]; beyond its border, the border's values."""
    extent = torch.tensor(volume.shape[2:], device=volume.device) * torch.tensor(spacing_mm, device=volume.device)
    grid = (2 * points_mm / extent - 1).flip(-1)[None]
    return F.grid_sample(volume, grid.to(volume), padding_mode="border", align_corners=False)


def _blurred(volume: torch.Tensor, widths: Sequence[float]) -> torch.Tensor:
    """A Gaussian blur of [1, C, d, h, w], its standard deviations in voxels."""
    array = gaussian_filter(volume.cpu().numpy(), (0, 0, *widths), mode="nearest", truncate=3)
    return torch.from_numpy(array).to(volume.device)
