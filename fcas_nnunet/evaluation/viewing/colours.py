"""The colours of all pages and pictures: one per structure, and a ramp for confidence."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, to_hex

from fcas_nnunet.intensities import CT_UNIT, sample_of
from fcas_nnunet.labels.anatomy import Structure, structure_of

#: One colour per structure, by its place in `Structure`: Okabe and Ito's seven and a violet. Any two stay apart
#: for readers with a colour vision deficiency, and on grey (a test measures it).
STRUCTURE_COLOURS = ("#E69F00", "#56B4E9", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#7B3FF2", "#F0E442")
#: For labels beyond the eight structures.
OTHER_COLOURS = ("#A6761D", "#B3B3B3", "#66C2A5", "#FB9A99", "#1B9E77", "#BEAED4", "#FDC086", "#386CB0")
CONFIDENCE_MAP = "viridis"
#: The window in which hearts of CT are shown.
HEART_WINDOW = (-200.0, 600.0)
_WINDOW_PERCENT = (0.5, 99.5)


def label_colours(labels: Mapping[str, int]) -> dict[str, str]:
    """Name → "#rrggbb" of every label but the background.

    Each of the eight structures has its own colour, whatever its id. Other labels, and the parts of one structure, take
    further colours in turn.
    """
    free: dict[Structure | None, str] = dict(zip(Structure, STRUCTURE_COLOURS, strict=False))
    others = itertools.cycle(OTHER_COLOURS)
    return {name: free.pop(structure_of(name), "") or next(others) for name, label in labels.items() if label}


def label_map(labels: Mapping[str, int]) -> ListedColormap:
    """The same colours for matplotlib, one for each id from 1 to the highest; draw with `vmin=1, vmax=map.N`."""
    by_id = {labels[name]: colour for name, colour in label_colours(labels).items()}
    return ListedColormap([by_id.get(label, "none") for label in range(1, max(by_id) + 1)])


def window_of(image: np.ndarray, unit: str) -> tuple[float, float]:
    """Low and high of the window in which to show an image of standard units: of CT the heart's, else all but extremes.

    Args:
        image: What is shown, any shape.
        unit: Name of its unit (`unit_name`).
    """
    if unit == CT_UNIT:
        return HEART_WINDOW
    low, high = (float(value) for value in np.percentile(sample_of(image), _WINDOW_PERCENT))
    return low, max(high, low + 1)


def confidence_colours(count: int) -> list[str]:
    """Colours for confidence 0 to 1, dark for low: viridis, which is perceptually uniform."""
    return [to_hex(colour) for colour in colormaps[CONFIDENCE_MAP](np.linspace(0, 1, count))]
