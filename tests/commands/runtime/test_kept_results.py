"""Results of cases are kept until the command has ended: what was computed is not computed again, what changed is."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcas_nnunet.commands.runtime.case_files import run_cases
from fcas_nnunet.commands.runtime.kept_results import Kept, kept, kept_results
from fcas_nnunet.evaluation.images.quality import ImageScores
from fcas_nnunet.faults import InputError


@dataclass(frozen=True)
class Job:
    path: Path
    factor: int = 1


class Kind(StrEnum):
    A = "a"


def length(done: Path, job: Job) -> int:
    """The size of a file times a factor; notes that it was computed."""
    with done.open("a") as stream:
        stream.write(f"{job.path.name} ")
    if not job.path.exists():
        raise InputError("there is no file")
    return job.path.stat().st_size * job.factor


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, text in (("a", "1"), ("b", "22")):
        (tmp_path / name).write_text(text)
    return tmp_path


def run(home: Path, factor: int = 1, depends_on: Any = None, names: str = "ab") -> dict[str, int]:
    jobs = {name: Job(home / name, factor) for name in names}
    return run_cases(partial(length, home / "done"), jobs, workers=1, description="", depends_on=depends_on)


def done(home: Path) -> str:
    """What was computed since it was asked for last."""
    text = (home / "done").read_text() if (home / "done").exists() else ""
    (home / "done").unlink(missing_ok=True)
    return text.strip()


def interrupted(home: Path, output: Path) -> None:
    with pytest.raises(KeyboardInterrupt), kept_results(output):
        assert run(home) == {"a": 1, "b": 2}
        raise KeyboardInterrupt


def test_a_run_after_a_killed_one_computes_nothing_again_and_leaves_only_its_result(home: Path) -> None:
    output = home / "out.json"
    interrupted(home, output)
    assert done(home) == "a b"
    assert (home / ".out.json.fcas_unfinished").is_dir()
    with kept_results(output):
        assert run(home) == {"a": 1, "b": 2}
    assert done(home) == ""
    assert sorted(path.name for path in home.iterdir()) == ["a", "b"]
    with kept_results(output):
        run(home)
    assert done(home) == "a b", "the result was written, so a new run is a new one"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda home: (home / "b").write_text("333"), "b"),
        (lambda home: os.utime(home / "a", (1, 1)), "a"),
        (lambda home: [path.write_bytes(b"half") for path in home.glob(".out.json*/*")], "a b"),
    ],
    ids=["a file", "a time", "what was kept is cut short"],
)
def test_what_has_changed_is_computed_again(home: Path, change: Any, again: str) -> None:
    interrupted(home, home / "out.json")
    done(home)
    change(home)
    with kept_results(home / "out.json"):
        assert run(home) == {name: (home / name).stat().st_size for name in "ab"}
    assert done(home) == again


@pytest.mark.parametrize("other", [{"factor": 2}, {"depends_on": {"weights": "x"}}, {"depends_on": object()}])
def test_other_settings_are_computed_again(home: Path, other: dict[str, Any]) -> None:
    interrupted(home, home / "out.json")
    done(home)
    with kept_results(home / "out.json"):
        run(home, **other)
    assert done(home) == "a b"


def test_cases_are_kept_though_another_fails(home: Path) -> None:
    for again in ("a c", "c"):
        with pytest.raises(InputError, match="^c: there is no file$"), kept_results(home / "out.json"):
            run(home, names="ac")
        assert done(home) == again


def test_without_an_output_nothing_is_kept(home: Path) -> None:
    with kept_results(None):
        run(home)
    run(home)
    assert done(home) == "a b a b"
    assert sorted(path.name for path in home.iterdir()) == ["a", "b"]


def test_of_two_runs_with_one_output_the_second_goes_on_when_the_first_has_ended(home: Path) -> None:
    with kept_results(home / "out.json"):
        with kept_results(home / "out.json"):
            run(home, names="a")
        assert run(home) == {"a": 1, "b": 2}
    assert sorted(path.name for path in home.iterdir()) == ["a", "b", "done"]


@pytest.mark.parametrize(
    "result",
    [
        {"x": np.arange(6).reshape(2, 3), "y": [1.5, None, "ü", (1, 2)], 3: float("inf")},
        ImageScores(ssim=0.25, rmse=0.5, rmse_units=20.0),
        np.float32(0.1),
    ],
)
def test_results_come_back_as_they_were(home: Path, result: Any) -> None:
    with pytest.raises(KeyboardInterrupt), kept_results(home / "out.json"):
        assert kept(lambda: result, "x") is result
        raise KeyboardInterrupt
    with kept_results(home / "out.json"):
        found = kept(lambda: pytest.fail("it was kept"), "x")
    assert type(found) is type(result)
    np.testing.assert_equal(found, result)


def test_a_file_put_there_runs_no_code(home: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(home / "evil"),)

    with kept_results(home / "out.json"):
        place = Kept("x")
        place.write(1)
        next((home / ".out.json.fcas_unfinished").iterdir()).write_bytes(pickle.dumps(Evil()))
        assert place.read("nothing") == "nothing"
    assert not (home / "evil").exists()


def test_keys_tell_kinds_apart(home: Path) -> None:
    with kept_results(home / "out.json"):
        Kept(Job(home / "a", 1), {Kind.A: np.float32(1)}, {"b", "a"}).write("first")
        assert Kept(Job(home / "a", 1), {Kind.A: np.float32(1)}, {"a", "b"}).read() == "first"
        assert Kept(Job(home / "a", 1), {Kind.A: np.float32(2)}, {"a", "b"}).read() is None
