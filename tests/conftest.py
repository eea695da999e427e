"""Fixtures for all tests: two small data sets that nnU-Net itself has planned and preprocessed; a small generator."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from fcas_nnunet_small import LABELS, SURROUNDINGS, generate_small, load_small_case, set_roots, short_config
from hypothesis import settings
from nnunet_cases import PLANS, REAL, SYNTHETIC, Prepared, make_root, quick_nnunet, write_set
from shared_folders import own_copy

ROOT_IN_COMMANDS = "{root}"
settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Both data sets through fcas_prepare, 3d_fullres and 2d; to be left as they are."""
    root = own_copy(tmp_path_factory, "nnunet", _prepare_both)
    commands = (root / "commands.txt").read_text().replace(ROOT_IN_COMMANDS, str(root))
    return Prepared(root, commands)


def _prepare_both(root: Path) -> None:
    from fcas_nnunet.commands.prepare import prepare

    make_root(root)
    write_set(root / "raw" / REAL, [f"real_{i}" for i in range(5)], 0, confidence=False)
    write_set(root / "raw" / SYNTHETIC, [f"syn_{i}" for i in range(4)], 100, confidence=True)
    with pytest.MonkeyPatch.context() as patch, quick_nnunet():
        for name, value in Prepared(root, "").environment.items():
            patch.setenv(name, value)
        commands = prepare("902", "901", ["3d_fullres", "2d"], PLANS, 2)
    (root / "commands.txt").write_text(commands.replace(str(root), ROOT_IN_COMMANDS))


@pytest.fixture
def prepared(prepared_once: Prepared, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """`prepared_once` with nnU-Net's environment variables set."""
    for name, value in prepared_once.environment.items():
        monkeypatch.setenv(name, value)
    return prepared_once


@pytest.fixture(name="own_copy")
def copy_of_prepared(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A copy of `prepared` that a test may change, times of change kept, without results.

    No results, because logs of other tests that began in the same second have the same name.
    """
    copy = Prepared(tmp_path, prepared.commands)
    for kind in ("raw", "preprocessed"):
        shutil.copytree(prepared.root / kind, tmp_path / kind)
    (tmp_path / "results").mkdir()
    for name, value in copy.environment.items():
        monkeypatch.setenv(name, value)
    return copy


@pytest.fixture(scope="session", autouse=True)
def ready_workers() -> Iterator[None]:
    """Commands' workers are forked from one process that has imported everything, instead of importing it each time.

    That process keeps the environment it began with, so nothing that workers do may depend on a test's variables.
    """
    from fcas_nnunet.commands.runtime import pool

    with pytest.MonkeyPatch.context() as patch:
        if "forkserver" in multiprocessing.get_all_start_methods():
            multiprocessing.set_forkserver_preload(["fcas_nnunet.commands.generate.workers"])
            patch.setattr(pool, "START_METHOD", "forkserver")
        yield


@pytest.fixture(scope="module")
def small_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """nnU-Net's folders with 901, four labelled cases; its generator of four training steps, without calibration; 902,
    four cases that it drew; and `short.yaml`, its configuration. A copy for a module's tests to change, with nnU-Net's
    environment variables set."""
    folder = own_copy(tmp_path_factory, "small", generate_small)
    with pytest.MonkeyPatch.context() as patch:
        set_roots(patch, folder)
        yield folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of four training steps on four small cases, without calibration; a module's own copy."""
    return own_copy(tmp_path_factory, "trained", _train_small) / "fcas__tiny"


def _train_small(folder: Path) -> None:
    from fcas_nnunet.generator.data.training_data import TrainingData
    from fcas_nnunet.generator.train import train_generator

    data = TrainingData([f"p{i}" for i in range(4)], load_small_case, LABELS, SURROUNDINGS)
    train_generator(data, short_config(), folder / "fcas__tiny", Accelerator(cpu=True))


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its first settings for the whole process: a test's precision must not reach the next test."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)  # before the next module's fixtures, too


@pytest.fixture
def blur_without_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's blur times two implementations and takes the faster; they differ in the last bit."""
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform, blur_dimension

    monkeypatch.setattr(
        GaussianBlurTransform,
        "_benchmark_wrapper",
        lambda self, image, sigma, dim: blur_dimension(image, sigma, dim, force_use_fft=False),
    )
