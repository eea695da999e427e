"""Weights on disk: what is no finite number is named before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fcas_nnunet.generator.data.tensors import load_weights, read_metadata, save_weights


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, ending: str, value: float) -> None:
    state = nn.BatchNorm1d(5).state_dict()
    state["weight"][3] = state["running_var"][0] = value
    path = tmp_path / f"ema{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    with pytest.raises(
        ValueError, match=r"ema\..*: weights must be finite, got NaN or infinity in running_var, weight\."
    ):
        load_weights(nn.BatchNorm1d(5), path)


def test_whole_numbers_and_all_that_is_finite_are_loaded(tmp_path: Path) -> None:
    network, other = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    network(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    save_weights(network, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    assert all(torch.equal(other.state_dict()[key], tensor) for key, tensor in network.state_dict().items())


def test_metadata_stays_with_the_file_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    network, told, plain = nn.BatchNorm1d(5), tmp_path / "told.safetensors", tmp_path / "plain.safetensors"
    save_weights(network, told, {"from": '{"é": 1}'})
    save_weights(network, plain)
    assert read_metadata(told) == {"from": '{"é": 1}'}
    assert read_metadata(plain) == read_metadata(tmp_path / "maisis.pt") == {}
    load_weights(nn.BatchNorm1d(5), told)
    plain.write_bytes(told.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"plain\.safetensors: must be a readable checkpoint, got"):
        read_metadata(plain)
