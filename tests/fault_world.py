"""A folder in which every command has something to read, and what is done to it: one base, cheap copies, one judge."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from consoles import command_module
from fcas_nnunet_small import set_roots
from nnunet_cases import ENVIRONMENT, quick_nnunet, save_untrained
from public_files import ct, labels, save
from reading_cases import scores_file

#: Parts of the base, relative to its folder.
REAL, SYNTHETIC = "nnUNet_raw/Dataset901_Small", "nnUNet_raw/Dataset902_SmallFCaS"
GENERATOR = "nnUNet_results/Dataset901_Small/fcas__tiny"
PREPARED = "nnUNet_preprocessed/Dataset902_SmallFCaS"
PLANS = "nnUNet_preprocessed/Dataset901_Small/nnUNetPlans.json"
NETWORK = "network"
SLOWEST_S = 20.0

_LARGE_BYTES = 1 << 16  # files from this size on are linked, not copied: no command changes them in place
_HASHES = re.compile(r"fcas_known|fcas_contents\.json$")  # of what was read, which spare reading it again
_ERROR = re.compile(r"^(?:fcas_[\w -]+: )?error: ", re.MULTILINE)
_SENTENCE = re.compile(r": .*must .*\. [A-Z\"`].*\.?$|: .* See .* --help\.$", re.DOTALL)


def furnish(folder: Path) -> None:
    """Add to a copy of `small_home` what the other commands read."""
    from fcas_nnunet.commands.evaluate.command import main as evaluate
    from fcas_nnunet.commands.prepare import prepare
    from fcas_nnunet.commands.reading.command import run as reading
    from fcas_nnunet.files import atomic_write_json
    from fcas_nnunet.integration.dataset.raw_dataset import RawDataset

    with pytest.MonkeyPatch.context() as patch, quick_nnunet():
        set_roots(patch, folder)
        patch.chdir(folder)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        splits = [{"train": ["p0", "p1", "p2"], "val": ["p3"]}]
        atomic_write_json(folder / "nnUNet_preprocessed/Dataset901_Small/splits_final.json", splits)
        prepare("902", "901", ["3d_fullres"], "nnUNetPlans", 1)
        network = save_untrained(RawDataset.open(folder / REAL))
        shutil.move(network, folder / NETWORK)
        shutil.copytree(folder / REAL / "labelsTr", folder / "predictions")
        shutil.copy(folder / REAL / "dataset.json", folder / "predictions")
        for name in ("a", "b"):
            evaluate(["segmentations", "-r", f"{REAL}/labelsTr", "-p", "predictions", "-o", f"{name}.json",
                      "--overlap_only", "-np", "1"])  # fmt: skip
        reading(["prepare", "--methods", "m=901", "n=901", "--real", "901", "-o", "reading", "-np", "1", "--seed", "1"])
        key = json.loads((folder / "reading" / "key.json").read_text())
        for reader in ("ada", "bob"):
            (folder / f"{reader}.json").write_text(json.dumps(scores_file(key, reader, lambda *_: 3)))
    write(folder / "other.yaml", (folder / "short.yaml").read_text().replace("preset: tiny", "preset: other"))
    for frame in ("patient001_frame01", "patient001_frame12"):
        save(folder / f"public/training/patient001/{frame}.nii.gz", ct(1, offset=1024, dtype=np.uint16))
        save(folder / f"public/training/patient001/{frame}_gt.nii.gz", labels(1, [1, 2, 3]))
    (folder / "note.txt").write_text("a file of the user's\n")


def place(source: Path, target: Path) -> None:
    """Copy a file: a large one as a link, since whoever damages one writes it anew."""
    (os.link if source.stat().st_size >= _LARGE_BYTES else shutil.copy2)(source, target)


def write(path: Path, content: bytes | str) -> None:
    """Write a file anew, so that no link of it changes."""
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


class World:
    """A copy of the base, brought back to its state after every fault."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder = base, folder
        shutil.copytree(base, folder, copy_function=lambda source, target: place(Path(source), Path(target)))
        self._sound = state_of(folder)

    def restore(self) -> None:
        """Undo what a fault and its command have done."""
        now = state_of(self.folder)
        differ = [path for path in sorted(now.keys() | self._sound.keys()) if now.get(path) != self._sound.get(path)]
        for path in differ:
            found = self.folder / path
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found) if path not in self._sound or not (self.base / path).is_dir() else None
            else:
                found.unlink(missing_ok=True)
        for path in differ:
            if (self.base / path).is_dir():
                (self.folder / path).mkdir(exist_ok=True)
                (self.folder / path).chmod((self.base / path).stat().st_mode)
            elif path in self._sound:
                place(self.base / path, self.folder / path)
        assert state_of(self.folder) == self._sound, "the base itself was changed"


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Path → kind, size and time of change of all that lies in a folder; of folders and links, the kind alone."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            status = os.lstat(path)
            is_file = os.path.isfile(path) and not os.path.islink(path)
            times = (status.st_size, status.st_mtime_ns) if is_file else (0, 0)
            found[os.path.relpath(path, folder)] = (status.st_mode, *times)
    return found


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, an exception's name, what it said, its processor time, and what it changed."""

    code: int | str
    said: str
    seconds: float
    changed: tuple[str, ...]
    new: tuple[str, ...]


def run(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command line in this process, in `folder`."""
    name, *arguments = line.split()
    module = command_module(name)
    before, started = state_of(folder), sum(os.times()[:4])
    capsys.readouterr()
    code: int | str = 0
    try:
        module.main([argument.replace("%20", " ") for argument in arguments])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except Exception as error:  # what would be a traceback
        code = f"{type(error).__name__}: {error}"
    seconds, after = sum(os.times()[:4]) - started, state_of(folder)
    said = capsys.readouterr()
    differ = (path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    changed = sorted(path for path in differ if not _HASHES.search(path))
    new = tuple(path for path in changed if path not in before)
    return Outcome(code, said.out + said.err, seconds, tuple(changed), new)


def judge(outcome: Outcome, named: str, *, keeps: bool = False) -> None:
    """Refused with exit code 2, in a sentence with what is at fault and a remedy, and nothing was touched.

    Args:
        outcome: of the command.
        named: a regular expression of what is at fault: a file, a case, a flag.
        keeps: whether whole cases that were finished before the fault was met may stay, for the same command to go on.
    """
    assert outcome.code == 2, f"exit code 2, not {outcome.code}\n{outcome.said[-2000:]}"
    assert "Traceback" not in outcome.said
    error = _ERROR.split(outcome.said)[-1]
    for line in error.strip().splitlines():
        assert _SENTENCE.search(line) or line.startswith("and "), f"a rule and a remedy: {line}"
    assert re.search(named, error), f"{named} named in: {error}"
    if keeps:
        assert outcome.changed == outcome.new, f"untouched: {outcome.changed}"
        assert not [path for path in outcome.new if path.endswith((".part", "dataset.json"))], "nothing half written"
    else:
        assert outcome.changed == (), f"untouched: {outcome.changed}"
    assert outcome.seconds < SLOWEST_S
