"""LPIPS of a synthetic scan and the real one under the same mask, 2.5D: over slices in three planes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fcas_nnunet.evaluation.images.pretrained_weights import (
    hub_checkpoints,
    load_strictly,
    read_state_dict,
    weights_label,
)
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.faults import InputError

SLICES_PER_PLANE = 32
MIDDLE_SHARE = 0.4  # share of every axis: the slices that FID 2.5D uses
LEAST_SIDE = 32  # the trunks pool smaller slices to nothing
#: Planes by the axis of [D, H, W] that their slices follow.
PLANES = ("along_d", "along_h", "along_w")
_BATCH = 8


class Trunk(StrEnum):
    """Trunk of LPIPS, by lpips' name."""

    ALEX = "alex"
    VGG = "vgg"
    SQUEEZE = "squeeze"


#: Files of torchvision's ImageNet weights of the trunks.
TRUNK_FILES = {
    Trunk.ALEX: "alexnet-owt-7be5be79.pth",
    Trunk.VGG: "vgg16-397923af.pth",
    Trunk.SQUEEZE: "squeezenet1_1-b8a52dc0.pth",
}


@dataclass(frozen=True)
class PerceptualScore:
    """One real/synthetic pair."""

    lpips: float  # mean of the planes; 0 for equal scans
    planes: dict[str, float]  # plane → mean over its slices
    slices: dict[str, int]  # plane → number of its slices


class PerceptualDistance:
    """LPIPS with a trunk from a file.

    Attributes:
        name: Trunk, file of weights and its SHA-256; numbers of two trunks do not compare.
    """

    def __init__(self, network: nn.Module, name: str, device: torch.device) -> None:
        self.name = name
        self._network = network.to(device).eval()
        self._device = device

    def score(
        self,
        real: np.ndarray,
        synthetic: np.ndarray,
        intensity_range: IntensityRange,
        slices_per_plane: int = SLICES_PER_PLANE,
    ) -> PerceptualScore:
        """Compute LPIPS over slices in the middle of a pair.

        Args:
            real: Standard units [D, H, W].
            synthetic: The same on the same grid.
            intensity_range: Range that becomes [−1, 1], as LPIPS requires; values outside are clipped.
            slices_per_plane: Largest number of slices per plane, spread evenly over the middle 40 % of each axis.

        Raises:
            InputError: when shapes differ, or a side is too short for the trunk.
        """
        if real.shape != synthetic.shape:
            raise InputError(
                f"synthetic scan: shape must be the real one's {real.shape}, got {synthetic.shape}. "
                "Pair scans under the same mask."
            )
        if min(real.shape) < LEAST_SIDE:
            raise InputError(
                f"scan: every side must be at least {LEAST_SIDE} voxels for LPIPS, got {real.shape}. Leave it out."
            )
        planes, slices = {}, {}
        for axis, plane in enumerate(PLANES):
            numbers = middle_slices(real.shape[axis], slices_per_plane)
            pairs = [
                2 * intensity_range.normalise(np.moveaxis(np.take(scan, numbers, axis), axis, 0)) - 1
                for scan in (real, synthetic)
            ]
            planes[plane] = float(np.mean(self.distances(*pairs)))
            slices[plane] = len(numbers)
        return PerceptualScore(float(np.mean(list(planes.values()))), planes, slices)

    @torch.inference_mode()
    def distances(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Compute LPIPS of slices [N, H, W] in [−1, 1], one number each."""
        pairs = zip(self._batches(first), self._batches(second), strict=True)
        return torch.cat([self._network(*pair) for pair in pairs]).flatten().cpu().numpy()

    def _batches(self, slices: np.ndarray) -> Iterator[torch.Tensor]:
        """Slices [N, H, W] → float32 [batch, 3, H, W] on the device, with three equal channels."""
        for start in range(0, len(slices), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(slices[start : start + _BATCH], dtype=np.float32))
            yield batch.to(self._device)[:, None].expand(-1, 3, -1, -1)


def middle_slices(length: int, most: int) -> list[int]:
    """Numbers of at most `most` slices, spread evenly over the middle 40 % of an axis."""
    start, stop = int((1 - MIDDLE_SHARE) / 2 * length), int((1 + MIDDLE_SHARE) / 2 * length)
    stop = max(stop, start + 1)
    if stop - start <= most:
        return list(range(start, stop))
    return [int(number) for number in np.linspace(start, stop - 1, most).round()]


def find_trunk_weights(trunks: Sequence[Trunk] = tuple(Trunk)) -> tuple[Trunk, Path] | None:
    """Find the first trunk whose weights torch has downloaded; None where it has none of them."""
    paths = ((trunk, hub_checkpoints() / TRUNK_FILES[trunk]) for trunk in trunks)
    return next(((trunk, path) for trunk, path in paths if path.is_file()), None)


def open_perceptual_distance(trunk: Trunk, path: Path, device: torch.device | None = None) -> PerceptualDistance:
    """Open LPIPS (version 0.1): lpips' linear layers on a trunk with torchvision's weights.

    Args:
        trunk: Network of the trunk.
        path: File of the trunk's weights, as torchvision publishes them.
        device: Device of the computation; None means the CPU.

    Raises:
        MissingFileError: when there is no such file.
        InputError: when it holds other weights, or the lpips package is missing.

    Source: Zhang et al., CVPR 2018, arXiv 1801.03924.
    """
    if find_spec("lpips") is None:
        raise InputError("lpips: package must be installed, got none. Run: pip install 'fcas-nnunet[lpips]'")
    state = read_state_dict(path)
    import lpips  # pulls torchvision in, which a CPU build of torch may not carry

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, over the word `pretrained`
        network = lpips.LPIPS(net=str(trunk), pretrained=False, pnet_rand=True, verbose=False)
    features = {key: tensor for key, tensor in state.items() if key.startswith("features.")}
    names = {f"features.{key.split('.', 1)[1]}": key for key in network.net.state_dict()}  # slice2.3.weight
    kept = {names.get(key, key): tensor for key, tensor in features.items()}
    load_strictly(network.net, kept, path, f"torchvision's {TRUNK_FILES[trunk]}")
    linear_path = Path(str(files("lpips") / "weights" / "v0.1" / f"{trunk}.pth"))
    linear = read_state_dict(linear_path)
    layers = nn.ModuleDict({f"lin{number}": layer for number, layer in enumerate(network.lins)})
    load_strictly(layers, linear, linear_path, f"LPIPS' linear layers upon {trunk}")
    name = f"LPIPS 0.1, {trunk}, {weights_label(path)}"
    return PerceptualDistance(network, name, device or torch.device("cpu"))
