"""The loop: resuming bit for bit, stopping on validation, the best weights."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fcas_nnunet.config import OptimisationConfig
from fcas_nnunet.generator.training import History, Training

CONFIG = OptimisationConfig(
    num_steps=12, batch_size=4, learning_rate=0.05, warmup_steps=3, ema_decay=0.8, validate_every=4
)


def training(folder, config=CONFIG):
    torch.manual_seed(0)
    return Training(nn.Linear(3, 1), config, folder, Accelerator(cpu=True), "test")


def step_loss(model, step):
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    return ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()


def validation_loss(model):
    return step_loss(model, 10_000).item()


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_at", [1, 4, 6, 11])
def test_resumed_equals_uninterrupted(tmp_path, killed_at):
    def dying_loss(model, step):
        if step == killed_at:
            raise Killed
        return step_loss(model, step)

    whole = training(tmp_path / "whole")
    whole.run(step_loss, validation_loss)
    with pytest.raises(Killed):
        training(tmp_path / "killed").run(dying_loss, validation_loss)
    resumed = training(tmp_path / "killed")
    resumed.run(step_loss, validation_loss)
    assert resumed.history == whole.history
    for name, tensor in whole.objective.state_dict().items():
        assert torch.equal(resumed.objective.state_dict()[name], tensor)
    for name, tensor in whole.best.items():
        assert torch.equal(resumed.best[name], tensor)


def test_it_learns_and_keeps_the_best_average(tmp_path):
    run = training(tmp_path, replace(CONFIG, num_steps=120))
    run.run(step_loss, validation_loss)
    assert min(run.history.validation_losses) < 0.02 * run.history.train_losses[0]
    best = run.load_best(nn.Linear(3, 1))
    assert validation_loss(best) == pytest.approx(min(run.history.validation_losses))
    assert (tmp_path / "progress.png").stat().st_size > 5_000
    assert (tmp_path / "training.log").read_text().startswith("step 4: loss ")


def test_stops_when_validation_no_longer_improves(tmp_path):
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.5])
    run = training(tmp_path, replace(CONFIG, num_steps=100, patience=3))
    run.run(step_loss, lambda model: next(losses))
    assert run.history.validation_losses == [3.0, 1.0, 2.0, 2.0, 2.0]
    assert run.step == 20


def test_a_loss_that_is_not_finite_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="loss must be finite, got nan at step 0"):
        training(tmp_path).run(lambda model, step: step_loss(model, step) * float("nan"), validation_loss)


def test_learning_rate_warms_up_and_decays_to_zero(tmp_path):
    run = training(tmp_path)
    rates = [run._learning_rate(step) for step in (0, 2, 3, 12)]
    assert rates == pytest.approx([0.05 / 3, 0.05, 0.05, 0.0])


def test_history_counts_from_the_best_validation():
    assert History(validation_losses=[]).validations_since_best == 0
    assert History(validation_losses=[3, 1, 2, 2]).validations_since_best == 2
