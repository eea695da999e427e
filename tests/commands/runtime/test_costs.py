"""Forecasts of a training, and cards that are too small for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pretend_card import CARD, pretend_card

from fcas_nnunet.commands.runtime import costs
from fcas_nnunet.commands.runtime.costs import COSTS, refuse_small_card, training_forecast
from fcas_nnunet.config.presets import GPU, PRESETS
from fcas_nnunet.faults import InputError

#: Twenty CTAs.
GRIDS = [((250, 512, 512), (0.5, 0.4, 0.4))] * 20


def test_every_preset_is_counted() -> None:
    assert COSTS.keys() == PRESETS.keys()


def test_a_training_is_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """8,000 steps of 2.99 and of 9.17 TFLOP, 180 encoded variants and 16 drawings of 16 steps and 9 decodes, at a tenth
    of 140 TFLOP/s; 20 grids of 160 × 336 × 336 voxels, each voxel with three shapes of two masks and three contrasts,
    each of an image and a 64th of 16 bytes in latents."""
    pretend_card(monkeypatch, 24)
    monkeypatch.setattr(costs, "operations_per_second", lambda device: 140e12)
    said = training_forecast(GPU, GRIDS, 1, "auto")
    voxels, cost = 20 * 160 * 336 * 336, COSTS["gpu"]
    drawn = 16 * (16 * cost.step_tflop + 9 * cost.decode_tflop) * voxels / 20 / 1e6
    tflop = 8000 * (2.99 + 9.17) + 9 * cost.encode_tflop * voxels / 1e6 + drawn
    assert f"({tflop:,.0f} TFLOP counted, at 10% of the speed" in said
    assert said.startswith(f"training: about 1 h 58 min on one {CARD} (")
    assert "with 16 drawings of calibration; validation, deforming" in said
    disk = voxels * 3 * (2 + 3 * (2 + 16 / 64))
    assert f"6 GB of GPU memory, {disk / 1e9:.1f} GB of disk until it ends" in said
    own = replace(GPU, tcdm=replace(GPU.tcdm, channels=(96, 192, 384)))
    assert training_forecast(own, GRIDS, 1, "auto").startswith("training: time and memory are not counted for settings")


def test_most_work_of_a_small_preset_is_not_in_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,100 steps take 16 TFLOP; twelve drawings on grids of 2.8 million voxels more, and without calibration none."""
    monkeypatch.setattr(costs, "operations_per_second", lambda device: 0.1e12)
    config, of = PRESETS["cpu"], COSTS["cpu"]
    steps = 800 * of.autoencoder_tflop + 300 * of.tcdm_tflop
    said = training_forecast(config, GRIDS, 1, "cpu")
    assert float(said.split("(")[1].split(" TFLOP")[0]) > 2 * steps
    without = training_forecast(replace(config, calibration=None), GRIDS, 1, "cpu")
    assert float(without.split("(")[1].split(" TFLOP")[0]) < 2 * steps
    assert "; without calibration; validation, " in without


def test_small_networks_take_a_step_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_card(monkeypatch, 24)
    monkeypatch.setattr(costs, "operations_per_second", lambda device: 140e12)
    assert "training: about 55 s on one" in training_forecast(PRESETS["cpu"], GRIDS, 1, "auto")  # 1,100 · 0.05 s


@pytest.mark.parametrize(("name", "trains", "needed"), [("gpu", True, 7.5), ("gpu", False, 3.0), ("maisi", True, 48.7)])
def test_a_card_holds_what_was_counted_and_some_more(
    name: str, trains: bool, needed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_card(monkeypatch, needed + 0.1)
    refuse_small_card(PRESETS[name], "auto", trains)
    pretend_card(monkeypatch, needed - 0.1)
    with pytest.raises(InputError, match=f"-device: {CARD} must have at least {needed} GB of memory to "):
        refuse_small_card(PRESETS[name], "auto", trains)
    refuse_small_card(PRESETS[name], "cpu", trains)
    checkpointed = replace(PRESETS[name], tcdm=replace(PRESETS[name].tcdm, gradient_checkpointing=True))
    refuse_small_card(checkpointed, "auto", trains)
    own = replace(PRESETS[name], grid=replace(PRESETS[name].grid, max_voxels=10**9))
    refuse_small_card(own, "auto", trains)  # nobody has counted that


@pytest.mark.parametrize(
    ("name", "card_gb", "trains", "advice"),
    [
        ("maisi", 24, True, "--preset gpu, whose grid is coarser, or a --config of your own with tcdm.gradient_checkp"),
        ("paper", 6, True, "--preset cpu, whose grid is coarser, or a --config of your own with tcdm.gradient_checkp"),
        ("maisi", 24, False, "--preset gpu, whose grid is coarser.$"),
        ("gpu", 6, True, "--preset cpu, .* with tcdm.optimisation.micro_batch_size: 1, tcdm.gradient_checkpointing: t"),
        ("gpu", 2, True, "-device cpu, or "),
    ],
)
def test_a_small_card_is_advised_what_it_holds(
    name: str, card_gb: float, trains: bool, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`maisi` draws with 25 GB; `gpu` trains with 7.5 and `cpu` with 2.04. One pair at a time is maisi's least."""
    pretend_card(monkeypatch, card_gb)
    with pytest.raises(InputError, match=f"got {card_gb}.0 GB. Take {advice}"):
        refuse_small_card(PRESETS[name], "auto", trains)
