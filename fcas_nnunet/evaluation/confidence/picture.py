"""Synthetic, real, error and confidence of drawn cases, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fcas_nnunet.evaluation.viewing.colours import CONFIDENCE_MAP, window_of
from fcas_nnunet.files import PICTURE_METADATA, atomic_path

LARGEST_ERROR = 150.0
DOTS_PER_INCH = 130
_PANEL_INCHES = 2.9


@dataclass(frozen=True)
class PicturedCase:
    """One slice of a drawn case through the middle of its heart; float32 [H, W] each."""

    title: str
    synthetic: np.ndarray  # standard units
    real: np.ndarray  # standard units, the real scan of the same mask
    error: np.ndarray  # contrast-matched, standard units
    confidence: np.ndarray  # in [0, 1]
    mask: np.ndarray  # label ids
    aspect: float  # height of a pixel over its width

    @classmethod
    def of(
        cls,
        title: str,
        synthetic: np.ndarray,
        real: np.ndarray,
        error: np.ndarray,
        confidence: np.ndarray,
        mask: np.ndarray,
        spacing_mm: Sequence[float],
    ) -> PicturedCase:
        """Take the slice along D that shows most of the heart; all volumes are [D, H, W]."""
        middle = int((mask > 0).sum(axis=(1, 2)).argmax())
        a, b, c, d, e = (v[middle].astype(np.float32) for v in (synthetic, real, error, confidence, mask))
        return cls(title, a, b, c, d, e, aspect=spacing_mm[1] / spacing_mm[2])


def write_confidence_picture(path: Path, cases: Sequence[PicturedCase], unit: str) -> None:
    """Write a picture with a row per case: synthetic, real, error, confidence.

    Args:
        path: PNG file.
        cases: Cases from top to bottom.
        unit: Name of the unit of intensities (`unit_name`). Both scans are shown in the window of the real one.
    """
    figure = Figure(figsize=(4 * _PANEL_INCHES + 0.8, len(cases) * (_PANEL_INCHES + 0.45)), layout="constrained")
    FigureCanvasAgg(figure)
    for part, case in zip(figure.subfigures(len(cases), 1, squeeze=False)[:, 0], cases, strict=True):
        part.suptitle(case.title, fontsize=11, x=0.01, ha="left")
        axes = part.subplots(1, 4)
        window = window_of(case.real, unit)
        panels = (
            ("synthetic", case.synthetic, window, "gray"),
            ("real", case.real, window, "gray"),
            (f"error after matching contrast, {unit}", case.error, (0.0, LARGEST_ERROR), "inferno"),
            ("confidence", case.confidence, (0.0, 1.0), CONFIDENCE_MAP),
        )
        for axis, (title, values, (low, high), colours) in zip(axes, panels, strict=True):
            shown = axis.imshow(values, cmap=colours, vmin=low, vmax=high, aspect=case.aspect)
            axis.contour(case.mask > 0, levels=[0.5], colors="white", linewidths=0.6, alpha=0.7)
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
            if colours != "gray":
                part.colorbar(shown, ax=axis, fraction=0.046, pad=0.02).ax.tick_params(labelsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format="png", metadata=PICTURE_METADATA)
