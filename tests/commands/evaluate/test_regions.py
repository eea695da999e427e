"""fcas_evaluate segmentations of regions, and of label maps with ignored voxels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from fcas_nnunet.commands.evaluate.command import main
from fcas_nnunet.integration.dataset.volumes import write_labels


def test_they_are_scored_as_nnunet_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = tmp_path / "heart" / "labelsTs", tmp_path / "predictions"
    rng = np.random.default_rng(0)
    reference, prediction = (rng.integers(0, high, (14, 16, 18)).astype(np.uint8) for high in (4, 3))
    for folder, labels in zip(folders, (reference, prediction), strict=True):
        write_labels(folder / "a.nii.gz", labels, np.diag([1.5, 0.7, 0.7, 1.0]))
    labels = {"background": 0, "heart": [1, 2], "coronary_arteries": [2], "ignore": 3}
    (folders[0].parent / "dataset.json").write_text(json.dumps({"labels": labels}))
    out = folders[0] / "out.json"
    main(["segmentations", "-r", str(folders[0]), "-p", str(folders[1]), "-np", "1", "-o", str(out)])
    report = json.loads(out.read_text())
    theirs = compute_metrics(
        str(folders[0] / "a.nii.gz"), str(folders[1] / "a.nii.gz"), SimpleITKIO(), [(1, 2), (2,)], ignore_label=3
    )["metrics"]
    for name, ids in (("heart", (1, 2)), ("coronary_arteries", (2,))):
        scores = report["cases"]["a"][name]
        assert scores["dice"] == pytest.approx(theirs[ids]["Dice"])
        assert (scores["reference_voxels"], scores["prediction_voxels"]) == (
            theirs[ids]["n_ref"],
            theirs[ids]["n_pred"],
        )
    assert report["settings"]["labels"] == {"heart": [1, 2], "coronary_arteries": [2]}
    assert report["settings"]["vessels"] == ["coronary_arteries"]
    assert report["cases"]["a"]["coronary_arteries"]["centreline_dice"] is not None
    printed = capsys.readouterr().out
    assert "regions are scored whole, as nnU-Net does: heart, coronary_arteries" in printed
    assert "voxels that the reference ignores count as background in both" in printed
