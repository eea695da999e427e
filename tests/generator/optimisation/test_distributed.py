"""Two processes learn what one learns, and leave what one leaves (gloo on the CPU)."""

import math
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from fcas_nnunet_small import LABELS, SURROUNDINGS, load_small_case, short_config
from process_group import leave
from safetensors.torch import load_file
from small_training import CONFIG, HeldOut, Killed, NumberedPoints, SumOfCoordinates
from torch import multiprocessing

from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.generator import checkpoint
from fcas_nnunet.generator.data.tensors import EMA_FILE, MODEL_FILE
from fcas_nnunet.generator.data.training_data import TrainingData
from fcas_nnunet.generator.optimisation.loop import STATE_FILE, Training
from fcas_nnunet.generator.optimisation.progress import History
from fcas_nnunet.generator.train import train_generator

WORLD = 2
NUM_CASES = 5


def config(micro_batch_size: int = 0, num_steps: int = 6, sample_every: int = 0) -> FCaSConfig:
    """Both kinds of pairs, four items a step."""
    short = short_config(num_steps)

    def changed(part):
        return replace(part.optimisation, batch_size=4, micro_batch_size=micro_batch_size, sample_every=sample_every)

    tcdm = replace(
        short.tcdm, optimisation=changed(short.tcdm), pairs=replace(short.tcdm.pairs, self_pair_probability=0.5)
    )
    return replace(
        short, tcdm=tcdm, autoencoder=replace(short.autoencoder, optimisation=changed(short.autoencoder)),
        sampling=replace(short.sampling, num_inference_steps=2),
    )  # fmt: skip


def train(folder: Path, config: FCaSConfig) -> None:
    data = TrainingData([f"p{i}" for i in range(NUM_CASES)], load_small_case, LABELS, SURROUNDINGS)
    train_generator(data, config, folder, Accelerator(cpu=True))


def start(rank: int, port: int, work: Callable[..., None], *arguments: object) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    work(*arguments)
    leave()


def in_two_processes(work: Callable[..., None], *arguments: object) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(start, (port, work, *arguments), nprocs=WORLD, start_method="spawn")


def history(folder: Path, part: str) -> History:
    return History(**torch.load(folder / part / STATE_FILE, weights_only=True)["history"])


def assert_same_training(folder: Path, other: Path) -> None:
    for part in ("autoencoder", "tcdm"):
        one, two = history(folder, part), history(other, part)
        np.testing.assert_allclose(two.train_losses, one.train_losses, rtol=2e-5)
        np.testing.assert_allclose(two.validation_losses, one.validation_losses, rtol=2e-5)
        assert len(set(one.train_losses)) == len(one.train_losses)
        for file in (MODEL_FILE, EMA_FILE)[: 1 + (part == "tcdm")]:
            weights, others = load_file(folder / part / file), load_file(other / part / file)
            for name, tensor in weights.items():
                torch.testing.assert_close(others[name], tensor, rtol=1e-3, atol=5e-4)
    assert checkpoint.load_record(other).cases == checkpoint.load_record(folder).cases
    np.testing.assert_allclose(
        checkpoint.load_record(other).latent_scale.scale_factor,
        checkpoint.load_record(folder).latent_scale.scale_factor, rtol=1e-4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, config())
    return folder


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(alone: Path, tmp_path: Path) -> None:
    in_two_processes(train, tmp_path, config(micro_batch_size=1, sample_every=5))
    assert_same_training(alone, tmp_path)
    assert {path.name for path in (tmp_path / "tcdm").iterdir()} - {"tensorboard"} == {
        "config.yaml", "model.safetensors", "ema.safetensors", "training_state", "progress.png", "training.log",
        "samples",
    }  # fmt: skip
    for part in ("autoencoder", "tcdm"):
        assert [path.name for path in (tmp_path / part / "samples").iterdir()] == ["step_000005.png"]
        assert len((tmp_path / part / "training.log").read_text().splitlines()) == 3  # one process writes
    assert not (tmp_path / "cache").exists()


def test_accumulation_learns_what_the_whole_batch_learns(alone: Path, tmp_path: Path) -> None:
    train(tmp_path, config(micro_batch_size=2))
    assert_same_training(alone, tmp_path)


def learn_to_add(folder: Path, dies_at: float = math.inf) -> None:
    """A training that validates often and may lose its patience; its weights and losses as this process knows them."""
    items = NumberedPoints()
    items.dies_at = dies_at
    config = replace(CONFIG, num_steps=60, validate_every=4, patience=3, micro_batch_size=1)
    run = Training(SumOfCoordinates(), config, folder, Accelerator(cpu=True), "test")
    run.run(items, HeldOut(), 7)
    best = run.load_best(run.finish()).state_dict()
    torch.save({"best": best, "history": vars(run.history)}, folder / f"{run.accelerator.process_index}.pt")


def killed_and_gone_on_with(folder: Path) -> None:
    with pytest.raises(Killed):
        learn_to_add(folder / "killed", dies_at=4 * 10)
    learn_to_add(folder / "killed")
    learn_to_add(folder / "whole")


def test_two_processes_stop_and_go_on_as_one(tmp_path: Path) -> None:
    in_two_processes(killed_and_gone_on_with, tmp_path)
    learn_to_add(tmp_path / "alone")
    ranks = [torch.load(tmp_path / run / f"{i}.pt") for run in ("whole", "killed") for i in range(WORLD)]
    for rank in ranks[1:]:  # every process knows the same; killed or not, bit for bit
        assert rank["history"] == ranks[0]["history"]
        assert all(torch.equal(rank["best"][name], tensor) for name, tensor in ranks[0]["best"].items())
    alone = torch.load(tmp_path / "alone" / "0.pt")
    assert 4 * 3 < len(alone["history"]["train_losses"]) < 60  # patience ran out
    assert ranks[0]["history"]["validation_steps"] == alone["history"]["validation_steps"]
    for losses in ("train_losses", "validation_losses"):
        np.testing.assert_allclose(ranks[0]["history"][losses], alone["history"][losses], rtol=1e-4)
