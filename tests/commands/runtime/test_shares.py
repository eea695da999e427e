"""Which share of the plan a process takes, by what launched it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.commands.runtime.shares import Share, local_rank, local_size, share_of

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "1"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_LOCALID": "0"}


def array(task: int, numbers: range) -> dict[str, str]:
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(len(numbers)),
        "SLURM_ARRAY_TASK_MIN": str(numbers[0]),
        "SLURM_ARRAY_TASK_MAX": str(numbers[-1]),
        "SLURM_ARRAY_TASK_STEP": str(numbers.step),
    }


@pytest.mark.parametrize(
    ("environment", "index", "count", "origin"),
    [
        ({}, 0, 1, ""),
        (TORCHRUN, 5, 8, "torchrun"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 0, 1, ""),
        (SRUN, 2, 3, "srun"),
        (BATCH_SCRIPT, 0, 1, ""),
        (array(0, range(0, 4)), 0, 4, "SLURM array"),
        (array(7, range(5, 9)), 2, 4, "SLURM array"),
        (array(8, range(0, 12, 4)), 2, 3, "SLURM array"),
        (array(7, range(7, 8)), 0, 1, ""),  # one task of an array submitted again: whatever is left
        (array(3, range(1, 5)) | SRUN, 2 * 3 + 2, 12, "SLURM array and srun"),
        (array(3, range(1, 5)) | BATCH_SCRIPT, 2, 4, "SLURM array"),
        (array(2, range(1, 3)) | TORCHRUN | SRUN, 8 + 5, 16, "SLURM array and torchrun"),
    ],
)
def test_share_by_environment(environment: dict[str, str], index: int, count: int, origin: str) -> None:
    assert share_of(None, environment) == Share(index, count, origin)


def test_part_decides_alone_and_counts_from_one() -> None:
    environment = TORCHRUN | SRUN | array(3, range(1, 5))
    assert share_of("2/4", environment) == Share(1, 4, "--part")
    assert share_of("1/1", environment).count == 1
    assert str(share_of("2/4", {})) == "part 2 of 4 (--part)"


@pytest.mark.parametrize("part", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_malformed_parts_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match=f"--part: must be K/N with K from 1 to N, got {part}"):
        share_of(part, {})


def test_an_array_with_gaps_is_refused() -> None:
    environment = array(3, range(1, 8)) | {"SLURM_ARRAY_TASK_COUNT": "3"}  # --array=1,3,7
    with pytest.raises(
        ValueError, match="evenly spaced to tell a task's part, got 3 from 1 to 7, of which this is 3. Give --part"
    ):
        share_of(None, environment)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        (
            {"RANK": "2", "WORLD_SIZE": "2"},
            "RANK: the environment variable must be a whole number from 0 to 1, got '2'",
        ),
        (SRUN | {"SLURM_PROCID": "3"}, "SLURM_PROCID: the environment variable must be a whole number from 0 to 2"),
        (array(1, range(1, 5)) | {"SLURM_ARRAY_TASK_ID": "5"}, "got 4 from 1 to 4, of which this is 5"),
    ],
)
def test_a_process_that_its_launcher_does_not_have_is_refused(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        share_of(None, environment)


@given(st.integers(0, 200), st.integers(1, 20))
def test_shares_are_disjoint_together_everything_and_even(num_cases: int, count: int) -> None:
    cases = list(range(num_cases))
    shares = [Share(index, count).of(cases) for index in range(count)]
    assert sorted(case for share in shares for case in share) == cases
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("environment", "rank", "size"),
    [({}, 0, 1), (TORCHRUN, 1, 4), (SRUN, 1, 1), (BATCH_SCRIPT, 0, 1), (SRUN | TORCHRUN, 1, 4)],
)
def test_place_on_the_machine(environment: dict[str, str], rank: int, size: int) -> None:
    assert local_rank(environment) == rank
    assert local_size(environment) == size


@pytest.mark.parametrize(
    ("environment", "num_gpus", "index"),
    [
        ({}, 4, 0),
        (TORCHRUN | {"LOCAL_RANK": "3"}, 4, 3),
        (TORCHRUN | {"LOCAL_RANK": "3"}, 2, 1),
        (TORCHRUN | {"LOCAL_RANK": "3"}, 1, 0),
        (SRUN, 4, 1),
    ],
)
def test_each_process_takes_one_of_the_gpus_it_sees(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], num_gpus: int, index: int
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", index)
    assert resolve_device("cpu") == torch.device("cpu")
