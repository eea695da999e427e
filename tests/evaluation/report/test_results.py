"""Results of fcas_evaluate confidence, and of networks in fcas_evaluate images, as the report shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fcas_nnunet.evaluation.confidence.judging import ErrorKind, evaluate_case, summarise_cases
from fcas_nnunet.evaluation.report.results import show_result


def image_quality(**more: Any) -> dict[str, Any]:
    summary = {"mean": 0.9, "std": 0.1, "count": 1}
    return {
        "schema": "fcas-nnunet/image-quality", "real": "R", "synthetic": "S",
        "settings": {"intensity_range": {"low": -100, "high": 800, "source": "stated"}},
        "summary": {"ssim": summary, "rmse": summary, "rmse_units": summary},
        "cases": {"a": {"ssim": 0.9, "rmse": 0.9, "rmse_units": 0.9}}, **more,
    }  # fmt: skip


def test_measured_networks_and_missing_ones() -> None:
    shown = show_result(image_quality(
        perceptual={"not_computed": "no weights"},
        fid_2p5d={"name": "radimagenet_resnet50 abc", "fid": 4.5678, "real_cases": 3, "synthetic_cases": 5},
        network_features={"name": "nnU-Net", "fid": 7.0, "kid": {"value": 0.02, "standard_error": 0.01},
                          "real_cases": 3, "synthetic_cases": 5, "tsne": {}},
    ))  # fmt: skip
    rows = {row[0]: row[1:] for row in shown.tables[0].rows}
    assert rows["FID 2.5D"] == ["4.568", "", "3, 5"]
    assert rows["KID, features of nnU-Net"] == ["0.0200", "SE 0.0100", "3, 5"]
    assert "LPIPS" not in rows
    assert {"LPIPS: not computed: no weights", "FID 2.5D: radimagenet_resnet50 abc"} < set(shown.notes)


def test_older_results_without_networks_still_show() -> None:
    assert [row[0] for row in show_result(image_quality()).tables[0].rows] == ["SSIM", "RMSE", "RMSE HU"]


@pytest.mark.parametrize("expecting", ["expected error", None])
def test_confidence_is_a_row_per_map_and_a_curve(expecting: str | None) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 12, 12), dtype=np.uint8)
    mask[2:10, 2:10, 2:10] = 1
    error = rng.exponential(50, mask.shape)
    maps = {"confidence": 1 - error / error.max(), "uniform": np.ones(mask.shape), "expected error": -2 * error}
    case = evaluate_case(maps, {ErrorKind.RAW: error, ErrorKind.MATCHED: error}, mask, "confidence", [])
    shown = show_result({
        "schema": "fcas-nnunet/confidence", "source": "A", "held_out": "B", "settings": {"draws": 1},
        "summary": summarise_cases([case], ["p"], "confidence", expecting),
        "verdict": ["inside structures confidence beats every control"],
    })  # fmt: skip
    table, curve = shown.tables
    assert table.header[:3] == ["map", "AUSE inside structures", "ρ inside structures"]
    assert table.rows[0][:3] in (["confidence", "0.000", "1.000"], ["confidence", "-0.000", "1.000"])
    assert table.rows[1][:3] == ["uniform", "0.500", "0.000"]
    assert len(curve.rows) == 10
    assert curve.header == ["confidence", "expected error, HU", "mean error, HU"]
    assert float(curve.rows[0][2]) > float(curve.rows[-1][2])
    for _, expected, found in curve.rows:
        assert expected == "–" if expecting is None else float(expected) == pytest.approx(2 * float(found), abs=1.5)
    assert shown.notes[-1] == "Inside structures confidence beats every control"
    assert shown.subtitle == "B drawn by the generator of A"
