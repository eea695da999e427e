"""Synthetic, training and held-out scans with the masks they are centred on, under one set of label ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.commands.evaluate.segmentations import translate_labels
from fcas_nnunet.commands.runtime.case_files import case_files
from fcas_nnunet.integration.dataset.folders import IMAGES, LABELS
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, bare_folder, open_dataset
from fcas_nnunet.integration.dataset.volumes import read_label_map, read_scan
from fcas_nnunet.labels.matching import match_labels


@dataclass(frozen=True)
class CentredFiles:
    """A scan and the mask it is centred on.

    Attributes:
        image: Its scan.
        mask: Label ids on the same grid.
        becomes: Each label id → what it counts as; 0 where it does not count.
        channel_name: Of the scan, which says what its values are.
    """

    image: Path
    mask: Path
    becomes: dict[int, int]
    channel_name: str

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image in standard units, mask with its ids translated, and affine.

        Raises:
            ValueError: when a file cannot be read, or the mask has ids that `becomes` does not name.
        """
        image, mask = read_scan(self.image, self.channel_name), read_label_map(self.mask).array
        return image.array, translate_labels(mask, self.becomes, self.mask, "Run fcas_doctor -d on it."), image.affine


@dataclass(frozen=True)
class Cases:
    """Scans with their masks.

    Attributes:
        name: Name of the data set, or the folder.
        files: Case id → scan and mask, whose label ids become those of the training set.
        records: Case id → the manifest's record, of synthetic cases.
    """

    name: str
    files: dict[str, CentredFiles]
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def open_all(synthetic: str, training: str, held_out: str | None) -> tuple[Cases, Cases, Cases | None]:
    """The three sets of scans, their labels matched: all are centred on what synthetic and training set both label.

    Args:
        synthetic: Id, name or folder of a data set.
        training: The same of the real one.
        held_out: The same of held-out scans, or a folder of scans (`imagesTs`) with its masks (`labelsTs`) beside it.

    Raises:
        FileNotFoundError: when one of them, or a file, is missing.
        ValueError: when they cannot be compared; every fault listed.
    """
    own, real = open_dataset(synthetic, by="-d"), open_dataset(training, by="--train")
    if own.folder == real.folder:
        raise ValueError(f"--train: data set must be another than -d, got {real.name} twice. Name the real one.")
    to_real = match_labels(own.labels, real.labels)
    shared = set(to_real.values())
    unchanged = {label: label if label in shared else 0 for label in real.labels.values()}
    cases = Cases(own.name, _files(own, to_real), Manifest(own.folder).read())
    trained = Cases(real.name, _files(real, unchanged))
    others = _open_held_out(held_out, real, unchanged) if held_out else None
    sets = [cases, trained, *([others] if others else [])]
    paths = [path for each in sets for files in each.files.values() for path in (files.image, files.mask)]
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
        raise ValueError("\n".join(faults))
    return cases, trained, others


def _files(dataset: RawDataset, becomes: dict[int, int]) -> dict[str, CentredFiles]:
    channel = dataset.channel_name
    return {i: CentredFiles(dataset.image_path(i), dataset.mask_path(i), becomes, channel) for i in dataset.case_ids}


def _open_held_out(argument: str, training: RawDataset, unchanged: dict[int, int]) -> Cases:
    folder = bare_folder(argument)
    if folder is None:
        dataset = open_dataset(argument, by="--held_out")
        if dataset.folder.resolve() == training.folder.resolve():
            raise ValueError(
                f"--held_out: cases must not be training cases, got {dataset.name} for both. "
                "Leave it out, or name other real scans."
            )
        becomes = {own: unchanged[i] if i else 0 for own, i in match_labels(dataset.labels, training.labels).items()}
        return Cases(dataset.name, _files(dataset, becomes))
    masks_folder = folder.parent / folder.name.replace(IMAGES, LABELS, 1)
    if masks_folder == folder or not masks_folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: masks must be in {LABELS}… beside a folder of scans {IMAGES}…, got none. "
            "Name a data set, or a folder like imagesTs."
        )
    images, masks = case_files(folder), case_files(masks_folder)
    files = {
        i: CentredFiles(image, masks.get(i, masks_folder / i), unchanged, training.channel_name)
        for i, image in images.items()
    }
    return Cases(str(folder), files)
