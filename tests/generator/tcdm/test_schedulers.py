"""Solvers against the Gaussian oracle, whose reverse process is known in closed form."""

from dataclasses import replace

import pytest
import torch

from fcas_nnunet.config.generator import SamplingConfig
from fcas_nnunet.config.options import PredictionType, Solver
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.tcdm.schedulers import (
    draw_noise,
    draw_timesteps,
    forward_process,
    predicted_clean_latents,
    sampling_scheduler,
    training_target,
)

STD = 0.5
DIFFUSIONS = [kind for kind in PredictionType if kind != PredictionType.FLOW]
LATENT_SIZE = (32, 32, 32)


def oracle(scheduler, noisy, timestep, prediction_type):
    """What a perfect denoiser predicts when the data are N(0, STD²)."""
    alpha_bar = scheduler.alphas_cumprod[timestep]
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    clean = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * noisy
    noise = (noisy - alpha * clean) / sigma
    velocity = alpha * noise - sigma * clean
    return {PredictionType.EPSILON: noise, PredictionType.V_PREDICTION: velocity, PredictionType.SAMPLE: clean}[
        prediction_type
    ]


@pytest.mark.parametrize("prediction_type", DIFFUSIONS)
@pytest.mark.parametrize(
    ("solver", "steps", "tolerance"),
    [(Solver.DPMSOLVER, 25, 0.01), (Solver.DPMSOLVER, 10, 0.02), (Solver.DDPM, 1000, 0.015)],
)
def test_sampled_standard_deviation_is_that_of_the_data(prediction_type, solver, steps, tolerance):
    config = replace(TINY.tcdm, prior=False, prediction_type=prediction_type)
    scheduler = sampling_scheduler(config, SamplingConfig(solver=solver, num_inference_steps=steps), LATENT_SIZE)
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(20_000, 1, generator=generator)
    for timestep in scheduler.timesteps:
        output = oracle(scheduler, sample, timestep, prediction_type)
        sample = scheduler.step(output, timestep, sample, generator=generator).prev_sample
    assert sample.std().item() == pytest.approx(STD, abs=tolerance)
    assert sample.mean().item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("prediction_type", list(PredictionType))
def test_clean_latents_are_recovered_from_a_perfect_prediction(prediction_type):
    config = replace(TINY.tcdm, prior=False, prediction_type=prediction_type)
    process = forward_process(config)
    generator = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(2, 3, 4, 5, 5, 5, generator=generator)
    timestep = torch.tensor(400)
    noisy = process.add_noise(clean, noise, timestep.expand(3))
    target = training_target(process, clean, noise, timestep.expand(3))
    torch.testing.assert_close(predicted_clean_latents(process, target, noisy, timestep), clean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction_type", list(PredictionType))
def test_timesteps_of_training_cover_the_whole_process(prediction_type):
    process = forward_process(replace(TINY.tcdm, prior=False, prediction_type=prediction_type))
    drawn = draw_timesteps(process, 4000, LATENT_SIZE, torch.Generator().manual_seed(0)).float()
    assert drawn.mean().item() == pytest.approx(500, abs=15)
    assert 0 <= drawn.min() < 5 and 995 < drawn.max() <= 1000


def test_solver_follows_the_model_unless_it_is_named():
    default, ten = SamplingConfig(), SamplingConfig(num_inference_steps=10)
    for kind in DIFFUSIONS:
        assert (default.for_model(kind).solver, default.for_model(kind).num_inference_steps) == (Solver.DPMSOLVER, 25)
    flow = default.for_model(PredictionType.FLOW)
    assert (flow.solver, flow.num_inference_steps) == (Solver.EULER, 30)
    assert flow.for_model(PredictionType.FLOW) == flow
    assert ten.for_model(PredictionType.FLOW).num_inference_steps == 10


@pytest.mark.parametrize(
    ("solver", "prediction_type", "message"),
    [
        (Solver.DPMSOLVER, PredictionType.FLOW, r"solver: must be euler for .* predicts flow, got dpmsolver\+\+"),
        (Solver.DDPM, PredictionType.FLOW, "solver: must be euler for .* predicts flow, got ddpm"),
        (Solver.EULER, PredictionType.EPSILON, r"must be ddpm or dpmsolver\+\+ for .* predicts epsilon, got euler"),
    ],
)
def test_a_solver_of_the_other_kind_is_refused(solver, prediction_type, message):
    config = replace(TINY.tcdm, prior=False, prediction_type=prediction_type)
    with pytest.raises(ValueError, match=message):
        sampling_scheduler(config, SamplingConfig(solver=solver), LATENT_SIZE)


def test_forward_process_is_maisis():
    scheduler = forward_process(TINY.tcdm)
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod, torch.cumprod(1 - betas, 0))


def test_noise_is_white_unless_coarse_noise_is_asked_for():
    shape = (1, 4, 24, 20, 16)
    white = draw_noise(shape, torch.Generator().manual_seed(3), 0.0)
    torch.testing.assert_close(white, torch.randn(shape, generator=torch.Generator().manual_seed(3)), atol=0, rtol=0)
    coarse = draw_noise(shape, torch.Generator().manual_seed(3), 0.6)
    assert coarse.std().item() == pytest.approx(1, abs=1e-5)
    block_std = [torch.nn.functional.avg_pool3d(noise, 4).std().item() for noise in (white, coarse)]
    assert block_std[0] == pytest.approx(4**-1.5, rel=0.15)  # 64 independent voxels
    assert block_std[1] > 2 * block_std[0]
