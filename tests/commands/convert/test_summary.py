"""The summary names what the files themselves make doubtful."""

from __future__ import annotations

from typing import Any

from fcas_nnunet.commands.convert.summary import summary_lines
from fcas_nnunet.datasets.acdc import ACDC
from fcas_nnunet.datasets.imagecas import IMAGECAS
from fcas_nnunet.datasets.layout import Layout


def record(**more: Any) -> dict[str, Any]:
    plain = {"split": "Tr", "label": "a", "offset": 0, "spacing_mm": None, "dtype": "int16", "lowest": -1000.0,
             "label_resampled": False, "label_outside": 0.0, "other_values": {}, "misprints": {}}  # fmt: skip
    return plain | more


def doubts(lines: list[str]) -> list[str]:
    return [line.removeprefix("doubtful:").strip() for line in lines if line.startswith("doubtful:")]


def test_ct_without_air_is_doubtful_and_mr_is_not() -> None:
    records = {"a": record(), "b": record(lowest=0.0), "c": record(lowest=-200.0), "d": record(lowest=-199.0)}
    (said,) = doubts(summary_lines(IMAGECAS, Layout([], {}), records, "none"))
    assert said == "2 scans hold no value below -200 HU, as air and lung have: are they in HU? (b, d)"
    assert doubts(summary_lines(ACDC, Layout([], {}), records, "none")) == []


def test_scans_and_label_maps_in_common_are_named() -> None:
    records = {
        "a": record(image_sha256="1", label_sha256="x"),
        "b": record(image_sha256="2", label_sha256="y"),
        "c": record(image_sha256="1", label_sha256="x"),
        "d": record(image_sha256="3", label_sha256="y"),
        "e": record(image_sha256="4", split="Ts", label=None),
        "f": record(image_sha256="5", split="Ts", label=None),
    }
    assert doubts(summary_lines(IMAGECAS, Layout([], {}), records, "none")) == [
        "a and c have the same scan: keep them on one side of every split.",
        "a and c have the same label map: keep them on one side of every split.",
        "b and d have the same label map: keep them on one side of every split.",
    ]


def test_counts_are_added_up_over_cases() -> None:
    records = {
        "a": record(other_values={"8": 3, "9": 1000}, label_resampled=True, label_outside=0.02),
        "b": record(other_values={"8": 4}, offset=1024, dtype="float32", spacing_mm=[1, 1, 1]),
        "c": record(split="Ts"),
        "d": record(split="Ts", label=None),
    }
    layout = Layout([], {"no good": ["x", "y"]}, notes=["mind the gap"])
    assert summary_lines(IMAGECAS, layout, records, "here") == [
        "converted: 2 cases into imagesTr and labelsTr",
        "           2 cases into imagesTs, 1 of them with labels in labelsTs",
        "skipped:   2 no good: x, y",
        "labels:    1 resampled onto their scan, whose header differs (a)",
        "labels:    up to 2.0% of a label lay outside its scan (a)",
        "labels:    unknown values became background: 8 (7 voxels), 9 (1,000 voxels) (a, b)",
        "HU:        stored values less 1024",
        "spacing:   corrected as --spacing says in 1 cases",
        "data type: float32 (1 cases), int16 (3 cases)",
        "note:      mind the gap",
        "splits:    here",
    ]
