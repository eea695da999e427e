"""The demo's trainers: as long as their variables say, repeatable, and alike but for what they compare."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from nnunet_cases import Prepared, build
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def test_demo_sizes_follow_their_variables(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("nnUNetTrainerCAL_demo", "nnUNetTrainerCALFinetune_demo", "nnUNetTrainer_fcasDemo")
    assert [build(prepared, name).num_epochs for name in names] == [8, 8, 8]
    monkeypatch.setenv("FCAS_DEMO_PRETRAIN_EPOCHS", "3")
    monkeypatch.setenv("FCAS_DEMO_REAL_EPOCHS", "2")
    built = [build(prepared, name) for name in names]
    assert [trainer.num_epochs for trainer in built] == [3, 2, 2]
    assert {(t.num_iterations_per_epoch, t.num_val_iterations_per_epoch) for t in built} == {(25, 2)}
    monkeypatch.setenv("FCAS_DEMO_REAL_EPOCHS", "two")
    with pytest.raises(ValueError, match="FCAS_DEMO_REAL_EPOCHS: number must be a positive integer, got two"):
        build(prepared, names[1])


def test_a_demo_training_repeats_by_its_seed_and_keeps_to_its_threads(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net's own command sets a thread for every core before it makes the trainer."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()

    def drawn(seed: str, epoch: int = 0) -> list[float]:
        monkeypatch.setenv("FCAS_DEMO_SEED", seed)
        torch.set_num_threads(2)
        trainer = build(prepared, "nnUNetTrainer_fcasDemo", real=True)
        assert torch.get_num_threads() == 1
        weights = torch.rand(1).item()
        trainer.current_epoch = epoch
        trainer.on_epoch_start()
        return [weights, torch.rand(1).item(), np.random.rand(), random.random()]

    try:
        first, again, other, later = drawn("0"), drawn("0"), drawn("1"), drawn("0", epoch=1)
    finally:
        torch.set_num_threads(before)
    assert first == again
    assert not set(first) & set(other)
    assert (first[0], len(set(first) & set(later))) == (later[0], 1), "an epoch's numbers are its own"


def test_the_demos_trainers_differ_in_what_they_compare_only(prepared: Prepared) -> None:
    """The same optimiser and schedule in all three; the plain one keeps nnU-Net's step and loss."""
    plain = build(prepared, "nnUNetTrainer_fcasDemo", real=True)
    tuned = build(prepared, "nnUNetTrainerCALFinetune_demo", real=True)
    pretrained = build(prepared, "nnUNetTrainerCAL_demo")
    rates = []
    for trainer in (plain, tuned, pretrained):
        trainer.initialize()
        assert isinstance(trainer.optimizer, torch.optim.AdamW)
        rates.append([trainer.lr_scheduler.rate(epoch) for epoch in range(8)])
    assert rates[0] == rates[1] == rates[2]
    assert max(rates[0]) == rates[0][1] == 2e-3
    assert type(plain).train_step is nnUNetTrainer.train_step
    assert type(plain)._build_loss is nnUNetTrainer._build_loss


@pytest.mark.parametrize("name", ["nnUNetTrainer_fcasDemo", "nnUNetTrainerCAL_demo"])
def test_bf16_is_computed_where_it_is_asked_for_and_leaves_weights_and_outputs_float32(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FCAS_DEMO_SEED", "0")
    images = torch.randn(1, 1, 16, 16, 16)

    def outputs(asked: str, supported: bool = True) -> tuple[list[torch.Tensor], set[torch.dtype], list[str]]:
        monkeypatch.setenv("FCAS_DEMO_BF16", asked)
        monkeypatch.setattr("fcas_nnunet.commands.demo.trainers.supports_bf16", lambda device: supported)
        trainer = build(prepared, name, real=name != "nnUNetTrainerCAL_demo")
        trainer.initialize()
        first = next(module for module in trainer.network.modules() if isinstance(module, torch.nn.Conv3d))
        computed: set[torch.dtype] = set()
        first.register_forward_hook(lambda module, given, made: computed.add(made.dtype))
        made = trainer.network(images)
        sum(output.square().mean() for output in made).backward()
        assert first.weight.grad is not None
        assert first.weight.grad.dtype == torch.float32
        return made, computed, list(trainer.network.state_dict())

    plain, in_float32, weights = outputs("0")
    fast, in_bf16, same_weights = outputs("1")
    assert (in_float32, in_bf16) == ({torch.float32}, {torch.bfloat16})
    assert weights == same_weights
    for one, other in zip(plain, fast, strict=True):
        assert other.dtype == torch.float32
        assert 0 < (one - other).abs().max() < 0.05 * one.abs().max()
    with pytest.raises(ValueError, match="FCAS_DEMO_BF16: must be 0 or 1, got yes"):
        outputs("yes")
    with pytest.raises(ValueError, match="FCAS_DEMO_BF16: CPU must compute in bf16"):
        outputs("1", supported=False)
