"""Measure the cost of an image with confidence by stage, beside MAISI's classes and schedule without confidence.

Random weights of a preset (`maisi`, scaled by --width), drawn on the working grid that it gives the scan, both sides in
turn in one process, so that a busy machine slows both alike. MAISI runs as its scripts do: the condition embedded at
every step, rectified flow in 30 steps (or DDPM in 1,000, from one timed step a round), decoding in Gaussian-blended
windows of --roi latents, overlap 0.4. FLOPs, and with --flops the peak of all live tensors (bf16, without workspaces),
are counted on fake tensors.

    python scripts/benchmark_generation.py --shape 256 512 512 --heart 0.35            # a GPU: seconds and memory
    python scripts/benchmark_generation.py --shape 64 128 128 --roi 20 -device cpu     # two cores, a 64th of it
    python scripts/benchmark_generation.py --shape 256 512 512 --preset gpu            # the default on a GPU
    python scripts/benchmark_generation.py --shape 256 512 512 --flops                 # what can be counted alone
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from counting import LiveTensors, flop_counter, known_bins
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.inferers import SlidingWindowInferer
from torch._subclasses.fake_tensor import FakeTensorMode

from fcas_nnunet.config.generator import AutoencoderConfig, TCDMConfig
from fcas_nnunet.config.presets import PRESETS, preset
from fcas_nnunet.generator.autoencoder.network import Autoencoder, swap_group_norms
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.data.grid import WorkingGrid, working_spacing
from fcas_nnunet.generator.data.spline_projection import project
from fcas_nnunet.generator.optimisation.precision import drawing_precision
from fcas_nnunet.generator.tcdm.conditions import build_condition
from fcas_nnunet.generator.tcdm.network import TCDM

MAISI_OVERLAP, RFLOW_STEPS, DDPM_STEPS = 0.4, 30, 1000
SPACING_MM = (0.5, 0.4, 0.4)

Stages = dict[str, Callable[[], Any]]
Seconds = dict[str, dict[str, float]]  # side → stage → seconds


@dataclass(frozen=True)
class Setting:
    """Volume, networks and device of a measurement."""

    shape: tuple[int, int, int]
    width: float
    roi: int
    heart: float
    device: torch.device
    precision: torch.dtype
    preset: str = "maisi"

    @property
    def grid(self) -> WorkingGrid:
        """Working grid of the preset for a CTA of 0.4 mm in slices of 0.5 mm."""
        config = preset(self.preset)
        spacing = working_spacing([(self.shape, SPACING_MM)], config.grid)
        return WorkingGrid.of(self.shape, SPACING_MM, spacing, config.grid_multiple)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        d, h, w = (n // 4 for n in self.shape)
        return d, h, w

    def channels(self, full: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(c * self.width) for c in full)

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, self.precision) if self.precision != torch.float32 else nullcontext()


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 128, 128), metavar=("D", "H", "W"))
    parser.add_argument("--preset", choices=sorted(PRESETS), default="maisi", help="our networks and grid (maisi)")
    parser.add_argument("--width", type=float, default=1.0, help="channels relative to the preset (1)")
    parser.add_argument("--roi", type=int, default=80, help="latents of a decoding window on MAISI's side (80)")
    parser.add_argument("--heart", type=float, default=0.35, help="share of the volume in SSV's box (0.35)")
    parser.add_argument("--steps", type=int, help="number of steps of DPM-Solver++ (the preset's)")
    parser.add_argument("--snapshots", type=int, help="number of snapshots of SSV (the preset's)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of every stage (3)")
    parser.add_argument("--flops", action="store_true", help="count FLOPs and memory, measure nothing")
    parser.add_argument("--only", choices=["ours", "maisi"], help="one side alone")
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    precision = drawing_precision(device)
    setting = Setting(tuple(args.shape), args.width, args.roi, args.heart, device, precision, args.preset)
    print(f"{' × '.join(map(str, setting.shape))}, width {setting.width:g}, {device}, {precision}")
    sides = [side for side in ("ours", "maisi") if args.only in (None, side)]
    flops = {side: count(setting, MAKERS[side]) for side in sides}
    if args.flops:
        for name, gigabytes in count_memory(setting).items():
            print(f"ours   {name:50} {gigabytes:9.2f} GB live at most")
        report(setting, args, flops, {side: {stage: 0.0 for stage in flops[side]} for side in sides}, {})
        return
    torch.manual_seed(0)
    stages = {side: MAKERS[side](setting) for side in sides}
    seconds, memory = measure(setting, stages, args.repeats)
    report(setting, args, flops, seconds, memory)
    print(f"matrix product: {matrix_rate(setting):.2f} TFLOP/s")


def ours(setting: Setting) -> Stages:
    """Make a function for every stage: embedding the condition, a denoising step, the decodings."""
    config, grid = preset(setting.preset), setting.grid
    with setting.device:
        tcdm = tcdm_of(setting, config.tcdm).eval()
        autoencoder = Autoencoder(autoencoder_config(setting, config.autoencoder)).eval()
    on_grid = replace(setting, shape=grid.shape)
    codes, image = condition_parts(on_grid)
    guess_labels = 8 if config.tcdm.prior else 0
    latents = torch.randn(1, 4, *on_grid.latent_shape, device=setting.device)
    boxed = latents[(..., *box(on_grid))]
    scan, drawn = (torch.rand(shape, device=setting.device) for shape in (setting.shape, grid.resampled_shape))

    def condition() -> torch.Tensor:
        return tcdm.embed_condition(build_condition(codes, codes, image, guess_labels))

    with torch.no_grad(), setting.autocast():
        embedded = condition()
    timesteps = torch.tensor([500], device=setting.device)
    return {
        "resample": lambda: (project(scan, grid.resampled_shape), project(drawn, setting.shape)),
        "condition": condition,
        "step": lambda: tcdm(latents, timesteps, embedded),
        "decode": lambda: autoencoder.decode(latents, SLAB_ELEMENTS),
        "decode box": lambda: autoencoder.decode(boxed, SLAB_ELEMENTS),
    }


def maisi(setting: Setting) -> Stages:
    """Make functions for MAISI's steps and decoding."""
    unet, controlnet = maisi_networks(setting, "rflow")
    ddpm_unet, ddpm_controlnet = maisi_networks(setting, "ddpm")
    autoencoder = maisi_autoencoder(setting)
    inferer = SlidingWindowInferer(
        roi_size=[min(setting.roi, n) for n in setting.latent_shape], sw_batch_size=1, mode="gaussian",
        overlap=MAISI_OVERLAP, progress=False,
    )  # fmt: skip
    condition = torch.randint(0, 2, (1, 8, *setting.shape), device=setting.device).float()
    latents = torch.randn(1, 4, *setting.latent_shape, device=setting.device)
    return {
        "step": lambda: maisi_step("rflow", unet, controlnet, latents, condition),
        "ddpm step": lambda: maisi_step("ddpm", ddpm_unet, ddpm_controlnet, latents, condition),
        "decode": lambda: inferer(latents, autoencoder.decode_stage_2_outputs),
    }


MAKERS: dict[str, Callable[[Setting], Stages]] = {"ours": ours, "maisi": maisi}


def tcdm_of(setting: Setting, config: TCDMConfig, **changes: Any) -> TCDM:
    """Make the preset's TCDM at the measured width."""
    embedding = config.condition_embedding_channels
    return TCDM(
        replace(
            config,
            channels=setting.channels(config.channels),
            num_head_channels=setting.channels(config.num_head_channels),
            norm_num_groups=max(1, int(config.norm_num_groups * setting.width)),
            condition_embedding_channels=(*setting.channels(embedding[:-1]), int(embedding[-1] * setting.width)),
            **changes,
        )
    )


def autoencoder_config(setting: Setting, config: AutoencoderConfig) -> AutoencoderConfig:
    """Scale the preset's autoencoder to the measured width."""
    groups = max(1, int(config.norm_num_groups * setting.width))
    return replace(config, channels=setting.channels(config.channels), norm_num_groups=groups)


def maisi_networks(setting: Setting, kind: str) -> tuple[DiffusionModelUNetMaisi, ControlNetMaisi]:
    """Make MAISI's UNet and ControlNet with the settings of its published configurations."""
    rflow = kind == "rflow"
    shared: dict[str, Any] = {
        "spatial_dims": 3, "in_channels": 4, "num_channels": setting.channels((64, 128, 256, 512)),
        "attention_levels": (False, False, True, True), "num_head_channels": setting.channels((0, 0, 32, 32)),
        "num_res_blocks": 2, "resblock_updown": rflow, "include_fc": rflow,
        "num_class_embeds": 128 if rflow else None, "norm_num_groups": max(1, int(32 * setting.width)),
        "use_flash_attention": setting.device.type == "cuda",
    }  # fmt: skip
    with setting.device:
        unet = DiffusionModelUNetMaisi(
            out_channels=4, include_top_region_index_input=not rflow, include_bottom_region_index_input=not rflow,
            include_spacing_input=True, **shared,
        )  # fmt: skip
        controlnet = ControlNetMaisi(
            conditioning_embedding_in_channels=8,
            conditioning_embedding_num_channels=setting.channels((8, 32, 64)),
            **shared,
        )
    return unet.eval(), controlnet.eval()


def maisi_autoencoder(setting: Setting) -> AutoencoderKlMaisi:
    """Make MAISI's autoencoder, on a GPU with the splits and half-precision norms of its configuration."""
    on_gpu = setting.device.type == "cuda"
    with setting.device:
        return AutoencoderKlMaisi(
            spatial_dims=3, in_channels=1, out_channels=1, latent_channels=4, num_res_blocks=(2, 2, 2),
            num_channels=setting.channels((64, 128, 256)), attention_levels=(False,) * 3, norm_eps=1e-6,
            norm_num_groups=max(1, int(32 * setting.width)), num_splits=4 if on_gpu else 1, norm_float16=on_gpu,
            save_mem=on_gpu,
        ).eval()  # fmt: skip


def maisi_step(
    kind: str, unet: DiffusionModelUNetMaisi, controlnet: ControlNetMaisi, x: torch.Tensor, condition: torch.Tensor
) -> torch.Tensor:
    """Evaluate UNet and ControlNet once, as in MAISI's sampling loop."""
    timesteps = torch.full((len(x),), 500.0 if kind == "rflow" else 500, device=x.device)
    labels = torch.ones(len(x), dtype=torch.long, device=x.device) if kind == "rflow" else None
    down, mid = controlnet(x, timesteps, controlnet_cond=condition, class_labels=labels)
    regions: dict[str, torch.Tensor] = {}
    if kind == "ddpm":
        region = torch.full((len(x), 4), 100.0, device=x.device)
        regions = {"top_region_index_tensor": region, "bottom_region_index_tensor": region}
    return unet(
        x, timesteps, class_labels=labels, down_block_additional_residuals=down, mid_block_additional_residual=mid,
        spacing_tensor=torch.full((len(x), 3), 50.0, device=x.device), **regions,
    )  # fmt: skip


def condition_parts(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    """Make masks as bytes and an image, as generation copies them to the device."""
    codes = torch.randint(0, 9, (1, 1, *setting.shape), device=setting.device).to(torch.uint8)
    return codes, torch.rand(1, 1, *setting.shape, device=setting.device)


def box(setting: Setting) -> tuple[slice, slice, slice]:
    """Return a centred box with the heart's share of the volume."""
    sides = [max(1, round(n * setting.heart ** (1 / 3))) for n in setting.latent_shape]
    starts = [(n - side) // 2 for n, side in zip(setting.latent_shape, sides, strict=True)]
    d, h, w = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return d, h, w


def count(setting: Setting, make: Callable[[Setting], Stages]) -> dict[str, float]:
    """Count the TFLOP of every stage on fake tensors."""
    fake = replace(setting, device=torch.device("cpu"), precision=torch.float32)
    totals = {}
    with FakeTensorMode(), torch.no_grad(), known_bins():
        for name, stage in make(fake).items():
            if make is maisi and name == "decode":
                totals[name] = maisi_decode_flops(fake)
                continue
            with flop_counter() as counter:
                stage()
            totals[name] = counter.get_total_flops() / 1e12
    return totals


def count_memory(setting: Setting) -> dict[str, float]:
    """Return the peak GB of live tensors of every stage in bf16, weights included."""
    fake = replace(setting, device=torch.device("cpu"), precision=torch.bfloat16)
    peaks = {}
    with FakeTensorMode(), LiveTensors() as live, torch.inference_mode(), known_bins():
        stages = ours(fake)
        for name, stage in stages.items():
            live.peak = live.now
            with fake.autocast():
                stage()
            peaks[name] = live.peak / 1e9
    return peaks


def maisi_decode_flops(setting: Setting) -> float:
    """Count one window's TFLOP times the windows, with torch's norms for MAISI's, which fake tensors cannot run."""
    from monai.data.utils import dense_patch_slices
    from monai.inferers.utils import _get_scan_interval

    roi = [min(setting.roi, n) for n in setting.latent_shape]
    interval = _get_scan_interval(setting.latent_shape, roi, 3, (MAISI_OVERLAP,) * 3)
    windows = len(dense_patch_slices(setting.latent_shape, roi, interval))
    network = maisi_autoencoder(setting)
    swap_group_norms(network)
    with flop_counter() as counter:
        network.decode_stage_2_outputs(torch.empty(1, 4, *roi))
    return windows * counter.get_total_flops() / 1e12


def measure(setting: Setting, stages: dict[str, Stages], repeats: int) -> tuple[Seconds, dict[str, float]]:
    """Return median seconds of every stage of every side, taking turns, and the sides' peak memory in GB (GPU)."""
    times: dict[str, dict[str, list[float]]] = {side: {name: [] for name in of} for side, of in stages.items()}
    memory: dict[str, float] = {}
    with torch.inference_mode(), setting.autocast():
        for _ in range(repeats):
            for side, of in stages.items():
                for name, stage in of.items():
                    if setting.device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    times[side][name].append(timed(stage, setting.device))
                    if setting.device.type == "cuda":
                        memory[side] = max(memory.get(side, 0.0), torch.cuda.max_memory_allocated() / 1e9)
    return {side: {name: median(values) for name, values in of.items()} for side, of in times.items()}, memory


def timed(stage: Callable[[], Any], device: torch.device) -> float:
    """Measure the seconds of one call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    stage()
    wait()
    return time.perf_counter() - start


def totals_of(side: str, stages: dict[str, float], steps: int, snapshots: int) -> dict[str, float]:
    """Sum the stages of a whole volume."""
    if side == "maisi":
        return {
            f"rectified flow, {RFLOW_STEPS} steps, image alone": RFLOW_STEPS * stages["step"] + stages["decode"],
            f"DDPM, {DDPM_STEPS} steps, image alone": DDPM_STEPS * stages["ddpm step"] + stages["decode"],
        }
    image = stages["resample"] + stages["condition"] + steps * stages["step"] + stages["decode"]
    others = snapshots - 1  # the last snapshot is the image
    return {
        "image alone": image,
        "image + confidence": image + others * stages["decode"],
        "image + confidence in the heart's box": image + snapshots * stages["decode box"],
    }


def report(
    setting: Setting,
    args: argparse.Namespace,
    flops: dict[str, dict[str, float]],
    seconds: Seconds,
    memory: dict[str, float],
) -> None:
    """Print stages, totals and ratios."""
    config = preset(setting.preset)
    steps = args.steps or config.sampling.for_model(config.tcdm.prediction_type).num_inference_steps
    snapshots = args.snapshots or config.confidence.num_snapshots
    print(f"\n{'side':6} {'stage':50} {'seconds':>9} {'TFLOP':>9} {'TFLOP/s':>8}")
    reference: tuple[float, float] | None = None
    for side in reversed(list(flops)):
        for name, tflop in flops[side].items():
            line(side, name, seconds[side][name], tflop)
        whole = totals_of(side, seconds[side], steps, snapshots)
        work = totals_of(side, flops[side], steps, snapshots)
        for name in whole:
            ratio = ""
            if side == "maisi" and reference is None:
                reference = whole[name], work[name]
            elif reference is not None:
                ratio = f"  FLOPs {work[name] / reference[1]:.2f} ×"
                ratio += f", time {whole[name] / reference[0]:.2f} ×" if whole[name] else ""
            line(side, f"= {name}", whole[name], work[name], ratio)
        if side in memory:
            print(f"{side:6} peak memory {memory[side]:.1f} GB")
    print(f"ours: {steps} steps of DPM-Solver++, {snapshots} snapshots, a box of {setting.heart:.0%}")


def line(side: str, name: str, seconds: float, tflop: float, ratio: str = "") -> None:
    """Print one row."""
    rate = f"{tflop / seconds:8.2f}" if seconds else f"{'':8}"
    print(f"{side:6} {name:50} {seconds:9.2f} {tflop:9.2f} {rate}{ratio}")


def matrix_rate(setting: Setting, size: int = 4096) -> float:
    """Measure the TFLOP/s of a large matrix product in the precision used, the best of six."""
    size = size if setting.device.type == "cuda" else size // 2
    a, b = (torch.randn(size, size, device=setting.device, dtype=setting.precision) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, setting.device) for _ in range(6)) / 1e12


if __name__ == "__main__":
    main()
