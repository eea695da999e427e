"""Count what every preset costs, without running it: operations and live memory, on fake tensors.

    python scripts/count_costs.py                     # all presets: the tables of docs/benchmarks.md and COSTS
    python scripts/count_costs.py --presets gpu       # one of them

A training step takes the preset's batch, in its micro-batches. A scan is drawn on the working grid that the preset
gives a CTA of 512 × 512 × 256 voxels. Precision is bf16, as CUDA's autocast has it; workspaces of kernels are not
counted. On an H200, stages of the `maisi` preset took 0.94 to 1.00 times the memory that is counted here.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import torch
from counting import Cost, cost
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import _get_scan_interval
from steps import Prepare, autoencoder_step, coding, drawing_step, training_step

from fcas_nnunet.config.generator import LATENT_DOWNSAMPLING, FCaSConfig, OptimisationConfig
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.generator.data.grid import WorkingGrid, working_spacing
from fcas_nnunet.generator.data.spline_projection import project

#: A CTA, D × H × W.
SCAN, SPACING_MM = (256, 512, 512), (0.5, 0.4, 0.4)


@dataclass(frozen=True)
class PresetCount:
    """What a preset was counted to cost; TFLOP of a whole step or stage, and GB of live tensors.

    Attributes:
        grid: Working grid of the scan, padded.
        windows: Windows that a step of the reverse diffusion takes.
        step: Of the reverse diffusion, all windows.
        resampling: The scan brought to the grid, and the image back.
    """

    grid: tuple[int, int, int]
    windows: int
    autoencoder: Cost
    tcdm: Cost
    step: Cost
    encode: Cost
    decode: Cost
    resampling: Cost

    @property
    def training_gb(self) -> float:
        """Live tensors of a training step, at most."""
        return max(self.autoencoder.gigabytes, self.tcdm.gigabytes)

    @property
    def drawing_gb(self) -> float:
        """Live tensors while a scan is drawn, at most."""
        return max(part.gigabytes for part in (self.step, self.encode, self.decode, self.resampling))

    def tflop_of_megavoxel(self) -> tuple[float, float, float]:
        """Operations of encoding 10⁶ voxels of the grid, of a step of the reverse diffusion, and of decoding."""
        per_mega = 1e6 / math.prod(self.grid)
        return self.encode.tflop * per_mega, self.step.tflop * per_mega, self.decode.tflop * per_mega

    def drawing_tflop(self, steps: int) -> float:
        """Operations of an image, without intermediate ones."""
        return self.encode.tflop + steps * self.step.tflop + self.decode.tflop + self.resampling.tflop


def count_preset(config: FCaSConfig) -> PresetCount:
    """Count a preset's training steps and the stages of a drawing."""
    grid = WorkingGrid.of(SCAN, SPACING_MM, working_spacing([(SCAN, SPACING_MM)], config.grid), config.grid_multiple)
    window, windows = windows_of([n // LATENT_DOWNSAMPLING for n in grid.shape], config)
    in_window = cost(drawing_step(config.tcdm, [n * LATENT_DOWNSAMPLING for n in window]), gradients=False)
    whole = cost(embedding(config, grid.shape), gradients=False) if windows > 1 else in_window
    return PresetCount(
        grid.shape, windows,
        step_of(config.autoencoder.optimisation, lambda n: autoencoder_step(config.autoencoder, n)),
        step_of(config.tcdm.optimisation, lambda n: training_step(config.tcdm, config.grid.crop_size, n)),
        Cost(windows * in_window.tflop, max(in_window.gigabytes, whole.gigabytes)),
        cost(coding(config.autoencoder, grid.shape, "encode"), gradients=False),
        cost(coding(config.autoencoder, grid.shape, "decode"), gradients=False),
        cost(resampling(grid), gradients=False),
    )  # fmt: skip


def step_of(optimisation: OptimisationConfig, prepare: Callable[[int], Prepare]) -> Cost:
    """Count a step in its micro-batches, which are computed one after the other."""
    micro = optimisation.micro_batch_size or optimisation.batch_size
    counted = cost(prepare(micro), gradients=True)
    return Cost(counted.tflop * optimisation.batch_size / micro, counted.gigabytes)


def windows_of(latents: Sequence[int], config: FCaSConfig) -> tuple[list[int], int]:
    """Size of a window of the reverse diffusion, and how many cover the latents."""
    window = [min(size, largest) for size, largest in zip(latents, config.sampling.window, strict=True)]
    interval = _get_scan_interval(latents, window, 3, (config.sampling.overlap,) * 3)
    return window, len(dense_patch_slices(latents, window, interval))


def embedding(config: FCaSConfig, volume: Sequence[int]) -> Prepare:
    """The condition of a whole volume and its embedding."""
    from fcas_nnunet.generator.tcdm.network import TCDM

    def prepare(device: torch.device) -> Callable[[], object]:
        tcdm = TCDM(config.tcdm).eval().requires_grad_(False)
        condition = torch.rand(1, config.tcdm.condition_channels, *volume, device=device)
        return lambda: tcdm.embed_condition(condition)

    return prepare


def resampling(grid: WorkingGrid) -> Prepare:
    """The template's scan brought to the working grid, and an image from there to the scan's voxels."""

    def prepare(device: torch.device) -> Callable[[], object]:
        scan, image = torch.rand(grid.native_shape, device=device), torch.rand(grid.resampled_shape, device=device)
        return lambda: (project(scan, grid.resampled_shape), project(image, grid.native_shape))

    return prepare


def main() -> None:
    """Print two tables, and the entries of `COSTS`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    counts = {name: count_preset(PRESETS[name]) for name in parser.parse_args().presets}
    print("| preset | crop | autoencoder step, TFLOP | GB | TCDM step, TFLOP | GB |\n" + "|---" * 6 + "|")
    for name, count in counts.items():
        numbers = [*astuple(count.autoencoder), *astuple(count.tcdm)]
        crop = "×".join(map(str, PRESETS[name].grid.crop_size))
        print(f"| `{name}` | {crop} | " + " | ".join(f"{number:.3g}" for number in numbers) + " |")
    print("\n| preset | grid | encode | a step | decode | resample | steps | image, TFLOP | GB |\n" + "|---" * 9 + "|")
    for name, count in counts.items():
        config = PRESETS[name]
        steps = config.sampling.for_model(config.tcdm.prediction_type).num_inference_steps or 0
        parts = [part.tflop for part in (count.encode, count.step, count.decode, count.resampling)]
        row = [
            *(f"{tflop:.3g}" for tflop in parts),
            steps,
            f"{count.drawing_tflop(steps):.3g}",
            f"{count.drawing_gb:.1f}",
        ]
        print(f"| `{name}` | {'×'.join(map(str, count.grid))} | " + " | ".join(map(str, row)) + " |")
    for name, count in counts.items():
        values = (
            count.autoencoder.tflop, count.tcdm.tflop, *count.tflop_of_megavoxel(), count.training_gb, count.drawing_gb
        )  # fmt: skip
        print(f'    "{name}": PresetCost(' + ", ".join(f"{value:.3g}" for value in values) + "),")


if __name__ == "__main__":
    main()
