"""nnU-Net raw data sets with `confidenceTr` and `surroundingsTr` beside the labels: read, check, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.case import Case
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.dataset.description import (
    CT_CHANNEL,
    MAX_WEIGHT,
    NAMES,
    ROLES,
    description_faults,
    given_roles,
    read_surroundings,
)
from fcas_nnunet.integration.dataset.folders import (
    CONFIDENCE,
    DATA_SET,
    IMAGES,
    LABELS,
    SURROUNDINGS,
    WORK_FOLDER,
    channel_suffix,
    is_identifier,
    list_cases,
    parse_name,
    resolve_dataset,
)
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.volumes import (
    FILE_ENDING,
    Volume,
    dequantise_confidence,
    quantise_confidence,
    read_channels,
    read_finite,
    read_label_map,
    refuse_other_place,
    write_confidence,
    write_labels,
    write_volume,
)
from fcas_nnunet.intensities import IntensityScale
from fcas_nnunet.json_files import read_json
from fcas_nnunet.labels.anatomy import BACKGROUND, IGNORE, GivenRoles
from fcas_nnunet.labels.regions import Entries, ids_of, regions_of, single_ids

DATASET_JSON = "dataset.json"
SURROUNDINGS_JSON = "surroundings.json"

_PUT_ASIDE = f"{WORK_FOLDER}/{DATASET_JSON}"
_ADVICE = "Fix or write it as nnU-Net's dataset_format.md says, or let the command that writes this data set finish."


@dataclass(frozen=True)
class RawDataset:
    """A data set in nnU-Net's raw format.

    Attributes:
        folder: `$nnUNet_raw/DatasetNNN_Name`.
        labels: name → id of every single id of the label map, background 0 included, without the ignore label. Ids of
            regions have names of their own (`labels.regions.single_ids`).
        surroundings: name → id of the structures in `surroundingsTr`, without 0; empty when there is none.
        case_ids: the training cases, sorted.
        file_ending: file ending of images and labels, usually `.nii.gz`.
        roles: label name → roles that `fcas_roles` in `dataset.json` gives it.
        shown: the channel that is looked at where a command looks at one.
    """

    folder: Path
    labels: dict[str, int]
    surroundings: dict[str, int]
    case_ids: list[str]
    dataset_json: dict[str, Any] = field(repr=False)
    file_ending: str = FILE_ENDING
    roles: GivenRoles = field(default_factory=dict)
    shown: int = 0

    @classmethod
    def open(cls, folder: Path, *, any_kind: bool = False) -> RawDataset:
        """Read a data set's description and list its cases; `check_dataset` reads the volumes.

        Args:
            folder: a raw data set folder, as `resolve_dataset` gives it.
            any_kind: accept every data set that nnU-Net trains on; by default only 8-bit labels, which can be drawn.

        Raises:
            MissingFileError: if `dataset.json` is missing.
            InputError: if it is broken, of a kind that is not accepted, or names a case over several lines.
        """
        parse_name(folder.name)
        content = read_json(folder / DATASET_JSON, _ADVICE)
        faults = description_faults(content, any_kind=any_kind)
        if faults:
            raise InputError("\n".join(f"{folder / DATASET_JSON}: {fault}" for fault in faults))
        ending = content["file_ending"]
        return cls(
            folder=folder,
            labels=single_ids(content["labels"], content.get(NAMES)),
            surroundings=read_surroundings(folder / SURROUNDINGS_JSON),
            case_ids=list_cases(folder, content, ending),
            dataset_json=content,
            file_ending=ending,
            roles=given_roles(content),
        )

    @property
    def name(self) -> str:
        """The full name, `DatasetNNN_Name`."""
        return self.folder.name

    @property
    def dataset_id(self) -> int:
        """The id, NNN of the name."""
        return parse_name(self.folder.name)[0]

    @property
    def label_ids(self) -> list[int]:
        """Every id that a label map may contain: ids of labels, of regions and of the ignore label."""
        return sorted({i for entry in self.dataset_json["labels"].values() for i in ids_of(entry)})

    @property
    def regions(self) -> dict[str, list[int]]:
        """Name → ids of the labels that stand for several ids."""
        return regions_of(self.dataset_json["labels"])

    @property
    def ignore_id(self) -> int | None:
        """The id of nnU-Net's ignore label, if there is one."""
        found: int | None = self.dataset_json["labels"].get(IGNORE)
        return found

    def with_ignored(self, becomes: Mapping[int, int]) -> dict[int, int]:
        """Add the ignore label to a translation of the label ids: it becomes background."""
        return {**becomes} if self.ignore_id is None else {**becomes, self.ignore_id: 0}

    @property
    def channel_names(self) -> dict[str, str]:
        """Number of an input channel → its name, by which nnU-Net normalises it."""
        return dict(self.dataset_json["channel_names"])

    @property
    def channel_name(self) -> str:
        """The name of the channel that is looked at."""
        return list(self.channel_names.values())[self.shown]

    @property
    def num_channels(self) -> int:
        """Number of input channels."""
        return len(self.channel_names)

    @property
    def has_confidence(self) -> bool:
        """True if the data set has confidence maps."""
        return (self.folder / f"{CONFIDENCE}Tr").is_dir()

    @property
    def max_weight(self) -> float:
        """The largest weight that confidence maps may contain: 1, or what the user's `fcas_max_weight` allows."""
        return float(self.dataset_json.get(MAX_WEIGHT, 1))

    def synthetic_cases(self) -> set[str]:
        """Return the cases whose manifest record says how their confidence was made; none without a manifest."""
        records = Manifest(self.folder).read()
        return {case_id for case_id, record in records.items() if CONFIDENCE in record} & set(self.case_ids)

    def mapped_cases(self) -> list[str]:
        """Return the cases that have a confidence map."""
        return [case_id for case_id in self.case_ids if self.confidence_path(case_id).is_file()]

    def showing(self, channel: int) -> RawDataset:
        """Return the data set with another channel to look at.

        Raises:
            InputError: if it has no such channel.
        """
        if not 0 <= channel < self.num_channels:
            raise InputError(
                f"{self.name}: channel to look at must be one of {self.channel_names}, got {channel}. Name one by "
                "--channel."
            )
        return replace(self, shown=channel)

    def only(self, case_ids: Sequence[str]) -> RawDataset:
        """Return the data set with some of its cases alone."""
        return replace(self, case_ids=list(case_ids), dataset_json=self.dataset_json | {"numTraining": len(case_ids)})

    def image_path(self, case_id: str) -> Path:
        """Return the path of the case's channel that is looked at."""
        return self.image_paths(case_id)[self.shown]

    def image_paths(self, case_id: str) -> list[Path]:
        """Return the paths of the case's channels."""
        explicit = self.dataset_json.get("dataset", {}).get(case_id)
        if explicit is not None:
            return [self.folder / os.path.expandvars(image) for image in explicit["images"]]
        stem = self.folder / f"{IMAGES}Tr" / case_id
        return [Path(f"{stem}{channel_suffix(channel)}{self.file_ending}") for channel in range(self.num_channels)]

    def mask_path(self, case_id: str) -> Path:
        """Return the path of the case's label map."""
        explicit = self.dataset_json.get("dataset", {}).get(case_id)
        if explicit is not None:
            return self.folder / os.path.expandvars(explicit["label"])
        return self.folder / f"{LABELS}Tr" / f"{case_id}{self.file_ending}"

    def confidence_path(self, case_id: str) -> Path:
        """Return the path of the case's confidence map, which need not exist."""
        return self.folder / f"{CONFIDENCE}Tr" / f"{case_id}{self.file_ending}"

    def surroundings_path(self, case_id: str) -> Path:
        """Return the path of the case's surroundings, which need not exist."""
        return self.folder / f"{SURROUNDINGS}Tr" / f"{case_id}{self.file_ending}"

    def files_of(self, case_id: str) -> list[Path]:
        """Return the paths of all that `load_case` reads, some of which need not exist."""
        maps = self.mask_path(case_id), self.surroundings_path(case_id), self.confidence_path(case_id)
        return [*self.image_paths(case_id), *maps]

    def load_case(self, case_id: str) -> Case:
        """Read all volumes of a case: image float32 in its own values with their scales, all channels; mask uint8 (0
        where it is to be ignored), surroundings uint8, confidence float32 in [0, max_weight], ignored voxels.

        Raises:
            MissingFileError: if image or mask is missing.
            InputError: if a file is unreadable or the shapes differ.
        """
        path = self.confidence_path(case_id)
        case, names = self.load_mask(case_id), self.channel_names.values()
        channels = read_channels(case_id, self.image_paths(case_id), case.affine)
        return replace(
            case,
            image=np.stack(channels, dtype=np.float32, casting="unsafe"),
            scales=tuple(IntensityScale.of(image, name) for image, name in zip(channels, names, strict=True)),
            confidence=read_confidence(path, self.max_weight, case.affine).array if path.is_file() else None,
        )

    def load_mask(self, case_id: str) -> Case:
        """Read the mask alone, and the surroundings where present: no image, no confidence."""
        mask = read_label_map(self.mask_path(case_id))
        path = self.surroundings_path(case_id)
        ignored = None if self.ignore_id is None else mask.array == self.ignore_id
        return Case(
            case_id=case_id,
            image=None,
            mask=mask.array if ignored is None else np.where(ignored, 0, mask.array).astype(np.uint8),
            affine=mask.affine,
            ignored=ignored,
            surroundings=read_label_map(path).array if path.is_file() else None,
        )


def open_dataset(argument: str, *, by: str = DATA_SET) -> RawDataset:
    """Open the data set that an id, a full name or the path of its folder names; ids and names have priority.

    Raises what `resolve_dataset` and `RawDataset.open` raise; `by` is the flag that named it, for messages.
    """
    by_path = Path(argument).is_dir() and not is_identifier(argument)
    found = Path(argument).resolve() if by_path else resolve_dataset(argument, by=by, also="folder")
    return RawDataset.open(found)


def bare_folder(argument: str) -> Path | None:
    """Return the folder that an argument names if that is no data set; None if `open_dataset` has to find one."""
    folder = Path(argument)
    return folder if folder.is_dir() and not is_identifier(argument) and not is_dataset(folder) else None


def is_dataset(folder: Path) -> bool:
    """Return whether a folder contains a data set's description."""
    return (folder / DATASET_JSON).is_file()


def read_confidence(path: Path, max_weight: float = 1, affine: np.ndarray | None = None) -> Volume:
    """Read a confidence map as exact multiples of 1/255, float32 in [0, max_weight]; `affine` is where it must lie."""
    volume = read_finite(path)
    if affine is not None:
        refuse_other_place(path, volume, affine)
    return Volume(dequantise_confidence(quantise_confidence(volume.array, max_weight)), volume.affine)


def write_case(folder: Path, case: Case, *, split: str = "Tr", before_label: Callable[[], None] | None = None) -> None:
    """Write a case in nnU-Net's raw layout; equal cases give equal bytes.

    The label is written last, so that a case with a label is complete.

    Args:
        folder: the raw data set folder.
        case: image (stored by its scale), mask with the ids to write, surroundings, confidence; those that are None are
            not written.
        split: "Tr" for training cases, "Ts" for held-out ones.
        before_label: called when all else is written; saves what every complete case must have.

    Raises:
        InputError: if a voxel of image or confidence is NaN or infinite; nothing is written then.
    """
    faults = [
        f"{case.case_id}: every voxel of the {what} must be finite, got {count} that are not. Nothing was written."
        for what, volume in (("image", case.image), ("confidence", case.confidence))
        if volume is not None and (count := volume.size - int(np.isfinite(volume).sum()))
    ]
    if faults:
        raise InputError("\n".join(faults))

    def path(kind: str, suffix: str = "") -> Path:
        return folder / f"{kind}{split}" / f"{case.case_id}{suffix}{FILE_ENDING}"

    if case.image is not None:
        for channel, volume in enumerate(case.stored_channels):
            write_volume(path(IMAGES, channel_suffix(channel)), volume, case.affine)
    if case.surroundings is not None:
        write_labels(path(SURROUNDINGS), case.surroundings, case.affine)
    if case.confidence is not None:
        write_confidence(path(CONFIDENCE), case.confidence, case.affine)
    if before_label is not None:
        before_label()
    write_labels(path(LABELS), case.mask, case.affine)


def write_dataset_json(
    folder: Path,
    labels: Entries,
    num_training: int,
    *,
    channel_names: Mapping[str, str] = CT_CHANNEL,
    surroundings: Mapping[str, int] | None = None,
    roles: GivenRoles | None = None,
    description: str = "",
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `dataset.json`, last of all: a data set without it is unfinished.

    Entries that the user has added to an earlier one, which `reopen_dataset` may have put aside, are kept.

    Args:
        folder: the raw data set folder, `DatasetNNN_Name`.
        labels: name → id, or ids of a region; background 0 included. Without regions they are sorted by id; with
            regions nnU-Net's outputs follow their order, and `more` has `regions_class_order`.
        num_training: number of training cases.
        channel_names: number of a channel → its name.
        surroundings: name → id for `surroundings.json`; None or empty when there are none.
        roles: label name → roles that do not follow from the name.
        description: text of the entry `description`; none if empty.
        more: further entries.
    """
    if surroundings:
        named = {name: label_id for name, label_id in surroundings.items() if label_id != 0}
        atomic_write_json(folder / SURROUNDINGS_JSON, {"labels": {BACKGROUND: 0} | named})
    content: dict[str, Any] = {
        "channel_names": dict(channel_names),
        "labels": dict(labels if regions_of(labels) else sorted(labels.items(), key=lambda item: ids_of(item[1]))),
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
        "name": folder.name,
    }
    if description:
        content["description"] = description
    if roles:
        content[ROLES] = {name: [str(role) for role in given] for name, given in roles.items()}
    content |= more or {}
    earlier = next((path for name in (DATASET_JSON, _PUT_ASIDE) if (path := folder / name).is_file()), None)
    if earlier is not None:
        content |= {key: value for key, value in read_json(earlier, _ADVICE).items() if key not in content}
    faults = description_faults(content)
    if faults:
        raise InputError("\n".join(f"{earlier or folder / DATASET_JSON}: {fault}" for fault in faults))
    atomic_write_json(folder / DATASET_JSON, content)
    (folder / _PUT_ASIDE).unlink(missing_ok=True)


def reopen_dataset(folder: Path) -> None:
    """Mark a data set as unfinished, so that cases can be added: put its `dataset.json` aside."""
    (folder / WORK_FOLDER).mkdir(exist_ok=True)
    with suppress(FileNotFoundError):  # it was unfinished before, or another process does the same
        os.replace(folder / DATASET_JSON, folder / _PUT_ASIDE)


def training_cases(folder: Path) -> list[str]:
    """Return the sorted ids of all training cases in a folder that this package writes, finished or not."""
    return list_cases(folder, {}, FILE_ENDING)
