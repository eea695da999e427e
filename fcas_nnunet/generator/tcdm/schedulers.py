"""Forward process and solvers: diffusers' (MONAI's skip-sampling ones fail the Gaussian oracle), or a flow's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from fcas_nnunet.config.generator import SamplingConfig, TCDMConfig
from fcas_nnunet.config.options import PredictionType, Solver
from fcas_nnunet.generator.tcdm.flow import RectifiedFlow

#: A diffusion by diffusers, or a rectified flow.
Process: TypeAlias = DDPMScheduler | RectifiedFlow
Reverse: TypeAlias = DDPMScheduler | DPMSolverMultistepScheduler | RectifiedFlow


def forward_process(config: TCDMConfig) -> Process:
    """Forward process of training: a rectified flow, or a diffusion of scaled linear betas without clipping."""
    if config.prediction_type == PredictionType.FLOW:
        return RectifiedFlow(config.num_train_timesteps)
    return diffusion(config)


def diffusion(config: TCDMConfig) -> DDPMScheduler:
    """The forward process of a model that is not a flow."""
    return DDPMScheduler(**_schedule(config), clip_sample=False)


def sampling_scheduler(config: TCDMConfig, sampling: SamplingConfig, latent_size: Sequence[int]) -> Reverse:
    """The reverse process with its timesteps set, for whole latents of (d, h, w) voxels.

    DPM-Solver++ takes uniform steps in log-SNR (`use_lu_lambdas`): with its default spacing the sampled standard
    deviation is 10–30 % off at 10–30 steps.

    Raises:
        InputError: If the solver cannot run the model.
    """
    sampling = sampling.for_model(config.prediction_type)
    if sampling.solver == Solver.EULER:
        assert sampling.num_inference_steps is not None, "for_model fills it in"
        flow = RectifiedFlow(config.num_train_timesteps)
        flow.set_timesteps(sampling.num_inference_steps, latent_size)
        return flow
    if sampling.solver == Solver.DDPM:
        ddpm = diffusion(config)
        ddpm.set_timesteps(config.num_train_timesteps)
        return ddpm
    solver = DPMSolverMultistepScheduler(
        **_schedule(config), algorithm_type="dpmsolver++", solver_order=2, use_lu_lambdas=True
    )
    solver.set_timesteps(sampling.num_inference_steps)
    return solver


def remaining_timesteps(scheduler: Reverse, strength: float) -> torch.Tensor:
    """The last timesteps of a reverse process, in their share, at least one; it is made ready to begin there."""
    first = len(scheduler.timesteps) - max(1, round(strength * len(scheduler.timesteps)))
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        scheduler.set_begin_index(first)  # its last timesteps may be equal, their noise is not
    return scheduler.timesteps[first:]


def draw_timesteps(
    process: Process, count: int, latent_size: Sequence[int], generator: torch.Generator
) -> torch.Tensor:
    """Random timesteps of training, [count]; int64 for a diffusion, float32 for a flow of (d, h, w) latents."""
    if isinstance(process, RectifiedFlow):
        return process.draw_timesteps(count, latent_size, generator)
    return torch.randint(process.config.num_train_timesteps, (count,), generator=generator)


def draw_noise(shape: Sequence[int], generator: torch.Generator, multi_resolution: float) -> torch.Tensor:
    """Draw standard normal noise, or noise with more power at low frequencies.

    White noise hardly hides a region's mean, since it averages out: a briefly trained denoiser then reads the means
    from the noisy latents instead of the condition, and its errors add up over the reverse diffusion. Coarse noise
    makes it use the condition.

    Args:
        shape: Shape [B, C, d, h, w].
        generator: Random generator on the CPU.
        multi_resolution: Factor on the noise per halving of the resolution, 0 = white noise.

    Returns:
        Noise of standard deviation 1, on the CPU.

    Source: multi-resolution noise, as in Marigold, arXiv 2312.02145.
    """
    noise = torch.randn(tuple(shape), generator=generator)
    if multi_resolution == 0:
        return noise
    size, factor = list(shape[2:]), 1.0
    while min(size) > 1:
        size, factor = [max(1, n // 2) for n in size], factor * multi_resolution
        coarse = torch.randn((*shape[:2], *size), generator=generator)
        noise += factor * F.interpolate(coarse, tuple(shape[2:]), mode="trilinear")
    return noise / noise.std()


def training_target(
    process: Process, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The target of the denoiser: noise, v, the clean latents, or the flow's direction."""
    if isinstance(process, RectifiedFlow):
        return latents - noise
    if process.config.prediction_type == PredictionType.V_PREDICTION:
        return process.get_velocity(latents, noise, timesteps)
    return latents if process.config.prediction_type == PredictionType.SAMPLE else noise


def predicted_clean_latents(
    scheduler: Reverse, model_output: torch.Tensor, noisy_latents: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """Clean latents x_0 that a prediction at one timestep implies."""
    if isinstance(scheduler, RectifiedFlow):
        return scheduler.clean_latents(model_output, noisy_latents, timestep)
    if scheduler.config.prediction_type == PredictionType.SAMPLE:
        return model_output
    alpha_bar = scheduler.alphas_cumprod.to(noisy_latents.device)[timestep.to(noisy_latents.device)]
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if scheduler.config.prediction_type == PredictionType.V_PREDICTION:
        return alpha * noisy_latents - sigma * model_output
    return (noisy_latents - sigma * model_output) / alpha


def _schedule(config: TCDMConfig) -> dict[str, object]:
    return {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": "scaled_linear",
        "prediction_type": str(config.prediction_type),
    }
