"""Check a `dataset.json`, and list all faults at once; the volumes are not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fcas_nnunet.files import is_file_name
from fcas_nnunet.integration.dataset.volumes import LARGEST_WEIGHT, READABLE_FILE_ENDINGS
from fcas_nnunet.intensities import CT
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles, Role

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
#: How to pretrain for a data set with regions, whose single ids have no names.
REGIONS_REMEDY = (
    "write a dataset.json with a name for every single id into a data set of its own, generate with --for that one, "
    "then copy labels and regions_class_order into the dataset.json of what was generated."
)


def description_faults(content: dict[str, Any], *, any_kind: bool = False, ignore_label: bool = False) -> list[str]:
    """List the faults of a `dataset.json`, a sentence each, without the file's name.

    The flags are those of `RawDataset.open`.
    """
    missing = [key for key in ("channel_names", "labels", "numTraining", "file_ending") if key not in content]
    if missing:
        return [f"keys {', '.join(missing)} must be present, got {', '.join(content)}. Add them."]
    faults = [] if any_kind else _channel_faults(content)
    faults += [*_ending_faults(content), *_entry_faults(content), *_weight_faults(content.get(MAX_WEIGHT, 1))]
    labels = content["labels"]
    if not isinstance(labels, dict):
        return [*faults, f"labels must be an object of name and id, got a {type(labels).__name__}. Fix the file."]
    faults += _any_label_faults(content) if any_kind else _label_faults(labels, ignore_label)
    return [*faults, *_role_faults(content.get(ROLES, {}), labels)]


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
    """Read the roles that a `dataset.json` gives its labels.

    Raises:
        ValueError: if the file is broken, or names unknown roles or labels that it does not have.
    """
    content = read_json(dataset_json)
    roles = content.get(ROLES, {})
    if faults := list(_role_faults(roles, content["labels"])):
        raise ValueError("\n".join(f"{dataset_json}: {fault}" for fault in faults))
    return given_roles(content)


def given_roles(content: dict[str, Any]) -> GivenRoles:
    """Return the roles of a `dataset.json` without faults."""
    return {name: tuple(map(Role, roles)) for name, roles in content.get(ROLES, {}).items()}


def same_description(key: str, synthetic: Any, real: Any) -> bool:
    """Return whether a key of `dataset.json` means the same to a network in a synthetic and in a real data set.

    nnU-Net's ignore label does not count, since a network has no output for it; channel names are compared as nnU-Net
    reads them. A value is None where the key is missing.
    """

    def learnt(value: Any) -> Any:
        if key == "labels" and isinstance(value, dict):
            return {name: i for name, i in value.items() if name != IGNORE}
        return _channel_kinds(value) if key == "channel_names" else value

    return bool(learnt(synthetic) == learnt(real))


def _channel_kinds(channels: Any) -> Any:
    """Channel → kind, by which nnU-Net selects the normalisation; case does not matter."""
    return {k: str(v).casefold() for k, v in channels.items()} if isinstance(channels, dict) else channels


def _channel_faults(content: dict[str, Any]) -> list[str]:
    channels = content["channel_names"]
    if isinstance(channels, dict) and channels and list(channels) == [str(number) for number in range(len(channels))]:
        return []
    return [f"channel_names must number the channels 0, 1, … in turn, got {channels}. Renumber them."]


def _entry_faults(content: dict[str, Any]) -> Iterator[str]:
    """List the faults of nnU-Net's own listing of files, where there is one."""
    entries, channels = content.get("dataset", {}), content["channel_names"]
    if not isinstance(entries, dict):
        yield f"dataset must be an object of case and files, got a {type(entries).__name__}. Fix the file."
        return
    if unfit := ", ".join(repr(key) for key in entries if not is_file_name(key)):
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


def _any_label_faults(content: dict[str, Any]) -> list[str]:
    """List the faults that nnU-Net finds in the labels; regions and an ignore label are accepted."""
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    try:
        LabelManager(content["labels"], content.get("regions_class_order"))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [f"labels must be what nnU-Net's dataset_format.md describes, got '{reason}'. Fix the file."]
    return []


def _label_faults(labels: dict[str, Any], ignore_label: bool) -> list[str]:
    regions = [name for name, label_id in labels.items() if isinstance(label_id, list)]
    if regions:
        return [
            f"labels must be plain ids, got regions for {', '.join(regions)}. "
            "The generator draws labels: give it a data set with one id per label."
        ]
    if IGNORE in labels and not ignore_label:
        return ["labels must not have an ignore label, got one. The generator needs every voxel annotated."]
    ids = list(labels.values())
    wanted = list(range(len(ids)))
    if not all(type(label_id) is int for label_id in ids) or sorted(ids) != wanted:
        return [f"label ids must be 0, 1, 2, ... without gaps, got {ids}. Renumber them."]
    if labels.get(BACKGROUND) != 0:
        return [f"label 0 must be called {BACKGROUND}, got {labels}. Rename it."]
    if not 1 < len(ids) <= MAX_LABEL_ID + 1:
        return [f"labels must name 1 to {MAX_LABEL_ID} structures besides the background, got {len(ids) - 1}."]
    if IGNORE in labels and labels[IGNORE] != len(ids) - 1:
        return [f"ignore must have the highest label id, {len(ids) - 1}, got {labels[IGNORE]}. Renumber them."]
    return []


def _role_faults(roles: Any, labels: dict[str, Any]) -> Iterator[str]:
    """List the faults of the roles that a user has given."""
    if not isinstance(roles, dict):
        yield f"{ROLES} must be an object of label name and list of roles, got {roles}. Fix the file."
        return
    known = [str(role) for role in Role]
    for name, given in roles.items():
        if name not in labels:
            yield f"{ROLES} must name labels of the data set, got {name}. Correct its name."
        if not isinstance(given, list) or any(role not in known for role in given):
            yield f"{ROLES} of {name} must be a list of {', '.join(known)}, got {given}. Correct it."
