"""The presets.

`tiny` is for tests, `cpu` for two cores and some minutes, `gpu` for one GPU and some hours, `maisi` for networks of
MAISI's size and its weights, `paper` for the paper's experiment to the letter.
"""

from __future__ import annotations

from dataclasses import replace

from fcas_nnunet.config.generator import (
    AutoencoderConfig,
    CalibrationConfig,
    ConfidenceConfig,
    FCaSConfig,
    GridConfig,
    OptimisationConfig,
    PairConfig,
    SamplingConfig,
    TCDMConfig,
)
from fcas_nnunet.config.options import (
    Architecture,
    Conditioning,
    ConfidenceChoice,
    ItemsPerEpoch,
    PredictionType,
    Solver,
)
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

#: A working grid of 256³ voxels is about 0.63 × 0.63 × 0.79 mm for a CTA of 512 × 512 × 250 voxels of 0.4 × 0.4 × 0.5
#: mm. Memory and operations are counted (docs/benchmarks.md); `compile` stays off until it is measured on a GPU.
GPU = FCaSConfig(
    preset="gpu",
    grid=GridConfig(max_voxels=256**3, min_voxels=128 * 160 * 160, crop_size=(128, 160, 160)),
    autoencoder=AutoencoderConfig(
        channels=(64, 128),
        num_res_blocks=2,
        norm_num_groups=16,
        patch_size=2,
        linear_skip=True,
        crop_size=(64, 64, 64),
        optimisation=OptimisationConfig(
            num_steps=8000,
            batch_size=8,
            learning_rate=1e-3,
            warmup_steps=200,
            ema_decay=0.999,
            validate_every=500,
            sample_every=2000,
        ),
    ),
    tcdm=replace(
        CPU.tcdm,
        channels=(64, 128, 256),
        num_res_blocks=2,
        condition_embedding_channels=(64,),
        optimisation=OptimisationConfig(
            num_steps=8000,
            batch_size=4,
            micro_batch_size=2,
            learning_rate=3e-4,
            adam_beta2=0.99,
            warmup_steps=200,
            ema_decay=0.999,
            validate_every=500,
            sample_every=2000,
        ),
    ),
    sampling=SamplingConfig(num_inference_steps=16, window=(48, 96, 96)),
    calibration=CalibrationConfig(num_drawings=16, num_voxels=100_000, num_steps=2000),
)

MAISI = FCaSConfig(
    preset="maisi",
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
    # one window at 512 × 512 × 256
    sampling=SamplingConfig(window=(64, 128, 128), overlap=0.25),
    calibration=CalibrationConfig(num_drawings=24, num_voxels=200_000, num_steps=4000),
)

#: Where the paper is silent, as `maisi`: gradients are clipped, the learning rate decays from its first value, windows
#: overlap by a quarter. Pairs are of two patients, undeformed and in their own contrasts.
PAPER = replace(
    MAISI,
    preset="paper",
    tcdm=replace(
        MAISI.tcdm,
        pairs=PairConfig(self_pair_probability=0.0, num_shapes=1, num_contrasts=1, items_per_epoch=ItemsPerEpoch.CASES),
        optimisation=replace(MAISI.tcdm.optimisation, warmup_steps=0, ema_decay=0.0),
    ),
    # its latent window of 64 × 64 × 128 (W, H, D), which smaller latents clamp
    sampling=SamplingConfig(solver=Solver.DDPM, window=(128, 64, 64), overlap=0.25),
    confidence=ConfidenceConfig().chosen(ConfidenceChoice.PAPER),
    calibration=None,
)

PRESETS: dict[str, FCaSConfig] = {config.preset: config for config in (TINY, CPU, GPU, MAISI, PAPER)}


def preset(name: str) -> FCaSConfig:
    """Return a preset by name; raise an `InputError` for an unknown one."""
    if name not in PRESETS:
        raise InputError(f"preset: must be one of {', '.join(PRESETS)}, got {name}.")
    return PRESETS[name]
