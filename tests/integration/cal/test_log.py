"""What training tells about its confidence: sums by hand, older checkpoints, and a picture of two panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from fcas_nnunet.integration.cal.log import MEAN, SHARES, ConfidenceLogger, ConfidenceTally, target_names


def epoch_of(logger: LocalLogger, epoch: int) -> None:
    """What nnU-Net logs in an epoch."""
    values: dict[str, Any] = {
        "mean_fg_dice": 0.5,
        "dice_per_class_or_region": [0.4, 0.6],
        "train_losses": 1.0 / (epoch + 1),
        "val_losses": 1.2,
        "lrs": 1e-2,
        "epoch_start_timestamps": 10.0 * epoch,
        "epoch_end_timestamps": 10.0 * epoch + 9,
    }
    for key, value in values.items():
        logger.log(key, value, epoch)


def test_tally_by_hand_for_labels_and_regions() -> None:
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., :2] = 1
    confidence = torch.full((1, 1, 4, 4, 4), 0.5)
    confidence[..., :2] = 1
    tally = ConfidenceTally(2, has_regions=False)
    tally.add(target, confidence)
    tally.add(target, torch.zeros_like(confidence))
    mean, shares = tally.close(is_ddp=False)
    assert mean == pytest.approx((0.75 + 0) / 2)
    assert shares == pytest.approx([2 / 3, 0])  # label 1: half of the voxels, at twice the trust of the others

    regions = torch.cat([target, torch.ones_like(target)], dim=1)
    tally = ConfidenceTally(2, has_regions=True)
    tally.add(regions, confidence)
    assert tally.close(is_ddp=False)[1] == pytest.approx([2 / 3, 1])


def test_names_follow_ids_and_regions_their_channels() -> None:
    ids = {"background": 0, "coronary_arteries": 3, "aorta": 1, "left_ventricle": 2, "ignore": 4}
    assert target_names(ids, has_regions=False) == ["aorta", "left_ventricle", "coronary_arteries"]
    regions = {"background": 0, "heart": [1, 2], "aorta": 1}
    assert target_names(regions, has_regions=True) == ["heart", "aorta"]


def test_an_epoch_starts_from_nothing() -> None:
    tally = ConfidenceTally(1, has_regions=False)
    for trust in (1.0, 0.25):
        tally.add(torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), trust))
        assert tally.close(is_ddp=False)[0] == pytest.approx(trust)
    tally.add(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    assert tally.close(is_ddp=False) == (0.0, [0.0])


def test_the_confidence_has_a_picture_beside_nnunets_own(tmp_path: Path) -> None:
    native, ours = LocalLogger(), ConfidenceLogger(["left_ventricle", "coronary_arteries"])
    for epoch in range(3):
        epoch_of(native, epoch)
        epoch_of(ours, epoch)
        ours.log(MEAN, 0.5 + 0.1 * epoch, epoch)
        ours.log(SHARES, [0.2, 0.01], epoch)
    native.plot_progress_png(str(tmp_path))
    before = (tmp_path / "progress.png").read_bytes()
    ours.plot_progress_png(str(tmp_path))
    assert (tmp_path / "progress.png").read_bytes() == before
    drawn = matplotlib.image.imread(tmp_path / "confidence.png")
    halves = np.array_split(drawn[..., :3], 2)
    assert min(half.std() for half in halves) > 0.02, "two panels with something in them"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confidence.png", "progress.png"]


def test_a_checkpoint_that_knew_no_confidence_can_be_gone_on_from(tmp_path: Path) -> None:
    native = LocalLogger()
    for epoch in range(2):
        epoch_of(native, epoch)
    ours = ConfidenceLogger(["a"])
    ours.load_checkpoint(native.get_checkpoint())
    epoch_of(ours, 2)
    ours.log(MEAN, 0.5, 2)
    ours.log(SHARES, [0.1], 2)
    assert ours.my_fantastic_logging[MEAN] == [1.0, 1.0, 0.5]
    ours.plot_progress_png(str(tmp_path))
    again = ConfidenceLogger(["a"])
    again.load_checkpoint(ours.get_checkpoint())
    assert again.my_fantastic_logging == ours.my_fantastic_logging or np.isnan(again.my_fantastic_logging[SHARES][0][0])
