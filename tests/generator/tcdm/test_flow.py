"""Rectified flow: MAISI's numbers, and an Euler solver of first order whose steps add up to one."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.networks.schedulers.rectified_flow import RFlowScheduler, timestep_transform

from fcas_nnunet.config.generator import SamplingConfig
from fcas_nnunet.config.options import PredictionType
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.tcdm.flow import RectifiedFlow, shifted
from fcas_nnunet.generator.tcdm.schedulers import sampling_scheduler

STD = 0.5
BASE = (32, 32, 32)
FLOW = replace(TINY.tcdm, prior=False, prediction_type=PredictionType.FLOW)


def maisis_scheduler():
    """As in MAISI's config_network_rflow.json."""
    return RFlowScheduler(
        num_train_timesteps=1000, use_discrete_timesteps=False, use_timestep_transform=True, sample_method="uniform",
        scale=1.4,
    )  # fmt: skip


def gaussian_oracle(noisy, timestep):
    """E[x_0 − noise | x_t] when the data are N(0, STD²)."""
    t = float(timestep) / 1000
    return ((1 - t) * STD**2 - t) / ((1 - t) ** 2 * STD**2 + t**2) * noisy


def sampled_std(steps, size):
    flow = sampling_scheduler(FLOW, SamplingConfig(num_inference_steps=steps), size)
    assert isinstance(flow, RectifiedFlow)
    sample = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = sample.std()
    for timestep in flow.timesteps:
        sample = flow.step(gaussian_oracle(sample, timestep), timestep, sample).prev_sample
    return (sample.std() / start).item()


def test_sampled_standard_deviation_is_that_of_the_data():
    assert sampled_std(30, BASE) == pytest.approx(STD, abs=0.03)
    assert sampled_std(300, BASE) == pytest.approx(STD, abs=0.003)
    assert sampled_std(300, (128, 128, 64)) == pytest.approx(STD, abs=0.006)


@pytest.mark.parametrize("size", [BASE, (128, 128, 64)])
def test_euler_converges_at_first_order(size):
    errors = [STD - sampled_std(steps, size) for steps in (100, 200, 400)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.05)


@given(steps=st.integers(2, 200), edge=st.integers(4, 160))
def test_steps_add_up_to_one(steps, edge):
    """A model that always points the same way moves the sample by exactly that much; MONAI's steps sum to 1.0088."""
    flow = RectifiedFlow()
    flow.set_timesteps(steps, (edge, edge, 64))
    assert len(flow.timesteps) == steps
    assert flow.timesteps[0] == 1000
    sample, towards = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for timestep in flow.timesteps:
        assert flow.clean_latents(towards, sample, timestep).item() == pytest.approx(1, abs=1e-6)
        sample = flow.step(towards, timestep, sample).prev_sample
    assert sample.item() == pytest.approx(1, abs=1e-12)


def test_noise_is_added_as_maisi_adds_it():
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 5, 6, 7, generator=generator)
    timesteps = torch.tensor([0.0, 333.3, 1000.0])
    theirs = maisis_scheduler().add_noise(latents, noise, timesteps)
    ours = RectifiedFlow().add_noise(latents, noise, timesteps)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(ours[0], latents[0]) and torch.equal(ours[2], noise[2])


@pytest.mark.parametrize("size", [(32, 32, 32), (128, 128, 64), (16, 8, 8)])
def test_times_are_maisis(size):
    """Up to MAISI's fp16; its `scale: 1.4` has no part in them."""
    numel = torch.tensor(size).prod()
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    theirs = timestep_transform(times * 1000, numel) / 1000
    torch.testing.assert_close(shifted(times, size), theirs, atol=1e-6, rtol=0)
    scheduler, flow = maisis_scheduler(), RectifiedFlow()
    scheduler.set_timesteps(30, input_img_size_numel=numel)
    flow.set_timesteps(30, size)
    torch.testing.assert_close(flow.timesteps, scheduler.timesteps.float(), atol=0.3, rtol=0)


def test_drawn_timesteps_are_shifted_towards_noise_by_the_size():
    """The median of uniform times is r / (1 + r) after the shift: 0.5 at 32³, 2 / 3 at 64 × 64 × 64."""
    flow, generator = RectifiedFlow(), torch.Generator().manual_seed(0)
    for size, median in ((BASE, 500), ((64, 64, 64), 1000 * 2 / 3)):
        drawn = flow.draw_timesteps(20_000, size, generator)
        assert drawn.dtype == torch.float32
        assert drawn.median().item() == pytest.approx(median, abs=10)
