"""Log the confidence of confidence-aware training: an epoch's mean, every label's share, and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from torch import Tensor, distributed

from fcas_nnunet.files import atomic_path

MEAN, SHARES = "confidence_mean", "confidence_shares"
CONFIDENCE_PICTURE = "confidence.png"

#: Every second voxel along each axis: an eighth of the work, and an epoch has millions of them.
_STRIDE = 2


def target_names(labels: Mapping[str, Any], has_regions: bool) -> list[str]:
    """Names of a target's labels, by id, or of its regions, whose channels follow `dataset.json` in nnU-Net.

    The labels are name → id, or ids of a region, as `dataset.json` has them, which may list labels in any order.
    """
    names = [name for name in labels if name not in ("background", "ignore")]
    return names if has_regions else sorted(names, key=lambda name: int(labels[name]))


class ConfidenceTally:
    """Sums of an epoch's confidence; they stay on the device, so that no step waits for them.

    Args:
        num_labels: number of labels without the background, whose ids are 1 to this number, or of regions.
        has_regions: whether targets are regions [B, C, ...] instead of label ids [B, 1, ...].
    """

    def __init__(self, num_labels: int, has_regions: bool) -> None:
        self.num_labels = num_labels
        self.has_regions = has_regions
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def add(self, target: Tensor, confidence: Tensor) -> None:
        """Add a training batch at full resolution; confidence is [B, 1, ...]."""
        steps = (slice(None), slice(None), *(slice(None, None, _STRIDE),) * (target.ndim - 2))
        target, confidence = target[steps], confidence[steps]
        shares = [
            ((target[:, i : i + 1] > 0) if self.has_regions else (target == i + 1)).float().mul(confidence).sum()
            for i in range(self.num_labels)
        ]
        count = torch.tensor(float(confidence.numel()), device=confidence.device)
        self._sums.append(torch.stack([count, confidence.sum(), *shares]))

    def close(self, is_ddp: bool) -> tuple[float, list[float]]:
        """End the epoch; return the mean confidence, and each label's share of the loss's weight over all processes."""
        total = torch.stack(self._sums).sum(dim=0)
        self._sums = []
        if is_ddp:
            distributed.all_reduce(total)
        count, weight, *shares = total.double().tolist()
        return weight / count, [share / weight if weight > 0 else 0.0 for share in shares]


class ConfidenceLogger(LocalLogger):
    """nnU-Net's log with the confidence's mean and shares, saved in its checkpoints and drawn in confidence.png."""

    def __init__(self, labels: Sequence[str], verbose: bool = False) -> None:
        super().__init__(verbose)
        self.labels = list(labels)
        self.my_fantastic_logging |= {MEAN: [], SHARES: []}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume from a checkpoint's log; epochs of a log without confidence count as 1 and have no shares."""
        epochs = len(checkpoint["train_losses"])
        missing = {MEAN: [1.0] * epochs, SHARES: [[float("nan")] * len(self.labels)] * epochs}
        super().load_checkpoint(missing | checkpoint)

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw nnU-Net's progress.png, and confidence.png beside it."""
        super().plot_progress_png(output_folder)
        figure = Figure(figsize=(14, 8), layout="constrained")
        upper, lower = figure.subplots(2, sharex=True)
        means, shares = (self.my_fantastic_logging[key] for key in (MEAN, SHARES))
        upper.plot(range(len(means)), means, "b")
        upper.set(ylabel="mean confidence", ylim=(0, 1.02 * max([1.0, *means])))
        for label, share in zip(self.labels, np.transpose(shares), strict=True):
            lower.plot(range(len(means)), 100 * share, label=label)
        lower.set(xlabel="epoch", ylabel="share of the loss's weight [%]", yscale="log")
        lower.legend(loc="upper left", bbox_to_anchor=(1, 1))
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
        with atomic_path(Path(output_folder) / CONFIDENCE_PICTURE) as temporary:
            figure.savefig(temporary, format="png")
