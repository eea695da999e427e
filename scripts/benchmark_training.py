"""Measure a training step of TCDM per direction beside MAISI's ControlNet step, both with a frozen denoiser.

Random weights of the `maisi` preset (scaled by --width), both sides in turn in one process.

    python scripts/benchmark_training.py --shape 128 512 512                   # a GPU
    python scripts/benchmark_training.py --shape 32 128 128 -device cpu        # two cores
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from benchmark_generation import Setting, condition_parts, maisi_networks, maisi_step, tcdm_of, timed

from fcas_nnunet.config.presets import preset
from fcas_nnunet.generator.optimisation.precision import drawing_precision
from fcas_nnunet.generator.tcdm.conditions import build_condition


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 128, 128), metavar=("D", "H", "W"))
    parser.add_argument("--width", type=float, default=1.0, help="channels relative to the preset (1)")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps, after one to warm up (3)")
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    device = torch.device(args.device)
    precision = drawing_precision(device)
    setting = Setting(tuple(args.shape), args.width, 0, 1.0, device, precision)
    print(f"{' × '.join(map(str, setting.shape))}, width {setting.width:g}, {device}, {precision}")
    torch.manual_seed(0)
    steps = {"ours": our_training_step(setting), "maisi": maisi_training_step(setting)}
    times: dict[str, list[float]] = {side: [] for side in steps}
    for _ in range(args.repeats + 1):
        for side, step in steps.items():
            times[side].append(timed(step, setting.device))
    for side, values in times.items():
        print(f"{side:6} training step {median(values[1:]):.2f} s ({', '.join(f'{v:.2f}' for v in values[1:])})")
    ratios = [a / b for a, b in zip(times["ours"][1:], times["maisi"][1:], strict=True)]
    print(f"ratio per direction, median {median(ratios):.2f}")


def our_training_step(setting: Setting) -> Callable[[], None]:
    """One direction of TCDM's loss: noise, prediction, backward, AdamW."""
    with setting.device:
        tcdm = tcdm_of(setting, preset("maisi").tcdm)
    tcdm.denoiser.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in tcdm.parameters() if p.requires_grad], lr=1e-5)
    codes, image = condition_parts(setting)
    latents = torch.randn(1, 4, *setting.latent_shape, device=setting.device)
    timesteps = torch.tensor([500], device=setting.device)

    def step() -> None:
        optimizer.zero_grad()
        with setting.autocast():
            embedded = tcdm.embed_condition(build_condition(codes, codes, image))
            prediction = tcdm(latents, timesteps, embedded).float()
        (prediction - latents).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(tcdm.parameters(), 1.0)
        optimizer.step()

    return step


def maisi_training_step(setting: Setting) -> Callable[[], None]:
    """Its ControlNet step: eight condition channels, L1 with a region weight, the UNet frozen."""
    unet, controlnet = maisi_networks(setting, "ddpm")
    unet.requires_grad_(False)
    controlnet.train()
    optimizer = torch.optim.AdamW(controlnet.parameters(), lr=1e-5)
    condition = torch.randint(0, 2, (1, 8, *setting.shape), device=setting.device).float()
    latents = torch.randn(1, 4, *setting.latent_shape, device=setting.device)
    weights = torch.ones_like(latents)

    def step() -> None:
        optimizer.zero_grad()
        with setting.autocast():
            prediction = maisi_step("ddpm", unet, controlnet, latents, condition).float()
        ((prediction - latents).abs() * weights).mean().backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
