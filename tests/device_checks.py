"""What must run on an accelerator and give there what the CPU gives: one list, for a GPU and for the pretend one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from device_trainers import random_volume, trainers
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config
from torch import nn

from fcas_nnunet.config.generator import (
    AutoencoderConfig,
    CalibrationConfig,
    ConfidenceConfig,
    FCaSConfig,
    SamplingConfig,
    TCDMConfig,
)
from fcas_nnunet.config.options import (
    Architecture,
    Conditioning,
    PredictionType,
    ReferenceSource,
    SnapshotSource,
    Solver,
    TemplateRegistration,
)
from fcas_nnunet.config.presets import CPU, GPU, PAPER, TINY
from fcas_nnunet.generator.autoencoder.crops import CropBatch
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.training import AutoencoderObjective
from fcas_nnunet.generator.calibrate import fit_error_model
from fcas_nnunet.generator.checkpoint import load_generator
from fcas_nnunet.generator.confidence.error_model import ErrorModel, measures_at
from fcas_nnunet.generator.data.grid import WorkingGrid
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.generate import CaseMaker, Drawer
from fcas_nnunet.generator.plan import plan_cases
from fcas_nnunet.generator.sources import registration
from fcas_nnunet.generator.tcdm.conditions import build_condition
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.pairs import PairEnd, RegisteredEnd
from fcas_nnunet.generator.tcdm.prior import LatentPrior
from fcas_nnunet.generator.tcdm.sampling import synthesise
from fcas_nnunet.generator.tcdm.schedulers import forward_process
from fcas_nnunet.generator.tcdm.training import Draws, PairBatch, TCDMObjective
from fcas_nnunet.generator.train import train_generator
from fcas_nnunet.integration.cal.losses import ConfidenceDiceBCELoss, ConfidenceDiceCELoss
from fcas_nnunet.orientation import Orientation

#: Named tensors and numbers, on any device; what two devices must agree on.
Found = dict[str, Any]
Check = Callable[[torch.device], Found]

SIZE, NUM_LABELS = 16, 8
_NARROW: dict[str, Any] = {
    "channels": (32, 32, 64), "attention_levels": (False, False, True), "num_head_channels": (0, 0, 32),
    "num_res_blocks": 1, "norm_num_groups": 16,
}  # fmt: skip
_RFLOW: dict[str, Any] = {"architecture": Architecture.MAISI_RFLOW, "prediction_type": PredictionType.FLOW}
TCDMS: dict[str, TCDMConfig] = {
    "tiny": TINY.tcdm,
    "cpu": CPU.tcdm,
    "gpu": replace(GPU.tcdm, channels=(32, 32, 64), condition_embedding_channels=(16,)),
    "registered": replace(TINY.tcdm, registration=TemplateRegistration.DEFORMABLE),
    "plain ControlNet": replace(TINY.tcdm, prior=False, conditioning=Conditioning.CONTROLNET),
    "MAISI ddpm": replace(PAPER.tcdm, **_NARROW),
    "MAISI ddpm frozen": replace(PAPER.tcdm, frozen_denoiser=True, **_NARROW),
    "MAISI rflow": replace(PAPER.tcdm, **_RFLOW, **_NARROW),
    "MAISI rflow frozen": replace(PAPER.tcdm, frozen_denoiser=True, **_RFLOW, **_NARROW),
    "MAISI ddpm checkpointed": replace(PAPER.tcdm, gradient_checkpointing=True, **_NARROW),
}
AUTOENCODERS: dict[str, AutoencoderConfig] = {
    "tiny": TINY.autoencoder,
    "cpu": CPU.autoencoder,
    "gpu": replace(GPU.autoencoder, channels=(8, 16), norm_num_groups=4),
    "paper": replace(PAPER.autoencoder, channels=(8, 16, 32), norm_num_groups=8),
}
_STEPS = SamplingConfig(num_inference_steps=3, window=(4, 4, 4))
_SSV = ConfidenceConfig(num_snapshots=3)
_FEW_STEPS = replace(TINY.tcdm, prior=False, num_train_timesteps=4)
DRAWINGS: dict[str, tuple[Any, ...]] = {
    "image alone": (TINY.tcdm, _STEPS, None),
    "SSV": (TINY.tcdm, _STEPS, _SSV),
    "SSV of x_t": (TINY.tcdm, _STEPS, replace(_SSV, source=SnapshotSource.X_T)),
    "SSV in a box": (TINY.tcdm, _STEPS, replace(_SSV, box_margin=2)),
    "windows": (TINY.tcdm, replace(_STEPS, window=(4, 8, 8)), _SSV, 2 * SIZE),
    "from a guess": (TINY.tcdm, replace(_STEPS, num_inference_steps=6, strength=0.5), _SSV),
    "DDPM": (_FEW_STEPS, replace(_STEPS, solver=Solver.DDPM), _SSV),
    "DPM-Solver++, noise": (TCDMS["MAISI ddpm"], _STEPS, _SSV),
    "Euler, flow": (TCDMS["MAISI rflow"], _STEPS, _SSV),
}


def _training_step(config: TCDMConfig) -> Check:
    def run(device: torch.device) -> Found:
        torch.manual_seed(0)
        objective = _unzeroed(TCDMObjective(config, LatentScale(), NUM_LABELS)).to(device)
        draws = Draws.of(config, forward_process(config), (SIZE // 4,) * 3, [3])
        end = _registered_end if config.registers else _pair_end
        return _step(objective, PairBatch(end(1), end(2), draws).to(device))

    return run


def _autoencoder_step(config: AutoencoderConfig) -> Check:
    def run(device: torch.device) -> Found:
        torch.manual_seed(0)
        objective = AutoencoderObjective(Autoencoder(config), [NUM_LABELS]).to(device)
        crops = CropBatch(random_volume(2, 1, SIZE).half(), _codes(2), random_volume(2, 4, SIZE // 4))
        return _step(objective, crops.to(device))

    return run


def _coding(config: AutoencoderConfig) -> Check:
    def run(device: torch.device) -> Found:
        torch.manual_seed(0)
        autoencoder = Autoencoder(config).eval().to(device)
        with torch.no_grad():
            mean, std = autoencoder.encode(random_volume(1, 1, SIZE).to(device), 2**11)
            return {"mean": mean, "std": std, "image": autoencoder.decode(mean, 2**11)}

    return run


def _drawing(
    tcdm: TCDMConfig, sampling: SamplingConfig, confidence: ConfidenceConfig | None, size: int = SIZE
) -> Check:
    def run(device: torch.device) -> Found:
        torch.manual_seed(0)
        model = _unzeroed(TCDM(tcdm)).eval().to(device)
        autoencoder = Autoencoder(TINY.autoencoder).eval().to(device)
        structures = np.zeros((size,) * 3, bool)
        structures[4:12, 4:12, 4:12] = True
        embedded = model.embed_condition(_condition(NUM_LABELS if tcdm.prior else 0, device, size))
        drawn = synthesise(
            model, autoencoder, LatentScale(), embedded, structures, sampling, confidence,
            torch.Generator().manual_seed(0), random_volume(1, 1, size, 3).to(device),
        )  # fmt: skip
        return {"image": drawn.image} | ({} if drawn.variance is None else {"variance": drawn.variance})

    return run


def _prior(device: torch.device) -> Found:
    prior = LatentPrior(TINY.tcdm).to(device)
    condition, latents = _condition(NUM_LABELS, device), random_volume(1, 4, SIZE // 4).to(device)
    prior.fit([(condition, latents)] * 8)  # enough rows to be fitted
    assert not torch.equal(prior.weight.cpu(), torch.zeros(prior.weight.shape))
    return {"weight": prior.weight, "variance": prior.variance, "prior": prior(condition)}


def _error_model(device: torch.device) -> Found:
    torch.manual_seed(0)
    model = ErrorModel(8)
    nn.init.normal_(model.last.weight)
    image, codes = 400 * random_volume(1, 1, SIZE)[0].to(device), _codes(1)[0, 0].to(device)
    voxels = torch.arange(0, codes.numel(), 7, device=device)
    measures = measures_at(image, codes, voxels, slab_voxels=2**11)
    fitted = fit_error_model(
        [{"measures": measures.cpu(), "codes": codes.flatten()[voxels].cpu(), "error": measures[:, 0].abs().cpu()}],
        CalibrationConfig(width=8, num_steps=3, batch_voxels=64), seed=0,
    )  # fmt: skip
    return {"measures": measures, "expected": model.to(device).expected_error(image, codes, 2**11),
            "fitted": fitted.to(device).expected_error(image, codes)}  # fmt: skip


def _losses(device: torch.device) -> Found:
    logits, confidence = random_volume(2, 2, 16).to(device).requires_grad_(), random_volume(2, 1, 16).to(device)
    labels = (3 * random_volume(2, 1, 16)).floor().to(device)
    by_label = ConfidenceDiceCELoss(ignore_label=2)(logits, labels, confidence)
    by_region = ConfidenceDiceBCELoss(has_ignore=True)(
        logits, (random_volume(2, 3, 16) > 0.5).float().to(device), confidence
    )
    (by_label + by_region).backward()
    return {"by label": by_label.detach(), "by region": by_region.detach(), "gradient": logits.grad}


def _registered_generator(device: torch.device) -> Found:
    """As `_generator`, of registered templates, from a guess; their registrations are cut short."""
    with mock.patch.multiple(registration, _AFFINE_STEPS=4, _FLOW_STEPS=2):
        return _generator(device, TemplateRegistration.DEFORMABLE, 0.5)


def _generator(
    device: torch.device, registered: TemplateRegistration = TemplateRegistration.NONE, strength: float = 1.0
) -> Found:
    """Trained, calibrated, written, read, and a case made, as the commands do it."""
    config = short_config(2)
    pairs = replace(config.tcdm.pairs, num_shapes=2, num_contrasts=1, num_partners=1)
    tcdm = replace(config.tcdm, pairs=pairs, registration=registered)
    sampling = replace(TINY.sampling, num_inference_steps=4, strength=strength)
    return _trained_and_drawn(replace(config, tcdm=tcdm, sampling=sampling), device)


def _gpu_generator(device: torch.device) -> Found:
    """As `_generator`, of the preset for GPUs: narrower, on a coarser grid, in two steps of its micro-batches."""

    def shortened(part: Any, **changes: Any) -> Any:
        schedule = replace(part.optimisation, num_steps=2, validate_every=2, warmup_steps=1)
        return replace(part, optimisation=schedule, **changes)

    pairs = replace(GPU.tcdm.pairs, num_shapes=2, num_contrasts=2)
    config = replace(
        GPU,
        grid=replace(GPU.grid, max_voxels=40**3, min_voxels=36**3, crop_size=(32, 32, 32)),
        autoencoder=shortened(AUTOENCODERS["gpu"], crop_size=(16, 16, 16)),
        tcdm=shortened(TCDMS["gpu"], pairs=pairs),
        sampling=replace(GPU.sampling, num_inference_steps=4),
    )
    return _trained_and_drawn(config, device)


def _trained_and_drawn(config: FCaSConfig, device: torch.device) -> Found:
    small = CalibrationConfig(num_drawings=4, num_voxels=2000, width=8, num_steps=10, batch_voxels=512)
    config = replace(config, confidence=_SSV, calibration=small)
    cases = [f"p{i}" for i in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        data = TrainingData(cases, load_small_case, LABELS, SURROUNDINGS)
        train_generator(data, config, Path(folder), accelerator(device))
        generator = load_generator(Path(folder), device)
    assert generator.calibrated is not None
    (plan,) = plan_cases(1, cases, cases, ReferenceSource.GIVEN, seed=0)
    case, record = CaseMaker.of_generator(Drawer(generator, device, torch.float32), load_small_case).make(plan)
    assert case.image is not None
    return {"confidence": record["mean_confidence_in_structures"], "mean": case.image.mean() / 100}


def _resampling(device: torch.device) -> Found:
    """A turned scan to a coarser grid and back, and a map of confidence: what a drawing does on its device."""
    turned = Orientation((2, 0, 1), (True, False, False))
    grid = WorkingGrid.of((40, 23, 31), (0.4, 0.5, 0.4), (0.7, 0.7, 0.7), 16, orientation=turned)
    scan = 1000 * random_volume(1, 1, 40)[0, :, :, :23, :31].numpy() - 500
    there = grid.image_to_working(scan, device)
    back, blended = grid.image_to_native(there), grid.confidence_to_native(there[0] / 1000)
    return {"there": there / 1000, "back": torch.from_numpy(back) / 1000, "map": torch.from_numpy(blended)}


def _step(objective: nn.Module, batch: Any) -> Found:
    """Loss, gradients and one step of the optimiser; every trainable parameter has its share in the loss."""
    trainable = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-3)
    loss = objective(batch)
    loss.backward()
    missed = [name for name, parameter in trainable.items() if parameter.grad is None]
    assert not missed, f"no gradient: {missed}"
    norm = torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
    optimizer.step()
    return {"loss": loss.detach(), "norm": norm.detach()}


def accelerator(device: torch.device) -> Any:
    """accelerate's where it knows the device; else one process, in full precision."""
    if device.type in ("cpu", "cuda"):
        from fcas_nnunet.commands.runtime.devices import make_accelerator

        return make_accelerator(device.type)
    return SimpleNamespace(
        device=device, process_index=0, num_processes=1, is_main_process=True, mixed_precision="no", scaler=None,
        gradient_accumulation_steps=1, wait_for_everyone=lambda: None, free_memory=lambda: None,
        autocast=nullcontext, no_sync=lambda _: nullcontext(), unwrap_model=lambda module: module,
        prepare=lambda module, optimizer: _prepared(module, device), reduce=lambda tensor, _: tensor,
        backward=lambda loss: loss.backward(), clip_grad_norm_=nn.utils.clip_grad_norm_,
    )  # fmt: skip


def _prepared(module: nn.Module, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    module.to(device)
    return module, torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)


def _unzeroed(module: Any) -> Any:
    """Give layers that begin at zero, and pass no gradient on, some weights."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return module


def _codes(batch: int, seed: int = 0, size: int = SIZE) -> torch.Tensor:
    """Blocks of labels and background, uint8."""
    coarse = (random_volume(batch, 1, size // 4, seed) * (NUM_LABELS + 1)).to(torch.uint8)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)


def _condition(guess_labels: int, device: torch.device, size: int = SIZE) -> torch.Tensor:
    parts: Sequence[torch.Tensor] = (_codes(1, 1, size), _codes(1, 2, size), random_volume(1, 1, size))
    return build_condition(*(part.to(device) for part in parts), guess_labels)


def _pair_end(seed: int) -> PairEnd:
    latents = random_volume(1, 4, SIZE // 4, seed)
    codes = _codes(1, seed)
    return PairEnd(latents.half(), (latents - 4).half(), codes, codes, random_volume(1, 1, SIZE, seed).half())


def _registered_end(seed: int) -> RegisteredEnd:
    plain, origin = _pair_end(seed), (2.99 * random_volume(1, 1, SIZE, seed + 9)).to(torch.uint8)
    guess = random_volume(1, 1, SIZE, seed + 5).half()
    return RegisteredEnd(plain.mean, plain.log_std, plain.reference, plain.template, plain.image, guess, origin)


@dataclass(frozen=True)
class Listed:
    """A check, and how far two devices may be apart.

    Attributes:
        run: does it.
        tolerance: relative and absolute.
    """

    run: Check
    tolerance: float = 1e-3


CHECKS: dict[str, Listed] = {
    **{f"training step: {name}": Listed(_training_step(config)) for name, config in TCDMS.items()},
    **{f"autoencoder step: {name}": Listed(_autoencoder_step(config)) for name, config in AUTOENCODERS.items()},
    **{f"encode and decode: {name}": Listed(_coding(config)) for name, config in AUTOENCODERS.items()},
    **{f"drawing: {name}": Listed(_drawing(*settings), 5e-3) for name, settings in DRAWINGS.items()},
    "prior": Listed(_prior),
    "error model": Listed(_error_model),
    "losses": Listed(_losses),
    "nnU-Net's trainers": Listed(trainers, 1e-2),
    "resampling": Listed(_resampling, 1e-5),
    "generator": Listed(_generator, 0.2),
    "generator of the gpu preset": Listed(_gpu_generator, 0.2),
    "generator of registered templates": Listed(_registered_generator, 0.2),
}


@lru_cache
def _on_cpu(name: str) -> Found:
    return CHECKS[name].run(torch.device("cpu"))


def fault(name: str, device: torch.device, precision: torch.dtype = torch.float32) -> str | None:
    """Where a check gives on a device what it does not give on the CPU; None where they agree.

    Args:
        name: of the check.
        device: where it runs.
        precision: of the autocast there; under a lower one than float32, a tenth of the root mean square.

    Raises:
        Exception: whatever the check raises on the device.
    """
    listed = CHECKS[name]
    expected = _on_cpu(name)
    lower = precision != torch.float32
    with (
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        torch.autocast(device.type, dtype=precision, enabled=lower),
    ):
        found = listed.run(device)
    for key, value in expected.items():
        there, here = (torch.as_tensor(x).detach().cpu().double() for x in (found[key], value))
        close = torch.allclose(there, here, rtol=listed.tolerance, atol=listed.tolerance)
        if not (close or lower and (there - here).norm() < 0.1 * here.norm()):
            return f"{key}: differs by {float((there - here).abs().max()):.3g} of {float(here.abs().max()):.3g}"
    return None
