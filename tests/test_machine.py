"""What a process is told by its surroundings: numbers in environment variables, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcas_nnunet.faults import MissingFileError
from fcas_nnunet.machine import check_working_directory, number_in


def test_numbers_of_the_environment() -> None:
    environment = {"RANK": "3", "WORLD_SIZE": "0", "LOCAL_RANK": "abc", "SLURM_PROCID": "-1", "HUGE": "9" * 30}
    assert number_in(environment, "RANK", 0) == 3
    assert number_in(environment, "ABSENT", 7) == 7
    with pytest.raises(ValueError, match="^WORLD_SIZE: the environment variable must be a whole number from 1 .*'0'"):
        number_in(environment, "WORLD_SIZE", 1, least=1)
    for name in ("LOCAL_RANK", "SLURM_PROCID", "HUGE"):
        with pytest.raises(ValueError, match=f"^{name}: .*got '{environment[name]}'. Unset it, or "):
            number_in(environment, name, 0)


def test_a_working_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_working_directory()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(MissingFileError, match="working directory: must exist, got one that was removed. Change into"):
        check_working_directory()
