"""The presets: the paper's numbers, and networks of MAISI's size."""

from dataclasses import replace

import pytest
import torch

from fcas_nnunet.config.generator import GridConfig
from fcas_nnunet.config.options import Architecture, Conditioning, PredictionType, Solver
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.generator.autoencoder.network import Autoencoder
from fcas_nnunet.generator.data.grid import working_spacing
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.schedulers import forward_process

PAPER = PRESETS["paper"]
#: 17 channels of a condition instead of MAISI's 8: 9 × 8 × 27 weights.
WIDER_CONDITION = 9 * 8 * 27


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("architecture", "prediction_type", "denoiser", "controlnet"),
    [
        (Architecture.MAISI_DDPM, PredictionType.EPSILON, 169_370_884, 68_644_944),
        (Architecture.MAISI_RFLOW, PredictionType.FLOW, 180_500_868, 72_037_072),
    ],
)
def test_networks_have_maisis_parameters(architecture, prediction_type, denoiser, controlnet):
    """Published sizes: 169M and 180M, 68.6M and 72.0M."""
    with torch.device("meta"):
        tcdm = TCDM(replace(PAPER.tcdm, architecture=architecture, prediction_type=prediction_type))
    assert count(tcdm.denoiser) == denoiser
    assert count(tcdm.controlnet) == controlnet + WIDER_CONDITION


def test_autoencoder_has_maisis_parameters():
    with torch.device("meta"):
        assert count(Autoencoder(PAPER.autoencoder)) == pytest.approx(20.9e6, rel=0.005)


def test_the_paper_preset_adds_noise_as_the_paper_does():
    """A thousand steps, scaled linear from 0.0015 to 0.0195."""
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    torch.testing.assert_close(forward_process(PAPER.tcdm).betas, betas)


def test_volumes_are_multiples_of_what_the_levels_divide():
    assert {name: config.grid_multiple for name, config in PRESETS.items()} == {
        "tiny": 16, "cpu": 16, "gpu": 16, "maisi": 32, "paper": 32,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"grid\.crop_size: must be multiples of 32 for 4 levels.*, got \(48"):
        replace(PAPER, grid=GridConfig(crop_size=(48, 64, 64)))
    with pytest.raises(ValueError, match=r"autoencoder\.crop_size: must be at most grid\.crop_size"):
        replace(PAPER, grid=GridConfig(crop_size=(32, 64, 64)))


def test_maisis_denoiser_needs_a_controlnet():
    with pytest.raises(ValueError, match="conditioning: must be controlnet where the denoiser is MAISI's or frozen"):
        replace(PAPER.tcdm, conditioning=Conditioning.CONCAT)


def test_the_paper_preset_is_the_papers_experiment():
    """Pairs of two patients, all 1,000 steps, Eq. 7 of decoded x_t, AdamW 1e-5, 200 epochs over cases in batches of 4,
    crops of 512 × 512 × 128 and a latent window of 64 × 64 × 128 (W, H, D)."""
    tcdm, sampling = PAPER.tcdm, PAPER.sampling.for_model(PAPER.tcdm.prediction_type)
    pairs = tcdm.pairs
    assert (pairs.self_pair_probability, pairs.num_shapes, pairs.num_contrasts) == (0, 1, 1)
    assert not (tcdm.prior or tcdm.registers or tcdm.multi_resolution_noise or pairs.one_direction)
    assert (tcdm.prediction_type, tcdm.conditioning) == (PredictionType.EPSILON, Conditioning.CONTROLNET)
    assert (sampling.solver, sampling.num_inference_steps, sampling.window) == (Solver.DDPM, 1000, (128, 64, 64))
    confidence = PAPER.confidence.for_generator(calibrated=False)
    assert (confidence.estimator, confidence.source, confidence.norm) == ("ssv", "x_t", "minmax_variance")
    assert PAPER.calibration is None
    run = tcdm.optimisation
    assert (run.num_epochs, run.batch_size, run.learning_rate) == (200, 4, 1e-5)
    assert (run.warmup_steps, run.ema_decay, pairs.items_per_epoch) == (0, 0, "cases")
    assert PAPER.grid.crop_size == (128, 512, 512)


def test_the_gpu_preset_has_native_detail_of_a_cta():
    """Twenty CTAs of 512 × 512 × 250 voxels of 0.4 × 0.4 × 0.5 mm: within 0.6 to 0.8 mm."""
    config = PRESETS["gpu"]
    spacing = working_spacing([((250, 512, 512), (0.5, 0.4, 0.4))] * 20, config.grid)
    assert spacing == pytest.approx((0.787, 0.630, 0.630), abs=1e-3)
    assert min(config.grid.crop_size) >= 128
