"""What a stock preset costs: refuse a GPU without the memory for it, and forecast its training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from fcas_nnunet.commands.runtime.devices import device_label, resolve_device
from fcas_nnunet.commands.runtime.durations import format_duration
from fcas_nnunet.commands.runtime.memory import USED_SHARE
from fcas_nnunet.config.generator import FCaSConfig, TCDMConfig
from fcas_nnunet.config.options import ItemsPerEpoch
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.faults import InputError
from fcas_nnunet.generator.cache_size import (
    IMAGE_BYTES,
    LATENTS_BYTES,
    SHAPE_BYTES,
    TEMPLATE_BYTES,
    TEMPLATE_IMAGES_BYTES,
)
from fcas_nnunet.generator.data.grid import WorkingGrid, working_spacing
from fcas_nnunet.generator.data.training_data import held_out_count
from fcas_nnunet.generator.optimisation.loop import total_steps

Grids = Sequence[tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class PresetCost:
    """Costs counted on fake tensors by `python scripts/count_costs.py`, under bf16.

    Attributes:
        autoencoder_tflop: Operations of a training step of the autoencoder, in 10¹².
        tcdm_tflop: The same of TCDM.
        encode_tflop: Operations of encoding 10⁶ working voxels, counted on the preset's largest working grid.
        step_tflop: The same of a step of the reverse diffusion.
        decode_tflop: The same of decoding.
        training_gb: Live tensors of either, at most.
        drawing_gb: Live tensors while a scan is drawn on the preset's largest working grid, at most.
    """

    autoencoder_tflop: float
    tcdm_tflop: float
    encode_tflop: float
    step_tflop: float
    decode_tflop: float
    training_gb: float
    drawing_gb: float


COSTS = {
    "tiny": PresetCost(0.01, 0.00502, 0.0121, 0.0112, 0.039, 0.066, 0.838),
    "cpu": PresetCost(0.00667, 0.0367, 0.0176, 0.0445, 0.0176, 0.211, 0.907),
    "gpu": PresetCost(2.99, 9.17, 0.167, 0.119, 0.31, 5.64, 1.7),
    "maisi": PresetCost(14.9, 138, 1.52, 0.174, 3.23, 41.5, 20.9),
    "paper": PresetCost(14.9, 138, 1.52, 0.343, 3.23, 41.5, 20.9),
}
#: A card's need beyond live tensors: CUDA's context; kernels' workspaces and gaps between tensors, as a share.
CONTEXT_GB, WORKSPACE_SHARE = 1.0, 0.15
#: Part of the speed of a large matrix product that training reaches, by device type.
REACHED = {"cuda": 0.1, "cpu": 0.4}
#: Seconds that a step takes at least: an H200 took as long for the smallest networks.
LEAST_STEP_S = {"cuda": 0.05, "cpu": 0.0}
#: Seconds of one core (AMD EPYC) for 10⁶ working voxels of a shape's and of a contrast's variant.
SHAPE_S, CONTRAST_S = 0.6, 0.1
_MATRIX = {"cuda": 8192, "cpu": 1024}
_PRODUCTS = 8


def refuse_small_card(config: FCaSConfig, device_name: str, trains: bool) -> None:
    """Raise an InputError if the GPU of a run has less memory than a stock preset needs; of others, nothing is known.

    `trains`: the generator is to be trained first.
    """
    cost, device = _cost_of(config), resolve_device(device_name)
    if cost is None or device.type != "cuda":
        return
    needed = _needed_gb(cost, trains)
    card, what = torch.cuda.get_device_properties(device), "train" if trains else "draw with"
    if card.total_memory < needed * 1e9:
        raise InputError(
            f"-device: {card.name} must have at least {needed:.1f} GB of memory to {what} "
            f"preset {config.preset}, got {card.total_memory / 1e9:.1f} GB. "
            + _remedy(config, card.total_memory / 1e9, trains)
        )


def _needed_gb(cost: PresetCost, trains: bool) -> float:
    """Return the memory of a card that draws, and trains first or not."""
    return _on_card(max(cost.drawing_gb, cost.training_gb if trains else 0.0))


def _remedy(config: FCaSConfig, card_gb: float, trains: bool) -> str:
    """Say what a card of this memory can do instead: the largest smaller preset that it holds, or less at once."""
    fits = [name for name in ("gpu", "cpu") if name != config.preset and _needed_gb(COSTS[name], True) <= card_gb]
    instead = f"Take --preset {fits[0]}, whose grid is coarser" if fits else "Take -device cpu"
    if not trains:
        return f"{instead}."
    micro = config.tcdm.optimisation.micro_batch_size
    smaller = "" if micro == 1 else "tcdm.optimisation.micro_batch_size: 1, "
    return (
        f"{instead}, or a --config of your own with {smaller}tcdm.gradient_checkpointing: true or less grid.crop_size."
    )


def drawings_on_card(config: FCaSConfig, device: torch.device) -> int:
    """Return how many processes can draw on a GPU at once, by its memory; 1 for settings of which nothing is known."""
    cost = _cost_of(config)
    if cost is None:
        return 1
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9
    return max(1, int(USED_SHARE * memory / _on_card(cost.drawing_gb)))


def training_forecast(config: FCaSConfig, grids: Grids, num_channels: int, device_name: str) -> str:
    """Forecast time, memory and disk of a training: its steps, the latents and the calibration; not its validation.

    Args:
        config: Configuration to train.
        grids: Shape and voxel size along the turned axes of each case.
        num_channels: Channels of a scan.
        device_name: Device to train on.
    """
    spacing = working_spacing(grids, config.grid)
    voxels = [_working_voxels(shape, own, spacing, config) for shape, own in grids]
    disk = f"{sum(voxels) * _bytes_per_voxel(config, num_channels) / 1e9:.1f} GB of disk until it ends"
    cost, device = _cost_of(config), resolve_device(device_name)
    if cost is None:
        return f"training: time and memory are not counted for settings of your own; {disk}"
    pairs, held_out = config.tcdm.pairs, held_out_count(len(grids))
    variants = pairs.num_shapes * pairs.num_contrasts * (len(grids) - held_out)
    autoencoder_steps = total_steps(config.autoencoder.optimisation, variants)
    tcdm_steps = total_steps(config.tcdm.optimisation, _items(config.tcdm, len(grids) - held_out))
    tflop = cost.autoencoder_tflop * autoencoder_steps + cost.tcdm_tflop * tcdm_steps
    tflop += num_channels * cost.encode_tflop * sum(voxels) / 1e6 * pairs.num_shapes * pairs.num_contrasts
    tflop += _calibration_tflop(config, cost, sum(voxels) / len(voxels) / 1e6, num_channels)
    seconds = 1e12 * tflop / (REACHED[device.type] * operations_per_second(device))
    seconds = max(seconds, (autoencoder_steps + tcdm_steps) * LEAST_STEP_S[device.type])
    shapes_s = SHAPE_S + pairs.num_contrasts * CONTRAST_S
    preparing = sum(voxels) / 1e6 * pairs.num_shapes * shapes_s
    memory = f", {cost.training_gb:.0f} GB of GPU memory" if device.type == "cuda" else ""
    return (
        f"training: about {format_duration(seconds)} on one {device_label(device)} ({tflop:,.0f} TFLOP counted, at "
        f"{REACHED[device.type]:.0%} of the speed of its matrix product; {_what_is_counted(config)}), after about "
        f"{format_duration(preparing)} of one core for the variants{memory}, {disk}"
    )


def _calibration_tflop(config: FCaSConfig, cost: PresetCost, megavoxels: float, num_channels: int) -> float:
    """Return the operations of the calibration's drawings with SSV, by the mean size of a working grid."""
    if config.calibration is None:
        return 0.0
    sampling = config.sampling.for_model(config.tcdm.prediction_type)
    assert sampling.num_inference_steps is not None, "for_model fills it in"
    steps = sampling.strength * sampling.num_inference_steps
    decodes = num_channels * min(config.confidence.num_snapshots, sampling.num_inference_steps)
    of_one = steps * cost.step_tflop + decodes * cost.decode_tflop
    return config.calibration.num_drawings * megavoxels * of_one


def _what_is_counted(config: FCaSConfig) -> str:
    calibration = "without" if config.calibration is None else f"with {config.calibration.num_drawings} drawings of"
    return f"{calibration} calibration; validation, deforming the calibration's scans and waiting for files come on top"


def operations_per_second(device: torch.device) -> float:
    """Measure the operations a second of a large matrix product: bf16 on a GPU, float32 on a CPU; in about a second."""
    size = _MATRIX[device.type]
    matrix = torch.ones(size, size, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    best = float("inf")
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for it
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _on_card(live_gb: float) -> float:
    """Return the memory that a process takes on a card, in GB."""
    return CONTEXT_GB + (1 + WORKSPACE_SHARE) * live_gb


def _cost_of(config: FCaSConfig) -> PresetCost | None:
    """Return the counted costs of a configuration whose networks and crops are those of a stock preset."""
    stock = PRESETS.get(config.preset)
    if stock is None or (config.grid, config.autoencoder) != (stock.grid, stock.autoencoder):
        return None
    return COSTS[config.preset] if replace(config.tcdm, image_channels=1) == stock.tcdm else None


def _items(config: TCDMConfig, cases: int) -> int:
    """Return the number of items of an epoch."""
    share = config.pairs.self_pair_probability
    if config.pairs.items_per_epoch == ItemsPerEpoch.CASES or share == 1:
        return cases
    return round(cases * (cases - 1) / (1 if config.pairs.one_direction else 2) / (1 - share))


def _working_voxels(
    shape: Sequence[float], own_mm: Sequence[float], spacing_mm: Sequence[float], config: FCaSConfig
) -> int:
    grid = WorkingGrid.of([round(n) for n in shape], own_mm, spacing_mm, config.grid_multiple, config.grid.crop_size)
    d, h, w = grid.shape
    return d * h * w


def _bytes_per_voxel(config: FCaSConfig, num_channels: int) -> float:
    """Return the bytes of a case's variants for each working voxel: masks, images and latents, registered templates."""
    pairs = config.tcdm.pairs
    per_shape = SHAPE_BYTES + pairs.num_contrasts * (IMAGE_BYTES + LATENTS_BYTES) * num_channels
    template = TEMPLATE_BYTES + TEMPLATE_IMAGES_BYTES * num_channels
    registered = template * pairs.num_partners if config.tcdm.registers else 0.0
    return pairs.num_shapes * (per_shape + registered)
