"""Format LPIPS, FID and KID for `fcas_evaluate images`; their computation is elsewhere, since it is slow to import."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_COMPUTED = "not_computed"
#: Fields of the report.
PERCEPTUAL, FID, NETWORK = "perceptual", "fid_2p5d", "network_features"


def table_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the printed table for what was computed."""
    rows = []
    perceptual, fid, network = (report[name] for name in (PERCEPTUAL, FID, NETWORK))
    if NOT_COMPUTED not in perceptual:
        summary = perceptual["summary"]
        rows.append(["LPIPS", _number(summary["mean"], 4), _number(summary["std"], 4), str(summary["count"])])
    if NOT_COMPUTED not in fid:
        rows.append(["FID 2.5D", _number(fid["fid"], 3), "", f"{fid['real_cases']}, {fid['synthetic_cases']}"])
    if NOT_COMPUTED not in network:
        counts = f"{network['real_cases']}, {network['synthetic_cases']}"
        kid = network["kid"]
        rows.append(["FID, features of nnU-Net", _number(network["fid"], 3), "", counts])
        error = f"SE {_number(kid['standard_error'], 4)}"
        rows.append(["KID, features of nnU-Net", _number(kid["value"], 4), error, counts])
        if "variety" in network:  # not in reports of earlier versions
            variety = network["variety"]
            rows.append(["spread of features, of the real", _number(variety["spread_of_real"], 3), "", counts])
            rows.append(["real scans covered", _number(variety["coverage"], 3), "", counts])
    return rows


def _number(value: float | None, digits: int) -> str:
    """A score, or a dash where it does not exist: NaN as measured, None as read back from JSON."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def notes(report: Mapping[str, Any]) -> list[str]:
    """Name the networks that the numbers come from, or say why there are none."""
    lines = []
    for name, title in ((PERCEPTUAL, "LPIPS"), (FID, "FID 2.5D"), (NETWORK, "features of nnU-Net")):
        part = report[name]
        lines.append(f"{title}: " + (f"not computed: {part[NOT_COMPUTED]}" if NOT_COMPUTED in part else part["name"]))
    tsne = report[NETWORK].get("tsne", {})
    if NOT_COMPUTED in tsne:
        lines.append(f"t-SNE: not computed: {tsne[NOT_COMPUTED]}")
    return lines
