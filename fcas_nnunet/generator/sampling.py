"""From a condition to an image with its confidence: reverse diffusion in windows, decoding, SSV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from monai.inferers import sliding_window_inference

from fcas_nnunet.config import ConfidenceConfig, SamplingConfig, SnapshotSource
from fcas_nnunet.generator.autoencoder import Autoencoder
from fcas_nnunet.generator.confidence import Welford, snapshot_steps
from fcas_nnunet.generator.latents import LatentScale
from fcas_nnunet.generator.schedulers import draw_noise, predicted_clean_latents, sampling_scheduler
from fcas_nnunet.generator.tcdm import TCDM

Snapshot = Callable[[torch.Tensor], None]


@dataclass(frozen=True)
class Synthesis:
    """A synthetic image on the working grid.

    Attributes:
        image: [D, H, W] float32 in [0, 1].
        variance: [D, H, W] float32, unbiased, over the decoded intermediate images.
    """

    image: torch.Tensor
    variance: torch.Tensor


@torch.inference_mode()
def synthesise(
    tcdm: TCDM,
    autoencoder: Autoencoder,
    scale: LatentScale,
    condition: torch.Tensor,
    sampling: SamplingConfig,
    confidence: ConfidenceConfig,
    generator: torch.Generator,
) -> Synthesis:
    """Draw one image under a condition, and watch it take shape.

    Args:
        tcdm: the trained model, in eval mode.
        autoencoder: the frozen autoencoder, in eval mode.
        scale: raw latents ↔ the latents TCDM was trained on.
        condition: [1, C, D, H, W], sizes divisible by 16.
        sampling: solver, steps, window.
        confidence: which snapshots, how many.
        generator: the case's own, on the CPU, so that every device starts from the same noise.
    """
    welford = Welford()

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return autoencoder.decode(scale.to_raw(latents))[0, 0].clamp(0, 1)

    latents = sample_latents(
        tcdm, condition, sampling, generator,
        on_snapshot=lambda snapshot: welford.update(decode(snapshot)),
        snapshots=confidence,
    )  # fmt: skip
    return Synthesis(decode(latents), welford.variance)


def sample_latents(
    tcdm: TCDM,
    condition: torch.Tensor,
    sampling: SamplingConfig,
    generator: torch.Generator,
    on_snapshot: Snapshot | None = None,
    snapshots: ConfidenceConfig | None = None,
) -> torch.Tensor:
    """The reverse diffusion (Eq. 2).

    Args:
        tcdm: the trained model.
        condition: [1, C, D, H, W].
        sampling: solver, steps, window.
        generator: for the starting noise and the noise of `ddpm` steps; on the CPU.
        on_snapshot: called with the intermediate latents [1, 4, D/4, H/4, W/4] at the steps SSV compares.
        snapshots: which steps, and whether x_t or x_0 is handed on; needed with `on_snapshot`.

    Returns:
        Clean scaled latents [1, 4, D/4, H/4, W/4].
    """
    device = condition.device
    scheduler = sampling_scheduler(tcdm.config, sampling)
    embedded = tcdm.embed_condition(condition)
    shape = (1, 4, *embedded.shape[2:])
    latents = draw_noise(shape, generator, tcdm.config.multi_resolution_noise).to(device)
    watched = set(snapshot_steps(len(scheduler.timesteps), snapshots.num_snapshots)) if snapshots else set()
    for step, timestep in enumerate(scheduler.timesteps):
        output = _predict_in_windows(tcdm, latents, timestep.to(device), embedded, sampling)
        clean = predicted_clean_latents(scheduler, output, latents, timestep)
        latents = scheduler.step(output, timestep, latents, generator=generator).prev_sample
        if on_snapshot is not None and snapshots is not None and step in watched:
            on_snapshot(clean if snapshots.source == SnapshotSource.X_0 else latents)
    return latents


def _predict_in_windows(
    tcdm: TCDM,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    embedded_condition: torch.Tensor,
    sampling: SamplingConfig,
) -> torch.Tensor:
    """The model's prediction, window by window and blended, for latents larger than one window; fp32."""
    predict = partial(_predict, tcdm, timestep)
    inputs = torch.cat([latents, embedded_condition.float()], dim=1)
    if all(size <= window for size, window in zip(latents.shape[2:], sampling.window, strict=True)):
        return predict(inputs)
    roi = [min(size, window) for size, window in zip(latents.shape[2:], sampling.window, strict=True)]
    output = sliding_window_inference(
        inputs, roi, sw_batch_size=1, predictor=predict, overlap=sampling.overlap, mode="gaussian"
    )
    assert isinstance(output, torch.Tensor), "one predictor, one output"
    return output


def _predict(tcdm: TCDM, timestep: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    latents, embedded_condition = inputs[:, :4], inputs[:, 4:]
    return tcdm(latents, timestep.expand(len(inputs)), embedded_condition).float()
