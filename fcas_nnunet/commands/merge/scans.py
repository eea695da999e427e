"""The data set whose scans are labelled, which may have no labels yet, and the one that is written."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.description import NAMES, ROLES, description_faults, given_roles
from fcas_nnunet.integration.dataset.folders import FIRST_CHANNEL, IMAGES, WORK_FOLDER, resolve_dataset
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON, SURROUNDINGS_JSON, RawDataset
from fcas_nnunet.integration.dataset.volumes import READABLE_FILE_ENDINGS
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE
from fcas_nnunet.labels.merging import Part, assign_ids
from fcas_nnunet.labels.regions import single_ids
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)

_UNLABELLED: dict[str, Any] = {"labels": {BACKGROUND: 0}, "numTraining": 0}


def open_scans(identifier: str, channels: Sequence[str] | None) -> RawDataset:
    """The data set of `-d`: its scans are needed, labels and `dataset.json` may be missing.

    Args:
        identifier: an id or a full name.
        channels: of the scans, where no `dataset.json` says it.

    Raises:
        MissingFileError: when there is no such data set.
        InputError: when its description is at fault, or it has no scan.
    """
    folder = resolve_dataset(identifier, by="-d")
    path = next((path for path in (folder / DATASET_JSON, _put_aside(folder)) if path.is_file()), None)
    if path is None:
        path, content = folder / DATASET_JSON, _new_description(folder, channels)
    else:
        if channels is not None:
            raise InputError(f"--channels: must go without {path}, which names them, got both. Leave it out.")
        content = read_json(path, "Fix the file.")
        content = content | {key: value for key, value in _UNLABELLED.items() if key not in content}
    faults = description_faults(content, any_kind=True)
    if faults:
        raise InputError("\n".join(f"{path}: {fault}" for fault in faults))
    ending = content["file_ending"]
    suffix = FIRST_CHANNEL + ending
    scans = sorted(path.name[: -len(suffix)] for path in _files(folder / f"{IMAGES}Tr", suffix))
    case_ids = sorted(content["dataset"]) if content.get("dataset") else scans
    if not case_ids:
        raise InputError(f"{folder}: {IMAGES}Tr must hold scans, CASE{suffix}, got none. Put them there.")
    labels = single_ids(content["labels"], content.get(NAMES))
    return RawDataset(
        folder=folder,
        labels=labels,
        surroundings=surroundings_of(folder),
        case_ids=case_ids,
        dataset_json=content,
        file_ending=ending,
        roles=given_roles(content),
    )


def surroundings_of(folder: Path) -> dict[str, int]:
    """Name → id of a data set's `surroundings.json`; nothing where there is none.

    Raises:
        InputError: when it names no ids.
    """
    path = folder / SURROUNDINGS_JSON
    if not path.is_file():
        return {}
    labels = read_json(path, "Fix the file.").get("labels")
    if not isinstance(labels, dict) or not all(type(i) is int for i in labels.values()):
        raise InputError(f"{path}: labels must be an object of name and id, got {labels}. Fix the file.")
    return {name: i for name, i in labels.items() if i}


@dataclass(frozen=True)
class Target:
    """The data set that is written.

    Attributes:
        scans: the data set of the scans.
        folder: that is written: of the same data set, or of a new one.
        ids: name → id, of labels and surroundings, without 0.
        parts: that the sources give, labels first.
    """

    scans: RawDataset
    folder: Path
    ids: Mapping[Part, Mapping[str, int]]
    parts: tuple[Part, ...]

    @property
    def is_new(self) -> bool:
        """Whether another data set than that of the scans is written."""
        return self.folder != self.scans.folder

    def path(self, case_id: str, part: Part) -> Path:
        """Where a part of a case lies in the end."""
        if not self.is_new and part == Part.LABELS:
            return self.scans.mask_path(case_id)
        return self.folder / f"{part.value}Tr" / f"{case_id}{self.scans.file_ending}"

    def description(self, num_training: int) -> dict[str, Any]:
        """The `dataset.json` to write."""
        content = dict(self.scans.dataset_json)
        if self.is_new:
            of_the_old = ("dataset", "regions_class_order", NAMES)
            content = {key: value for key, value in content.items() if key not in of_the_old}
            content["name"] = self.folder.name
        labels = {BACKGROUND: 0, **self.ids[Part.LABELS]}
        content |= {"labels": dict(sorted(labels.items(), key=lambda item: item[1])), "numTraining": num_training}
        roles = {name: given for name, given in content.get(ROLES, {}).items() if name in labels}
        return content | {ROLES: roles} if ROLES in content else content


def plan_target(scans: RawDataset, folder: Path, names: Mapping[Part, Sequence[str]], *, anew: bool) -> Target:
    """Give the structures their ids.

    Args:
        scans: the data set of the scans.
        folder: that is written.
        names: of the structures of each part, in order.
        anew: number them anew, whatever was there.

    Raises:
        InputError: when labels cannot be added to those that are there, or all together are no 8-bit code.
    """
    is_new = folder != scans.folder
    existing = {Part.LABELS: scans.dataset_json["labels"], Part.SURROUNDINGS: scans.surroundings}
    faults = []
    if names[Part.LABELS] and not is_new:
        faults = _existing_faults(scans, names[Part.LABELS], anew)
    if faults:
        raise InputError("\n".join(faults))
    parts = tuple(part for part in (Part.LABELS, Part.SURROUNDINGS) if names[part])
    ids: dict[Part, dict[str, int]] = {}
    for part, before in existing.items():
        kept = {} if is_new or (anew and part in parts) else {k: v for k, v in before.items() if isinstance(v, int)}
        ids[part] = assign_ids(names[part], kept)
        unused = [name for name in kept if name not in names[part] and name not in (BACKGROUND, IGNORE)]
        if unused and part in parts:
            logger.warning(
                f"{scans.name}: no source gives {listed(unused)}, which the data set names among its {part}; they keep "
                "their ids"
            )
    total = sum(max(numbers.values(), default=0) for numbers in ids.values())
    if total >= NUM_CODES:
        raise InputError(
            f"{folder.name}: labels and surroundings must have {NUM_CODES - 1} ids at most, got {total}. Give several "
            f'structures one name in a map.yaml ("rib_*: ribs"), or ignore them ("rib_*: {Part.IGNORED}").'
        )
    return Target(scans, folder, ids, parts)


def _existing_faults(scans: RawDataset, names: Sequence[str], anew: bool) -> list[str]:
    """Why labels cannot be written beside the description of a data set."""
    remedy = "Write a new data set: -o ID."
    faults = []
    if scans.dataset_json.get("dataset"):
        faults.append(
            f"{scans.name}: {DATASET_JSON} must not list files, into which labels would go, got a list. {remedy}"
        )
    if scans.regions:
        faults.append(f"{scans.name}: labels must be plain ids, got regions {listed(list(scans.regions))}. {remedy}")
    if scans.ignore_id is not None and not anew and set(names) - scans.labels.keys() - {IGNORE}:
        faults.append(
            f"{scans.name}: ignore must keep the highest id, got new labels "
            f"{listed(sorted(set(names) - scans.labels.keys()))} beside it. {remedy}"
        )
    return faults


def _new_description(folder: Path, channels: Sequence[str] | None) -> dict[str, Any]:
    """A `dataset.json` for scans that have none."""
    scans = [path for path in (folder / f"{IMAGES}Tr").glob("*") if not path.name.startswith(".")]
    endings = sorted({ending for path in scans for ending in READABLE_FILE_ENDINGS if path.name.endswith(ending)})
    if len(endings) != 1:
        raise InputError(
            f"{folder / f'{IMAGES}Tr'}: scans must be of one format of {', '.join(READABLE_FILE_ENDINGS)}, got "
            f"{listed(endings) or 'none'}. Put them there, or convert them."
        )
    numbers = {path.name.removesuffix(endings[0])[-5:] for path in scans if path.name.endswith(endings[0])}
    if channels is None or len(channels) != len(numbers):
        raise InputError(
            f"{folder / DATASET_JSON}: it must say what the {len(numbers)} channel(s) of the scans are, got no such "
            f"file and {len(channels or ())} of --channels. Give them: --channels CT (or MR, ..., one for each)."
        )
    return {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        **_UNLABELLED,
        "file_ending": endings[0],
        "name": folder.name,
    }


def _files(folder: Path, suffix: str) -> list[Path]:
    return [path for path in folder.glob(f"*{suffix}") if not path.name.startswith(".")]


def _put_aside(folder: Path) -> Path:
    """Where `reopen_dataset` puts a description while labels are written."""
    return folder / WORK_FOLDER / DATASET_JSON
