"""Draw an image under a condition: reverse diffusion in windows, decoding, SSV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from monai.inferers import sliding_window_inference

from fcas_nnunet.config.generator import ConfidenceConfig, SamplingConfig
from fcas_nnunet.config.options import SnapshotSource
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.confidence.snapshots import SnapshotVariance, structure_box
from fcas_nnunet.generator.confidence.ssv import snapshot_steps
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.schedulers import (
    draw_noise,
    predicted_clean_latents,
    remaining_timesteps,
    sampling_scheduler,
)


@dataclass(frozen=True)
class Step:
    """A finished step of a reverse diffusion.

    Attributes:
        index: Number of the step, from 0.
        count: Number of all steps.
        clean: Predicted clean latents x_0, scaled, [1, 4, d, h, w].
        noisy: Latents x_t after the step; after the last one, the clean ones.
    """

    index: int
    count: int
    clean: torch.Tensor
    noisy: torch.Tensor


Watch = Callable[[Step], None]


@dataclass(frozen=True)
class Synthesis:
    """A synthetic image on the working grid.

    Attributes:
        image: Image in [0, 1], float32 [D, H, W].
        variance: Unbiased variance over the decoded intermediate images, float32 [D, H, W]; None where none were
            decoded.
    """

    image: torch.Tensor
    variance: torch.Tensor | None


@torch.inference_mode()
def synthesise(
    tcdm: TCDM,
    autoencoder: Autoencoder,
    scale: LatentScale,
    embedded_condition: torch.Tensor,
    structures: np.ndarray,
    sampling: SamplingConfig,
    confidence: ConfidenceConfig | None,
    generator: torch.Generator,
    guess: torch.Tensor | None = None,
) -> Synthesis:
    """Draw one image under a condition, and the variance of its intermediate images.

    Args:
        tcdm: Trained model, in eval mode.
        autoencoder: Frozen autoencoder, in eval mode.
        scale: Scale between raw latents and those that TCDM was trained on.
        embedded_condition: Result of `TCDM.embed_condition`, [1, E, D/4, H/4, W/4].
        structures: Where the reference structures are, bool [D, H, W].
        sampling: Solver, steps, window.
        confidence: Source, number and box of the intermediate images; None = none are decoded.
        generator: Random generator of the case, on the CPU, so that every device starts from the same noise.
        guess: First guess at the image, [1, C, D, H, W] in [0, 1]; needed for a strength below 1.
    """

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return autoencoder.decode(scale.to_raw(latents), SLAB_ELEMENTS)[0].clamp(0, 1)

    start = guessed_latents(autoencoder, scale, sampling, guess)
    if confidence is None:
        return Synthesis(decode(sample_latents(tcdm, embedded_condition, sampling, generator, start=start)), None)
    box = None if confidence.box_margin is None else structure_box(structures, confidence.box_margin)
    seen = SnapshotVariance(decode, box)
    latents = sample_latents(tcdm, embedded_condition, sampling, generator, snapshots(confidence, seen.update), start)
    image = decode(latents)
    seen.update_with_image(latents, image)
    return Synthesis(image, seen.variance(image.shape[1:], structures))


def snapshots(config: ConfidenceConfig, take: Callable[[torch.Tensor], None]) -> Watch:
    """Pass the latents that SSV compares to `take`: x_t or x_0 of some steps, but not of the last, the result."""

    def watch(step: Step) -> None:
        if step.index in snapshot_steps(step.count, config.num_snapshots)[:-1]:
            take(step.clean if config.source == SnapshotSource.X_0 else step.noisy)

    return watch


def guessed_latents(
    autoencoder: Autoencoder, scale: LatentScale, sampling: SamplingConfig, guess: torch.Tensor | None
) -> torch.Tensor | None:
    """Scaled latents of a first guess [1, C, D, H, W], for `sample_latents`; None where it begins from noise."""
    if sampling.strength == 1:
        return None
    assert guess is not None, "settings of a strength without a prior are refused"
    return scale.to_scaled(autoencoder.encode(guess, SLAB_ELEMENTS)[0])


def sample_latents(
    tcdm: TCDM,
    embedded_condition: torch.Tensor,
    sampling: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None = None,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the reverse diffusion (Eq. 2).

    Args:
        tcdm: Trained model.
        embedded_condition: Result of `TCDM.embed_condition`, [1, E, D/4, H/4, W/4]; the same at every step.
        sampling: Solver, steps, window.
        generator: Random generator of the starting noise and of `ddpm` steps, on the CPU.
        watch: Function to call after every step.
        start: Result of `guessed_latents`.

    Returns:
        Clean scaled latents [1, 4 · C, D/4, H/4, W/4].
    """
    device = embedded_condition.device
    shape = (1, tcdm.config.latent_channels, *embedded_condition.shape[2:])
    scheduler = sampling_scheduler(tcdm.config, sampling, shape[2:])
    latents = draw_noise(shape, generator, tcdm.config.multi_resolution_noise)
    timesteps = remaining_timesteps(scheduler, sampling.strength)
    if sampling.strength < 1:
        assert start is not None, "a strength below 1 needs a guess"
        latents = scheduler.add_noise(start.cpu(), latents, timesteps[:1])
    latents = latents.to(device)
    for index, timestep in enumerate(timesteps):
        output = _predict_in_windows(tcdm, latents, timestep.to(device), embedded_condition, sampling)
        clean = predicted_clean_latents(scheduler, output, latents, timestep)
        latents = scheduler.step(output, timestep, latents, generator=generator).prev_sample
        if watch is not None:
            watch(Step(index, len(timesteps), clean, latents))
    return latents


def _predict_in_windows(
    tcdm: TCDM,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    embedded_condition: torch.Tensor,
    sampling: SamplingConfig,
) -> torch.Tensor:
    """Predict in fp32; for latents larger than one window, window by window and blended."""

    def predict(latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return tcdm(latents, timestep.expand(len(latents)), condition).float()

    window = [min(size, largest) for size, largest in zip(latents.shape[2:], sampling.window, strict=True)]
    if window == list(latents.shape[2:]):
        return predict(latents, embedded_condition)
    count = latents.shape[1]
    output = sliding_window_inference(
        torch.cat([latents, embedded_condition.float()], dim=1), window, sw_batch_size=1, overlap=sampling.overlap,
        predictor=lambda inputs: predict(inputs[:, :count], inputs[:, count:]), mode="gaussian",
    )  # fmt: skip
    assert isinstance(output, torch.Tensor), "one predictor, one output"
    return output
