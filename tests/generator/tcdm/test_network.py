"""TCDM: the ControlNet's zero start, joint training, and what the loss depends on."""

import copy
from dataclasses import replace

import pytest
import torch

from fcas_nnunet.config.options import Conditioning, PredictionType
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.autoencoder.latents import LatentScale
from fcas_nnunet.generator.tcdm.network import TCDM
from fcas_nnunet.generator.tcdm.pairs import PairEnd
from fcas_nnunet.generator.tcdm.schedulers import forward_process
from fcas_nnunet.generator.tcdm.training import Draws, PairBatch, TCDMObjective


def config_of(conditioning):
    """Without a prior, which has tests of its own."""
    return replace(TINY.tcdm, conditioning=conditioning, prior=False)


def unzero_output(tcdm):
    """MONAI's UNet starts with a zero output; give it one to compare."""
    torch.nn.init.normal_(tcdm.denoiser.out[-1].conv.weight, std=0.1)


def random_inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, 4, 8, 8, 8, generator=generator)
    condition = torch.rand(2, 17, 32, 32, 32, generator=generator)
    return latents, torch.tensor([10, 700]), condition


def random_end(seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 9, (1, 1, 32, 32, 32), generator=generator).to(torch.uint8)
    latents = torch.randn(1, 4, 8, 8, 8, generator=generator)
    image = torch.rand(1, 1, 32, 32, 32, generator=generator)
    return PairEnd(latents.half(), torch.full_like(latents, -5).half(), codes, codes, image.half())


def random_batch(config, numbers=(0, 1)):
    """Some of the random pairs, with what the loss draws for each."""
    a, b = (
        PairEnd(*(torch.cat([getattr(end, name) for end in ends]) for name in PairEnd.__dataclass_fields__))
        for ends in ([random_end(2 * i) for i in numbers], [random_end(2 * i + 1) for i in numbers])
    )
    return PairBatch(a, b, Draws.of(config, forward_process(config), a.mean.shape[2:], numbers))


@pytest.mark.parametrize("embedding", [(32,), (8, 16, 16)])
def test_fresh_controlnet_leaves_the_denoiser_as_it_was(embedding):
    torch.manual_seed(0)
    config = replace(config_of(Conditioning.CONTROLNET), condition_embedding_channels=embedding)
    tcdm = TCDM(config).eval()
    unzero_output(tcdm)
    latents, timesteps, condition = random_inputs()
    with torch.no_grad():
        conditioned = tcdm(latents, timesteps, tcdm.embed_condition(condition))
        alone = tcdm.denoiser(latents, timesteps)
    assert alone.abs().max() > 0.1
    assert torch.equal(conditioned, alone)


def test_controlnet_residuals_reach_every_denoiser_block():
    torch.manual_seed(0)
    tcdm = TCDM(config_of(Conditioning.CONTROLNET)).eval()
    unzero_output(tcdm)
    latents, timesteps, condition = random_inputs()
    with torch.no_grad():
        before = tcdm(latents, timesteps, tcdm.embed_condition(condition))
        for block in [*tcdm.controlnet.controlnet_down_blocks, tcdm.controlnet.controlnet_mid_block]:
            torch.nn.init.normal_(next(block.parameters()), std=0.05)
            after = tcdm(latents, timesteps, tcdm.embed_condition(condition))
            assert not torch.equal(after, before)
            before = after


def test_last_down_residual_enters_h_as_it_does_upstream():
    """MONAI adds residuals in place, and its last one aliases h; ours must give the same numbers out of place."""
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi

    torch.manual_seed(0)
    tcdm = TCDM(config_of(Conditioning.CONTROLNET)).eval()
    unzero_output(tcdm)
    latents, timesteps, _ = random_inputs()
    with torch.no_grad():
        _, residuals = tcdm.denoiser._apply_down_blocks(
            tcdm.denoiser.conv_in(latents),
            tcdm.denoiser._get_time_and_class_embedding(latents, timesteps, None), None, None,
        )  # fmt: skip
        extra = [torch.randn_like(r) for r in residuals]
        ours = tcdm.denoiser(latents, timesteps, down_block_additional_residuals=tuple(extra))
        tcdm.denoiser.__class__ = DiffusionModelUNetMaisi
        upstream = tcdm.denoiser(latents, timesteps, down_block_additional_residuals=tuple(extra))
    torch.testing.assert_close(ours, upstream)


@pytest.mark.parametrize("conditioning", list(Conditioning))
def test_joint_training_reaches_every_parameter(conditioning):
    torch.manual_seed(0)
    objective = TCDMObjective(config_of(conditioning), LatentScale(), num_labels=8)
    for parameter in objective.parameters():  # zero convolutions block the first gradients by design
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    objective(random_batch(objective.tcdm.config)).backward()
    silent = [name for name, p in objective.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_loss_is_the_sum_of_both_directions():
    torch.manual_seed(0)
    both = TCDMObjective(config_of(Conditioning.CONCAT), LatentScale(), num_labels=8)
    # a fresh UNet predicts 0, so each direction's loss is the mean square of its v target: about 1 for unit latents
    assert both(random_batch(both.tcdm.config)).item() == pytest.approx(2.0, abs=0.1)
    pairs = replace(TINY.tcdm.pairs, one_direction=True)
    one = TCDMObjective(replace(config_of(Conditioning.CONCAT), pairs=pairs), LatentScale(), num_labels=8)
    assert one(random_batch(one.tcdm.config)).item() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("prior", [False, True])
def test_a_pair_s_loss_does_not_depend_on_its_batch(prior):
    """So that processes and micro-batches may share a batch out in any way."""
    torch.manual_seed(0)
    objective = TCDMObjective(TINY.tcdm if prior else config_of(Conditioning.CONCAT), LatentScale(), num_labels=8)
    unzero_output(objective.tcdm)
    config = objective.tcdm.config
    if prior:
        objective.fit_prior([random_batch(config, [7, 8])])
    with torch.no_grad():
        together = objective(random_batch(config, [0, 1, 2])).item()
        alone = [objective(random_batch(config, [i])).item() for i in range(3)]
    assert max(alone) > 1.01 * min(alone)
    assert together == pytest.approx(sum(alone) / 3, rel=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("conditioning", list(Conditioning))
def test_what_is_compiled_has_no_graph_break_and_keeps_its_names(conditioning, checkpointing):
    torch.manual_seed(0)
    config = replace(config_of(conditioning), gradient_checkpointing=checkpointing)
    objective = TCDMObjective(config, LatentScale(), num_labels=8)
    unzero_output(objective.tcdm)
    batch, names = random_batch(objective.tcdm.config), list(objective.state_dict())
    with torch.no_grad():
        expected = objective(batch).item()
    networks = objective.networks()
    assert len(networks) == 1 + (conditioning == Conditioning.CONTROLNET)
    for network in networks:
        network.compile(backend="eager", fullgraph=True)
    objective(batch).backward()
    assert objective(batch).item() == pytest.approx(expected, rel=1e-6)
    assert list(objective.state_dict()) == names


CHECKPOINTED = {
    "concat": config_of(Conditioning.CONCAT),
    "ControlNet": config_of(Conditioning.CONTROLNET),
    "MAISI's embedding": replace(config_of(Conditioning.CONTROLNET), condition_embedding_channels=(4, 8, 8)),
}


@pytest.mark.parametrize("config", CHECKPOINTED.values(), ids=CHECKPOINTED.keys())
def test_gradient_checkpointing_changes_memory_alone(config):
    """The same loss, gradients and names, from less than half of what is kept for the backward pass."""
    found = {}
    for checkpointing in (False, True):
        torch.manual_seed(0)
        objective = TCDMObjective(replace(config, gradient_checkpointing=checkpointing), LatentScale(), num_labels=8)
        for parameter in objective.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
        objective = copy.deepcopy(objective)  # as for the average of the weights
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = objective(random_batch(config))
        loss.backward()
        found[checkpointing] = loss.item(), sum(kept), {n: p.grad for n, p in objective.named_parameters()}
    (plain_loss, plain_kept, plain), (loss, kept, gradients) = found[False], found[True]
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    assert kept < 0.5 * plain_kept
    assert gradients.keys() == plain.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_bf16_takes_the_tensors_as_they_are_stored():
    torch.manual_seed(0)
    objective = TCDMObjective(TINY.tcdm, LatentScale(), num_labels=8)
    batch = random_batch(objective.tcdm.config)
    with torch.no_grad():
        expected = objective(batch).item()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert objective(batch).item() == pytest.approx(expected, rel=0.02)


def test_loss_of_a_flow_is_that_of_its_direction():
    """A fresh UNet predicts 0; x_0 − noise of unit latents has mean square 2, in either direction."""
    torch.manual_seed(0)
    config = replace(config_of(Conditioning.CONCAT), prediction_type=PredictionType.FLOW, multi_resolution_noise=0.0)
    objective = TCDMObjective(config, LatentScale(), num_labels=8)
    assert objective(random_batch(config)).item() == pytest.approx(4.0, abs=0.2)


def test_template_and_reference_both_change_the_prediction():
    torch.manual_seed(0)
    tcdm = TCDM(config_of(Conditioning.CONCAT)).eval()
    unzero_output(tcdm)
    latents, timesteps, condition = random_inputs()
    with torch.no_grad():
        output = tcdm(latents, timesteps, tcdm.embed_condition(condition))
        for channels in (slice(0, 8), slice(8, 16), slice(16, 17)):
            other = condition.clone()
            other[:, channels] = 1 - other[:, channels]
            assert (tcdm(latents, timesteps, tcdm.embed_condition(other)) - output).abs().max() > 1e-4
