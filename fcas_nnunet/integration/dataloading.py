"""Preprocessed cases whose image carries doubt, 1 − confidence, as its last channel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from fcas_nnunet.integration.volumes import CONFIDENCE_STEPS

#: Beneath nnU-Net's folder of preprocessed cases; a file beside the cases would be taken for one.
CONFIDENCE_FOLDER = "confidence"
CONFIDENCE_ENDING = ".b2nd"

_MAX_LISTED = 20


def preprocessed_confidence_path(preprocessed_folder: Path, case_id: str) -> Path:
    """Where a case's confidence map lies, uint8 [1, D, H, W] in steps of 1/255, on the grid of its segmentation."""
    return preprocessed_folder / CONFIDENCE_FOLDER / f"{case_id}{CONFIDENCE_ENDING}"


def open_confidence(path: Path) -> Any:
    """A confidence map on disk that is read where it is sliced."""
    mmap = {} if os.name == "nt" else {"mmap_mode": "r"}
    return blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, **mmap)


class ImageWithDoubt:
    """An image [C, D, H, W] and a confidence map that slice as one array [C + 1, D, H, W], read where sliced.

    Args:
        image: float32, an array or one on disk.
        confidence: uint8 [1, D, H, W] in steps of 1/255, likewise.
    """

    def __init__(self, image: Any, confidence: Any) -> None:
        self.image = image
        self.confidence = confidence
        self.shape = (image.shape[0] + 1, *image.shape[1:])
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        doubt = (CONFIDENCE_STEPS - np.asarray(self.confidence[slices])) / np.float32(CONFIDENCE_STEPS)
        return np.concatenate([self.image[slices], doubt.astype(np.float32)])


class ConfidenceDataset:
    """nnU-Net's preprocessed data set with `ImageWithDoubt` for an image, as its loader wants a data set.

    Args:
        native: nnU-Net's data set, of whichever storage format.

    Raises:
        ValueError: listing the cases without a fitting confidence map.
    """

    def __init__(self, native: nnUNetBaseDataset) -> None:
        self.native = native
        self.folder = Path(native.source_folder)
        self.identifiers: list[str] = native.identifiers
        self._refuse_missing_maps()

    def load_case(self, identifier: str) -> tuple[ImageWithDoubt, Any, Any, dict[str, Any]]:
        """Image with doubt, segmentation, the previous stage's segmentation, properties."""
        image, seg, seg_prev, properties = self.native.load_case(identifier)
        confidence = open_confidence(preprocessed_confidence_path(self.folder, identifier))
        return ImageWithDoubt(image, confidence), seg, seg_prev, properties

    def __getitem__(self, identifier: str) -> tuple[ImageWithDoubt, Any, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def _refuse_missing_maps(self) -> None:
        missing = [i for i in self.identifiers if not preprocessed_confidence_path(self.folder, i).is_file()]
        if missing:
            raise ValueError(
                f"{self.folder}: every case must have a confidence map for confidence-aware training, "
                f"got none for {len(missing)} of {len(self.identifiers)}: {_listed(missing)}. "
                "Run fcas_prepare for this synthetic data set; on real scans use nnUNetTrainerCALFinetune."
            )
        other_shape = [i for i in self.identifiers if not self._shapes_agree(i)]
        if other_shape:
            raise ValueError(
                f"{self.folder}: confidence maps must have the shape of their segmentations, "
                f"got others for {_listed(other_shape)}. Run fcas_prepare again."
            )

    def _shapes_agree(self, identifier: str) -> bool:
        seg = self.native.load_case(identifier)[1]
        return open_confidence(preprocessed_confidence_path(self.folder, identifier)).shape == seg.shape


def _listed(case_ids: Sequence[str]) -> str:
    rest = len(case_ids) - _MAX_LISTED
    return ", ".join(case_ids[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
