"""Apply nnU-Net's spatial augmentation to the confidence together with the image; nothing else changes it.

The arrays hold doubt, 1 − confidence: padding with zero then means full confidence, as nnU-Net gives padded voxels full
weight. Doubt is loaded as the image's last channel, passes the transforms under batchgeneratorsv2's key for float maps,
and is returned as the last entry of the list of segmentations, which nnU-Net's loader batches unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms

_FLOAT_MAP = "regression_target"


class SplitDoubt(BasicTransform):
    """Image [C + 1, ...] → image [C, ...] and doubt [1, ...]."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        image = data_dict["image"]
        return data_dict | {"image": image[:-1], _FLOAT_MAP: image[-1:]}


class PackDoubt(BasicTransform):
    """Doubt [1, ...] at full resolution → the last of the segmentations."""

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        doubt = data_dict.pop(_FLOAT_MAP)
        assert doubt is not None, "every transform of nnU-Net's pipeline returns float maps"
        segmentation = data_dict["segmentation"]
        targets = segmentation if isinstance(segmentation, list) else [segmentation]
        return data_dict | {"segmentation": [*targets, doubt]}


def with_doubt(native: BasicTransform) -> BasicTransform:
    """Extend nnU-Net's pipeline to images whose last channel is doubt; image and labels are the same as without it."""
    return ComposeTransforms([SplitDoubt(), native, PackDoubt()])


def unpack_confidence(targets: list[torch.Tensor], device: torch.device) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Split the loader's list into nnU-Net's targets and confidence [B, 1, ...], at least 0, on the device.

    The last entry of the list is doubt [B, 1, ...]. The copy from pinned memory does not block.
    """
    *native, doubt = (target.to(device, non_blocking=True) for target in targets)
    return native, 1 - doubt
