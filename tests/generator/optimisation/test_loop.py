"""The loop: resuming bit for bit, accumulating, stopping on validation, the best weights, what it shows of itself."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hostile_files import Payload
from small_training import CONFIG, HeldOut, Killed, NumberedPoints, Points, SumOfCoordinates

from fcas_nnunet.generator.optimisation.batches import Shares, in_threads, read_ahead
from fcas_nnunet.generator.optimisation.loop import Training, learning_rate, total_steps
from fcas_nnunet.generator.optimisation.progress import History, Panel, ProgressFolder

STATE = "training_state/state.pt"


def training(folder, config=CONFIG):
    return Training(SumOfCoordinates(), config, folder, Accelerator(cpu=True), "test")


def run(folder, config=CONFIG, dies_at=math.inf, sample=None):
    """A finished training."""
    items = NumberedPoints()
    items.dies_at = dies_at
    result = training(folder, config)
    result.run(items, HeldOut(), 8, sample)
    return result


def panels(module):
    """A sample that looks at the weights."""
    return [Panel("weight", np.full((4, 4, 4), float(module.linear[0].weight[0, 0]))), Panel("mask", np.eye(4)[None])]


def assert_same(one, other):
    assert one.history == other.history
    for mine, theirs in ((one.objective.state_dict(), other.objective.state_dict()), (one.best, other.best)):
        for name, tensor in mine.items():
            assert torch.equal(theirs[name], tensor)


@pytest.mark.parametrize("micro_batch_size", [0, 1])
@pytest.mark.parametrize("killed_at", [1, 4, 6, 11])
def test_resumed_equals_uninterrupted(tmp_path, killed_at, micro_batch_size):
    config = replace(CONFIG, micro_batch_size=micro_batch_size)
    whole = run(tmp_path / "whole", config)
    with pytest.raises(Killed):
        run(tmp_path / "killed", config, dies_at=4 * killed_at + 2)
    assert (tmp_path / "killed" / STATE).exists() == (killed_at >= 4)
    assert_same(run(tmp_path / "killed", config), whole)


@pytest.mark.parametrize("validation", [1, 3])
def test_a_kill_between_state_and_log_leaves_no_gap_in_the_log(tmp_path, monkeypatch, validation):
    """The last validation is the third; after it, nothing is left to train."""
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        written = iter(range(1, 10))
        validated = ProgressFolder.validated

        def killed(self, *args):
            if next(written) == validation:
                raise Killed
            validated(self, *args)

        patch.setattr(ProgressFolder, "validated", killed)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    run(tmp_path / "killed")
    logs = [(tmp_path / name / "training.log").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert [line.split(":")[0] for line in logs[0].splitlines()] == ["step 4", "step 8", "step 12"]


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path, micro_batch_size):
    whole = run(tmp_path / "whole")
    parts = run(tmp_path / "parts", replace(CONFIG, micro_batch_size=micro_batch_size))
    assert parts.shares.accumulation == 4 // micro_batch_size
    np.testing.assert_allclose(parts.history.train_losses, whole.history.train_losses, rtol=1e-5)
    np.testing.assert_allclose(parts.history.validation_losses, whole.history.validation_losses, rtol=1e-5)
    assert len(set(whole.history.train_losses)) == 12


def test_going_on_with_smaller_micro_batches_changes_nothing(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", dies_at=30)
    resumed = run(tmp_path / "killed", replace(CONFIG, micro_batch_size=1))
    np.testing.assert_allclose(resumed.history.train_losses, whole.history.train_losses, rtol=1e-5)


def test_it_learns_and_keeps_the_best_average(tmp_path):
    result = run(tmp_path, replace(CONFIG, num_steps=200, validate_every=40))
    assert min(result.history.validation_losses) < 0.1 * result.history.train_losses[0]
    best = result.load_best(SumOfCoordinates())
    with torch.no_grad():
        assert best(HeldOut().batch(range(8))).item() == pytest.approx(min(result.history.validation_losses))
    assert (tmp_path / "progress.png").stat().st_size > 5_000
    assert (tmp_path / "training.log").read_text().startswith("step 40: loss ")


def test_the_average_is_that_of_the_steps_so_far(tmp_path):
    """By hand: of w = 1, 2, 4 with a decay of 0.8, (0.8² · 1 + 0.8 · 2 + 4) / (0.8² + 0.8 + 1)."""
    result = training(tmp_path, replace(CONFIG, ema_decay=0.8))
    weight = result.objective.linear[0].weight
    for step, value in enumerate([1.0, 2.0, 4.0]):
        with torch.no_grad():
            weight.fill_(value)
        result.step = step
        result.average.update_parameters(result.objective)
    assert result.average.module.linear[0].weight.mean().item() == pytest.approx(6.24 / 2.44)


def test_losses_are_read_from_the_device_many_at_once(tmp_path, monkeypatch):
    reads = []
    original = Training._read_losses
    monkeypatch.setattr(Training, "_read_losses", lambda self, progress: reads.append(1) or original(self, progress))
    result = run(tmp_path, replace(CONFIG, num_steps=100, validate_every=50))
    assert len(result.history.train_losses) == 100
    assert len(reads) == 6  # every 20 steps, and before each validation


def test_without_average_the_weights_themselves_are_validated(tmp_path):
    result = run(tmp_path, replace(CONFIG, ema_decay=0.0))
    with torch.no_grad():
        last = result.objective.eval()(HeldOut().batch(range(8))).item()
    assert last == pytest.approx(result.history.validation_losses[-1])
    assert torch.load(tmp_path / STATE, weights_only=True)["average"] is None


def test_stops_when_validation_no_longer_improves(tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.5])
    result = training(tmp_path, replace(CONFIG, num_steps=100, patience=3))

    def validate(*_):
        result.history.validation_steps.append(result.step)
        result.history.validation_losses.append(next(losses))

    monkeypatch.setattr(result, "_validate", validate)
    result.run(NumberedPoints(), HeldOut(), 8)
    assert result.history.validation_losses == [3.0, 1.0, 2.0, 2.0, 2.0]
    assert result.step == 20


def test_a_loss_that_is_not_finite_is_an_error(tmp_path):
    class Broken(NumberedPoints):
        def batch(self, numbers):
            return Points(super().batch(numbers).x * float("nan"))

    with pytest.raises(ValueError, match="loss must be finite, got nan at step 0"):
        training(tmp_path).run(Broken(), HeldOut(), 8)


def test_learning_rate_warms_up_and_decays_to_zero():
    rates = [learning_rate(CONFIG, step, 12) for step in (0, 2, 3, 12)]
    assert rates == pytest.approx([0.05 / 3, 0.05, 0.05, 0.0])


def test_epochs_are_as_many_steps_as_their_items_take(tmp_path):
    config = replace(CONFIG, num_steps=0, num_epochs=3)
    assert total_steps(config, 10) == 8  # 30 items, 4 a step
    assert run(tmp_path, config).step == 8
    with pytest.raises(ValueError, match=r"one positive and the other 0, got \(12, 3\)"):
        replace(CONFIG, num_epochs=3)
    with pytest.raises(ValueError, match=r"one positive and the other 0, got \(0, 0\)"):
        replace(CONFIG, num_steps=0)


def test_history_counts_from_the_best_validation():
    assert History(validation_losses=[]).validations_since_best == 0
    assert History(validation_losses=[3, 1, 2, 2]).validations_since_best == 2


@pytest.mark.parametrize(("world", "micro"), [(1, 12), (1, 4), (2, 3), (3, 2), (4, 3)])
def test_shares_are_disjoint_and_cover_the_step(world, micro):
    shares = [Shares(12, micro, rank, world) for rank in range(world)]
    parts = [list(part) for share in shares for part in share.micro_batches(5)]
    assert {len(part) for part in parts} == {micro}
    assert sorted(sum(parts, [])) == list(range(60, 72))
    assert {share.accumulation for share in shares} == {12 // (world * micro)}
    held_out = [number for share in shares for part in share.held_out(7) for number in part]
    assert held_out == list(range(7))
    assert max(len(part) for share in shares for part in share.held_out(7)) <= micro


class Processes:
    """An accelerator's view of which process this is."""

    def __init__(self, num_processes):
        self.num_processes, self.process_index = num_processes, 0


def test_a_batch_that_cannot_be_shared_out_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"tcdm: batch_size must be .* of the number of processes \(3\), got 4"):
        Shares.of(CONFIG, Processes(3), "tcdm")
    config = replace(CONFIG, batch_size=12, micro_batch_size=4)
    with pytest.raises(ValueError, match=r"processes · micro_batch_size \(2 · 4\), got 12.* divides 6"):
        Shares.of(config, Processes(2), "tcdm")
    assert Shares.of(config, Processes(6), "tcdm").micro_batch_size == 2  # less than the micro-batch falls to each
    with pytest.raises(ValueError, match=r"batch_size: must be a multiple of micro_batch_size \(3\), got 4"):
        replace(CONFIG, micro_batch_size=3)


def test_reading_ahead_keeps_the_order_and_hands_errors_on():
    def read(number):
        if number == 30:
            raise Killed
        return number**2

    for readers in (1, 4):
        assert list(read_ahead(read, range(30), readers)) == [n**2 for n in range(30)]
        with pytest.raises(Killed):
            list(read_ahead(read, range(40), readers))


def test_threads_do_a_processs_share_once_and_hand_errors_on():
    def fail(number):
        raise Killed

    for threads in (1, 3):
        done = []
        in_threads(done.append, range(9), threads, Accelerator(cpu=True), "numbers", "number")
        assert sorted(done) == [*range(9)]
        with pytest.raises(Killed):
            in_threads(fail, range(9), threads, Accelerator(cpu=True), "numbers", "number")


def test_sample_pictures_change_nothing(tmp_path):
    plain = run(tmp_path / "plain")
    shown = run(tmp_path / "shown", replace(CONFIG, sample_every=5), sample=panels)
    assert_same(shown, plain)
    assert sorted(path.name for path in (tmp_path / "shown" / "samples").iterdir()) == [
        "step_000005.png",
        "step_000010.png",
    ]
    assert (tmp_path / "shown" / "samples" / "step_000005.png").read_bytes()[:4] == b"\x89PNG"
    assert not (tmp_path / "plain" / "samples").exists()


def test_without_tensorboard_nothing_is_written_for_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run(tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "progress.png").exists()


def test_tensorboard_has_every_step_once_also_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(CONFIG, sample_every=5)
    with pytest.raises(Killed):
        run(tmp_path, config, dies_at=4 * 6 + 2, sample=panels)
    result = run(tmp_path, config, sample=panels)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    training_loss = events.Scalars("loss/training")
    assert [event.step for event in training_loss] == list(range(1, 13))
    np.testing.assert_allclose([event.value for event in training_loss], result.history.train_losses, rtol=1e-6)
    assert [event.step for event in events.Scalars("loss/validation")] == [4, 8, 12]
    assert [event.step for event in events.Images("sample")] == [5, 10]
    assert events.Scalars("learning rate")[0].value == pytest.approx(0.05 / 3)


@pytest.mark.slow
def test_compiled_training_is_the_same_and_its_weights_keep_their_names(tmp_path):
    plain = run(tmp_path / "plain")
    compiled = run(tmp_path / "compiled", replace(CONFIG, compile=True))
    np.testing.assert_allclose(compiled.history.train_losses, plain.history.train_losses, rtol=1e-4)
    state = torch.load(tmp_path / "compiled" / STATE, weights_only=True)
    for part in ("model", "best"):
        assert list(state[part]) == list(SumOfCoordinates().state_dict())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:600]),
        lambda path: path.write_bytes(b"3" * 3000),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save({"step": 4}, path),
        lambda path: torch.save(torch.load(path, weights_only=True) | {"model": {}}, path),
        lambda path: torch.save({"evil": Payload(str(path.parent / "was_run"))}, path),
    ],
    ids=["truncated", "garbage", "empty", "part of it", "another network", "code"],
)
def test_a_damaged_state_is_named_and_no_code_of_it_is_run(tmp_path, spoil):
    run(tmp_path)
    spoil(tmp_path / STATE)
    with pytest.raises(ValueError, match=r"state\.pt: training state must be whole .*\. Delete the file to train the"):
        run(tmp_path)
    assert not (tmp_path / STATE).with_name("was_run").exists()
