"""Reverse diffusion in windows, and SSV as the snapshots come by."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fcas_nnunet.config.generator import ConfidenceConfig, SamplingConfig
from fcas_nnunet.config.options import PredictionType, SnapshotSource, Solver
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.confidence.snapshots import structure_box, voxel_box
from fcas_nnunet.generator.confidence.ssv import Welford, snapshot_steps
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.sampling import sample_latents, snapshots, synthesise
from fcas_nnunet.generator.tcdm.schedulers import sampling_scheduler

SAMPLING = SamplingConfig(num_inference_steps=6, window=(16, 16, 16))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    tcdm = TCDM(replace(TINY.tcdm, prior=False, prediction_type=PredictionType.V_PREDICTION)).eval()
    nn.init.normal_(tcdm.denoiser.out[-1].conv.weight, std=0.05)
    autoencoder = Autoencoder(TINY.autoencoder).eval()
    nn.init.normal_(autoencoder.network.decoder.blocks[-1].conv.conv.weight, std=0.1)
    return tcdm.requires_grad_(False), autoencoder.requires_grad_(False)


def embedded(tcdm, shape=(32, 32, 48)):
    condition = torch.rand(1, 17, *shape, generator=torch.Generator().manual_seed(1))
    return tcdm.embed_condition(condition)


def seeded():
    return torch.Generator().manual_seed(3)


class LocalTCDM(nn.Module):
    """Predicts every latent from itself alone, so that windows cannot matter; embeds as the real one."""

    def __init__(self, tcdm):
        super().__init__()
        self.config = tcdm.config

    def forward(self, latents, timesteps, condition):
        return torch.tanh(latents + condition[:, :4]) * (timesteps.view(-1, 1, 1, 1, 1) / 1000 + 0.5)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_windows_of_a_local_denoiser_equal_one_window(networks, overlap):
    """Every latent is covered, weights are normalised, and each window gets its own part of the condition."""
    tcdm = LocalTCDM(networks[0])
    condition = embedded(networks[0])
    whole = sample_latents(tcdm, condition, SAMPLING, seeded())
    windows = sample_latents(tcdm, condition, replace(SAMPLING, window=(4, 8, 8), overlap=overlap), seeded())
    torch.testing.assert_close(windows, whole, atol=1e-5, rtol=0)


def test_a_window_larger_than_the_latents_is_clamped(networks):
    tcdm, _ = networks
    condition = embedded(tcdm)
    whole = sample_latents(tcdm, condition, SAMPLING, seeded())
    # the paper's window is deeper than most latents
    clamped = sample_latents(tcdm, condition, replace(SAMPLING, window=(128, 64, 64)), seeded())
    assert torch.equal(clamped, whole)


def test_windows_of_the_real_denoiser_are_one_image(networks):
    """Its norms and attention see one window only, so windows differ from the whole, but not much."""
    tcdm, _ = networks
    condition = embedded(tcdm)
    whole = sample_latents(tcdm, condition, SAMPLING, seeded())
    windows = sample_latents(tcdm, condition, replace(SAMPLING, window=(8, 8, 8), overlap=0.5), seeded())
    difference = (windows - whole).square().mean().sqrt()
    assert 0 < difference < 0.3 * whole.std()


@pytest.mark.parametrize("solver", list(Solver)[:2])
@pytest.mark.parametrize("source", list(SnapshotSource))
def test_streamed_variance_is_that_of_the_stored_snapshots(networks, solver, source):
    tcdm, autoencoder = networks
    tcdm = TCDM(replace(tcdm.config, num_train_timesteps=12)).eval() if solver == Solver.DDPM else tcdm
    condition = embedded(tcdm)
    sampling = replace(SAMPLING, solver=solver)
    confidence = ConfidenceConfig(source=source, num_snapshots=4)
    scale = LatentScale((0.1,) * 4, (2.0,) * 4)
    stored = []
    with torch.inference_mode():
        last = sample_latents(tcdm, condition, sampling, seeded(), snapshots(confidence, stored.append))
        images = torch.stack([autoencoder.decode(scale.to_raw(z))[0].clamp(0, 1) for z in [*stored, last]])
    structures = np.ones(images.shape[2:], dtype=bool)
    synthesis = synthesise(tcdm, autoencoder, scale, condition, structures, sampling, confidence, seeded())
    assert len(images) == 4
    torch.testing.assert_close(synthesis.image, images[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(synthesis.variance, images.var(dim=0)[0], atol=1e-6, rtol=1e-4)
    assert synthesis.variance.max() > 1e-3


class GaussianTCDM(nn.Module):
    """A perfect denoiser of independent Gaussians: N(mean, std²) with a std of its own for every latent."""

    def __init__(self, tcdm, mean, std):
        super().__init__()
        self.config = replace(tcdm.config, prediction_type=PredictionType.SAMPLE)
        self.mean, self.std = mean, std
        self.alphas_cumprod = sampling_scheduler(self.config, SAMPLING, mean.shape[2:]).alphas_cumprod

    def forward(self, latents, timesteps, condition):
        alpha_bar = self.alphas_cumprod[timesteps.long()].view(-1, 1, 1, 1, 1)
        alpha, noise_variance = alpha_bar.sqrt(), 1 - alpha_bar
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + noise_variance)
        return self.mean + gain * (latents - alpha * self.mean)


def test_ssv_of_gaussians_is_known(networks):
    """Without noise in its steps the reverse diffusion is x_t = αm + z √(α²s² + σ²) with one z for each latent, so
    that x_0 = m + z · αs² / √(α²s² + σ²), whose variance over the steps can be written down: it tells s apart."""
    generator = torch.Generator().manual_seed(8)
    shape = (1, 4, 8, 8, 8)
    mean = torch.randn(shape, generator=generator)
    std = torch.rand(shape, generator=generator) * 1.5 + 0.05
    tcdm = GaussianTCDM(networks[0], mean, std)
    sampling = replace(SAMPLING, solver=Solver.DPMSOLVER, num_inference_steps=60)
    tcdm.config = replace(tcdm.config, multi_resolution_noise=0.0)
    condition = torch.zeros(1, 4, 8, 8, 8)
    confidence = ConfidenceConfig(source=SnapshotSource.X_0, num_snapshots=12)
    welford, seen, alphas = Welford(), snapshots(confidence, lambda z: welford.update(z)), []
    scheduler = sampling_scheduler(tcdm.config, sampling, shape[2:])
    watched = snapshot_steps(len(scheduler.timesteps), 12)
    result = sample_latents(tcdm, condition, sampling, seeded(), seen)
    welford.update(result)
    z = (result - mean) / std
    for step in watched:
        alpha_bar = tcdm.alphas_cumprod[scheduler.timesteps[step].long()]
        alphas.append(alpha_bar)
    bars = torch.stack(alphas).view(-1, 1, 1, 1, 1)
    predicted = mean + z * bars.sqrt() * std**2 / (bars * std**2 + 1 - bars).sqrt()
    expected = predicted.var(dim=0)
    torch.testing.assert_close(welford.variance[0], expected, atol=2e-3, rtol=0.05)
    doubt, truth = welford.variance.sqrt().flatten(), std.flatten()
    assert np.corrcoef(doubt.argsort().argsort(), truth.argsort().argsort())[0, 1] > 0.5


def test_a_guess_is_noised_to_where_the_steps_begin_and_a_perfect_denoiser_ends_on_the_known_line(networks):
    """From x_t = αg + σε the reverse diffusion of a Gaussian goes to x_0 = m + s (x_t − αm) / √(α²s² + σ²)."""
    generator = torch.Generator().manual_seed(8)
    shape = (1, 4, 8, 8, 8)
    mean, guess = (torch.randn(shape, generator=generator) for _ in range(2))
    std = torch.rand(shape, generator=generator) * 1.5 + 0.05
    tcdm = GaussianTCDM(networks[0], mean, std)
    tcdm.config = replace(tcdm.config, multi_resolution_noise=0.0)
    noise = torch.randn(shape, generator=seeded())
    for strength in (0.75, 0.25):
        sampling = replace(SAMPLING, solver=Solver.DPMSOLVER, num_inference_steps=80, strength=strength)
        steps = []
        result = sample_latents(tcdm, torch.zeros(shape), sampling, seeded(), steps.append, guess)
        assert [(step.index, step.count) for step in steps] == [(i, 80 * strength) for i in range(int(80 * strength))]
        timesteps = sampling_scheduler(tcdm.config, sampling, shape[2:]).timesteps
        alpha_bar = tcdm.alphas_cumprod[timesteps[int(80 * (1 - strength))]]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = alpha * guess + sigma * noise
        expected = mean + std * (noisy - alpha * mean) / (alpha_bar * std**2 + sigma**2).sqrt()
        assert (result - expected).square().mean().sqrt() < 0.02 < 0.5 * (result - mean).square().mean().sqrt()


class WatchedTCDM(nn.Module):
    """Predicts nothing, and remembers what it is shown."""

    def __init__(self, config):
        super().__init__()
        self.config, self.seen = config, []

    def forward(self, latents, timesteps, condition):
        self.seen.append((float(timesteps[0]), latents.clone()))
        return torch.zeros_like(latents)


@pytest.mark.parametrize(("solver", "kind"), [(Solver.DDPM, "v_prediction"), (Solver.EULER, "flow")])
def test_the_other_solvers_begin_part_of_the_way_too(networks, solver, kind):
    config = replace(
        networks[0].config, prediction_type=PredictionType(kind), num_train_timesteps=40, multi_resolution_noise=0.0
    )
    tcdm, guess = WatchedTCDM(config), torch.ones(1, 4, 32, 32, 32)  # a size at which times are not shifted
    sampling = replace(SAMPLING, solver=solver, num_inference_steps=20, strength=0.5, window=(32, 32, 32))
    sample_latents(tcdm, guess, sampling, seeded(), start=guess)
    noise = torch.randn(guess.shape, generator=seeded())
    first, latents = tcdm.seen[0]
    if solver == Solver.EULER:
        assert (first, len(tcdm.seen)) == (20.0, 10)
        expected = 0.5 * guess + 0.5 * noise
    else:
        assert (first, len(tcdm.seen)) == (19.0, 20)
        alpha_bar = sampling_scheduler(config, sampling, (8, 8, 8)).alphas_cumprod[19]
        expected = alpha_bar.sqrt() * guess + (1 - alpha_bar).sqrt() * noise
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)


def test_the_lower_the_strength_the_nearer_is_the_drawing_to_the_guess(networks):
    tcdm, autoencoder = networks
    guess = torch.rand(1, 1, 8, 8, 12, generator=torch.Generator().manual_seed(5))
    guess = torch.nn.functional.interpolate(guess, (32, 32, 48), mode="trilinear")
    seen = autoencoder.decode(autoencoder.encode(guess)[0])[0]
    structures, mistakes = np.ones((32, 32, 48), bool), []
    for strength in (0.1, 0.5, 1.0):
        sampling = replace(SAMPLING, num_inference_steps=20, strength=strength)
        drawn = synthesise(
            tcdm, autoencoder, LatentScale(), embedded(tcdm), structures, sampling, None, seeded(), guess
        )
        mistakes.append(float((drawn.image - seen).abs().mean()))
    assert mistakes[0] < 0.7 * mistakes[1]
    assert mistakes[1] < 0.9 * mistakes[2]


def test_the_last_prediction_of_clean_latents_is_the_result(networks):
    """So the image itself serves as the last snapshot, and is decoded once."""
    tcdm, _ = networks
    steps = []
    result = sample_latents(tcdm, embedded(tcdm), SAMPLING, seeded(), steps.append)
    assert [step.index for step in steps] == list(range(steps[0].count))
    assert torch.equal(steps[-1].noisy, result)
    torch.testing.assert_close(steps[-1].clean, result, atol=1e-5, rtol=0)
    assert (steps[0].clean - result).abs().max() > 1e-3


def test_only_the_box_is_compared_when_asked(networks):
    tcdm, autoencoder = networks
    condition = embedded(tcdm)
    structures = np.zeros((32, 32, 48), dtype=bool)
    structures[10:14, 8:20, 30:33] = True
    everywhere = synthesise(
        tcdm, autoencoder, LatentScale(), condition, structures, SAMPLING, ConfidenceConfig(num_snapshots=3), seeded()
    )
    boxed = synthesise(
        tcdm, autoencoder, LatentScale(), condition, structures, SAMPLING,
        ConfidenceConfig(num_snapshots=3, box_margin=4), seeded(),
    )  # fmt: skip
    assert torch.equal(boxed.image, everywhere.image)
    box = voxel_box(structure_box(structures, 4))
    assert box == (slice(4, 20), slice(4, 24), slice(24, 40))
    outside = torch.ones_like(boxed.variance, dtype=torch.bool)
    outside[box] = False
    around = boxed.variance[box][~torch.from_numpy(structures[box])]
    torch.testing.assert_close(boxed.variance[outside], around.mean().expand(int(outside.sum())), rtol=1e-4, atol=0)
    wide = synthesise(
        tcdm, autoencoder, LatentScale(), condition, structures, SAMPLING,
        ConfidenceConfig(num_snapshots=3, box_margin=99), seeded(),
    )  # fmt: skip
    assert torch.equal(wide.variance, everywhere.variance)


def test_box_of_nothing_is_everything():
    assert structure_box(np.zeros((8, 8, 8), dtype=bool), 4) is None
