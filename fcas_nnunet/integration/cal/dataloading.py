"""Preprocessed cases whose image carries doubt, 1 − confidence, as its last channel; below 0 for weights above 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from fcas_nnunet.integration.dataset.volumes import CONFIDENCE_STEPS
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore


class ImageWithDoubt:
    """An image [C, D, H, W] and a confidence map that are sliced as one array [C + 1, D, H, W]; only slices are read.

    Args:
        image: float32, an array or one on disk.
        confidence: uint8 or uint16 [1, D, H, W] in steps of 1/255, an array or one on disk; None means 1 everywhere.
    """

    def __init__(self, image: Any, confidence: Any | None) -> None:
        self.image = image
        self.confidence = confidence
        self.shape = (image.shape[0] + 1, *image.shape[1:])
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        image = self.image[slices]
        doubt = np.zeros((1, *image.shape[1:]), np.float32)
        if self.confidence is not None:
            steps = np.asarray(self.confidence[slices]).astype(np.float32)
            doubt = (CONFIDENCE_STEPS - steps) / np.float32(CONFIDENCE_STEPS)
        return np.concatenate([image, doubt])


class ConfidenceDataset:
    """nnU-Net's preprocessed data set, in any of its storage formats, with `ImageWithDoubt` for an image.

    The store holds its verified confidence maps.
    """

    def __init__(self, native: nnUNetBaseDataset, store: ConfidenceStore) -> None:
        self.native = native
        self.store = store
        self.identifiers: list[str] = native.identifiers

    def load_case(self, identifier: str) -> tuple[ImageWithDoubt, Any, Any, dict[str, Any]]:
        """Load a case: image with doubt, segmentation, the previous stage's segmentation, properties."""
        image, seg, seg_prev, properties = self.native.load_case(identifier)
        return ImageWithDoubt(image, self.store.open(identifier)), seg, seg_prev, properties

    __getitem__ = load_case
