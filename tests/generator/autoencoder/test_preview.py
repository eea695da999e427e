"""The preview decoder: distilled from the frozen one, and as good in slabs as in one."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fcas_nnunet.config.generator import OptimisationConfig, PreviewConfig
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.autoencoder.latents import LOG_STD, MEAN
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.preview import DistillationObjective, LatentSampler, train_preview
from fcas_nnunet.generator.autoencoder.preview_decoder import PreviewDecoder
from fcas_nnunet.generator.data.variants import Variant, save_tensors

VARIANTS = [Variant(f"p{i}", 0, 0) for i in range(3)]


@pytest.fixture
def cache(tmp_path):
    """Smooth latents of three cases."""
    for number, variant in enumerate(VARIANTS):
        coarse = torch.randn(1, 4, 3, 3, 3, generator=torch.Generator().manual_seed(number))
        latents = nn.functional.interpolate(coarse, (10, 8, 8), mode="trilinear")[0]
        save_tensors(
            {MEAN: latents.half(), LOG_STD: torch.full_like(latents, -4).half()}, tmp_path / variant.latents_file
        )
    return tmp_path


def config(steps):
    optimisation = OptimisationConfig(
        num_steps=steps, batch_size=2, learning_rate=1e-3, warmup_steps=2, validate_every=steps
    )
    return PreviewConfig(channels=(8, 8, 16), norm_num_groups=4, crop_size=(8, 8, 8), optimisation=optimisation)


def test_size():
    """0.47 million parameters at 16/32/64, and 4 · 8³ + 1 of the linear path."""
    parameters = sum(p.numel() for p in PreviewDecoder(PreviewConfig()).parameters())
    assert parameters == 474_017 + 4 * 8**3 + 1


def test_an_untrained_preview_is_the_block_wise_linear_fit():
    """A teacher that is linear block by block is met exactly, before any training."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 4, 5, 4, 6, generator=generator) + 2
    weights = torch.randn(4, 1, 4, 4, 4, generator=generator)
    images = nn.functional.conv_transpose3d(latents, weights, torch.tensor([0.7]), stride=4)
    preview = PreviewDecoder(config(1)).eval()
    preview.fit_linear(latents, images)
    with torch.no_grad():
        torch.testing.assert_close(preview.decode(latents), images, atol=2e-3, rtol=0)


def test_slabs_equal_the_whole():
    torch.manual_seed(0)
    preview = PreviewDecoder(config(1)).eval()
    for parameter in preview.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    latents = torch.randn(1, 4, 5, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(preview.decode(latents, 1), preview.decode(latents), atol=1e-5, rtol=1e-5)


def test_distillation_comes_closer_to_the_decoder_than_the_linear_fit(cache, tmp_path):
    torch.manual_seed(0)
    teacher = Autoencoder(TINY.autoencoder).eval()
    nn.init.normal_(teacher.network.decoder.blocks[-1].conv.conv.weight, std=0.02)  # no longer linear
    teacher.requires_grad_(False)
    fitted = PreviewDecoder(config(1))
    known = LatentSampler(VARIANTS[:2], cache, (8, 8, 8), 0, "fit").batch(range(8)).latents
    with torch.no_grad():
        fitted.fit_linear(known, teacher.decode(known))
    trained = train_preview(
        config(24), teacher, (VARIANTS[:2], VARIANTS[2:]), cache, tmp_path / "run", Accelerator(cpu=True), seed=0
    )
    latents = LatentSampler(VARIANTS[2:], cache, (8, 8, 8), 0, "test").batch(range(4)).latents
    with torch.no_grad():
        wanted = teacher.decode(latents)
        before, after = ((p.eval().decode(latents) - wanted).abs().mean() for p in (fitted, trained))
    assert before < 0.7 * wanted.std()
    assert after < 0.97 * before
    assert not any(key.startswith("_teacher") for key in trained.state_dict())
    assert (tmp_path / "run" / "progress.png").is_file()


def test_copies_share_the_teacher():
    """The average of the weights is a copy of the objective: it needs no second decoder."""
    objective = DistillationObjective(PreviewDecoder(config(1)), Autoencoder(TINY.autoencoder))
    assert copy.deepcopy(objective)._teacher.decoder is objective._teacher.decoder


def test_items_depend_on_their_number_alone_and_some_are_smoother(cache):
    sampler = LatentSampler(VARIANTS, cache, (8, 8, 8), 0, "training")
    items = sampler.batch(range(64)).latents
    assert items.shape == (64, 4, 8, 8, 8)
    assert torch.equal(sampler.batch([7, 3]).latents, items[[7, 3]])
    assert not torch.equal(LatentSampler(VARIANTS, cache, (8, 8, 8), 1, "training").batch(range(64)).latents, items)
    roughness = items.diff(dim=-1).abs().mean(dim=(1, 2, 3, 4)) / items.std(dim=(1, 2, 3, 4))
    assert roughness.max() > 1.5 * roughness.min()


def test_crops_fit_into_small_volumes(cache):
    assert LatentSampler(VARIANTS, cache, (16, 16, 16), 0, "training").batch([0]).latents.shape == (1, 4, 10, 8, 8)
