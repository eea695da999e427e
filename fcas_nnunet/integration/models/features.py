"""Extract features of scans: the output of the last encoder stage of a trained nnU-Net, window by window."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from torch import nn

from fcas_nnunet.faults import InputError
from fcas_nnunet.files import file_sha256
from fcas_nnunet.integration.dataset.folders import FINAL_CHECKPOINT
from fcas_nnunet.integration.dataset.raw_dataset import DATASET_JSON
from fcas_nnunet.integration.models.trained_models import (
    STEP_SIZE,
    channel_faults,
    checkpoint_path,
    open_predictor,
    preprocess,
)
from fcas_nnunet.intensities import CT
from fcas_nnunet.json_files import read_json

_SHA256_DIGITS = 12


@dataclass(frozen=True)
class BottleneckExtractor:
    """Turns scans into features of a trained nnU-Net.

    Its name is model folder, fold, checkpoint and its SHA-256 (first 12 digits). Results have to record it, since
    features of two networks cannot be compared.
    """

    name: str
    predictor: nnUNetPredictor
    encoder: nn.Module

    @torch.inference_mode()
    def features(self, image_paths: Sequence[Path]) -> np.ndarray:
        """Compute the features of one scan with the preprocessing and the windows of nnU-Net's prediction.

        Args:
            image_paths: All channels of the scan.

        Returns:
            float32 [P, C]: a row for each of P windows of the patch size on nnU-Net's grid, steps of half a window; C
            channels of the encoder's last stage, averaged over the window. No mirroring.
        """
        data = self.preprocess(image_paths)
        patch_size = self.predictor.configuration_manager.patch_size
        data, _ = pad_nd_image(data, patch_size, "constant", {"value": 0}, True, None)
        rows = []
        for window in window_slices(tuple(data.shape[1:]), tuple(patch_size)):
            stages = self.encoder(data[window][None].to(self.predictor.device))
            rows.append(stages[-1][0].flatten(1).mean(dim=1).float().cpu())
        return torch.stack(rows).numpy()

    def preprocess(self, image_paths: Sequence[Path]) -> torch.Tensor:
        """Preprocess a scan by the model's preprocessor, to float32 [C, …]."""
        return preprocess(self.predictor, image_paths)[0]


def open_extractor(
    model: Path,
    fold: str = "0",
    checkpoint: str = FINAL_CHECKPOINT,
    device: torch.device | None = None,
    channel_names: Sequence[str] = (CT,),
) -> BottleneckExtractor:
    """Open a trained nnU-Net as an extractor of features.

    Arguments and errors are those of `open_predictor`, for one fold and without mirroring; `device` None is the CPU,
    `channel_names` are those of the scans.

    Raises:
        InputError: also when the architecture has no encoder, or takes other channels.
    """
    path = checkpoint_path(model, fold, checkpoint)
    if faults := channel_faults(read_json(model / DATASET_JSON), channel_names):
        raise InputError("\n".join(f"{model}: {fault}" for fault in faults))
    predictor = open_predictor(model, (fold,), checkpoint, device or torch.device("cpu"), use_mirroring=False)
    network = predictor.network
    if not isinstance(getattr(network, "encoder", None), nn.Module):
        kind = type(network).__name__
        raise InputError(f"{model}: network must have an encoder, got {kind}. Name one of nnU-Net's U-Nets.")
    model = model.resolve()
    sha256 = file_sha256(path)[:_SHA256_DIGITS]
    name = f"{model.parent.name}/{model.name}, fold {fold}, {checkpoint}, sha256 {sha256}"
    return BottleneckExtractor(name, predictor, network.encoder)


def window_slices(shape: tuple[int, ...], patch_size: tuple[int, ...]) -> list[tuple[slice | int, ...]]:
    """Return an index into [C, *shape] for every sliding window, in nnU-Net's order.

    The shape is the padded scan's without its channel axis. The patch size has one axis fewer for 2d configurations,
    which read slice by slice.
    """
    planes = shape[: len(shape) - len(patch_size)]
    steps = compute_steps_for_sliding_window(shape[len(planes) :], patch_size, STEP_SIZE)
    starts = itertools.product(*[range(n) for n in planes], *steps)
    sizes = (None,) * len(planes) + patch_size
    return [
        (slice(None), *[at if size is None else slice(at, at + size) for at, size in zip(start, sizes, strict=True)])
        for start in starts
    ]
