"""Steps of training and of drawing on random tensors, for what measures or counts them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from fcas_nnunet.generator.autoencoder.crops import CropBatch
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.slabs import SLAB_ELEMENTS
from fcas_nnunet.generator.autoencoder.training import AutoencoderObjective
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.pairs import PairEnd
from fcas_nnunet.generator.tcdm.schedulers import forward_process
from fcas_nnunet.generator.tcdm.training import Draws, PairBatch, TCDMObjective

#: Makes a step on a device; each call of the result computes it.
Prepare = Callable[[torch.device], Callable[[], object]]


def training_step(config: Any, crop: Sequence[int], pairs: int = 1, compiled: bool = False) -> Prepare:
    """Both directions of random pairs, and AdamW."""

    def prepare(device: torch.device) -> Callable[[], object]:
        objective = TCDMObjective(config, LatentScale(), 8).to(device)
        for network in objective.networks() if compiled else ():
            network.compile()
        latents = torch.randn(pairs, 4, *(edge // 4 for edge in crop)).half()
        codes = torch.randint(0, 9, (pairs, 1, *crop), dtype=torch.uint8)
        end = PairEnd(latents, latents - 4, codes, codes, torch.rand(pairs, 1, *crop).half())
        draws = Draws.of(config, forward_process(config), latents.shape[2:], range(pairs))
        batch = PairBatch(end, end, draws).to(device)
        return optimised(objective, batch)

    return prepare


def autoencoder_step(config: Any, crops: int = 4) -> Prepare:
    """Random crops, and AdamW."""

    def prepare(device: torch.device) -> Callable[[], object]:
        crop = config.crop_size
        noise = torch.randn(crops, 4, *(edge // 4 for edge in crop))
        labels = torch.randint(0, 9, (crops, 1, *crop), dtype=torch.uint8)
        batch = CropBatch(torch.rand(crops, 1, *crop).half(), labels, noise).to(device)
        return optimised(AutoencoderObjective(Autoencoder(config), [8]).to(device), batch)

    return prepare


def optimised(objective: torch.nn.Module, batch: object) -> Callable[[], object]:
    """A step of AdamW."""
    optimizer = torch.optim.AdamW(objective.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss = objective(batch)
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        optimizer.step()

    return step


def coding(config: Any, volume: Sequence[int], way: str) -> Prepare:
    """A random volume's encoding or decoding, in slabs as `fcas_generate` does it."""

    def prepare(device: torch.device) -> Callable[[], object]:
        autoencoder = Autoencoder(config).eval().requires_grad_(False).to(device)
        shape = (1, 1, *volume) if way == "encode" else (1, 4, *(edge // 4 for edge in volume))
        values = torch.rand(shape, device=device)
        return lambda: getattr(autoencoder, way)(values, SLAB_ELEMENTS)

    return prepare


def drawing_step(config: Any, volume: Sequence[int]) -> Prepare:
    """One prediction of the denoiser for a whole volume."""

    def prepare(device: torch.device) -> Callable[[], object]:
        tcdm = TCDM(config).eval().requires_grad_(False).to(device)
        embedded = tcdm.embed_condition(torch.rand(1, config.condition_channels, *volume, device=device))
        latents, timesteps = torch.randn(1, 4, *embedded.shape[2:], device=device), torch.zeros(1, device=device).long()
        return lambda: tcdm(latents, timesteps, embedded)

    return prepare
