"""From a condition to an image with its confidence: reverse diffusion in windows, decoding, SSV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
from fcas_nnunet.generator.tcdm.schedulers import draw_noise, predicted_clean_latents, sampling_scheduler


@dataclass(frozen=True)
class Step:
    """One step of a reverse diffusion, done.

    Attributes:
        index: from 0.
        count: of all steps.
        clean: predicted clean latents x_0, scaled, [1, 4, d, h, w].
        noisy: the latents x_t it led to; after the last step the clean ones.
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
        image: [D, H, W] float32 in [0, 1].
        variance: [D, H, W] float32, unbiased, over the decoded intermediate images; None where none were looked at.
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
) -> Synthesis:
    """Draw one image under a condition, and watch it take shape.

    Args:
        tcdm: the trained model, in eval mode.
        autoencoder: the frozen autoencoder, in eval mode.
        scale: raw latents ↔ the latents TCDM was trained on.
        embedded_condition: what `TCDM.embed_condition` gave, [1, E, D/4, H/4, W/4]; the raw condition is 16 times as
            large and no longer needed.
        structures: bool [D, H, W], where the reference structures are.
        sampling: solver, steps, window.
        confidence: which snapshots, how many, and where; None = none.
        generator: the case's own, on the CPU, so that every device starts from the same noise.
    """

    def decode(latents: torch.Tensor) -> torch.Tensor:
        return autoencoder.decode(scale.to_raw(latents), SLAB_ELEMENTS)[0, 0].clamp(0, 1)

    if confidence is None:
        return Synthesis(decode(sample_latents(tcdm, embedded_condition, sampling, generator)), None)
    box = None if confidence.box_margin is None else structure_box(structures, confidence.box_margin)
    seen = SnapshotVariance(decode, box)
    latents = sample_latents(tcdm, embedded_condition, sampling, generator, snapshots(confidence, seen.update))
    image = decode(latents)
    seen.update_with_image(latents, image)
    return Synthesis(image, seen.variance(image.shape, structures))


def snapshots(config: ConfidenceConfig, take: Callable[[torch.Tensor], None]) -> Watch:
    """Watches a reverse diffusion and hands on what SSV compares, x_t or x_0 of some steps.

    Args:
        config: which steps, and which of the two.
        take: called with latents [1, 4, d, h, w]; not with the last step's, which are the result.
    """

    def watch(step: Step) -> None:
        if step.index in snapshot_steps(step.count, config.num_snapshots)[:-1]:
            take(step.clean if config.source == SnapshotSource.X_0 else step.noisy)

    return watch


def sample_latents(
    tcdm: TCDM,
    embedded_condition: torch.Tensor,
    sampling: SamplingConfig,
    generator: torch.Generator,
    watch: Watch | None = None,
) -> torch.Tensor:
    """The reverse diffusion (Eq. 2).

    Args:
        tcdm: the trained model.
        embedded_condition: what `TCDM.embed_condition` gave, [1, E, D/4, H/4, W/4]; the same at every step.
        sampling: solver, steps, window.
        generator: for the starting noise and the noise of `ddpm` steps; on the CPU.
        watch: called after every step.

    Returns:
        Clean scaled latents [1, 4, D/4, H/4, W/4].
    """
    device = embedded_condition.device
    shape = (1, 4, *embedded_condition.shape[2:])
    scheduler = sampling_scheduler(tcdm.config, sampling, shape[2:])
    latents = draw_noise(shape, generator, tcdm.config.multi_resolution_noise).to(device)
    for index, timestep in enumerate(scheduler.timesteps):
        output = _predict_in_windows(tcdm, latents, timestep.to(device), embedded_condition, sampling)
        clean = predicted_clean_latents(scheduler, output, latents, timestep)
        latents = scheduler.step(output, timestep, latents, generator=generator).prev_sample
        if watch is not None:
            watch(Step(index, len(scheduler.timesteps), clean, latents))
    return latents


def _predict_in_windows(
    tcdm: TCDM,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    embedded_condition: torch.Tensor,
    sampling: SamplingConfig,
) -> torch.Tensor:
    """The model's prediction, window by window and blended, for latents larger than one window; fp32."""
    window = [min(size, largest) for size, largest in zip(latents.shape[2:], sampling.window, strict=True)]
    if window == list(latents.shape[2:]):
        return tcdm(latents, timestep.expand(len(latents)), embedded_condition).float()
    output = sliding_window_inference(
        torch.cat([latents, embedded_condition.float()], dim=1), window, sw_batch_size=1,
        predictor=partial(_predict, tcdm, timestep), overlap=sampling.overlap, mode="gaussian",
    )  # fmt: skip
    assert isinstance(output, torch.Tensor), "one predictor, one output"
    return output


def _predict(tcdm: TCDM, timestep: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    latents, embedded_condition = inputs[:, :4], inputs[:, 4:]
    return tcdm(latents, timestep.expand(len(inputs)), embedded_condition).float()
