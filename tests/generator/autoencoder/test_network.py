"""The autoencoder: MONAI's function kept, weights of the loss, strict loading."""

import pytest
import torch
from maisi_files import maisi_autoencoder

from fcas_nnunet.config.generator import AutoencoderConfig
from fcas_nnunet.config.presets import CPU, TINY
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.generator.autoencoder.network import Autoencoder, autoencoder_loss, reconstruction_weights

OPTIMISATION = TINY.autoencoder.optimisation


def test_weights_of_maisi_give_maisis_outputs(tmp_path):
    """MAISI's arrays are (x, y, z), ours (z, y, x)."""
    maisi = maisi_autoencoder()
    torch.save(maisi.state_dict(), tmp_path / "autoencoder_v1.pt")
    ours = checkpoint.load_autoencoder_file(tmp_path / "autoencoder_v1.pt", OPTIMISATION).eval()
    assert ours.config.channels == (8, 16, 32)
    assert (ours.config.num_res_blocks, ours.config.norm_num_groups) == (2, 8)
    image = torch.rand(1, 1, 32, 24, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean, std = maisi.encode(image.permute(0, 1, 4, 3, 2))
        decoded = maisi.decode(mean).permute(0, 1, 4, 3, 2)
        mean, std = mean.permute(0, 1, 4, 3, 2), std.permute(0, 1, 4, 3, 2)
        our_mean, our_std = ours.encode(image)
        torch.testing.assert_close(our_mean, mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(our_std, std, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.decode(mean), decoded, atol=1e-5, rtol=0)


def test_what_is_no_autoencoder_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"must be MAISI's autoencoder, or one of this package .* keys like \['conv"):
        checkpoint.load_autoencoder_file(tmp_path / "other.pt", OPTIMISATION)


def test_missing_and_unexpected_tensors_are_named(tmp_path):
    state = maisi_autoencoder().state_dict()
    state["decoder.stray"] = state.pop("quant_conv_mu.conv.bias")
    torch.save({"unet_state_dict": state}, tmp_path / "broken.pt")
    with pytest.raises(ValueError, match=r"missing quant_conv_mu\.conv\.bias; unexpected decoder\.stray"):
        checkpoint.load_autoencoder_file(tmp_path / "broken.pt", OPTIMISATION)


@pytest.mark.parametrize("name", ["truncated.pt", "truncated.safetensors"])
def test_truncated_checkpoint_is_refused(tmp_path, name):
    path = tmp_path / name
    checkpoint.save_weights(maisi_autoencoder(), tmp_path / "whole.safetensors")
    torch.save(maisi_autoencoder().state_dict(), tmp_path / "whole.pt")
    content = (tmp_path / f"whole{path.suffix}").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="must be a .*checkpoint"):
        checkpoint.load_autoencoder_file(path, OPTIMISATION)


def test_pickled_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="must be a .*checkpoint"):
        checkpoint.read_state(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("slab_elements", [None, 500])
def test_channels_go_through_as_scans_of_their_own(slab_elements):
    torch.manual_seed(0)
    autoencoder = Autoencoder(TINY.autoencoder).eval()
    for parameter in autoencoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    generator = torch.Generator().manual_seed(1)
    scans = torch.rand(1, 3, 16, 24, 16, generator=generator)
    with torch.no_grad():
        mean, std = autoencoder.encode(scans, slab_elements)
        decoded = autoencoder.decode(mean, slab_elements)
        assert mean.shape == (1, 12, 4, 6, 4)
        for channel in range(3):
            own_mean, own_std = autoencoder.encode(scans[:, channel : channel + 1], slab_elements)
            latents = slice(4 * channel, 4 * channel + 4)
            torch.testing.assert_close(mean[:, latents], own_mean)
            torch.testing.assert_close(std[:, latents], own_std)
            back = autoencoder.decode(own_mean, slab_elements)
            torch.testing.assert_close(decoded[:, channel : channel + 1], back)
        batch = torch.cat([scans.flip(1), scans])
        torch.testing.assert_close(autoencoder.encode(batch)[0][1:], mean)
        torch.testing.assert_close(autoencoder.decode(autoencoder.encode(batch)[0])[1:], decoded)


def test_the_loss_of_channels_is_the_mean_of_theirs():
    generator = torch.Generator().manual_seed(0)
    images, back = torch.rand(2, 2, 2, 8, 8, 8, generator=generator)
    mean, std = torch.rand(2, 2, 8, 2, 2, 2, generator=generator)
    weights = 1 + torch.rand(2, 1, 8, 8, 8, generator=generator)
    alone = [
        autoencoder_loss(images[:, c : c + 1], back[:, c : c + 1], mean[:, own], std[:, own], weights, 0.5)
        for c, own in ((0, slice(0, 4)), (1, slice(4, 8)))
    ]
    torch.testing.assert_close(autoencoder_loss(images, back, mean, std, weights, 0.5), sum(alone) / 2)


@pytest.mark.parametrize(("channels", "patch_size"), [((8, 16, 32), 1), ((16, 32), 2), ((16,), 4)])
def test_every_fold_compresses_four_times_and_decodes_back(channels, patch_size):
    torch.manual_seed(0)
    config = AutoencoderConfig(channels, OPTIMISATION, norm_num_groups=4, patch_size=patch_size)
    autoencoder = Autoencoder(config).eval()
    image = torch.rand(1, 1, 16, 64, 16)
    with torch.no_grad():
        mean, _ = autoencoder.encode(image)
        assert mean.shape == (1, 4, 4, 16, 4)
        assert autoencoder.decode(mean).shape == image.shape
        moved = autoencoder.encode(torch.roll(image, 8, dims=3))[0]
    # a shift by 8 voxels shifts the latents by 2: the fold keeps places (the norms see the wrapped border change a bit)
    inner, shifted = mean[..., 6:8, :], moved[..., 8:10, :]
    assert (shifted - inner).abs().mean() < 0.3 * (moved[..., 6:8, :] - inner).abs().mean()


@pytest.mark.parametrize(("channels", "patch_size"), [((8, 16, 32), 1), ((16,), 4)])
def test_linear_skip_starts_as_a_block_wise_linear_fit(channels, patch_size):
    """Untrained, a scan that is linear within every 4³ block comes back as it is."""
    torch.manual_seed(0)
    config = AutoencoderConfig(channels, OPTIMISATION, norm_num_groups=4, patch_size=patch_size, linear_skip=True)
    autoencoder = Autoencoder(config).eval()
    d, h, w = torch.meshgrid(*[torch.linspace(0, 1, 16)] * 3, indexing="ij")
    ramp = (0.2 * d + 0.5 * h + 0.3 * w)[None, None]
    noise = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(autoencoder.decode(autoencoder.encode(ramp)[0]), ramp, atol=1e-5, rtol=0)
        residual = autoencoder.decode(autoencoder.encode(noise)[0]) - noise
    # 4 of 64 degrees of freedom are kept, so 60/64 of white noise's variance 1/12 is lost
    assert residual.var().item() == pytest.approx(60 / 64 / 12, rel=0.05)


@pytest.mark.parametrize("config", [TINY.autoencoder, CPU.autoencoder], ids=["tiny", "cpu"])
def test_bf16_costs_no_hu(config):
    """A ramp from 0 to 600 HU, encoded under bf16 autocast and without, comes back alike."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(config).eval()
    d, h, w = torch.meshgrid(*[torch.linspace(0, 1, 32)] * 3, indexing="ij")
    ramp = (0.5 + 0.3 * (0.2 * d + 0.5 * h + 0.3 * w))[None, None]
    with torch.no_grad():
        expected = autoencoder.decode(autoencoder.encode(ramp)[0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents, std = autoencoder.encode(ramp)
    assert latents.dtype == std.dtype == torch.float32
    with torch.no_grad():
        assert 2000 * (autoencoder.decode(latents) - expected).abs().max() < 0.2  # 5.1 with latents of bf16


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="divisible by 4"):
        Autoencoder(TINY.autoencoder).encode(torch.zeros(1, 1, 16, 18, 16))


def test_levels_and_patch_must_make_four():
    with pytest.raises(ValueError, match="must be 4, got 8"):
        AutoencoderConfig((8, 16, 32), OPTIMISATION, patch_size=2, norm_num_groups=4)


def test_weights_of_the_loss_favour_thin_structures():
    labels = torch.zeros(1, 1, 5, 5, 5, dtype=torch.uint8)
    labels[..., 0] = 2
    labels[0, 0, 2, 2, 3] = 3  # one voxel of vessel: 27 voxels with its rim
    weights = reconstruction_weights(labels, [3], heart_weight=10, thin_weight=30)
    assert weights.sum().item() == 27 * 30 + 25 * 10 + (125 - 27 - 25) * 1
    assert weights[0, 0, 2, 2, 2].item() == 30
    assert weights[0, 0, 0, 0, 0].item() == 10


def test_loss_against_computed_numbers():
    images, reconstructions = torch.full((1, 1, 2, 2, 2), 0.5), torch.full((1, 1, 2, 2, 2), 0.2)
    mean, std = torch.ones(1, 4, 1, 1, 1), torch.full((1, 4, 1, 1, 1), 0.5)
    # KL per latent dimension: (1 + 0.25 − 2 ln 0.5 − 1) / 2 = 0.8181, four of them
    loss = autoencoder_loss(images, reconstructions, mean, std, torch.ones_like(images), kl_weight=0.1)
    assert loss.item() == pytest.approx(0.3 + 0.1 * 4 * 0.818147, abs=1e-5)
