"""Synthetic, training and held-out scans with the masks they are centred on, under one set of label ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.commands.evaluate.segmentations import translate_labels
from fcas_nnunet.commands.runtime.case_files import case_files
from fcas_nnunet.commands.runtime.channels import refuse_other_channels, showing
from fcas_nnunet.faults import InputError, MissingFileError
from fcas_nnunet.integration.dataset.folders import IMAGES, LABELS
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, bare_folder, open_dataset
from fcas_nnunet.integration.dataset.volumes import read_labelled_scan
from fcas_nnunet.labels.matching import match_labels


@dataclass(frozen=True)
class CentredFiles:
    """A scan and the mask it is centred on.

    Attributes:
        image: Its scan.
        mask: Label ids on the same grid.
        becomes: Each label id → what it counts as; 0 where it does not count.
        channel_name: Of the scan, which says what its values are.
        channels: All channels of the scan, that which is compared among them.
    """

    image: Path
    mask: Path
    becomes: dict[int, int]
    channel_name: str
    channels: tuple[Path, ...]

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image in standard units, mask with its ids translated, and affine.

        Raises:
            InputError: when a file cannot be read, or the mask has ids that `becomes` does not name.
        """
        image, mask = read_labelled_scan(self.image, self.mask, self.channel_name)
        return image.array, translate_labels(mask, self.becomes, self.mask, "Run fcas_doctor -d on it."), image.affine


@dataclass(frozen=True)
class Cases:
    """Scans with their masks.

    Attributes:
        name: Name of the data set, or the folder.
        files: Case id → scan and mask, whose label ids become those of the training set.
        channel_names: Names of the scans' channels.
        records: Case id → the manifest's record, of synthetic cases.
    """

    name: str
    files: dict[str, CentredFiles]
    channel_names: Sequence[str]
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def open_all(
    synthetic: str, training: str, held_out: str | None, channel: int = 0
) -> tuple[Cases, Cases, Cases | None]:
    """The three sets of scans, their labels matched: all are centred on what synthetic and training set both label.

    Args:
        synthetic: Id, name or folder of a data set.
        training: The same of the real one.
        held_out: The same of held-out scans, or a folder of scans (`imagesTs`) with its masks (`labelsTs`) beside it.
        channel: Channel that is compared.

    Raises:
        MissingFileError: when one of them, or a file, is missing.
        InputError: when they cannot be compared; every fault listed.
    """
    own, real = (showing(open_dataset(name, by=by), channel) for name, by in ((synthetic, "-d"), (training, "--train")))
    if own.folder == real.folder:
        raise InputError(f"--train: data set must be another than -d, got {real.name} twice. Name the real one.")
    refuse_other_channels(own, real)
    to_real = match_labels(own.labels, real.labels)
    shared = set(to_real.values())
    unchanged = {label: label if label in shared else 0 for label in real.labels.values()}
    cases = _cases(own, to_real, Manifest(own.folder).read())
    trained = _cases(real, unchanged)
    others = _open_held_out(held_out, real, unchanged) if held_out else None
    sets = [cases, trained, *([others] if others else [])]
    paths = [path for each in sets for files in each.files.values() for path in (*files.channels, files.mask)]
    faults = [
        f"{path}: file must exist, got none. Every scan needs its mask; run fcas_doctor -d on the data set."
        for path in paths
        if not path.is_file()
    ]
    if others is None and len(trained.files) < 2:
        faults.append(
            f"{real.name}: training cases must be 2 or more to be held against one another, got {len(trained.files)}. "
            "Name real scans that were not trained on: --held_out"
        )
    faults += [f"{each.name}: cases must be there, got none. Name another." for each in sets if not each.files]
    if faults:
        raise InputError("\n".join(faults))
    return cases, trained, others


def _cases(
    dataset: RawDataset, becomes: dict[int, int], records: Mapping[str, Mapping[str, Any]] | None = None
) -> Cases:
    known = dataset.with_ignored(becomes)
    files = {
        i: CentredFiles(
            dataset.image_path(i), dataset.mask_path(i), known, dataset.channel_name, tuple(dataset.image_paths(i))
        )
        for i in dataset.case_ids
    }
    return Cases(dataset.name, files, list(dataset.channel_names.values()), records or {})


def _open_held_out(argument: str, training: RawDataset, unchanged: dict[int, int]) -> Cases:
    folder = bare_folder(argument)
    if folder is None:
        dataset = open_dataset(argument, by="--held_out").showing(training.shown)
        refuse_other_channels(dataset, training)
        if dataset.folder.resolve() == training.folder.resolve():
            raise InputError(
                f"--held_out: cases must not be training cases, got {dataset.name} for both. "
                "Leave it out, or name other real scans."
            )
        becomes = {own: unchanged[i] if i else 0 for own, i in match_labels(dataset.labels, training.labels).items()}
        return _cases(dataset, becomes)
    masks_folder = folder.parent / folder.name.replace(IMAGES, LABELS, 1)
    if masks_folder == folder or not masks_folder.is_dir():
        raise MissingFileError(
            f"{folder}: masks must be in {LABELS}… beside a folder of scans {IMAGES}…, got none. "
            "Name a data set, or a folder like imagesTs."
        )
    masks, names = case_files(masks_folder), list(training.channel_names.values())
    known = training.with_ignored(unchanged)
    by_channel = [case_files(folder, number, len(names)) for number in range(len(names))]
    files = {
        i: CentredFiles(
            image, masks.get(i, masks_folder / i), known, training.channel_name,
            tuple(images.get(i, folder / i) for images in by_channel),
        )
        for i, image in by_channel[training.shown].items()
    }  # fmt: skip
    return Cases(str(folder), files, names)
