"""The presets: `tiny` for tests, `cpu` for two cores and some minutes, `paper` for the paper's sizes."""

from __future__ import annotations

from dataclasses import replace

from fcas_nnunet.config.generator import (
    AutoencoderConfig,
    CalibrationConfig,
    FCaSConfig,
    GridConfig,
    OptimisationConfig,
    PairConfig,
    SamplingConfig,
    TCDMConfig,
)
from fcas_nnunet.config.options import Architecture, Conditioning, ItemsPerEpoch, PredictionType
from fcas_nnunet.faults import InputError

TINY = FCaSConfig(
    preset="tiny",
    grid=GridConfig(max_voxels=48**3, crop_size=(32, 32, 32)),
    autoencoder=AutoencoderConfig(
        channels=(8, 16, 32),
        norm_num_groups=4,
        linear_skip=True,
        optimisation=OptimisationConfig(
            num_steps=60, batch_size=2, learning_rate=2e-3, warmup_steps=5, validate_every=20
        ),
    ),
    tcdm=TCDMConfig(
        channels=(32, 32, 64),
        attention_levels=(False, False, True),
        num_head_channels=(0, 0, 32),
        prior=True,
        prediction_type=PredictionType.SAMPLE,
        multi_resolution_noise=0.6,
        pairs=PairConfig(num_shapes=3, num_contrasts=2),
        optimisation=OptimisationConfig(
            num_steps=60,
            batch_size=2,
            learning_rate=1e-3,
            adam_beta2=0.95,
            warmup_steps=5,
            ema_decay=0.95,
            validate_every=20,
        ),
    ),
    sampling=SamplingConfig(num_inference_steps=10, window=(16, 16, 16)),
    calibration=CalibrationConfig(num_drawings=4, num_voxels=10_000, width=16, num_steps=100, batch_voxels=2048),
)

CPU = FCaSConfig(
    preset="cpu",
    grid=GridConfig(max_voxels=128**3, min_voxels=88**3, crop_size=(64, 64, 64)),
    autoencoder=AutoencoderConfig(
        channels=(64,),
        num_res_blocks=2,
        norm_num_groups=8,
        patch_size=4,
        linear_skip=True,
        crop_size=(32, 32, 32),
        optimisation=OptimisationConfig(
            num_steps=800, batch_size=2, learning_rate=3e-3, ema_decay=0.99, validate_every=100
        ),
    ),
    tcdm=replace(
        TINY.tcdm,
        channels=(32, 64, 128),
        condition_embedding_channels=(48,),
        pairs=PairConfig(num_shapes=3, num_contrasts=3),
        optimisation=OptimisationConfig(
            num_steps=300,
            batch_size=1,
            learning_rate=1e-3,
            adam_beta2=0.95,
            ema_decay=0.99,
            validate_every=55,
            patience=4,
        ),
    ),
    sampling=SamplingConfig(num_inference_steps=12),
    calibration=CalibrationConfig(num_drawings=12, num_steps=1000),
)

PAPER = FCaSConfig(
    preset="paper",
    grid=GridConfig(max_voxels=512 * 512 * 256, crop_size=(128, 512, 512)),
    autoencoder=AutoencoderConfig(
        channels=(64, 128, 256),
        num_res_blocks=2,
        norm_num_groups=32,
        crop_size=(64, 64, 64),
        optimisation=OptimisationConfig(
            num_steps=50_000, batch_size=4, learning_rate=1e-4, warmup_steps=500, validate_every=1000, sample_every=5000
        ),
    ),
    tcdm=TCDMConfig(
        channels=(64, 128, 256, 512),
        attention_levels=(False, False, True, True),
        num_head_channels=(0, 0, 32, 32),
        num_res_blocks=2,
        norm_num_groups=32,
        architecture=Architecture.MAISI_DDPM,
        conditioning=Conditioning.CONTROLNET,
        condition_embedding_channels=(8, 32, 64),
        prediction_type=PredictionType.EPSILON,
        # the paper's are pairs of different patients; how many should be of one is not measured at this size
        pairs=PairConfig(self_pair_probability=0.5, num_shapes=2, num_contrasts=2, items_per_epoch=ItemsPerEpoch.CASES),
        optimisation=OptimisationConfig(
            num_steps=0,
            num_epochs=200,
            batch_size=4,
            micro_batch_size=1,
            learning_rate=1e-5,
            warmup_steps=500,
            ema_decay=0.999,
            validate_every=500,
            sample_every=2500,
        ),
    ),
    # one window at the paper's output of 512 × 512 × 256; its own latent window of 64 × 64 × 128, (W, H, D) there, is
    # `window=(128, 64, 64)` here, which smaller latents clamp
    sampling=SamplingConfig(window=(64, 128, 128), overlap=0.25),
    calibration=CalibrationConfig(num_drawings=24, num_voxels=200_000, num_steps=4000),
)

PRESETS: dict[str, FCaSConfig] = {config.preset: config for config in (TINY, CPU, PAPER)}


def preset(name: str) -> FCaSConfig:
    """Return a preset by name; raise an `InputError` for an unknown one."""
    if name not in PRESETS:
        raise InputError(f"preset: must be one of {', '.join(PRESETS)}, got {name}.")
    return PRESETS[name]
