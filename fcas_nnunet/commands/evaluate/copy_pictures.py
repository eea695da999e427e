"""A synthetic scan beside the training scan it may be a copy of, and their difference, in three planes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fcas_nnunet.commands.evaluate.centred_files import CentredFiles
from fcas_nnunet.evaluation.images.centred_scans import centred_image
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.files import PICTURE_METADATA, atomic_path
from fcas_nnunet.generator.optimisation.progress import PIXELS_PER_INCH, Panel, plot_panels

VOXELS, STEP_MM = 192, 1.0  # the cube that scans are compared in, twice as fine
DIFFERENCE_HU = 200.0


def write_copy_picture(
    path: Path, synthetic: CentredFiles, training: CentredFiles, intensity_range: IntensityRange, title: str
) -> None:
    """Draw both scans heart on heart, 19 cm wide, and the first minus the second.

    Args:
        path: PNG to write.
        synthetic: the first.
        training: the second.
        intensity_range: shown black and white.
        title: above all.
    """
    first, second = (centred_image(*files.read(), intensity_range, VOXELS, STEP_MM) for files in (synthetic, training))
    limits = (intensity_range.low_hu, intensity_range.high_hu)
    panels = [
        Panel("synthetic", _upright(first, limits[0]), limits),
        Panel("nearest training scan", _upright(second, limits[0]), limits),
        Panel(f"difference, ±{DIFFERENCE_HU:g} HU", _upright(first - second, 0.0), (-DIFFERENCE_HU, DIFFERENCE_HU)),
    ]
    figure = plot_panels(panels, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=PIXELS_PER_INCH, metadata=PICTURE_METADATA)


def _upright(volume: np.ndarray, outside: float) -> np.ndarray:
    """Head up, and a value where the scan has none."""
    return np.nan_to_num(volume[::-1], nan=outside)
