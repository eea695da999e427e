"""Record what a training started with in `run.yaml`, and compare it when the training resumes."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from fcas_nnunet.config.files import dotted, load_config, to_dict
from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.config.schema import settings
from fcas_nnunet.generator.data.tensors import FileIdentity
from fcas_nnunet.labels.anatomy import Role

RUN_FILE = "run.yaml"
#: Settings of a training that may change when it is resumed, since they do not change what is learnt.
FREE_SETTINGS = {
    "micro_batch_size", "sample_every", "compile", "gradient_checkpointing", "calibration", "confidence",
    "warp", "paint", "variety",
}  # fmt: skip
_NAMED = 5  # settings that a message lists


@settings
class Run:
    """Settings and data that a training started with. Settings that an older file lacks had their defaults.

    Attributes:
        config: The requested settings.
        labels: Label name → id.
        surroundings: Surrounding name → id.
        cases: Case id → hash of its content.
        pretrained: Part of the generator → the file it was loaded from; None where it is trained.
        geometry: Version of the resampling to the working grid (`grid.GEOMETRY`).
        roles: Label name → roles that a user gave it.
        channel_names: Names of the scans' channels; empty in files of earlier versions, which have one.
    """

    config: FCaSConfig
    labels: dict[str, int]
    surroundings: dict[str, int]
    cases: dict[str, str]
    pretrained: dict[str, FileIdentity | None]
    geometry: int = 1
    roles: dict[str, tuple[Role, ...]] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()


def read_run(folder: Path) -> Run | None:
    """Read the run that a generator's folder belongs to; None if no training has started there.

    Raises:
        InputError: If the file is damaged.
    """
    path = folder / RUN_FILE
    return load_config(Run, path) if path.exists() else None


def run_faults(before: Run, now: Run) -> list[str]:
    """List the differences of two runs that change what is learnt, a phrase each."""
    faults = _setting_faults(before.config, now.config)
    data = ("labels", "surroundings", "roles", "cases")
    faults += [name for name in data if getattr(before, name) != getattr(now, name)]
    if before.channel_names and before.channel_names != now.channel_names:
        faults.append(f"channels {', '.join(now.channel_names)} instead of {', '.join(before.channel_names)}")
    if before.geometry != now.geometry:
        faults.append("scans that another version of this package resampled to the working grid in another way")
    return faults + _file_faults(before.pretrained, now.pretrained)


def generator_faults(
    folder: Path, recorded: FCaSConfig, requested: FCaSConfig | None, files: dict[str, FileIdentity | None] | None
) -> list[str]:
    """List the differences of the trained generator in `folder` from the requested one, in a sentence at most.

    Args:
        folder: Folder `fcas__<preset>`.
        recorded: Settings of the trained generator.
        requested: Requested settings; None = any.
        files: Requested weights, by the part of the generator; None = any.

    Raises:
        InputError: If the folder's run file is damaged.
    """
    faults = [] if requested is None else _setting_faults(recorded, requested)
    if files is not None:
        run = read_run(folder)
        faults += _file_faults({} if run is None else run.pretrained, files)
    if not faults:
        return []
    return [
        f"{folder}: the generator must be the requested one, got another: {'; '.join(faults)}. Give your configuration "
        "another preset name (`preset:` in the YAML) to train it beside this one, or delete the folder to train anew."
    ]


def _setting_faults(before: FCaSConfig, now: FCaSConfig) -> list[str]:
    """List the settings that differ, by their dotted names; the first few of many."""
    old, new = (dotted(to_dict(config), maps=("roles",)) for config in (before, now))
    faults = [
        f"{name} {new.get(name)} instead of {old.get(name)}"
        for name in new | old
        if FREE_SETTINGS.isdisjoint(name.split(".")) and new.get(name) != old.get(name)
    ]
    more = [f"{len(faults) - _NAMED} more settings"] if len(faults) > _NAMED else []
    return faults[:_NAMED] + more


def _file_faults(before: dict[str, FileIdentity | None], now: dict[str, FileIdentity | None]) -> list[str]:
    def name(file: FileIdentity | None) -> str:
        return "none" if file is None else f"{file.name} ({file.sha256[:8]})"

    parts = [(part, before.get(part), now.get(part)) for part in before.keys() | now.keys()]
    return [
        f"--{part} {name(new)} instead of {name(old)}"
        for part, old, new in parts
        if (old and old.sha256) != (new and new.sha256)
    ]
