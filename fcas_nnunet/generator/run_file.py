"""What a training was begun with: `run.yaml` in the generator's folder, so that another run is told from this one."""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from fcas_nnunet.config.files import load_config, to_dict
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.schema import settings
from fcas_nnunet.files import atomic_write_text
from fcas_nnunet.generator.data.tensors import FileIdentity
from fcas_nnunet.labels.anatomy import Role

RUN_FILE = "run.yaml"
#: Settings of a training that may change when it is resumed, since they do not change what is learnt.
FREE_SETTINGS = (
    "micro_batch_size", "sample_every", "compile", "gradient_checkpointing", "calibration", "confidence",
)  # fmt: skip
_NAMED = 5


@settings
class Run:
    """What a training was begun with. A file of an earlier version lacks later settings: they had their defaults.

    Attributes:
        config: the settings that were asked for.
        labels: label name → id.
        surroundings: surrounding name → id.
        cases: case id → hash of its content.
        pretrained: part of the generator → the file it was loaded from; None where it is trained.
        geometry: how scans came to the working grid (`grid.GEOMETRY`).
        roles: label name → roles that a user gave it.
    """

    config: FCaSConfig
    labels: dict[str, int]
    surroundings: dict[str, int]
    cases: dict[str, str]
    pretrained: dict[str, FileIdentity | None]
    geometry: int = 1
    roles: dict[str, tuple[Role, ...]] = field(default_factory=dict)


def read_run(folder: Path) -> Run | None:
    """The run that a generator's folder belongs to, or None where no training began.

    Raises:
        ValueError: when the file is damaged.
    """
    path = folder / RUN_FILE
    return load_config(Run, path) if path.is_file() else None


def write_run(folder: Path, run: Run) -> None:
    """Make a generator's folder this run's own."""
    atomic_write_text(folder / RUN_FILE, yaml.safe_dump(to_dict(run), sort_keys=False))


def run_faults(before: Run, now: Run) -> list[str]:
    """What differs between two runs in what is learnt; a phrase each."""
    faults = setting_faults(before.config, now.config)
    data = ("labels", "surroundings", "roles", "cases")
    faults += [name for name in data if getattr(before, name) != getattr(now, name)]
    if before.geometry != now.geometry:
        faults.append("scans that another version of this package brought to the working grid otherwise")
    return faults + file_faults(before.pretrained, now.pretrained)


def generator_faults(
    folder: Path, own: FCaSConfig, asked: FCaSConfig | None, files: dict[str, FileIdentity | None] | None
) -> list[str]:
    """Why a trained generator is not the one that is asked for; a sentence at most.

    Args:
        folder: `fcas__<preset>`.
        own: settings of the generator.
        asked: settings asked for; None = whatever it has.
        files: weights asked for, by the part they are of; None = whatever it was made from.

    Raises:
        ValueError: when the folder's run file is damaged.
    """
    faults = [] if asked is None else setting_faults(own, asked)
    if files is not None:
        run = read_run(folder)
        faults += file_faults({} if run is None else run.pretrained, files)
    if not faults:
        return []
    return [
        f"{folder}: the generator must be the one asked for, got another: {'; '.join(faults)}. Give your configuration "
        "another preset name (`preset:` in the YAML) to train it beside this one, or delete the folder to train anew."
    ]


def setting_faults(before: FCaSConfig, now: FCaSConfig) -> list[str]:
    """Settings that differ between two trainings, by their dotted names; a phrase each, the first few of many."""
    faults = _differences(before, now)
    more = [f"{len(faults) - _NAMED} more settings"] if len(faults) > _NAMED else []
    return faults[:_NAMED] + more


def file_faults(before: dict[str, FileIdentity | None], now: dict[str, FileIdentity | None]) -> list[str]:
    """Weights that were loaded from another file, or from none; a phrase each."""
    return [
        f"--{part} {_name(now.get(part))} instead of {_name(before.get(part))}"
        for part in before.keys() | now.keys()
        if _digest(before.get(part)) != _digest(now.get(part))
    ]


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    found: list[str] = []
    for setting in fields(now):
        if setting.name in FREE_SETTINGS:
            continue
        old, new, name = getattr(before, setting.name), getattr(now, setting.name), f"{path}{setting.name}"
        if is_dataclass(new) and is_dataclass(old):
            found += _differences(old, new, f"{name}.")
        elif old != new:
            found.append(f"{name} {new} instead of {old}")
    return found


def _name(file: FileIdentity | None) -> str:
    return "none" if file is None else f"{file.name} ({file.sha256[:8]})"


def _digest(file: FileIdentity | None) -> str | None:
    return None if file is None else file.sha256
