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
    """8,000 steps of 2.99 and of 9.17 TFLOP at a tenth of 140 TFLOP/s; 20 grids of 160 × 336 × 336 voxels, each voxel
    with three shapes of two masks and three contrasts, each of an image and a 64th of 16 bytes in latents."""
    pretend_card(monkeypatch, 24)
    monkeypatch.setattr(costs, "operations_per_second", lambda device: 140e12)
    said = training_forecast(GPU, GRIDS, 1, "auto")
    assert said.startswith(f"training: about 1 h 56 min on one {CARD} (97,280 TFLOP counted, at 10% of the speed")
    voxels = 20 * 160 * 336 * 336
    disk = voxels * 3 * (2 + 3 * (2 + 16 / 64))
    assert f"6 GB of GPU memory, {disk / 1e9:.1f} GB of disk until it ends" in said
    own = replace(GPU, tcdm=replace(GPU.tcdm, channels=(96, 192, 384)))
    assert training_forecast(own, GRIDS, 1, "auto").startswith("training: time and memory are not counted for settings")


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
    own = replace(PRESETS[name], grid=replace(PRESETS[name].grid, max_voxels=10**9))
    refuse_small_card(own, "auto", trains)  # nobody has counted that
