"""Check a `dataset.json`, and list all faults at once; the volumes are not read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import is_file_name
from fcas_nnunet.integration.dataset.volumes import LARGEST_WEIGHT, READABLE_FILE_ENDINGS
from fcas_nnunet.intensities import CT
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles, Role
from fcas_nnunet.labels.regions import ids_of, regions_of, roles_of_regions, single_ids
from fcas_nnunet.listing import listed

#: A key of `dataset.json` that nnU-Net does not read: label name → roles (`anatomy.Role`) that its name does not say.
ROLES = "fcas_roles"
#: A key of `dataset.json` that nnU-Net does not read: the largest weight in confidenceTr, 1 without it.
MAX_WEIGHT = "fcas_max_weight"
CT_CHANNEL = {"0": CT}
_READER = "overwrite_image_reader_writer"
NIBABEL_READERS = ("NibabelIO", "NibabelIOWithReorient")
_ITK_READERS = ("SimpleITKIO", "SimpleITKIOWithReorient")
#: nnU-Net's readers → endings that they read.
READER_ENDINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_ITK_READERS, (".nii.gz", ".nrrd", ".mha", ".gipl")),
    **dict.fromkeys(NIBABEL_READERS, (".nii", ".nii.gz")),
    "Tiff3DIO": (".tif", ".tiff"),
    "NaturalImage2DIO": (".png", ".bmp", ".tif"),
}
MAX_LABEL_ID = 255
#: A further one: name → id, for ids of regions that have no name of their own.
NAMES = "fcas_names"
#: How to name the single ids of regions, by which structures are matched.
NAMES_REMEDY = f'Name its single ids in its dataset.json: "{NAMES}": {{"left_atrium": 1, ...}}.'


def description_faults(content: dict[str, Any], *, any_kind: bool = False) -> list[str]:
    """List the faults of a `dataset.json`, a sentence each, without the file's name.

    `any_kind` is that of `RawDataset.open`.
    """
    missing = [key for key in ("channel_names", "labels", "numTraining", "file_ending") if key not in content]
    if missing:
        return [f"keys {', '.join(missing)} must be present, got {listed(content)}. Add them."]
    channels = content["channel_names"]
    if not isinstance(channels, dict) or not channels or not all(isinstance(name, str) for name in channels.values()):
        return [f'channel_names must be an object of number and name, {{"0": "CT"}} say, got {channels}. Fix the file.']
    faults = [] if any_kind else _channel_faults(channels)
    faults += [*_ending_faults(content), *_entry_faults(content), *_weight_faults(content.get(MAX_WEIGHT, 1))]
    labels = content["labels"]
    if not isinstance(labels, dict):
        return [*faults, f"labels must be an object of name and id, got a {type(labels).__name__}. Fix the file."]
    if label_faults := list(_label_faults(content, any_kind)):
        return [*faults, *label_faults]
    names = content.get(NAMES, {})
    if name_faults := list(_name_faults(names, labels)):
        return [*faults, *name_faults]
    known = [*labels, *single_ids(labels, names)]
    return [*faults, *_role_faults(content.get(ROLES, {}), known)]


def reader_name(content: dict[str, Any]) -> str:
    """Return the class by which nnU-Net reads a data set: the one that its `dataset.json` names, or the ending's."""
    named = content.get(_READER)
    if named not in (None, "None"):
        return str(named)
    return next(reader for reader, endings in READER_ENDINGS.items() if content["file_ending"] in endings)


def _ending_faults(content: dict[str, Any]) -> Iterator[str]:
    """List why the volumes cannot be read by this package, or by the reader that nnU-Net would take."""
    ending = content["file_ending"]
    if ending not in READABLE_FILE_ENDINGS:
        meant = f".{str(ending).lower().lstrip('.')}"
        advice = "Convert the volumes."
        if meant in READABLE_FILE_ENDINGS:
            advice = f"Write {meant}, and let the files' names end so."
        yield f"file_ending must be one of {', '.join(READABLE_FILE_ENDINGS)}, got {ending!r}. {advice}"
        return
    reader = reader_name(content)
    if ending not in READER_ENDINGS.get(reader, READABLE_FILE_ENDINGS):
        yield (
            f"{_READER} must name a reader of {ending} files, got {reader}, which reads "
            f"{', '.join(READER_ENDINGS[reader])}. Leave it out."
        )


def read_roles(dataset_json: Path) -> GivenRoles:
    """Read the roles that a `dataset.json` gives its labels and regions, and those of the single ids of regions.

    Raises:
        InputError: if the file is broken, or names unknown roles or labels that it does not have.
    """
    content = read_json(dataset_json)
    roles, labels = content.get(ROLES, {}), content["labels"]
    if faults := list(_role_faults(roles, [*labels, *single_ids(labels, content.get(NAMES))])):
        raise InputError("\n".join(f"{dataset_json}: {fault}" for fault in faults))
    return {**{name: tuple(map(Role, given)) for name, given in roles.items()}, **given_roles(content)}


def given_roles(content: dict[str, Any]) -> GivenRoles:
    """Return the roles of the single ids of a `dataset.json` without faults."""
    labels = content["labels"]
    given = {name: tuple(map(Role, roles)) for name, roles in content.get(ROLES, {}).items()}
    return roles_of_regions(given, labels, single_ids(labels, content.get(NAMES)))


def read_surroundings(path: Path) -> dict[str, int]:
    """Read name → id of a `surroundings.json`, without 0; empty where there is no such file.

    Raises:
        InputError: if it is broken.
    """
    if not path.is_file():
        return {}
    labels = read_json(path, "Fix the file.").get("labels")
    if not isinstance(labels, dict) or not all(
        type(label_id) is int and 0 <= label_id <= MAX_LABEL_ID for label_id in labels.values()
    ):
        raise InputError(
            f'{path}: content must be {{"labels": {{"background": 0, "lungs": 1, ...}}}} with ids up to '
            f"{MAX_LABEL_ID}, got labels {labels}. Fix the file."
        )
    return {name: label_id for name, label_id in labels.items() if label_id != 0}


def same_description(key: str, synthetic: Any, real: Any) -> bool:
    """Return whether a key of `dataset.json` means the same to a network in a synthetic and in a real data set.

    nnU-Net's ignore label does not count, since a network has no output for it; outputs for regions follow the order of
    the labels; channel names are compared as nnU-Net reads them. A value is None where the key is missing.
    """

    def learnt(value: Any) -> Any:
        if key == "labels" and isinstance(value, dict):
            learnt = {name: entry for name, entry in value.items() if name != IGNORE}
            has_regions = any(isinstance(entry, list) and len(entry) > 1 for entry in learnt.values())
            return list(learnt.items()) if has_regions else learnt
        return _channel_kinds(value) if key == "channel_names" else value

    return bool(learnt(synthetic) == learnt(real))


def _channel_kinds(channels: Any) -> Any:
    """Channel → kind, by which nnU-Net selects the normalisation; case does not matter."""
    return {k: str(v).casefold() for k, v in channels.items()} if isinstance(channels, dict) else channels


def _channel_faults(channels: dict[str, str]) -> list[str]:
    if list(channels) == [str(number) for number in range(len(channels))]:
        return []
    return [f"channel_names must number the channels 0, 1, … in turn, got {channels}. Renumber them."]


def _entry_faults(content: dict[str, Any]) -> Iterator[str]:
    """List the faults of nnU-Net's own listing of files, where there is one."""
    entries, channels = content.get("dataset", {}), content["channel_names"]
    if not isinstance(entries, dict):
        yield f"dataset must be an object of case and files, got a {type(entries).__name__}. Fix the file."
        return
    if unfit := listed(repr(key) for key in entries if not is_file_name(key)):
        yield (f"dataset must name cases as files are named, without folders, got {unfit}. Rename them.")
    for key, entry in entries.items():
        files = entry if isinstance(entry, dict) else {}
        images = files.get("images")
        paths = [*images, files.get("label")] if isinstance(images, list) else []
        if len(paths) != len(channels) + 1 or not all(isinstance(path, str) for path in paths):
            yield f"dataset must name {len(channels)} images and a label of each case, got {entry} for {key!r}. Fix it."


def _weight_faults(max_weight: Any) -> Iterator[str]:
    if type(max_weight) not in (int, float) or not 1 <= max_weight <= LARGEST_WEIGHT:
        yield f"{MAX_WEIGHT} must be a number from 1 to {LARGEST_WEIGHT}, got {max_weight!r}. Correct it."


def _label_faults(content: dict[str, Any], any_kind: bool) -> Iterator[str]:
    """List what nnU-Net does not accept in the labels, and what does not fit into 8 bits."""
    labels = content["labels"]
    entries = [i for entry in labels.values() for i in (entry if isinstance(entry, list) and entry else [entry])]
    if unfit := [i for i in entries if type(i) is not int or i < 0]:
        got = listed(map(repr, unfit))
        yield f"label ids must be whole numbers from 0, or lists of such (regions), got [{got}]. Renumber them."
        return
    if labels.get(BACKGROUND) != 0:
        got = listed(name for name, entry in labels.items() if entry == 0) or "none"
        yield f"label 0 must be called {BACKGROUND}, got {got}. Rename it."
        return
    regions, ignore = regions_of(labels), labels.get(IGNORE)
    ids = sorted({i for name, entry in labels.items() if name != IGNORE for i in ids_of(entry)})
    if ignore is not None and ignore != ids[-1] + 1:
        highest = ids[-1] if type(ignore) is int and ignore < ids[-1] else ids[-1] + 1
        yield f"ignore must have the highest label id, {highest}, got {ignore}. Renumber them."
    elif not regions and ids != list(range(len(ids))):
        gap = next(place for place, label_id in enumerate(ids) if place != label_id)
        yield f"label ids must be 0, 1, 2, ... without gaps, got {ids[gap]} after {ids[gap - 1]}. Renumber them."
    if not any_kind and not 1 < len(ids) <= MAX_LABEL_ID + 1:
        yield f"labels must name 1 to {MAX_LABEL_ID} structures besides the background, got {len(ids) - 1}."
    elif ids[-1] > MAX_LABEL_ID and not any_kind:
        yield f"label ids must be at most {MAX_LABEL_ID}, got {ids[-1]}. Renumber them."
    if regions:
        yield from _order_faults(labels, content.get("regions_class_order"))


def _order_faults(labels: dict[str, Any], order: Any) -> Iterator[str]:
    """List why nnU-Net does not accept the ids in which it writes overlapping regions."""
    names = [name for name, entry in labels.items() if name != IGNORE and ids_of(entry) != [0]]
    if not isinstance(order, list) or len(order) != len(names) or not all(type(i) is int for i in order):
        got = f"{len(order)}: {listed(order)}" if isinstance(order, list) else order
        yield (
            f"regions_class_order must list an id for each of the {len(names)} regions and labels, "
            f"{listed(names)}, got {got}. Write it as nnU-Net's region_based_training.md describes."
        )


def _name_faults(names: Any, labels: dict[str, Any]) -> Iterator[str]:
    """List the faults of names that a user has given to single ids."""
    if not isinstance(names, dict) or not all(type(i) is int for i in names.values()):
        yield f"{NAMES} must be an object of name and id, got {names}. Fix the file."
        return
    held = {i for ids in regions_of(labels).values() for i in ids}
    if unknown := [i for i in names.values() if i not in held]:
        yield f"{NAMES} must name ids of regions, [{listed(sorted(held))}], got [{listed(unknown)}]. Correct it."
    if twice := [name for name, i in names.items() if list(names.values()).count(i) > 1]:
        yield f"{NAMES} must give an id one name, got {listed(twice)} for the same. Correct it."
    taken = [n for n, i in names.items() if n == IGNORE or (n in labels and ids_of(labels[n]) != [i])]
    if taken:
        yield f"{NAMES} must give names that labels does not use otherwise, got {listed(taken)}. Rename them."


def _role_faults(roles: Any, labels: Collection[str]) -> Iterator[str]:
    """List the faults of the roles that a user has given to labels."""
    if not isinstance(roles, dict):
        yield f"{ROLES} must be an object of label name and list of roles, got {roles}. Fix the file."
        return
    known = [str(role) for role in Role]
    for name, given in roles.items():
        if name not in labels:
            yield f"{ROLES} must name labels of the data set, got {name}. Correct its name."
        if not isinstance(given, list) or any(role not in known for role in given):
            yield f"{ROLES} of {name} must be a list of {', '.join(known)}, got {given}. Correct it."
