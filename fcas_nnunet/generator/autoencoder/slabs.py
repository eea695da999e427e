"""Run MAISI's encoder or decoder slab by slab: the whole volume's result, at a fraction of its memory.

Ordinary tiles differ from the whole volume, since each tile has separate group norms (32 % RMSE on random weights).
Here a volume goes through the network layer by layer, and through each layer in slabs along D: a layer's output is
stored, and its statistics over the *whole* volume are gathered slab by slab, before the next layer needs them. A slab
needs one slice of its neighbours on either side, which is normalised or up-sampled again; nothing else is computed
twice, and no halo has to be tuned.

At most two activations exist at a time. Residual blocks that halve the channels write their results over their input,
so that 512 × 512 × 256 voxels in bf16 take 17 GB instead of 34; 22 with slabs and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
    MaisiConvolution,
    MaisiDownsample,
    MaisiResBlock,
    MaisiUpsample,
)
from torch import nn

from fcas_nnunet.faults import InputError

#: Elements (channels × voxels) of a slab: some hundred MB with its fp32 copy.
SLAB_ELEMENTS = 2**26


class ChannelMoments:
    """Mean and variance of every channel, gathered from slabs; merged in double precision.

    Source: T. F. Chan et al., parallel variance, 1979.
    """

    def __init__(self, num_channels: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(num_channels, dtype=torch.float64, device=device)
        self.m2 = torch.zeros_like(self.mean)

    def add(self, slab: torch.Tensor) -> None:
        """Count in a slab [1, C, d, H, W]."""
        variance, mean = torch.var_mean(slab[0].float(), dim=(1, 2, 3), correction=0)
        count = slab[0, 0].numel()
        total = self.count + count
        delta = mean.double() - self.mean
        self.m2 += variance.double() * count + delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def of_groups(self, norm: nn.GroupNorm) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each channel's group, fp32 [C] each."""
        means = self.mean.view(norm.num_groups, -1)
        mean = means.mean(dim=1, keepdim=True)
        m2 = self.m2.view(norm.num_groups, -1).mean(dim=1, keepdim=True) / self.count
        variance = m2 + ((means - mean) ** 2).mean(dim=1, keepdim=True)
        shape = means.shape
        return mean.expand(shape).flatten().float(), variance.expand(shape).flatten().float()


@dataclass
class Activation:
    """A stored activation.

    Attributes:
        data: Features [D, C, H, W], so that a slab is contiguous.
        moments: Mean and variance of its channels.
        spare: Free memory of the same shape.
    """

    data: torch.Tensor
    moments: ChannelMoments
    spare: torch.Tensor | None = None

    @property
    def depth(self) -> int:
        """D."""
        return self.data.shape[0]

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Slices as a slab [1, C, d, H, W]."""
        return self.data[start:stop].transpose(0, 1)[None]

    def write(self, start: int, slab: torch.Tensor) -> None:
        """Store a finished slab [1, C, d, H, W] and count it into the moments."""
        self.data[start : start + slab.shape[2]] = slab[0].transpose(0, 1)
        self.moments.add(slab)


@torch.no_grad()
def run_in_slabs(blocks: Iterable[nn.Module], x: torch.Tensor, slab_elements: int = SLAB_ELEMENTS) -> torch.Tensor:
    """Run the blocks of MAISI's encoder or decoder in turn; equals running them on the whole volume.

    Every norm and the last convolution run in fp32, also under autocast.

    Args:
        blocks: Convolution, residual, up- and downsampling blocks, a group norm and a convolution.
        x: Input, [1, C, D, H, W].
        slab_elements: Channels × voxels of a slab.

    Returns:
        float32 [1, C', D', H', W'].

    Raises:
        InputError: If there is more than one volume, or a block of another kind.
    """
    if x.shape[0] != 1:
        raise InputError(f"slabs: the batch must hold one volume, got {x.shape[0]}. Run them one by one.")
    first, *middle, last_norm, last_convolution = blocks
    assert isinstance(first, MaisiConvolution), "both networks begin with a convolution"
    assert isinstance(last_norm, nn.GroupNorm) and isinstance(last_convolution, MaisiConvolution), "and end with one"
    activation = _first_convolution(first, x, slab_elements)
    for block in middle:
        if isinstance(block, MaisiResBlock):
            activation = _residual_block(block, activation, slab_elements)
            continue
        activation.spare, activation.data = None, activation.data.contiguous()  # does not fit another level of the grid
        if isinstance(block, MaisiUpsample) and not block.use_convtranspose:
            activation = _upsample(block, activation, slab_elements)
        elif isinstance(block, MaisiDownsample):
            activation = _downsample(block, activation, slab_elements)
        else:
            raise InputError(f"slabs: blocks must be MAISI's without attention, got {type(block).__name__}.")
    with torch.autocast(x.device.type, enabled=False):
        slabs = [
            _convolve(last_convolution, _normalise(_rim(activation, a, b), activation, last_norm, a, b))
            for a, b in _slabs(activation.depth, activation.data[0].numel(), slab_elements)
        ]
    return torch.cat(slabs, dim=2)


def run_blocks(blocks: Sequence[nn.Module], x: torch.Tensor, slab_elements: int | None) -> torch.Tensor:
    """As `run_in_slabs`; on a whole batch with gradients where `slab_elements` is None."""
    if slab_elements is not None:
        return run_in_slabs(blocks, x, slab_elements)
    *middle, last_norm, last_convolution = blocks
    for block in middle:
        x = block(x)
    with torch.autocast(x.device.type, enabled=False):
        return last_convolution(last_norm(x.float()))


def _gathered(slabs: Iterable[tuple[int, int]], slab: Callable[[int, int], torch.Tensor], growth: int) -> Activation:
    """Gather the activation of all slabs, each with `growth` slices for one between its start and stop."""
    slabs = list(slabs)
    output: Activation | None = None
    for a, b in slabs:
        made = slab(a, b)
        if output is None:
            data = made.new_empty((growth * slabs[-1][1], made.shape[1], *made.shape[3:]))
            output = Activation(data, ChannelMoments(made.shape[1], made.device))
        output.write(growth * a, made)
    assert output is not None, "a volume has a slice"
    return output


def _first_convolution(block: MaisiConvolution, x: torch.Tensor, slab_elements: int) -> Activation:
    depth = x.shape[2]
    return _gathered(
        _slabs(depth, _conv3d(block).out_channels * x[0, 0, 0].numel(), slab_elements),
        lambda a, b: _convolve(block, _with_zeros(x[:, :, max(a - 1, 0) : b + 1], a - 1, b + 1, depth)),
        growth=1,
    )


def _residual_block(block: MaisiResBlock, x: Activation, slab_elements: int) -> Activation:
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))."""
    channels = block.out_channels
    packed = block.in_channels >= 2 * channels  # both results fit where x lies
    if block.in_channels == channels:
        skip, hidden = x.data, x.spare if x.spare is not None else torch.empty_like(x.data)
    elif packed:
        skip, hidden = x.data[:, :channels], x.data[:, channels : 2 * channels]
    else:
        skip, hidden = (x.data.new_empty(x.depth, channels, *x.data.shape[2:]) for _ in range(2))
    inner = Activation(hidden, ChannelMoments(channels, x.data.device))
    before: torch.Tensor | None = None  # the slice before the slab, as it was before it was written over
    for a, b in _slabs(x.depth, x.data[0].numel(), slab_elements):
        slab = _rim(x, a, b)
        if before is not None:
            slab = torch.cat([before, slab[:, :, 1:]], dim=2)
        before = x.read(b - 1, b).clone() if packed else None
        shortcut = None if skip is x.data else block.nin_shortcut(x.read(a, b))
        inner.write(a, _convolve(block.conv1, F.silu(_normalise(slab, x, block.norm1, a, b), inplace=True)))
        if shortcut is not None:
            skip[a:b] = shortcut[0].transpose(0, 1)
    output = Activation(skip, ChannelMoments(channels, x.data.device), spare=hidden)
    for a, b in _slabs(x.depth, inner.data[0].numel(), slab_elements):
        hidden_slab = F.silu(_normalise(_rim(inner, a, b), inner, block.norm2, a, b), inplace=True)
        output.write(a, output.read(a, b) + _convolve(block.conv2, hidden_slab))
    return output


def _upsample(block: MaisiUpsample, x: Activation, slab_elements: int) -> Activation:
    """Convolution after trilinear upsampling by 2."""

    def upsampled(a: int, b: int) -> torch.Tensor:
        low, high = max(a - 2, 0), min(b + 2, x.depth)
        fine = F.interpolate(x.read(low, high), scale_factor=2.0, mode="trilinear")
        start, stop = max(2 * a - 1, 0), min(2 * b + 1, 2 * x.depth)
        fine = fine[:, :, start - 2 * low : stop - 2 * low]
        return _convolve(block.conv, _with_zeros(fine, 2 * a - 1, 2 * b + 1, 2 * x.depth))

    return _gathered(_slabs(x.depth, 8 * x.data[0].numel(), 2 * slab_elements), upsampled, growth=2)


def _downsample(block: MaisiDownsample, x: Activation, slab_elements: int) -> Activation:
    """Convolution with stride 2 after one more slice, row and column of zeros at the end."""

    def downsampled(a: int, b: int) -> torch.Tensor:
        slab = _with_zeros(x.read(2 * a, min(2 * b + 1, x.depth)), 2 * a, 2 * b + 1, x.depth)
        return block.conv(F.pad(slab, (0, 1, 0, 1, 0, 0)))

    return _gathered(_slabs(x.depth // 2, 2 * x.data[0].numel(), slab_elements), downsampled, growth=1)


def _slabs(depth: int, slice_elements: int, slab_elements: int) -> Iterator[tuple[int, int]]:
    size = max(1, slab_elements // slice_elements)
    for start in range(0, depth, size):
        yield start, min(start + size, depth)


def _rim(x: Activation, start: int, stop: int) -> torch.Tensor:
    """A slab with one slice of its neighbours on either side, where there is one."""
    return x.read(max(start - 1, 0), min(stop + 1, x.depth))


def _normalise(slab: torch.Tensor, x: Activation, norm: nn.Module, start: int, stop: int) -> torch.Tensor:
    """Group norm of a slab and its rim with the statistics of all of x, in fp32; zeros outside the volume."""
    assert isinstance(norm, nn.GroupNorm), "MAISI's group norms are replaced by torch's"
    mean, variance = x.moments.of_groups(norm)
    # a batch norm in evaluation is a group norm whose statistics are known
    normalised = F.batch_norm(slab.float(), mean, variance, norm.weight, norm.bias, eps=norm.eps)
    return _with_zeros(normalised, start - 1, stop + 1, x.depth)


def _with_zeros(slab: torch.Tensor, start: int, stop: int, depth: int) -> torch.Tensor:
    """The slab with zeros for the slices before the first and after the last one of the volume."""
    missing = (max(-start, 0), max(stop - depth, 0))
    return F.pad(slab, (0, 0, 0, 0, *missing)) if any(missing) else slab


def _convolve(block: nn.Module, slab: torch.Tensor) -> torch.Tensor:
    """A 3³ convolution that takes its neighbours along D from the slab itself."""
    convolution = _conv3d(block)
    return F.conv3d(slab, convolution.weight, convolution.bias, padding=(0, 1, 1))


def _conv3d(block: nn.Module) -> nn.Conv3d:
    convolution = block.conv.conv  # type: ignore[union-attr]
    assert isinstance(convolution, nn.Conv3d), "MaisiConvolution with conv_only"
    return convolution
