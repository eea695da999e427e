"""One generator, one data set, many runs, at once, in turn, killed at any moment: always the same bytes, no stray."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from fcas_nnunet_small import LABELS, SURROUNDINGS, short_config, small_case
from generation_runs import Runs

from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config.files import save_config
from fcas_nnunet.generator.checkpoint import load_generator
from fcas_nnunet.integration.dataset.folders import WORK_FOLDER
from fcas_nnunet.integration.dataset.locks import Workplace
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, write_case, write_dataset_json

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

SOURCE, OUTPUT = "Dataset901_Small", "Dataset902_SmallFCaS"
MODEL = f"{SOURCE}/fcas__tiny"
NUM_CASES = 12
PARTS = ("imagesTr", "labelsTr", "confidenceTr")


@dataclass
class Bench:
    """A trained generator, and what an undisturbed run makes of it.

    Attributes:
        home: nnU-Net's folders.
        runs: forked from a process that is ready.
        expected: path → content, of the undisturbed run.
        rerun_s: what a run on a finished data set takes.
    """

    home: Path
    runs: Runs
    expected: dict[str, bytes | None]
    rerun_s: float

    def command(self, *more: str) -> list[str]:
        return ["-d", "901", "-o", OUTPUT, "-n", str(NUM_CASES), "--config", str(self.home / "short.yaml"),
                "-device", "cpu", *more]  # fmt: skip

    def start(self, raw: Path, *more: str, log: str = "log", **folders: Path) -> int:
        return self.runs.start(self.command("-np", "2", *more), raw / f"{log}.txt", nnUNet_raw=raw, **folders)

    def start_training(self, results: Path, log: str) -> int:
        argv = ["-d", "901", "--config", str(self.home / "short.yaml"), "-device", "cpu"]
        return self.runs.start(argv, results / f"{log}.txt", command="train", nnUNet_results=results)

    def run(self, raw: Path, *more: str) -> str:
        """A run to its end. Returns what it printed."""
        code = self.runs.wait(self.start(raw, *more))
        printed = (raw / "log.txt").read_text()
        assert code == 0, printed
        return printed


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too: path → content, None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    home = tmp_path_factory.mktemp("home")
    environment = {name: str(home / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for folder in environment.values():
        Path(folder).mkdir()
    for number in range(4):
        write_case(home / "nnUNet_raw" / SOURCE, small_case(number))
    write_dataset_json(home / "nnUNet_raw" / SOURCE, LABELS, 4, surroundings=SURROUNDINGS)
    config = short_config()
    config = replace(
        config,
        sampling=replace(config.sampling, num_inference_steps=2),
        confidence=replace(config.confidence, num_snapshots=2),
    )
    save_config(config, home / "short.yaml")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        train(["-d", "901", "--config", str(home / "short.yaml"), "-device", "cpu"])
    bench = Bench(home, Runs(environment), {}, 0.0)
    raw = home / "nnUNet_raw"
    bench.run(raw)
    bench.expected = tree(raw / OUTPUT)
    start = time.monotonic()
    bench.run(raw)
    bench.rerun_s = time.monotonic() - start
    yield bench
    bench.runs.close()


@pytest.fixture
def raw(bench: Bench, tmp_path: Path) -> Path:
    """Another nnUNet_raw with the same source."""
    (tmp_path / SOURCE).symlink_to(bench.home / "nnUNet_raw" / SOURCE)
    return tmp_path


def test_a_finished_data_set_is_left_as_it_is(bench: Bench) -> None:
    folder = bench.home / "nnUNet_raw" / OUTPUT
    assert tree(folder) == bench.expected, "the fixture ran twice"
    assert len(Manifest(folder).read()) == NUM_CASES
    assert {name.split("/")[0] for name in bench.expected} == {*PARTS, DATASET_JSON, "fcas_manifest.jsonl"}


def test_three_parts_in_turn_one_of_them_elsewhere(bench: Bench, raw: Path) -> None:
    elsewhere = raw / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / SOURCE).symlink_to(raw / SOURCE)
    for place, part, left in ((raw, "1/3", 8), (elsewhere, "3/3", 8)):
        printed = bench.run(place, "--part", part)
        assert f"part {part[0]} of 3 (--part): 4 of 12 cases" in printed
        assert f"{left} of 12 cases are left to other parts" in printed
        assert not (place / OUTPUT / DATASET_JSON).exists(), "nnU-Net must not take it for a finished one"
    shutil.copytree(elsewhere / OUTPUT, raw / OUTPUT, dirs_exist_ok=True)
    assert "done: 12 cases" in bench.run(raw, "--part", "2/3")
    assert tree(raw / OUTPUT) == bench.expected


@pytest.mark.parametrize("parts", [("1/2", "2/2"), ("1/1", "1/1")])
def test_two_runs_at_once_make_no_case_twice(bench: Bench, raw: Path, parts: tuple[str, str]) -> None:
    """While a third process is in the folder, nobody finishes the data set: the journals stay to be looked at."""
    with Workplace(raw / OUTPUT):
        pids = [bench.start(raw, "--part", part, log=f"log{number}") for number, part in enumerate(parts)]
        assert [bench.runs.wait(pid) for pid in pids] == [0, 0]
        lines = [journal.path.read_text().splitlines() for journal in Manifest(raw / OUTPUT).journals()]
        made = Counter(json.loads(line)["case_id"] for journal in lines for line in journal)
        assert set(made.values()) == {1}
        assert len(made) == NUM_CASES
        assert len(lines) == 4, "two workers each"
        assert min(len(journal) for journal in lines) >= 2, "the work was shared"
        assert not (raw / OUTPUT / DATASET_JSON).exists()
        assert "all 12 cases are there. The last run at work" in "".join(p.read_text() for p in raw.glob("log*.txt"))
    bench.run(raw)
    assert tree(raw / OUTPUT) == bench.expected


def test_a_run_takes_over_what_another_was_killed_at(bench: Bench, raw: Path) -> None:
    first, second = bench.start(raw, log="first"), bench.start(raw, log="second")
    wait_for(lambda: bool(list((raw / OUTPUT).glob("labelsTr/*.nii.gz"))), "first labels")
    assert bench.runs.kill(first, group=True)
    assert bench.runs.wait(second) == 0, (raw / "second.txt").read_text()
    assert tree(raw / OUTPUT) == bench.expected


def test_killed_three_times(bench: Bench, raw: Path) -> None:
    kill_and_compare(bench, raw, ["start", "write", "write"], seed=0)


@pytest.mark.slow
def test_killed_twenty_times(bench: Bench, raw: Path) -> None:
    moments = random.Random(1).sample(["start"] * 4 + ["write"] * 10, 14) + ["finish"] * 6
    states = kill_and_compare(bench, raw, moments, seed=1)
    assert states["half a case"] >= 2, f"the kills must have hit cases in the making, got {states}"
    assert states["finished"] >= 1, f"and a data set in its last moments or after, got {states}"


def kill_and_compare(bench: Bench, raw: Path, moments: list[str], seed: int) -> Counter[str]:
    """Start and kill a run once for every moment, let the last one end, and compare with the undisturbed run.

    Args:
        moments: `start`: before the first case; `write`: soon after a file appears, of a data set begun anew where none
            is left to appear; `finish`: with all cases there, while the run looks at them and finishes the data set.
        seed: of the moments, and of whether all processes of the run are killed or its first one alone.

    Returns:
        How often the kills left which state.
    """
    rng, states = random.Random(seed), Counter[str]()
    output = raw / OUTPUT
    for moment in moments:
        if moment == "finish" and not (output / DATASET_JSON).exists():
            bench.run(raw)
        group, killed = rng.random() < 0.5, False
        while not killed:  # again, if it ended before
            if moment == "write" and all_labels_are_there(output):
                shutil.rmtree(output)
            before, pid = listing(output), bench.start(raw, "-np", "1")
            if moment == "write":
                wait_for(lambda before=before: listing(output) - before, "a new file")  # type: ignore[misc]
                time.sleep(rng.random() * rng.choice((0.0, 0.01, 0.5)))  # a file of this size takes milliseconds
            else:
                time.sleep(rng.random() * bench.rerun_s)
            killed = bench.runs.kill(pid, group=group)
        states[check_state(output, bench)] += 1
    bench.run(raw)
    assert tree(output) == bench.expected
    assert states.total() == len(moments)
    return states


def check_state(output: Path, bench: Bench) -> str:
    """What a kill left. A folder that nnU-Net would take for a data set must be the whole one."""
    if (output / DATASET_JSON).exists():
        there = tree(output)
        assert {name: there.get(name) for name in bench.expected} == bench.expected
        assert {name.split("/")[0] for name in there.keys() - bench.expected.keys()} <= {WORK_FOLDER}
        return "finished"
    names = listing(output)
    images = {name.removesuffix("_0000.nii.gz") for part, name in names if part == "imagesTr" and name[0] != "."}
    labels = {name.removesuffix(".nii.gz") for part, name in names if part == "labelsTr" and name[0] != "."}
    return "half a case" if images != labels or any(name.endswith(".part") for _, name in names) else "unfinished"


def listing(output: Path) -> set[tuple[str, str]]:
    return {(part, name) for part in PARTS if (output / part).is_dir() for name in os.listdir(output / part)}


def all_labels_are_there(output: Path) -> bool:
    return sum(part == "labelsTr" and name[0] != "." for part, name in listing(output)) == NUM_CASES


def wait_for(condition, what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.0005)


def weights(results: Path) -> dict[str, bytes]:
    names = ("autoencoder/model.safetensors", "tcdm/model.safetensors", "tcdm/ema.safetensors", "tcdm/config.yaml")
    return {name: (results / MODEL / name).read_bytes() for name in names}


def test_of_two_trainings_of_one_folder_one_is_killed_and_the_model_is_whole(bench: Bench, tmp_path: Path) -> None:
    first = bench.start_training(tmp_path, "first")
    wait_for((tmp_path / MODEL / "autoencoder" / "training_state" / "state.pt").exists, "first validation")
    os.kill(first, signal.SIGSTOP)  # it has the folder until the other one is seen to wait
    second, log = bench.start_training(tmp_path, "second"), tmp_path / "second.txt"
    wait_for(lambda: log.exists() and f"(process {first}, since" in log.read_text(), "message")
    assert bench.runs.kill(first, group=True)
    assert bench.runs.wait(second) == 0, log.read_text()
    assert weights(tmp_path) == weights(bench.home / "nnUNet_results")
    load_generator(tmp_path / MODEL, torch.device("cpu"))
    assert not [path for path in (tmp_path / MODEL).rglob("*") if path.name.startswith(".") or path.name == "cache"]


def test_two_runs_without_a_generator_train_one_and_share_the_cases(bench: Bench, raw: Path) -> None:
    results = raw / "results"
    results.mkdir()
    runs = [bench.start(raw, "-np", "1", log=f"log{number}", nnUNet_results=results) for number in range(2)]
    ended = [bench.runs.wait(run) for run in runs]
    said = [(raw / f"log{number}.txt").read_text() for number in range(2)]
    assert ended == [0, 0], said
    assert sum(f"{MODEL}: " in text and "is at work there, waiting for it" in text for text in said) == 1
    assert weights(results) == weights(bench.home / "nnUNet_results")
    assert tree(raw / OUTPUT) == bench.expected


@pytest.mark.slow
def test_torchrun_splits_the_cases(bench: Bench, raw: Path) -> None:
    environment = dict(os.environ) | {
        "nnUNet_raw": str(raw), "nnUNet_results": str(bench.home / "nnUNet_results"),
        "nnUNet_preprocessed": str(bench.home / "nnUNet_preprocessed"),
    }  # fmt: skip
    torchrun = Path(sys.executable).with_name("torchrun")
    result = subprocess.run(
        [str(torchrun), "--standalone", "--nproc_per_node", "2", "-m", "fcas_nnunet.commands.generate",
         *bench.command("-np", "1")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "part 1 of 2 (torchrun): 6 of 12 cases" in result.stderr
    assert "part 2 of 2" not in result.stderr, "one process of several speaks"
    assert tree(raw / OUTPUT) == bench.expected


def test_cases_without_a_line_of_an_unfinished_set_are_made_again(bench: Bench, raw: Path) -> None:
    lose_lines(bench, raw)
    (raw / OUTPUT / DATASET_JSON).unlink()
    (raw / OUTPUT / "labelsTr" / "fcas_00005.nii.gz").unlink()
    bench.run(raw)
    assert tree(raw / OUTPUT) == bench.expected


def test_cases_without_a_line_of_a_finished_set_are_not_written_over(bench: Bench, raw: Path) -> None:
    lose_lines(bench, raw)
    before = tree(raw / OUTPUT)
    assert bench.runs.wait(bench.start(raw)) == 2
    assert "there without a line in the manifest: fcas_00000, fcas_00001. Restore" in (raw / "log.txt").read_text()
    assert tree(raw / OUTPUT) == before


def lose_lines(bench: Bench, raw: Path) -> None:
    shutil.copytree(bench.home / "nnUNet_raw" / OUTPUT, raw / OUTPUT)
    manifest = Manifest(raw / OUTPUT).path
    manifest.write_text("".join(manifest.read_text().splitlines(keepends=True)[2:]))


def test_a_data_set_that_it_did_not_write_is_not_touched(bench: Bench, raw: Path) -> None:
    shutil.copytree(bench.home / "nnUNet_raw" / SOURCE, raw / OUTPUT)
    before = tree(raw / OUTPUT)
    assert bench.runs.wait(bench.start(raw)) == 2
    assert (
        "must be new, empty or begun by fcas_generate, got other files: dataset.json" in (raw / "log.txt").read_text()
    )
    assert tree(raw / OUTPUT) == before


def test_real_cases_among_the_synthetic_ones_count(bench: Bench, raw: Path) -> None:
    shutil.copytree(bench.home / "nnUNet_raw" / OUTPUT, raw / OUTPUT)
    for part in ("imagesTr", "labelsTr"):
        for path in (raw / SOURCE / part).iterdir():
            shutil.copy(path, raw / OUTPUT / part)
    (raw / OUTPUT / "labelsTr" / "fcas_00011.nii.gz").unlink()
    before = tree(raw / OUTPUT)
    bench.run(raw)
    after = tree(raw / OUTPUT)
    assert json.loads(after.pop(DATASET_JSON) or b"")["numTraining"] == NUM_CASES + 4
    assert after == {name: bench.expected.get(name, content) for name, content in before.items()
                     if name != DATASET_JSON} | {name: bench.expected[name] for name in ("labelsTr/fcas_00011.nii.gz",)
                                                 }  # fmt: skip
