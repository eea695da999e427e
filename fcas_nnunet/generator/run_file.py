"""What a training was begun with: `run.yaml` in the generator's folder, to recognise the same run when it resumes."""

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
}  # fmt: skip
_NAMED = 5


@settings
class Run:
    """What a training was begun with. A file of an earlier version lacks later settings: they had their defaults.

    Attributes:
        config: The requested settings.
        labels: Label name → id.
        surroundings: Surrounding name → id.
        cases: Case id → hash of its content.
        pretrained: Part of the generator → the file it was loaded from; None where it is trained.
        geometry: How scans came to the working grid (`grid.GEOMETRY`).
        roles: Label name → roles that a user gave it.
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


def run_faults(before: Run, now: Run) -> list[str]:
    """The differences of two runs that change what is learnt; a phrase each."""
    faults = _setting_faults(before.config, now.config)
    data = ("labels", "surroundings", "roles", "cases")
    faults += [name for name in data if getattr(before, name) != getattr(now, name)]
    if before.geometry != now.geometry:
        faults.append("scans that another version of this package brought to the working grid otherwise")
    return faults + _file_faults(before.pretrained, now.pretrained)


def generator_faults(
    folder: Path, own: FCaSConfig, requested: FCaSConfig | None, files: dict[str, FileIdentity | None] | None
) -> list[str]:
    """Why a trained generator in `folder` is not the requested one; a sentence at most.

    Args:
        folder: `fcas__<preset>`.
        own: Settings of the generator.
        requested: Requested settings; None = any.
        files: Requested weights, by the part of the generator; None = any.

    Raises:
        ValueError: when the folder's run file is damaged.
    """
    faults = [] if requested is None else _setting_faults(own, requested)
    if files is not None:
        run = read_run(folder)
        faults += _file_faults({} if run is None else run.pretrained, files)
    if not faults:
        return []
    return [
        f"{folder}: the generator must be the one asked for, got another: {'; '.join(faults)}. Give your configuration "
        "another preset name (`preset:` in the YAML) to train it beside this one, or delete the folder to train anew."
    ]


def _setting_faults(before: FCaSConfig, now: FCaSConfig) -> list[str]:
    """Settings that differ, by their dotted names; the first few of many."""
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
