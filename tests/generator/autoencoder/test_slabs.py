"""Slab by slab equals the whole volume."""

import pytest
import torch

from fcas_nnunet.config.generator import AutoencoderConfig
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.autoencoder.slabs import ChannelMoments, run_in_slabs


def random_autoencoder(**settings):
    """Narrow, but of MAISI's depth, and with every parameter drawn, so that no norm or bias is idle."""
    torch.manual_seed(0)
    config = AutoencoderConfig(
        (8, 16, 32), TINY.autoencoder.optimisation, num_res_blocks=2, norm_num_groups=4, **settings
    )
    autoencoder = Autoencoder(config).eval()
    for name, parameter in autoencoder.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.3)
    return autoencoder


@pytest.mark.parametrize("slab_elements", [1, 8 * 20 * 28 * 5, 2**40])
def test_decoding_in_slabs_equals_the_whole(slab_elements):
    autoencoder = random_autoencoder()
    latents = torch.randn(1, 4, 9, 5, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = autoencoder.decode(latents)
        slabs = autoencoder.decode(latents, slab_elements)
    assert whole.std() > 0.05
    torch.testing.assert_close(slabs, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("slab_elements", [1, 8 * 20 * 28 * 5, 2**40])
def test_encoding_in_slabs_equals_the_whole(slab_elements):
    autoencoder = random_autoencoder()
    image = torch.rand(1, 1, 36, 20, 28, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, whole_std = autoencoder.encode(image)
        slabs, slabs_std = autoencoder.encode(image, slab_elements)
    assert whole.std() > 0.05
    torch.testing.assert_close(slabs, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(slabs_std, whole_std, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("channels", "patch_size"), [((16, 32), 2), ((16,), 4)])
def test_folded_autoencoders_with_a_linear_path_run_in_slabs_too(channels, patch_size):
    torch.manual_seed(0)
    config = AutoencoderConfig(
        channels, TINY.autoencoder.optimisation, norm_num_groups=4, patch_size=patch_size, linear_skip=True
    )
    autoencoder = Autoencoder(config).eval()
    torch.nn.init.normal_(autoencoder.network.decoder.blocks[-1].conv.conv.weight, std=0.1)
    image = torch.rand(1, 1, 24, 16, 20)
    with torch.no_grad():
        mean, _ = autoencoder.encode(image)
        torch.testing.assert_close(autoencoder.encode(image, 1)[0], mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(autoencoder.decode(mean, 1), autoencoder.decode(mean), atol=1e-5, rtol=0)


def test_ordinary_tiles_do_not_equal_the_whole():
    """What the slabs are for: norms of a tile alone change its values."""
    autoencoder = random_autoencoder()
    latents = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = autoencoder.decode(latents)[:, :, :16]
        tile = autoencoder.decode(latents[:, :, :4])
    assert (tile - whole).square().mean().sqrt() > 0.02 * whole.std()


def test_moments_of_slabs_are_those_of_the_whole():
    volume = torch.randn(1, 6, 10, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    moments = ChannelMoments(6, volume.device)
    for start, stop in ((0, 1), (1, 6), (6, 10)):
        moments.add(volume[:, :, start:stop])
    norm = torch.nn.GroupNorm(3, 6)
    mean, variance = moments.of_groups(norm)
    groups = volume.double().view(3, -1)
    torch.testing.assert_close(mean[::2].double(), groups.mean(dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(variance[1::2].double(), groups.var(dim=1, correction=0), atol=1e-5, rtol=0)


def test_two_volumes_at_once_are_refused():
    with pytest.raises(ValueError, match="must hold one volume, got 2"):
        run_in_slabs(random_autoencoder().network.decoder.blocks, torch.zeros(2, 8, 4, 4, 4), 1)
