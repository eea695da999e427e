"""Preprocessed cases whose image carries doubt, 1 − confidence, as its last channel; below 0 for weights above 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from fcas_nnunet.integration.cal.weighting import CaseWeights
from fcas_nnunet.integration.dataset.volumes import CONFIDENCE_STEPS
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore


class ImageWithDoubt:
    """An image [C, D, H, W] and a confidence map that are sliced as one array [C + 1, D, H, W]; only slices are read.

    Args:
        image: float32, an array or one on disk.
        confidence: uint8 or uint16 [1, D, H, W] in steps of 1/255, an array or one on disk; None means 1 everywhere.
        seg: label map [1, D, H, W], an array or one on disk; read only with `weights`.
        weights: what turns confidence into weights; None leaves it as it is.
    """

    def __init__(
        self, image: Any, confidence: Any | None, seg: Any | None = None, weights: CaseWeights | None = None
    ) -> None:
        self.image = image
        self.confidence = confidence
        self.seg = seg
        self.weights = weights
        self.shape = (image.shape[0] + 1, *image.shape[1:])
        self.ndim = len(self.shape)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, slices: tuple[slice, ...]) -> np.ndarray:
        image = self.image[slices]
        doubt = np.zeros((1, *image.shape[1:]), np.float32)
        if self.confidence is not None:
            steps = np.asarray(self.confidence[slices]).astype(np.float32)
            doubt = (CONFIDENCE_STEPS - steps) / np.float32(CONFIDENCE_STEPS)
            if self.weights is not None and self.seg is not None:
                doubt = self.weights.doubt(doubt, np.asarray(self.seg[slices]))
        return np.concatenate([image, doubt])


class ConfidenceDataset:
    """nnU-Net's preprocessed data set, in any of its storage formats, with `ImageWithDoubt` for an image.

    The store holds its verified confidence maps, None means 1 everywhere; `weights` are those of `ImageWithDoubt`.
    """

    def __init__(
        self, native: nnUNetBaseDataset, store: ConfidenceStore | None, weights: CaseWeights | None = None
    ) -> None:
        self.native = native
        self.store = store
        self.weights = weights
        self.identifiers: list[str] = native.identifiers

    def load_case(self, identifier: str) -> tuple[ImageWithDoubt, Any, Any, dict[str, Any]]:
        """Load a case: image with doubt, segmentation, the previous stage's segmentation, properties."""
        image, seg, seg_prev, properties = self.native.load_case(identifier)
        confidence = None if self.store is None else self.store.open(identifier)
        return ImageWithDoubt(image, confidence, seg, self.weights), seg, seg_prev, properties

    __getitem__ = load_case
