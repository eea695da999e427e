"""nnU-Net's three folders, and the folder that a data set argument names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.files import is_one_line
from fcas_nnunet.listing import MOST_NAMES, listed

_FULL_NAME = re.compile(r"Dataset(\d{3})_(\w[\w.-]*)")
_MAX_ID = 999
_LONGEST_NAME = 100

#: Folders within a raw data set; "Tr" or "Ts" is appended.
IMAGES, LABELS, CONFIDENCE, SURROUNDINGS = "images", "labels", "confidence", "surroundings"
#: What nnU-Net adds to a case's name for its first channel.
FIRST_CHANNEL = "_0000"
#: Folder of locks and journals in an unfinished data set.
WORK_FOLDER = ".fcas_unfinished"

#: Hidden folder, in nnU-Net's folder of preprocessed data sets and in each of these, for what is known of their files.
KNOWN_FOLDER = ".fcas_known"

#: Files of a trained nnU-Net model: those that the predictor reads beside the folds, and the checkpoints of each fold.
PLANS_JSON = "plans.json"
MODEL_FILES = ("dataset.json", PLANS_JSON)
FINAL_CHECKPOINT, LATEST_CHECKPOINT = "checkpoint_final.pth", "checkpoint_latest.pth"

#: Beginning of messages about a data set that is named by a file, not by a flag.
DATA_SET = "data set"


def channel_suffix(channel: int) -> str:
    """What nnU-Net adds to a case's name for one of its channels."""
    return f"_{channel:04d}"


class Root(StrEnum):
    """nnU-Net's environment variables."""

    RAW = "nnUNet_raw"
    PREPROCESSED = "nnUNet_preprocessed"
    RESULTS = "nnUNet_results"


def root_folder(root: Root) -> Path:
    """The folder that one of nnU-Net's environment variables names.

    Raises:
        InputError: if the variable is not set.
        MissingFileError: if its folder does not exist, or is a file.
    """
    value = os.environ.get(root.value)
    if not value:
        raise InputError(
            f"{root.value}: environment variable must name a folder, got nothing. Run: export {root.value}=/your/folder"
        )
    if Path(value).exists() and not Path(value).is_dir():
        raise MissingFileError(f"{root.value}: must be a folder, got the file {value}. Name a folder.")
    if not Path(value).is_dir():
        raise MissingFileError(f"{root.value}: folder must exist, got {value}. Run: mkdir -p {value}")
    return Path(value)


def list_cases(folder: Path, content: Mapping[str, Any], ending: str) -> list[str]:
    """Return the sorted ids of the cases that have an image or a label; `check_dataset` names those without the other.

    Args:
        folder: the raw data set folder.
        content: of its `dataset.json`, which may name the cases itself.
        ending: file ending of images and labels.

    Raises:
        InputError: if an id has line breaks, which would break messages and lists.
    """
    images = (path.name for path in (folder / f"{IMAGES}Tr").glob(f"*{FIRST_CHANNEL}{ending}"))
    labels = (path.name for path in (folder / f"{LABELS}Tr").glob(f"*{ending}"))
    named = {name[: -len(FIRST_CHANNEL + ending)] for name in images if not name.startswith(".")}
    named |= {name[: -len(ending)] for name in labels if not name.startswith(".")}
    case_ids = sorted(content.get("dataset", named))
    if unfit := [case_id for case_id in case_ids if not is_one_line(case_id)]:
        raise InputError(
            f"{folder.name}: case ids must be of one line, without control characters, got "
            f"{listed(map(repr, unfit))}. Rename image and label alike."
        )
    return case_ids


def preprocessed_file(dataset: str, name: str) -> Path | None:
    """Return the path of a file beside a data set's preprocessed cases; None without nnU-Net's folder for these."""
    root = os.environ.get(Root.PREPROCESSED.value)
    return Path(root) / dataset / name if root and Path(root).is_dir() else None


def known_file(dataset: str, what: str) -> Path | None:
    """Return the path of what is known of a raw data set's files; None without nnU-Net's folder of preprocessed data.

    It is not in a folder of the data set's name, which would take its id though nothing is preprocessed.
    """
    return preprocessed_file(KNOWN_FOLDER, f"{dataset}/{what}.json")


@contextmanager
def nnunet_variable(name: str, value: str) -> Iterator[None]:
    """Set one of nnU-Net's environment variables within a block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def resolve_dataset(identifier: str, *, by: str = DATA_SET, also: str = "", root: Root = Root.RAW) -> Path:
    """Return the folder of an existing data set, raw unless another root is named.

    Args:
        identifier: an id ("901") or a full name ("Dataset901_Heart").
        by: the flag that named it, for messages.
        also: another kind of argument that the flag accepts, for messages, such as "folder"; none of that name exists.
        root: which of nnU-Net's folders.

    Raises:
        InputError: if the identifier is malformed, or an id belongs to several names (nnU-Net refuses that too).
        MissingFileError: if there is no such data set.
    """
    parent = root_folder(root)
    full_name = _FULL_NAME.fullmatch(identifier)
    dataset_id = int(full_name.group(1)) if full_name else _parse_id(identifier, by, also)
    name = identifier if full_name else _name_of_id(dataset_id)
    if name is None or not (parent / name).is_dir():
        known = listed(sorted(path.name for path in parent.glob("Dataset*") if path.is_dir()), MOST_NAMES) or "nothing"
        raise MissingFileError(
            f"{by} {identifier}: it must be a folder in {root}={parent}, which holds {known}. "
            "Give the id or the full name of one of them, or put the data set there."
        )
    return parent / name


def is_identifier(argument: str) -> bool:
    """Return whether an argument has the form of a data set's id or full name."""
    return argument.isdecimal() or _FULL_NAME.fullmatch(argument) is not None


def new_dataset_folder(identifier: str | None, *, default_name: str, by: str = DATA_SET) -> Path:
    """Return the raw folder for a data set to be written; nothing is created.

    Args:
        identifier: an id, a full name, or None for a free id: the data set already called `default_name`, so that the
            same command continues what it began, else the id after the highest in use.
        default_name: the name after "DatasetNNN_" if the identifier has none.
        by: the flag that named the identifier, for messages.

    Raises:
        InputError: if the identifier or the name is malformed, or the id belongs to another name.
    """
    raw = root_folder(Root.RAW)
    full_name = _FULL_NAME.fullmatch(identifier or "")
    if full_name is None:
        if not _FULL_NAME.fullmatch(f"Dataset001_{default_name}"):
            raise InputError(
                f"--name: must begin with a letter, a digit or '_', followed by such, '-' and '.', got "
                f"{default_name!r}. Take another name."
            )
        _check_length("--name", default_name)
        if identifier is None:
            begun = sorted(raw.glob(f"Dataset[0-9][0-9][0-9]_{default_name}"))
            return begun[-1] if begun else raw / f"Dataset{_free_id():03d}_{default_name}"
        dataset_id = _parse_id(identifier, by)
        return raw / (_name_of_id(dataset_id) or f"Dataset{dataset_id:03d}_{default_name}")
    _check_length(by, full_name[2])
    taken = _name_of_id(int(full_name.group(1)))
    if taken not in (None, full_name[0]):
        raise InputError(f"{by} {identifier}: its id must be free, got one that belongs to {taken}. Take another id.")
    return raw / full_name[0]


def _check_length(flag: str, name: str) -> None:
    """Refuse a name with which paths of nnU-Net's and ours would be longer than file systems take."""
    if len(name) > _LONGEST_NAME:
        raise InputError(f"{flag}: name must have at most {_LONGEST_NAME} characters, got {len(name)}. Shorten it.")


def model_name(preset: str, fold: int | None) -> str:
    """Return the folder name of a generator in `$nnUNet_results/DatasetNNN_Name`: fcas__cpu, fcas__cpu__fold_0."""
    return f"fcas__{preset}" + ("" if fold is None else f"__fold_{fold}")


def parse_name(folder_name: str) -> tuple[int, str]:
    """("Dataset901_Heart") → (901, "Heart").

    Raises:
        InputError: if the name has another form.
    """
    match = _FULL_NAME.fullmatch(folder_name)
    if match is None:
        raise InputError(f"{folder_name}: name must have the form DatasetNNN_Name. Rename the folder.")
    return int(match.group(1)), match.group(2)


def _parse_id(identifier: str, by: str, also: str = "") -> int:
    if not identifier.isdecimal() or not 0 < int(identifier) <= _MAX_ID:
        first, got = (f"a {also}, ", f"no such {also}") if also else ("", "neither")
        kinds = f"{first}an id from 1 to {_MAX_ID} or a name like Dataset901_Heart"
        raise InputError(f"{by} {identifier}: it must be {kinds}, got {got}. Give one of them.")
    return int(identifier)


def _taken_names() -> dict[int, set[str]]:
    """Id → names in any of nnU-Net's folders, found as nnU-Net finds them."""
    names: dict[int, set[str]] = {}
    for root in Root:
        value = os.environ.get(root.value)
        if value and Path(value).is_dir():
            for folder in Path(value).glob("Dataset[0-9][0-9][0-9]_*"):
                names.setdefault(int(folder.name[7:10]), set()).add(folder.name)
    return names


def _name_of_id(dataset_id: int) -> str | None:
    names = sorted(_taken_names().get(dataset_id, ()))
    if len(names) > 1:
        raise InputError(
            f"data set {dataset_id}: an id must belong to one name in all of nnU-Net's folders, got "
            f"{', '.join(names)}. Rename or remove the others."
        )
    return names[0] if names else None


def _free_id() -> int:
    """Return the id after the highest in use, or else the lowest that is free."""
    taken = _taken_names().keys()
    for number in (max(taken, default=0) + 1, *range(1, _MAX_ID)):
        if number <= _MAX_ID and number not in taken:
            return number
    raise InputError("data set: an id from 1 to 999 must be free, got none. Remove a data set.")
