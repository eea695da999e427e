"""Kill each command at random moments, and start several at once in one folder: is the result always the same?

    python scripts/kill_check.py --folder kills -o kills.json               # 25 kills of every command, then crowds
    python scripts/kill_check.py --folder kills -o kills.json --minutes 4   # as much as fits; the next call goes on

Everything is small: cases of 24³ voxels, networks of the preset `tiny` trained for some steps. For each command, an
undisturbed run gives the expected files and the time that it takes. A kill is SIGKILL, to all processes of a run or to
its first one alone, at a moment of that time: the moments are spread evenly, each at random in its own part. Then the
same command runs to its end, and every file and folder is compared. Of a crowd, two or four runs of the command are
started at once.

Runs are forked from this process, which has imported everything, and so are their workers: a run is over in seconds.
All else is as users have it: own process groups and exit codes, real files and locks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from fcas_nnunet.case import Case
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json

REAL, SYNTHETIC, OTHERS = "Dataset901_Balls", "Dataset902_BallsFCaS", "Dataset903_Balls"
MODEL = Path("nnUNet_results") / REAL / "fcas__tiny"
ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
LABELS = {"background": 0, "left_ventricle": 1, "left_myocardium": 2, "coronary_arteries": 3}
KILLS, CROWDS = 25, (2, 4)
#: Files that hold times, so that two undisturbed runs differ; that they are there is compared, not what they hold.
TIMED = (
    r"fcas_known/", r"fcas_contents\.json$", r"fcas_prepared\.json$", r"measurements\.jsonl$", r"progress\.png$",
    r"training_log.*\.txt$", r"/log\.json$", r"/training_state/",
)  # fmt: skip
_PUBLIC_CASES = 12


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Attributes:
        module: Module of its entry point.
        arguments: Its command line.
        needs: Paths that must be there before, of those that `make_base` made.
    """

    module: str
    arguments: tuple[str, ...]
    needs: tuple[str, ...]


_RAW = tuple(f"nnUNet_raw/{name}" for name in (REAL, SYNTHETIC, OTHERS))
_CPU = ("-device", "cpu")
COMMANDS = {
    "train": Command("train", ("-d", "901", "--config", "short.yaml", *_CPU), _RAW[:1]),
    "generate": Command(
        "generate.command",
        ("-d", "901", "-o", SYNTHETIC, "-n", "6", "--masks", "both", "--config", "short.yaml", "-np", "2", *_CPU),
        (_RAW[0], str(MODEL)),
    ),
    "prepare": Command("prepare", ("-d", "902", "--for", "901", "-np", "2"), _RAW[:2]),
    "convert": Command("convert.command", ("la2018", "public", "-d", "904", "-np", "2"), ("public",)),
    "evaluate images": Command(
        "evaluate.command",
        ("images", "-r", "901", "-s", "902", "-o", "out/images.json", "--csv", "out/images.csv", "-np", "2"), _RAW[:2],
    ),
    "evaluate confidence": Command(
        "evaluate.command",
        ("confidence", "-d", "901", "--held_out", "903", "--config", "short.yaml", "-o", "out/confidence.json",
         "--picture", "out/confidence.png", "--draws", "2", "--ensemble", "2", "--prior_cases", "2", "-np", "2", *_CPU),
        (_RAW[0], _RAW[2], str(MODEL)),
    ),
    "report": Command(
        "report.command", ("-d", "902", "--against", "901", "-o", "out/report.html", "-np", "2"), _RAW[:2]
    ),
}  # fmt: skip
#: Modules that commands import when they work.
_LATER = (
    "generate.run", "convert.conversion", "evaluate.images", "evaluate.image_sets", "evaluate.confidence",
    "report.page", "runtime.devices",
)  # fmt: skip


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder to work in; kept for the next call")
    parser.add_argument("-o", type=Path, required=True, metavar="FILE.json", help="the result, written after each kill")
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS), help="only these")
    parser.add_argument("--kills", type=int, default=KILLS, help=f"kills of each command ({KILLS})")
    parser.add_argument("--crowds", type=int, nargs="*", default=CROWDS, help="runs at once (2 4)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing after that time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (0)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.folder.resolve(), time.monotonic() + 60 * args.minutes)
    report = json.loads(args.o.read_text()) if args.o.is_file() else {}
    for name in args.commands:
        entry = report.setdefault(name, {"kills": [], "crowds": []})
        for _ in bench.checked(COMMANDS[name], name, entry, args):
            atomic_write_json(args.o, report)
        print(f"{name}: {len(entry['kills'])} kills, {len(entry['crowds'])} crowds, {count_faults(entry)} faults")
    if count := sum(map(count_faults, report.values())):
        sys.exit(f"{count} faults: {args.o}")


def count_faults(entry: dict[str, Any]) -> int:
    """The kills and crowds after which a run failed or left other files than an undisturbed one."""
    return sum(bool(trial["fault"]) for trial in (*entry["kills"], *entry["crowds"]))


class Bench:
    """Forks runs, and compares what they leave.

    Args:
        folder: To work in.
        deadline: Of `time.monotonic`, after which nothing is begun.
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        self.base, self.work, self.logs = folder / "base", folder / "work", folder / "logs"
        self.deadline = deadline
        self.logs.mkdir(exist_ok=True)
        _import_all()
        if not (self.base / "whole").exists():
            shutil.rmtree(self.base, ignore_errors=True)
            self.base.mkdir()
            make_base(self.base, lambda module, *arguments: self._wait(self._start(module, arguments, self.base, "b")))
            (self.base / "whole").touch()

    def checked(
        self, command: Command, name: str, entry: dict[str, Any], args: argparse.Namespace
    ) -> Iterator[dict[str, Any]]:
        """Do what is left of a command's kills and crowds; yields each trial, which is then in its entry."""
        if len(entry["kills"]) >= args.kills and len(entry["crowds"]) >= len(args.crowds):
            return
        if time.monotonic() > self.deadline:
            return
        seconds, expected = self._undisturbed(command, name)
        entry["seconds"] = round(seconds, 2)
        while len(entry["kills"]) < args.kills and time.monotonic() < self.deadline:
            number = len(entry["kills"])
            rng = random.Random(f"{args.seed} {name} {number}")
            moment_s = (number + rng.random()) / args.kills * seconds
            entry["kills"].append(self._killed(command, name, expected, moment_s, rng.random() < 0.5))
            yield entry["kills"][-1]
        for count in args.crowds[len(entry["crowds"]) :]:
            if time.monotonic() < self.deadline:
                entry["crowds"].append(self._crowd(command, name, expected, count))
                yield entry["crowds"][-1]

    def _undisturbed(self, command: Command, name: str) -> tuple[float, dict[str, bytes | None]]:
        """Seconds and files of an undisturbed run; the first one only fills the disk's cache."""
        for _ in range(2):
            self._set_up(command)
            start = time.monotonic()
            code = self._wait(self._start(command.module, command.arguments, self.work, f"{name} undisturbed"))
            assert code == 0, f"{name} ends with {code}: {self.logs}"
            seconds = time.monotonic() - start
        return seconds, _tree(self.work)

    def _killed(
        self, command: Command, name: str, expected: dict[str, bytes | None], moment_s: float, group: bool
    ) -> dict[str, Any]:
        """Kill a run, let another one end, and compare."""
        code, tries = 0, 0
        while code != -signal.SIGKILL:  # again and earlier, if it ended before
            self._set_up(command)
            pid = self._start(command.module, command.arguments, self.work, f"{name} killed")
            time.sleep(moment_s * 0.97**tries)
            (os.killpg if group else os.kill)(pid, signal.SIGKILL)  # not waited for yet, its id is still its own
            code, tries = self._wait(pid), tries + 1
            assert code in (0, -signal.SIGKILL), f"{name} ends with {code}: {self.logs}"
        left = sum(path.is_file() for path in self.work.rglob("*"))
        start = time.monotonic()
        code = self._wait(self._start(command.module, command.arguments, self.work, f"{name} again"))
        seconds = time.monotonic() - start
        fault = f"exit code {code}" if code else _difference(expected, _tree(self.work))
        if _alive(pid):
            fault += " processes of the killed run are alive"
        if fault:
            shutil.copytree(self.work, self.work.with_name(f"fault {name} {moment_s:.2f}"), dirs_exist_ok=True)
        return {"moment_s": round(moment_s, 3), "group": group, "files_left": left,
                "again_s": round(seconds, 2), "fault": fault}  # fmt: skip

    def _crowd(self, command: Command, name: str, expected: dict[str, bytes | None], count: int) -> dict[str, Any]:
        """Start a command several times at once, and compare when all have ended."""
        self._set_up(command)
        start = time.monotonic()
        pids = [self._start(command.module, command.arguments, self.work, f"{name} {i + 1} of {count}")
                for i in range(count)]  # fmt: skip
        codes = [self._wait(pid) for pid in pids]
        fault = f"exit codes {codes}" if any(codes) else _difference(expected, _tree(self.work))
        return {"runs": count, "seconds": round(time.monotonic() - start, 2), "fault": fault}

    def _set_up(self, command: Command) -> None:
        """Bring the folder to the state before a command."""
        shutil.rmtree(self.work, ignore_errors=True)
        for name in (*ROOTS, "out"):
            (self.work / name).mkdir(parents=True)
        shutil.copy2(self.base / "short.yaml", self.work)
        for name in command.needs:
            shutil.copytree(self.base / name, self.work / name)

    def _start(self, module: str, arguments: Sequence[str], folder: Path, log: str) -> int:
        """Fork a run in a process group of its own; returns its process id."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _run(module, arguments, folder, self.logs / f"{log}.txt")
        while os.getpgid(pid) != pid:  # else a kill of the group could come before there is one
            time.sleep(0.001)
        return pid

    def _wait(self, pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def make_base(base: Path, run: Callable[..., int]) -> None:
    """Make the inputs of all commands: two data sets, a generator, a synthetic set, and a public data set."""
    for name in ROOTS:
        (base / name).mkdir()
    small = {"num_steps": 4, "validate_every": 2, "warmup_steps": 1}
    pairs = replace(TINY.tcdm.pairs, num_shapes=2, num_contrasts=1)
    trained = {"autoencoder": TINY.autoencoder, "tcdm": replace(TINY.tcdm, pairs=pairs)}
    parts = {name: replace(part, optimisation=replace(part.optimisation, **small)) for name, part in trained.items()}
    assert TINY.calibration is not None, "the preset has one"
    calibration = replace(TINY.calibration, num_voxels=2000, num_steps=20, batch_voxels=512)
    sampling = replace(TINY.sampling, num_inference_steps=3)
    save_config(replace(TINY, **parts, calibration=calibration, sampling=sampling), base / "short.yaml")
    for name, numbers in ((REAL, range(4)), (OTHERS, range(100, 102))):
        for number in numbers:
            write_case(base / "nnUNet_raw" / name, _case(number))
        write_dataset_json(base / "nnUNet_raw" / name, LABELS, len(numbers))
    codes = [run(COMMANDS[name].module, *COMMANDS[name].arguments) for name in ("train", "generate")]
    assert not any(codes), codes
    rng = np.random.default_rng(0)
    for number in range(_PUBLIC_CASES):
        folder = base / "public" / "Training Set" / f"case{number}"
        folder.mkdir(parents=True)
        scan = rng.integers(0, 255, (48, 64, 64)).astype(np.uint8)
        for file, array in (("lgemri", scan), ("laendo", (scan > 128).astype(np.uint8) * 255)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{file}.nrrd"), True)


def _case(number: int) -> Case:
    """A ball in a shell with a straight vessel on it; 3 mm voxels."""
    rng = np.random.default_rng(number)
    d, h, w = np.mgrid[:24, :24, :24] - 11.5 + rng.normal(0, 1, (3, 1, 1, 1))
    radius = np.sqrt(d**2 + h**2 * rng.uniform(0.8, 1.2) + w**2)
    mask = np.where(radius < 5, 1, np.where(radius < 8, 2, 0)).astype(np.uint8)
    mask[(abs(h - 8.5) < 1.5) & (abs(w) < 1.5)] = 3
    image = np.array([-100, 350 + rng.normal(0, 50), 100, 320])[mask] + rng.normal(0, 20, mask.shape)
    return Case(f"p{number}", image.astype(np.float32)[None], mask, np.diag([3.0, 3.0, 3.0, 1.0]))


def _import_all() -> None:
    """Import what runs need, and let their pools fork, too."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    torch.set_num_threads(1)
    for name in (*_LATER, *(command.module for command in COMMANDS.values())):
        import_module(f"fcas_nnunet.commands.{name}")
    import_module("fcas_nnunet.commands.runtime.pool").START_METHOD = "fork"  # type: ignore[attr-defined]
    for module, name in (("commands.generate.workers", "POLL_S"), ("integration.dataset.locks", "_POLL_S")):
        setattr(import_module(f"fcas_nnunet.{module}"), name, 0.05)
    import_module("fcas_nnunet.integration.preprocessing.prepare")
    import_module("fcas_nnunet.integration.cal.trainers")
    import_module("fcas_nnunet.generator.train")
    forked = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forked  # type: ignore[assignment,misc]
    begin = DatasetFingerprintExtractor.__init__

    def with_fewer_voxels(self: Any, *args: Any, **kwargs: Any) -> None:  # than 10⁸, which take many seconds
        begin(self, *args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = 100_000

    DatasetFingerprintExtractor.__init__ = with_fewer_voxels


def _run(module: str, arguments: Sequence[str], folder: Path, log: Path) -> None:
    """In a forked process: a command, to its end."""
    os.setsid()
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(stream, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    os.environ |= {name: str(folder / name) for name in ROOTS}
    code = 0
    try:
        import_module(f"fcas_nnunet.commands.{module}").main(list(arguments))
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too: path → content, None for a folder, nothing for files with times."""
    found: dict[str, bytes | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = None
        else:
            found[name] = b"" if any(re.search(timed, name) for timed in TIMED) else path.read_bytes()
    return found


def _difference(expected: dict[str, bytes | None], found: dict[str, bytes | None]) -> str:
    """What is missing, what too much, and what another; empty if nothing is."""
    lists = {
        "missing": sorted(expected.keys() - found.keys()),
        "too much": sorted(found.keys() - expected.keys()),
        "other": sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name]),
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in lists.items() if names)


def _alive(group: int) -> bool:
    """Whether a process of a group is alive; one that only waits to be collected is not."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state not in "ZX":
            return True
    return False


if __name__ == "__main__":
    main()
