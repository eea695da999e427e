"""MAISI's weights: the same numbers as MONAI's own classes give, what is taken over, and what is refused."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config
from maisi_files import (
    SCALE_FACTOR,
    maisi_controlnet,
    maisi_denoiser,
    write_autoencoder,
    write_controlnet,
    write_denoiser,
)
from maisi_files import (
    VARIANTS as MAISI_VARIANTS,
)
from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

from fcas_nnunet.config.generator import SamplingConfig
from fcas_nnunet.config.options import Architecture, Conditioning, PredictionType, ReferenceSource, Solver
from fcas_nnunet.config.presets import PRESETS, TINY
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.generator import train as fitting
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.generate import CaseMaker, Drawer
from fcas_nnunet.generator.plan import plan_cases
from fcas_nnunet.generator.tcdm import maisi
from fcas_nnunet.generator.tcdm.maisi import PretrainedFiles
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.train import train_generator

PAPER = PRESETS["paper"]
VARIANTS = ("ddpm", "rflow")
SPACING_MM = (0.75, 0.4, 0.5)


@pytest.fixture
def autoencoder_file(tmp_path):
    return write_autoencoder(tmp_path / "autoencoder_v1.pt")


def files_of(folder, variant, controlnet=True):
    """A denoiser, an autoencoder, and a ControlNet on request, in a folder."""
    return PretrainedFiles(
        write_autoencoder(folder / "autoencoder_v1.pt"),
        write_denoiser(maisi_denoiser(variant), folder / f"diff_unet_3d_{variant}-ct.pt"),
        write_controlnet(maisi_controlnet(variant), folder / f"controlnet_3d_{variant}-ct.pt") if controlnet else None,
    )


def loaded(files, config=PAPER.tcdm):
    torch.manual_seed(0)
    weights = maisi.read_weights(files)
    tcdm = TCDM(maisi.config_of(weights, config), SPACING_MM)
    maisi.load_into(tcdm, weights)
    return tcdm.eval()


def turned(tensor):
    """(z, y, x) <=> (x, y, z)."""
    return tensor.permute(0, 1, 4, 3, 2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_of_maisi_give_maisis_outputs(tmp_path, variant):
    """As MAISI calls them: spacing in (x, y, z) mm × 100, thorax × 100, CT = 1, eight condition channels."""
    tcdm = loaded(files_of(tmp_path, variant))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 4, 12, 8, generator=generator)
    condition = torch.randint(0, 2, (2, 17, 16, 48, 32), generator=generator).float()
    condition[:, 8:] = 0
    timesteps = torch.tensor([10, 700]) if variant == "ddpm" else torch.tensor([12.5, 1000.0])
    spacing = torch.tensor([[50.0, 40.0, 75.0]] * 2)
    thorax = torch.tensor([[0.0, 100.0, 0.0, 0.0]] * 2)
    told = {"top_region_index_tensor": thorax, "bottom_region_index_tensor": thorax}
    classes = None if variant == "ddpm" else torch.tensor([1, 1])
    with torch.no_grad():
        down, mid = maisi_controlnet(variant)(
            turned(latents), timesteps, turned(condition[:, :8]), class_labels=classes
        )
        expected = maisi_denoiser(variant)(
            turned(latents), timesteps, class_labels=classes, spacing_tensor=spacing,
            down_block_additional_residuals=tuple(down), mid_block_additional_residual=mid,
            **(told if variant == "ddpm" else {}),
        )  # fmt: skip
        alone = maisi_denoiser(variant)(
            turned(latents), timesteps, class_labels=classes, spacing_tensor=spacing,
            **(told if variant == "ddpm" else {}),
        )  # fmt: skip
        output = tcdm(latents, timesteps, tcdm.embed_condition(condition))
    torch.testing.assert_close(turned(output), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0.1
    assert (expected - alone).abs().max() > 0.1  # the ControlNet takes part


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_follow_the_files_whatever_the_preset(tmp_path, variant):
    weights = maisi.read_weights(files_of(tmp_path, variant))
    for config in (PAPER.tcdm, TINY.tcdm):
        found = maisi.config_of(weights, config)
        assert found.channels == (32, 32, 64)
        assert found.attention_levels == (False, False, True)
        assert found.num_head_channels == (0, 0, 32)
        assert (found.num_res_blocks, found.norm_num_groups) == (1, 32)
        assert found.condition_embedding_channels == (4, 8, 16)
        assert found.conditioning == Conditioning.CONTROLNET
        assert found.frozen_denoiser and not found.prior
        assert (found.architecture, found.prediction_type) == {
            "ddpm": (Architecture.MAISI_DDPM, PredictionType.EPSILON),
            "rflow": (Architecture.MAISI_RFLOW, PredictionType.FLOW),
        }[variant]
        assert (found.pairs, found.optimisation) == (config.pairs, config.optimisation)


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_sizes_load_without_a_change_of_the_paper_preset(variant):
    """Shapes alone, on the meta device: MONAI's classes as MAISI's config_network_<variant>.json builds them."""
    inputs, blocks = MAISI_VARIANTS[variant]
    sizes = {
        "spatial_dims": 3, "in_channels": 4, "num_channels": (64, 128, 256, 512), "num_res_blocks": 2,
        "attention_levels": (False, False, True, True), "num_head_channels": (0, 0, 32, 32), **blocks,
    }  # fmt: skip
    with torch.device("meta"):
        denoiser = DiffusionModelUNetMaisi(out_channels=4, include_spacing_input=True, **sizes, **inputs).state_dict()
        controlnet = ControlNetMaisi(
            conditioning_embedding_in_channels=8, conditioning_embedding_num_channels=(8, 32, 64), **sizes
        ).state_dict()
    architecture = {"ddpm": Architecture.MAISI_DDPM, "rflow": Architecture.MAISI_RFLOW}[variant]
    files = PretrainedFiles(*[Path(name) for name in ("autoencoder_v1.pt", "diff_unet.pt", "controlnet.pt")])
    weights = maisi.MaisiWeights(
        architecture, maisi.on_our_axes(denoiser), maisi.on_our_axes(controlnet), LatentScale(), files
    )
    config = maisi.config_of(weights, PAPER.tcdm)
    maisi.check_fit(weights, config)
    if variant == "ddpm":
        assert config == replace(PAPER.tcdm, frozen_denoiser=True)
    else:
        assert config == replace(
            PAPER.tcdm, frozen_denoiser=True, architecture=architecture, prediction_type=PredictionType.FLOW
        )


def test_scale_is_that_of_the_checkpoint(tmp_path, caplog):
    weights = maisi.read_weights(files_of(tmp_path, "ddpm"))
    assert weights.latent_scale.mean == (0, 0, 0, 0)
    assert weights.latent_scale.scale_factor == pytest.approx((SCALE_FACTOR,) * 4)
    near, far = LatentScale((0.3,) * 4, (0.5, 1, 0.7, 0.9)), LatentScale(scale_factor=(0.2,) * 4)
    assert maisi.checked_scale(weights, near) == weights.latent_scale
    assert caplog.text == ""
    assert maisi.checked_scale(weights, far) == weights.latent_scale
    assert "scale_factor should be about one by the latents' standard deviation, got 0.83 for 0.2" in caplog.text


def test_controlnet_is_widened_with_zeros_and_turned(tmp_path):
    tcdm = loaded(files_of(tmp_path, "ddpm"))
    kernel = tcdm.controlnet.controlnet_cond_embedding.conv_in.conv.weight
    theirs = maisi_controlnet("ddpm").controlnet_cond_embedding.conv_in.conv.weight
    assert kernel.shape == (4, 17, 3, 3, 3)
    assert torch.equal(kernel[:, :8], theirs.permute(0, 1, 4, 3, 2))
    assert torch.equal(kernel[:, 8:], torch.zeros(4, 9, 3, 3, 3))


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_a_controlnet_the_encoder_is_copied_and_silent(tmp_path, variant):
    tcdm = loaded(files_of(tmp_path, variant, controlnet=False))
    own, denoiser = tcdm.controlnet.state_dict(), tcdm.denoiser.state_dict()
    shared = [key for key in own if key in denoiser and own[key].shape == denoiser[key].shape]
    for key in shared:
        assert torch.equal(own[key], denoiser[key]), key
    assert {"conv_in.conv.weight", "time_embed.0.weight", "down_blocks.2.attentions.0.attn.to_q.weight"} <= set(shared)
    outputs = [key for key in own if key.startswith(("controlnet_down_blocks", "controlnet_mid_block"))]
    assert outputs and not any(own[key].any() for key in outputs)
    assert tcdm.config.condition_embedding_channels == (8, 32, 64)
    latents, condition = torch.randn(1, 4, 8, 8, 8), torch.rand(1, 17, 32, 32, 32)
    with torch.no_grad():
        output = tcdm(latents, torch.tensor([500]), tcdm.embed_condition(condition))
        alone = tcdm.denoiser(latents, torch.tensor([500]), **tcdm.extra_inputs(latents))
    assert torch.equal(output, alone)


def test_every_tensor_that_does_not_fit_is_named(tmp_path):
    files = files_of(tmp_path, "ddpm")
    content = torch.load(files.denoiser, weights_only=True)
    state = content["unet_state_dict"]
    state["stray"] = state.pop("spacing_layer.0.weight")
    state["out.2.conv.bias"] = torch.zeros(5)
    torch.save(content, files.denoiser)
    with pytest.raises(ValueError, match="diff_unet.*missing spacing_layer") as error:
        loaded(files)
    for fault in ("unexpected stray", r"out.2.conv.bias of shape (5,) instead of (4,)"):
        assert fault in str(error.value)


def test_faults_of_the_controlnet_are_named_before_any_training(tmp_path):
    files = files_of(tmp_path, "ddpm")
    content = torch.load(files.controlnet, weights_only=True)
    del content["controlnet_state_dict"]["controlnet_mid_block.conv.weight"]
    torch.save(content, files.controlnet)
    with pytest.raises(ValueError, match=r"controlnet_3d.*missing controlnet_mid_block\.conv\.weight"):
        train_generator(training_data(), short_config(), tmp_path / "run", Accelerator(cpu=True), files)
    assert not (tmp_path / "run").exists()


def test_what_is_no_denoiser_of_maisis_is_refused(tmp_path, autoencoder_file):
    with pytest.raises(ValueError, match="must be a MAISI checkpoint with unet_state_dict, got .*decoder"):
        maisi.read_weights(PretrainedFiles(autoencoder_file, autoencoder_file))
    content = {"unet_state_dict": {"conv_in.conv.weight": torch.zeros(1)}, "scale_factor": 1.0}
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: must be MAISI's ddpm denoiser, .*, got neither"):
        maisi.read_weights(PretrainedFiles(autoencoder_file, tmp_path / "other.pt"))
    torch.save(content | {"scale_factor": float("nan")}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="scale_factor must be a positive number, got nan"):
        maisi.read_weights(PretrainedFiles(autoencoder_file, tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="--denoiser: must be given with --autoencoder"):
        PretrainedFiles(denoiser=tmp_path / "other.pt")
    with pytest.raises(ValueError, match="--controlnet: must be given with --denoiser"):
        PretrainedFiles(autoencoder=autoencoder_file, controlnet=tmp_path / "other.pt")


def test_a_frozen_denoiser_stays_in_eval_mode_and_has_no_gradients(tmp_path):
    tcdm = loaded(files_of(tmp_path, "ddpm")).train()
    assert tcdm.controlnet.training and not any(module.training for module in tcdm.denoiser.modules())
    assert not any(parameter.requires_grad for parameter in tcdm.denoiser.parameters())
    assert all(parameter.requires_grad for parameter in tcdm.controlnet.parameters())


def load_axial_case(case_id):
    """Axial slices that run towards superior, posterior and left, as most scans."""
    affine = np.eye(4)
    affine[:3, :3] = 2 * np.eye(3)[::-1]
    return replace(load_small_case(case_id), affine=affine)


def training_data(load_case=load_axial_case):
    return TrainingData([f"p{i}" for i in range(4)], load_case, LABELS, SURROUNDINGS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_from_maisis_files_and_drawing_without_them(tmp_path, caplog, variant):
    caplog.set_level(logging.INFO)
    (tmp_path / "files").mkdir()
    files, run = files_of(tmp_path / "files", variant), tmp_path / "run"
    before = loaded(files)
    train_generator(training_data(), short_config(), run, Accelerator(cpu=True), files)
    assert caplog.text.count("NVIDIA Open Model License") == 1

    for path in (files.autoencoder, files.denoiser, files.controlnet):
        path.unlink()
    generator = checkpoint.load_generator(run, torch.device("cpu"))
    assert generator.record.config == short_config()  # what was asked for, so that the same command finds it again
    assert generator.record.tcdm.channels == (32, 32, 64)
    assert generator.record.latent_scale.scale_factor == pytest.approx((SCALE_FACTOR,) * 4)
    assert generator.tcdm.spacing_mm.tolist() == [2, 2, 2]
    for key, tensor in before.denoiser.state_dict().items():
        assert torch.equal(generator.tcdm.denoiser.state_dict()[key], tensor), key
    assert not all(
        torch.equal(generator.tcdm.controlnet.state_dict()[key], tensor)
        for key, tensor in before.controlnet.state_dict().items()
    )
    plan = plan_cases(1, ["p0", "p1"], ["p0", "p1"], ReferenceSource.GIVEN, seed=0)[0]
    case, record = CaseMaker.of_generator(Drawer(generator, torch.device("cpu"), torch.float32), load_axial_case).make(
        plan
    )
    assert record["sampling"]["solver"] == {"ddpm": "dpmsolver++", "rflow": "euler"}[variant]
    assert -1000 <= case.image.min() < case.image.max() <= 1000
    assert 0 <= case.confidence.min() < case.confidence.max() <= 1


def test_another_file_of_the_same_name_does_not_go_on_with_a_run(tmp_path, autoencoder_file, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "cache_latents", killed)
    data, run, files = training_data(), tmp_path / "run", PretrainedFiles(autoencoder_file)
    for _ in range(2):  # the same file goes on
        with pytest.raises(KeyboardInterrupt):
            train_generator(data, short_config(), run, Accelerator(cpu=True), files)
    write_autoencoder(autoencoder_file, width=16)
    with pytest.raises(ValueError, match=r"got --autoencoder autoencoder_v1\.pt .* instead of autoencoder_v1\.pt"):
        train_generator(data, short_config(), run, Accelerator(cpu=True), files)


def test_a_solver_that_cannot_run_the_files_model_is_named_at_once(tmp_path):
    files = files_of(tmp_path, "rflow")
    config = replace(short_config(), sampling=SamplingConfig(solver=Solver.DDPM))
    with pytest.raises(ValueError, match="solver: must be euler for a model that predicts flow, got ddpm"):
        train_generator(training_data(), config, tmp_path / "run", Accelerator(cpu=True), files)


def test_a_random_denoiser_is_not_frozen(tmp_path):
    config = replace(short_config(), tcdm=replace(PAPER.tcdm, frozen_denoiser=True, channels=(32, 64, 64, 64)))
    config = replace(config, grid=replace(config.grid, crop_size=(32, 32, 32)))
    with pytest.raises(ValueError, match="frozen_denoiser: must be off where no denoiser is loaded"):
        train_generator(training_data(), config, tmp_path / "run", Accelerator(cpu=True))


def test_a_denoiser_of_maisis_is_refused_for_several_channels(tmp_path):
    files = files_of(tmp_path, "ddpm", controlnet=False)
    data = replace(training_data(), channel_names=("T1", "T2"))
    match = r"diff_unet_3d_ddpm-ct.pt: scans must have one channel, as MAISI's denoiser draws them, got T1, T2\. Leave"
    with pytest.raises(ValueError, match=match):
        train_generator(data, short_config(), tmp_path / "run", Accelerator(cpu=True), files)
    with pytest.raises(ValueError, match=r"image_channels: must be 1 where the denoiser is MAISI's or frozen, got 2"):
        replace(maisi.config_of(maisi.read_weights(files), PAPER.tcdm), image_channels=2)
