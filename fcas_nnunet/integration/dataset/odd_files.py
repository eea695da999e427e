"""Odd files of a data set: names and sizes that nnU-Net cannot read, and warnings of what may be wrong."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.integration.dataset.description import NIBABEL_READERS, reader_name
from fcas_nnunet.integration.dataset.headers import NIFTI_ENDINGS, forms_read, nibabel_affine, nibabel_dimensions
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_grid, same_grid
from fcas_nnunet.intensities import is_ct
from fcas_nnunet.listing import listed

logger = logging.getLogger(__name__)


def spelling_faults(dataset: RawDataset) -> Iterator[str]:
    """Name case ids that look the same: accents are stored in two ways, and macOS and Linux prefer different ones."""
    seen: dict[str, str] = {}
    for case_id in dataset.case_ids:
        other = seen.setdefault(unicodedata.normalize("NFC", case_id), case_id)
        if other != case_id:
            yield (
                f"{case_id}: id must be spelled in one way, got composed and decomposed accents in its file names. "
                "Rename image and label alike."
            )


def reader_faults(dataset: RawDataset, case_id: str) -> Iterator[str]:
    """List files that ITK reads, and the reader that nnU-Net takes for this data set does not, or reads elsewhere."""
    reader = reader_name(dataset.dataset_json)
    if reader not in NIBABEL_READERS:
        return
    label, confidence = dataset.mask_path(case_id), dataset.confidence_path(case_id)
    maps = [confidence] if confidence.is_file() else []
    for path in (*dataset.image_paths(case_id), label, *maps):
        size = nibabel_dimensions(path)
        if size is not None and len(size) != 3:
            yield (
                f"{case_id}: {path.name} must have three dimensions for nnU-Net's {reader}, got "
                f"{' × '.join(map(str, size))}. Save it without the dimensions of one."
            )
    affines = [nibabel_affine(path) for path in (label, *maps)]
    if len(affines) == 2 and affines[0] is not None and affines[1] is not None:
        shape = nibabel_dimensions(label)
        if shape is not None and len(shape) == 3 and not same_grid(affines[0], affines[1], shape[::-1]):
            yield (
                f"{case_id}: affine of confidence must be that of the label for nnU-Net's {reader}, got another sform "
                "or qform. Copy the label's header."
            )


class Doubts:
    """Collects doubtful files of a data set, from several threads.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: RawDataset) -> None:
        self._dataset = dataset
        self._apart: dict[str, dict[str, str]] = {}
        self._without_air: set[str] = set()

    def look_at(self, case_id: str) -> None:
        """Note the files of a case that ITK and nibabel place differently, by their headers."""
        for path in (*self._dataset.image_paths(case_id), self._dataset.mask_path(case_id)):
            if path.name.endswith(NIFTI_ENDINGS) and (difference := position_difference(path)):
                self._apart.setdefault(case_id, {})[f"{path.parent.name}/{path.name}"] = difference

    def look_at_image(self, case_id: str, image: np.ndarray, channel_name: str) -> None:
        """Note a CT scan without a value below 0; image [D, H, W] as stored."""
        if is_ct(channel_name) and image.min() >= 0:
            self._without_air.add(case_id)

    def of_case(self, case_id: str) -> dict[str, Any]:
        """Return what was noted of a case, as JSON, for `recall`."""
        return {"apart": self._apart.get(case_id, {}), "without_air": case_id in self._without_air}

    def recall(self, case_id: str, noted: Mapping[str, Any]) -> None:
        """Note of a case what `of_case` returned in an earlier run."""
        self._apart[case_id] = noted["apart"]
        if noted["without_air"]:
            self._without_air.add(case_id)

    def report(self) -> None:
        """Log a sentence on each kind of doubt."""
        name = self._dataset.name
        if apart := {path: what for of_case in self._apart.values() for path, what in of_case.items()}:
            reader = reader_name(self._dataset.dataset_json)
            library = "nibabel" if reader in NIBABEL_READERS else "ITK"
            shown = listed([f"{path} ({what})" for path, what in sorted(apart.items())])
            logger.warning(
                f"{name}: {len(apart)} file(s) lie elsewhere for ITK than for nibabel: {shown}. Synthetic scans "
                f"lie where ITK says; nnU-Net reads this data set by {library} ({reader}). Write one position into "
                "sform and qform if an overlay looks shifted (docs/files.md)."
            )
        if self._without_air:
            logger.warning(
                f"{name}: {len(self._without_air)} CT scan(s) have no value below 0, as fat, lung and air have in HU: "
                f"{listed(sorted(self._without_air))}. If they hold HU + 1024, subtract 1024; if they are no CT, "
                "correct channel_names, or the channel's number in their file names."
            )


def position_difference(path: Path) -> str | None:
    """Return how ITK and nibabel differ on the position of a NIfTI file; None where they agree within 0.1 voxel."""
    try:
        shape, affine = read_grid(path)
    except (FileNotFoundError, ValueError):  # named elsewhere
        return None
    other = nibabel_affine(path)
    if other is None or same_grid(affine, other, shape):
        return None
    corners = np.array([[d, h, w, 1] for d in (0, shape[0]) for h in (0, shape[1]) for w in (0, shape[2])])
    apart_mm = float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max())
    return f"{' against '.join(forms_read(path))}, up to {apart_mm:.3g} mm apart"
