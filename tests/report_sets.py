"""Small data sets for tests of the report: a synthetic one with confidence and manifest, and the real one behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.case import Case
from fcas_nnunet.commands.report.page import shown_result
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.options import ConfidenceChoice, Solver
from fcas_nnunet.config.presets import preset
from fcas_nnunet.evaluation.report.results import ShownResult
from fcas_nnunet.evaluation.results import read_result
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json
from fcas_nnunet.seeds import derive_seed

LABELS = {"background": 0, "left_ventricle": 1, "ascending_aorta": 2, "coronary_arteries": 3}
SPACING_MM = (2.0, 1.5, 1.0)  # along z, y, x
SHAPE = (20, 24, 28)  # [Z, Y, X]: z up, y to the back, x to the left
NAME, REAL = "Dataset712_HeartFCaS", "Dataset711_Heart"
_TINY = preset("tiny")
#: Those of `fcas_generate --preset tiny --steps 12 --confidence ssv`, as a manifest holds them.
SETTINGS = {
    "sampling": to_dict(replace(_TINY.sampling, solver=Solver.DPMSOLVER, num_inference_steps=12)),
    "confidence": to_dict(_TINY.confidence.chosen(ConfidenceChoice.SSV)),
    "mask_config": to_dict(_TINY.masks),
}
#: Where the bright block lies: patient's left, front, top.
MARKER = (slice(13, 17), slice(5, 9), slice(19, 23))
MARKER_HU, HEART_HU, OUTSIDE_HU = 500, 100, -100


def heart() -> tuple[np.ndarray, np.ndarray]:
    """Image and mask, upright: a ventricle with a bright block in its left upper front corner, an aorta, an artery."""
    image = np.full(SHAPE, OUTSIDE_HU, dtype=np.int16)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[3:18, 4:20, 4:24] = 1
    image[3:18, 4:20, 4:24] = HEART_HU
    image[MARKER] = MARKER_HU
    mask[3:8, 15:20, 4:9] = 2
    image[3:8, 15:20, 4:9] = 300
    mask[10, 2, 5:20] = 3
    image[10, 2, 5:20] = 350
    return image, mask


def turned(volume: np.ndarray, axes: Sequence[int], flips: Sequence[bool]) -> np.ndarray:
    """An upright volume as a file holds it: its axis `axes[i]` is the body's i-th, running the other way if flipped."""
    steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return np.ascontiguousarray(volume[steps].transpose(np.argsort(axes)))


def turned_affine(axes: Sequence[int], flips: Sequence[bool]) -> np.ndarray:
    """Its affine, array index → LPS mm."""
    affine = np.zeros((4, 4))
    affine[:3, 3], affine[3, 3] = (-30.0, 12.0, 400.0), 1
    for body, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        lps = 2 - body  # z is the third of LPS, x the first
        affine[lps, axis] = -SPACING_MM[body] if flip else SPACING_MM[body]
        affine[lps, 3] += (SHAPE[body] - 1) * SPACING_MM[body] if flip else 0
    return affine


def record(case_id: str, number: int, **more: Any) -> dict[str, Any]:
    """What fcas_generate's manifest holds of a case, shortened."""
    return {
        "case_id": case_id, "seed": derive_seed(7, "case", number), "reference": f"real_{number}", "template": "real_0",
        "masks": "mgm", "mgm": {"rejections": ["seed 1, try 1: it folded"] if number == 0 else []},
        **SETTINGS, "run_seed": 7, "label_map": {"0": 0, "1": 1, "2": 2, "3": 3},
        "expected_error": {"mean": 50.0, "at_confidence_1": 20.0, "at_confidence_0": 110.0},
        "preset": "tiny", "source": REAL, "weights_sha256": "ab" * 32, "versions": {"fcas-nnunet": "0.1.0"},
    } | more  # fmt: skip


def write_sets(
    raw: Path,
    *,
    num_cases: int = 3,
    axes: Sequence[int] = (0, 1, 2),
    flips: Sequence[bool] = (False, False, False),
    manifest: bool = True,
    confidence: bool = True,
    **more: Any,
) -> tuple[Path, Path]:
    """Write both sets; returns the folders of the synthetic and of the real one.

    Synthetic case n is `heart` 10·n HU brighter; its confidence is 0.9 − 0.1·n in the ventricle, 0.4 elsewhere. The
    real cases hold the same masks, 20·n HU brighter. `more` goes into every record of the manifest.
    """
    image, mask = heart()
    affine = turned_affine(axes, flips)
    for number in range(num_cases):
        trust = np.where(mask == 1, 0.9 - 0.1 * number, 0.4).astype(np.float32) if confidence else None
        inside = (mask > 0).astype(np.int16)
        for folder, case_id, brighter, map_ in (
            (raw / NAME, f"fcas_{number:05d}", 10 * number, trust),
            (raw / REAL, f"real_{number}", 20 * number, None),
        ):
            case = Case(
                case_id, turned(image + brighter * inside, axes, flips)[None], turned(mask, axes, flips), affine,
                confidence=None if map_ is None else turned(map_, axes, flips),
            )  # fmt: skip
            write_case(folder, case)
        if manifest:
            Manifest(raw / NAME).append(record(f"fcas_{number:05d}", number, **more))
    for name in (NAME, REAL):
        write_dataset_json(raw / name, LABELS, num_cases)
    return raw / NAME, raw / REAL


def image_quality(num_cases: int = 3) -> dict[str, Any]:
    """What `fcas_evaluate images -o` writes, with SSIM 0.8, 0.7, …."""
    cases = {
        f"fcas_{n:05d}": {"reference": f"real_{n}", "ssim": 0.8 - 0.1 * n, "rmse": 0.1, "rmse_units": 40.0 + n}
        for n in range(num_cases)
    }
    summary = {name: {"mean": value, "std": 0.1, "count": num_cases} for name, value in
               (("ssim", 0.7), ("rmse", 0.1), ("rmse_units", 41.0))}  # fmt: skip
    return {
        "schema": "fcas-nnunet/image-quality", "schema_version": 1, "real": REAL, "synthetic": NAME,
        "settings": {"intensity_range": {"low": -100, "high": 500, "source": "stated"}, "ssim": {"sigma": 1.5}},
        "summary": summary, "cases": cases, "structures": {}, "left_out": {}, "versions": {},
    }  # fmt: skip


def write_result(path: Path, content: dict[str, Any]) -> Path:
    """Write a result as fcas_evaluate does."""
    path.write_text(json.dumps(content))
    return path


def assert_shown_by_the_report(path: Path) -> ShownResult:
    """A result that fcas_evaluate has written goes through what fcas_report does with it."""
    shown = shown_result(read_result(path))
    assert shown.notes or any(table.rows for table in shown.tables)
    return shown
