"""Forward process and solvers, from diffusers: MONAI's own skip-sampling schedulers fail the Gaussian oracle."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

from fcas_nnunet.config import PredictionType, SamplingConfig, Solver, TCDMConfig


def forward_process(config: TCDMConfig) -> DDPMScheduler:
    """The training noise schedule: scaled linear betas, no clipping."""
    return DDPMScheduler(**_schedule(config), clip_sample=False)


def sampling_scheduler(config: TCDMConfig, sampling: SamplingConfig) -> DDPMScheduler | DPMSolverMultistepScheduler:
    """The reverse process, its timesteps set.

    DPM-Solver++ takes uniform steps in log-SNR (`use_lu_lambdas`): with its default spacing the sampled standard
    deviation is 10–30 % off at 10–30 steps.
    """
    if sampling.solver == Solver.DDPM:
        ddpm = forward_process(config)
        ddpm.set_timesteps(config.num_train_timesteps)
        return ddpm
    solver = DPMSolverMultistepScheduler(
        **_schedule(config), algorithm_type="dpmsolver++", solver_order=2, use_lu_lambdas=True
    )
    solver.set_timesteps(sampling.num_inference_steps)
    return solver


def training_target(
    scheduler: DDPMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """What the denoiser shall predict for these noisy latents: noise, v, or the clean latents (`sample`)."""
    if scheduler.config.prediction_type == PredictionType.V_PREDICTION:
        return scheduler.get_velocity(latents, noise, timesteps)
    return latents if scheduler.config.prediction_type == PredictionType.SAMPLE else noise


def predicted_clean_latents(
    scheduler: DDPMScheduler | DPMSolverMultistepScheduler,
    model_output: torch.Tensor,
    noisy_latents: torch.Tensor,
    timestep: torch.Tensor,
) -> torch.Tensor:
    """x_0 that a prediction at one timestep implies."""
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
