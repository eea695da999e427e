"""A world in which every command has something to read, and in which one fault at a time is tried."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_world import World, furnish
from fcas_nnunet_small import generate_small, set_roots
from nnunet_cases import ENVIRONMENT, quick_nnunet
from shared_folders import own_copy


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    def make(folder: Path) -> None:
        shutil.copytree(own_copy(tmp_path_factory, "small", generate_small), folder, dirs_exist_ok=True)
        furnish(folder)

    base = own_copy(tmp_path_factory, "faults", make)
    with pytest.MonkeyPatch.context() as patch, quick_nnunet():
        world = World(base, tmp_path_factory.mktemp("world") / "home")
        set_roots(patch, world.folder)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.chdir(world.folder)
        patch.setattr("fcas_nnunet.commands.doctor.check_environment", lambda: iter(()))  # takes its time
        yield world


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The world in its sound state; whatever a test does to it is undone."""
    yield shared_world
    shared_world.restore()
