"""Stages: commands whose products are kept until something that they were made from changes.

A stage is done if its stamp bears its key: a hash of its command, of the contents that it reads, of the products of the
stages before it, and of the code that it names. A product that comes out the same after a change of the code above
it therefore leaves everything below as it is.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcas_nnunet.files import atomic_write_json

ROOT = Path(__file__).parents[2]
#: What no later stage reads, and what differs from run to run.
_NOT_CONTENT = (".png", ".txt", ".log", ".lock", ".tmp")


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: unique; names its log and stamp.
        kind: stages of a kind take about as long as each other.
        guess_s: seconds until one of its kind was measured.
        command: console command, or `python`, and its arguments.
        makes: files and folders that it alone writes.
        needs: names of stages whose products it reads.
        reads: further files and folders that it reads.
        code: folders and files of the repository that decide what it makes.
        environment: variables besides those of the run.
        last_is_partial: whether the newest file may be cut short after a kill, and counted as whole.
    """

    name: str
    kind: str
    guess_s: float
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    needs: tuple[str, ...] = ()
    reads: tuple[Path, ...] = ()
    code: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    last_is_partial: bool = False


class StageFailedError(Exception):
    """A command failed; the message holds the end of its log."""


@dataclass(frozen=True)
class Store:
    """Stamps and logs of a run's stages, in a folder."""

    folder: Path
    environment: Mapping[str, str]

    def stamp(self, name: str) -> dict[str, Any]:
        """What is known of a stage: key, digest of its products, seconds and the like; empty if it was not done."""
        path = self._path("stamps", name, ".json")
        return json.loads(path.read_text()) if path.is_file() else {}

    def log(self, name: str) -> Path:
        """The log of a stage."""
        return self._path("logs", name, ".txt")

    def key(self, stage: Stage) -> str:
        """The key of a stage whose `needs` are done."""
        parts = {
            "command": [self._anywhere(word) for word in stage.command],
            "environment": {name: self._anywhere(value) for name, value in stage.environment.items()},
            "products": {name: self.stamp(name)["products"] for name in stage.needs},
            "reads": {path.name: digest_of([path]) for path in stage.reads},
            "code": digest_of([ROOT / path for path in (*stage.code, *_scripts(stage.command))], only=".py"),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage has nothing to do. Its `needs` are done."""
        there = all(path.exists() for path in stage.makes)
        return there and self.stamp(stage.name).get("key") == self.key(stage)

    def done(self, stages: Iterable[Stage]) -> set[str]:
        """Names of the stages that have nothing to do; each comes after those that it needs."""
        found: set[str] = set()
        for stage in stages:
            if set(stage.needs) <= found and self.is_done(stage):
                found.add(stage.name)
        return found

    def run(self, stage: Stage, core: int | None) -> None:
        """Run a stage; what a killed run of the same key has left is continued, anything older is removed first.

        Raises:
            StageFailedError: if the command fails, or does not make what it should.
        """
        key, begun = self.key(stage), self._path("begun", stage.name, ".json")
        fresh = {"key": key, "seconds": 0.0, "cpu_seconds": 0.0}
        known = json.loads(begun.read_text()) if begun.is_file() else {"key": None}
        if known["key"] != key:
            known = fresh
            self._path("stamps", stage.name, ".json").unlink(missing_ok=True)
            for path in stage.makes:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            atomic_write_json(begun, known)
        elif stage.last_is_partial:
            files = (path for folder in stage.makes for path in folder.rglob("*") if path.is_file())
            for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)[-1:]:
                path.unlink()
        for path in stage.makes:
            path.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        try:
            code, cpu_seconds = self._call(stage, core)
            known["cpu_seconds"] += cpu_seconds
        finally:
            known["seconds"] += time.monotonic() - start
            atomic_write_json(begun, known)
        if code != 0:
            log = self.log(stage.name)
            end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise StageFailedError(f"{stage.name}: must succeed, got exit code {code}. The end of {log}:\n{end}")
        missing = [str(path) for path in stage.makes if not path.exists()]
        if missing:
            raise StageFailedError(
                f"{stage.name}: must make {', '.join(missing)}, got none. See {self.log(stage.name)}."
            )
        stamp = known | {"kind": stage.kind, "version": _version(), "products": digest_of(stage.makes)}
        atomic_write_json(self._path("stamps", stage.name, ".json"), stamp)
        begun.unlink()

    def seconds_of(self, stages: Iterable[Stage]) -> float:
        """Forecast of what stages take one after the other: as those of their kind took before."""
        measured: dict[str, list[float]] = {}
        for path in (self.folder / "stamps").rglob("*.json"):
            stamp = json.loads(path.read_text())
            measured.setdefault(stamp["kind"], []).append(stamp["seconds"])
        means = {kind: sum(seconds) / len(seconds) for kind, seconds in measured.items()}
        return sum(means.get(stage.kind, stage.guess_s) for stage in stages)

    def _call(self, stage: Stage, core: int | None) -> tuple[int, float]:
        """Run a stage's command; returns its exit code, and the seconds of CPU that it and its own processes took."""
        program, *arguments = stage.command
        executable = sys.executable if program == "python" else str(Path(sys.executable).with_name(program))
        log = self.log(stage.name)
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"$ {' '.join(stage.command)}\n")
            stream.flush()
            process = subprocess.Popen(
                [executable, *arguments], stdout=stream, stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, **stage.environment}, preexec_fn=_ends_with_this_process(),
            )  # fmt: skip
            if core is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {core})
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.terminate()
                process.wait()
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, usage.ru_utime + usage.ru_stime

    def _anywhere(self, text: str) -> str:
        """Text without the places of the run and of the repository."""
        return text.replace(str(self.folder), "RUN").replace(str(ROOT), "REPOSITORY")

    def _path(self, kind: str, name: str, ending: str) -> Path:
        path = self.folder / kind / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _ends_with_this_process() -> Callable[[], None] | None:
    """What lets a command die with the run that began it, so that no second one works in its folder; on Linux alone."""
    if sys.platform != "linux":
        return None
    prctl, die_with_parent = ctypes.CDLL(None).prctl, 1
    return lambda: prctl(die_with_parent, signal.SIGTERM)


def _version() -> str:
    """The commit of the code, with a + if files were changed since."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _scripts(command: Sequence[str]) -> list[str]:
    """The script of a command that is none of the package's."""
    return [word for word in command[1:2] if word.endswith(".py")]


def digest_of(paths: Sequence[Path], only: str = "") -> str:
    """Hash names and contents of files, and of all files below folders; `only` those with an ending."""
    digest = hashlib.sha256()
    for top in paths:
        files = sorted(path for path in top.rglob("*") if path.is_file()) if top.is_dir() else [top]
        for path in files:
            if path.name.endswith(only) and not path.name.endswith(_NOT_CONTENT) and path.is_file():
                digest.update(str(path.relative_to(top)).encode())
                with path.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
