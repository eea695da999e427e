"""Rectified flow in MAISI's convention, and an Euler solver whose steps add up to one.

MONAI's `RFlowScheduler` keeps its timesteps in fp16 and truncates the next one, so that its steps add up to 1.0088 at
30 of them. Its `scale: 1.4` in MAISI's configuration belongs to another way of drawing timesteps, and does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput

#: Latents of this many voxels are noised evenly over time; larger ones spend more of it under strong noise.
BASE_VOXELS = 32**3


class RectifiedFlow:
    """x_t = (1 − t) · x_0 + t · noise, t in [0, 1]; the model sees `num_train_timesteps` · t and predicts x_0 − noise.

    Source: rectified flow, arXiv 2209.03003; MAISI-v2, arXiv 2508.05772.
    """

    timesteps: torch.Tensor

    def __init__(self, num_train_timesteps: int = 1000) -> None:
        self.num_train_timesteps = num_train_timesteps
        self._times: torch.Tensor | None = None

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Noisy latents x_t of clean latents [B, ...] at timesteps [B], 0 … num_train_timesteps."""
        t = (timesteps.float() / self.num_train_timesteps).view(-1, *[1] * (latents.ndim - 1))
        return (1 - t) * latents + t * noise

    def draw_timesteps(self, count: int, latent_size: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        """Random timesteps for training, float32 [count]: uniform, then moved towards noise by the latents' size."""
        times = torch.rand(count, generator=generator, dtype=torch.float64)
        return (shifted(times, latent_size) * self.num_train_timesteps).float()

    def set_timesteps(self, num_inference_steps: int, latent_size: Sequence[int]) -> None:
        """Set the times of a reverse process in Euler steps, for whole latents of (d, h, w) voxels."""
        even = torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)
        self._times = shifted(even, latent_size)
        self.timesteps = (self._times[:-1] * self.num_train_timesteps).float()

    def clean_latents(
        self, model_output: torch.Tensor, noisy_latents: torch.Tensor, timestep: torch.Tensor
    ) -> torch.Tensor:
        """Clean latents x_0 that a prediction implies: x_t + t · (x_0 − noise)."""
        return noisy_latents + float(timestep) / self.num_train_timesteps * model_output

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
    ) -> SchedulerOutput:
        """One Euler step towards the clean latents; deterministic, the generator is not used."""
        assert self._times is not None, "set_timesteps comes first"
        place = int((self.timesteps - timestep.cpu()).abs().argmin())
        dt = float(self._times[place] - self._times[place + 1])
        return SchedulerOutput(prev_sample=sample + dt * model_output)


def shifted(times: torch.Tensor, latent_size: Sequence[int]) -> torch.Tensor:
    """Move times in [0, 1] towards noise, the more the larger the latents are; 0 and 1 stay.

    Large latents need more noise to be hidden: neighbouring voxels average it out.

    Source: MONAI's `timestep_transform`, r · t / (1 + (r − 1) · t) with r = (voxels / 32³)^(1/3).
    """
    ratio = (math.prod(latent_size) / BASE_VOXELS) ** (1 / 3)
    return ratio * times / (1 + (ratio - 1) * times)
