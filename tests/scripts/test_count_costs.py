"""What presets cost is what their settings cost: the numbers that a card is refused by are counted again."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcas_nnunet.commands.runtime.costs import CONTEXT_GB, COSTS, WORKSPACE_SHARE
from fcas_nnunet.config.presets import PRESETS

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    "name", ["tiny", pytest.param("cpu", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.slow)]
)
def test_the_recorded_costs_are_the_counted_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from count_costs import count_preset

    counted, recorded = count_preset(PRESETS[name]), COSTS[name]
    assert (counted.autoencoder.tflop, counted.tcdm.tflop) == pytest.approx(
        (recorded.autoencoder_tflop, recorded.tcdm_tflop), rel=0.02
    )
    assert counted.tflop_of_megavoxel() == pytest.approx(
        (recorded.encode_tflop, recorded.step_tflop, recorded.decode_tflop), rel=0.02
    )
    assert (counted.training_gb, counted.drawing_gb) == pytest.approx(
        (recorded.training_gb, recorded.drawing_gb), rel=0.05
    )


def test_the_gpu_preset_fits_cards_of_users() -> None:
    """At most 20 GB to train and 24 to draw 512 × 512 × 256; with a reserve, a card of 7.5 GB does both."""
    cost = COSTS["gpu"]
    assert cost.training_gb <= 20
    assert cost.drawing_gb <= 24
    assert CONTEXT_GB + (1 + WORKSPACE_SHARE) * max(cost.training_gb, cost.drawing_gb) <= 7.5


def test_the_gpu_preset_trains_within_three_hours() -> None:
    """At 14 TFLOP/s, what an RTX 4090 reaches if an H200's 80 in training shrink as its peak does (989 to 165)."""
    config, cost = PRESETS["gpu"], COSTS["gpu"]
    steps = config.autoencoder.optimisation.num_steps, config.tcdm.optimisation.num_steps
    tflop = steps[0] * cost.autoencoder_tflop + steps[1] * cost.tcdm_tflop
    assert tflop / 14 / 3600 < 2.5
