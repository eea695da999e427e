"""The Gaussian prior on the clean latents: its fit, its posterior, and what an untrained denoiser draws with it."""

from dataclasses import replace

import pytest
import torch

from fcas_nnunet.config.generator import SamplingConfig
from fcas_nnunet.config.options import PredictionType, TemplateRegistration
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.tcdm.conditions import build_condition
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.prior import INSIDE, LatentPrior, displaced
from fcas_nnunet.generator.tcdm.sampling import sample_latents

CONFIG = replace(TINY.tcdm, multi_resolution_noise=0.0)


def condition_of(seed, size=32):
    """A structure in one half of a random image."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.zeros(1, 1, size, size, size, dtype=torch.uint8)
    codes[..., size // 2 :] = 1
    image = torch.rand(1, 1, size, size, size, generator=generator)
    condition = build_condition(codes, codes, image, guess_labels=1)
    condition[:, 17:] = image
    return condition


def latents_of(condition, noise_std):
    """A known linear function of every block of the guess, and noise that differs inside and outside the structure."""
    blocks = condition[:, 17:].unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).flatten(5)[:, 0]
    weight = torch.linspace(-1, 1, 4 * 64).view(4, 64)
    mean = torch.einsum("ok,bdhwk->bodhw", weight, blocks) + 0.5
    std = torch.full(mean.shape, noise_std[0])
    std[..., mean.shape[-1] // 2 :] = noise_std[1]
    return mean, mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(int(1e6 * blocks.sum())))


def fitted(noise_std=(0.5, 0.1)):
    prior = LatentPrior(CONFIG)
    conditions = [condition_of(seed) for seed in range(12)]
    prior.fit((condition, latents_of(condition, noise_std)[1]) for condition in conditions)
    return prior


def test_fit_finds_mean_and_spread_in_both_regions():
    prior, unseen = fitted(), condition_of(99)
    mean, std, inside = prior(unseen).split([4, 4, 1], dim=1)
    assert torch.equal(inside[..., :4].unique(), torch.zeros(1))
    assert torch.equal(inside[..., 4:].unique(), torch.ones(1))
    assert (mean - latents_of(unseen, (0, 0))[0]).square().mean().sqrt() < 0.1
    assert torch.allclose(std[..., :4], torch.tensor(0.5), rtol=0.05)
    assert torch.allclose(std[..., 4:], torch.tensor(0.1), rtol=0.05)


def test_of_large_crops_some_blocks_are_enough(monkeypatch):
    whole = fitted()
    monkeypatch.setattr("fcas_nnunet.generator.tcdm.prior._MAX_ROWS", 300)
    some = fitted()
    assert not torch.equal(some.weight, whole.weight)
    assert torch.allclose(some.variance[INSIDE], whole.variance[INSIDE], rtol=0.2)
    known = condition_of(99)
    assert (some(known) - whole(known))[:, :4].square().mean().sqrt() < 0.15


def test_spread_of_a_region_that_is_never_seen_stays_at_one():
    condition = condition_of(0)
    condition[:, :8] = 0
    prior = LatentPrior(CONFIG)
    prior.fit([(condition, latents_of(condition, (0.5, 0.5))[1])])
    assert torch.equal(prior.variance[1:], torch.ones(2, 4))


def test_inside_the_output_lies_around_the_posterior():
    """The prior under pure noise, the latents themselves without."""
    prior = fitted()
    known = prior(condition_of(7))
    mean, std = (part[..., 4:] for part in known[:, :8].split(4, dim=1))
    noisy = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    late_mean, late_scale = (part[..., 4:] for part in prior.around(noisy, torch.tensor([999]), known))
    assert (late_mean - mean).abs().max() < 0.1
    assert torch.allclose(late_scale, std, rtol=0.02)
    early_mean, early_scale = (part[..., 4:] for part in prior.around(noisy, torch.tensor([0]), known))
    assert (early_mean - noisy[..., 4:]).abs().max() < 0.5 * (mean - noisy[..., 4:]).abs().max()
    assert early_scale.max() < 0.04


def test_elsewhere_the_output_lies_around_the_prior():
    prior = fitted()
    known = prior(condition_of(7))
    noisy = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, scale = prior.around(noisy, torch.tensor([500]), known)
    assert torch.equal(mean[..., :4], known[:, :4, ..., :4])
    assert torch.equal(scale[..., :4], known[:, 4:8, ..., :4])


def test_untrained_model_draws_the_prior():
    """The Gaussian oracle: inside, DPM-Solver++'s samples have the prior's mean and spread; elsewhere its mean."""
    tcdm = TCDM(CONFIG).eval()
    tcdm.prior = fitted()
    condition = condition_of(7, size=64)
    mean, std, _ = tcdm.prior(condition).split([4, 4, 1], dim=1)
    embedded = tcdm.embed_condition(condition)
    samples = sample_latents(tcdm, embedded, SamplingConfig(num_inference_steps=20), torch.Generator().manual_seed(0))
    inside = ((samples - mean) / std)[..., 8:]
    assert abs(inside.mean()) < 0.05
    assert inside.std().item() == pytest.approx(1, abs=0.05)
    assert torch.allclose(samples[..., :8], mean[..., :8], atol=1e-3)


def test_loss_weighs_what_the_prior_leaves_open_less():
    tcdm = TCDM(CONFIG)
    tcdm.prior = fitted()
    condition = condition_of(7)
    with torch.no_grad():
        embedded = tcdm.embed_condition(condition)
    weights = tcdm.loss_weights(torch.zeros(1, 4, 8, 8, 8), torch.tensor([900]), embedded)
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert (weights[..., 4:] / weights[..., :4]).mean().item() == pytest.approx(5, rel=0.1)  # std 0.1 against 0.5


def test_bf16_leaves_the_prior_as_it_is():
    """Its mean would be up to 5 HU off, and every image drawn around it."""
    torch.manual_seed(0)
    codes = torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)
    codes[..., 4:12, 4:12, 4:12] = 1
    condition = build_condition(codes, codes, torch.rand(1, 1, 16, 16, 16), guess_labels=1)
    model = TCDM(TINY.tcdm).eval()
    torch.nn.init.normal_(model.prior.weight)
    with torch.no_grad():
        expected = model.embed_condition(condition)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embedded = model.embed_condition(condition)
    assert torch.equal(embedded[:, :9], expected[:, :9])
    assert not torch.equal(embedded[:, 9:], expected[:, 9:]), "the rest is bf16's"


def test_prior_needs_a_model_that_predicts_clean_latents():
    with pytest.raises(ValueError, match="prediction_type: must be sample where prior is on"):
        replace(CONFIG, prediction_type=PredictionType.EPSILON)


def test_channels_have_a_map_for_all_their_latents_from_all_their_guesses():
    """Latents of the second channel that follow from the first one's guess are found, too."""
    prior = LatentPrior(replace(CONFIG, image_channels=2))
    assert prior.channels == 17

    def both(seed):
        first, second = condition_of(seed), condition_of(seed + 50)
        condition = torch.cat([first[:, :17], second[:, 16:17], first[:, 17:], second[:, 17:]], dim=1)
        own, other = latents_of(first, (0, 0))[0], latents_of(second, (0, 0))[0]
        return condition, torch.cat([own, 0.5 * own + other], dim=1)

    prior.fit(both(seed) for seed in range(12))
    condition, latents = both(99)
    mean, _, inside = prior(condition).split([8, 8, 1], dim=1)
    assert (mean - latents).square().mean().sqrt() < 0.1
    assert latents.std() > 0.5
    assert torch.equal(inside[..., 4:].unique(), torch.ones(1))


def test_a_registered_template_that_is_in_place_has_a_map_and_a_spread_of_its_own():
    """Near to where it was mirrored, and where the reference's own scan takes over, the guess is less sure."""
    config = replace(CONFIG, registration=TemplateRegistration.DEFORMABLE)
    prior, samples = LatentPrior(config), []
    for seed in range(30):
        plain = condition_of(seed, size=64)
        origin = torch.zeros(1, 1, 64, 64, 64)
        origin[..., :32, :, ::8] = 0.5  # in reach of every block there
        condition = torch.cat([plain[:, :17], origin, plain[:, 17:]], dim=1)
        latents = latents_of(plain, (0.1, 0.1))[1]
        unsure = 0.7 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        unsure[:, :, 9:] = 0
        samples.append((condition, latents + unsure))
    prior.fit(samples)
    _, std, inside = prior(samples[0][0]).split([4, 4, 1], dim=1)
    assert std[:, :, :8].mean().item() == pytest.approx(0.707, rel=0.1)
    assert std[:, :, 9:].mean().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(inside[0, 0, :, 0, 12:].unique(), torch.ones(1))
    own = torch.zeros(1, 1, 64, 64, 64)
    own[..., 32:, :, :] = 1
    seams = displaced(own)[0, 0, :, 0, 0]
    assert seams.tolist() == [False] * 7 + [True] * 2 + [False] * 7


def test_a_region_that_training_does_not_show_takes_the_map_of_its_like():
    config = replace(CONFIG, registration=TemplateRegistration.DEFORMABLE)
    prior = LatentPrior(config)
    samples = []
    for seed in range(12):
        plain = condition_of(seed)
        condition = torch.cat([plain[:, :17], torch.full((1, 1, 32, 32, 32), 0.5), plain[:, 17:]], dim=1)
        samples.append((condition, latents_of(plain, (0.5, 0.1))[1]))
    prior.fit(samples)
    shown = prior(samples[0][0])
    in_place = torch.cat([samples[0][0][:, :17], torch.zeros(1, 1, 32, 32, 32), samples[0][0][:, 18:]], dim=1)
    assert torch.equal(prior(in_place), shown)
    assert torch.allclose(shown[:, 4:8, ..., 4:], torch.tensor(0.1), rtol=0.05)
