"""Draw many masks into one picture: each heart from the front, vessels on top, beside a slice through its centre."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fcas_nnunet.evaluation.segmentation.diversity import MaskSample
from fcas_nnunet.evaluation.viewing.colours import label_map
from fcas_nnunet.files import atomic_path

MAX_GIVEN, MAX_GENERATED = 4, 28
_COLUMNS = 8


def write_contact_sheet(
    given: Mapping[str, MaskSample],
    generated: Mapping[str, MaskSample],
    labels: Mapping[str, int],
    thin: Collection[int],
    path: Path,
) -> None:
    """Draw up to four given masks, then up to 28 generated ones, into a PNG; thin vessels are on top of all others.

    Both are case id → sample, `labels` are name → id.
    """
    shown = [(f"given {case_id}", sample) for case_id, sample in list(given.items())[:MAX_GIVEN]]
    shown += list(generated.items())[:MAX_GENERATED]
    rows = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(2.6 * _COLUMNS, 1.55 * rows), layout="constrained", facecolor="white")
    axes = np.atleast_1d(figure.subplots(rows, _COLUMNS)).ravel()
    colours = label_map(labels)
    for axis in axes:
        axis.axis("off")
    for (title, sample), axis in zip(shown, axes, strict=False):
        picture = np.concatenate([_front(sample.centred, thin), _axial(sample.centred)], axis=1)
        axis.imshow(np.ma.masked_equal(picture, 0), cmap=colours, vmin=1, vmax=colours.N, interpolation="nearest")
        axis.set_title(title, fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _front(mask: np.ndarray, thin: Collection[int]) -> np.ndarray:
    """View a mask from the front, head up: the first label along H, thin ones before all others."""

    def first(volume: np.ndarray) -> np.ndarray:
        nearest = (volume > 0).argmax(axis=1)
        return np.take_along_axis(volume, nearest[:, None], axis=1)[:, 0]

    vessels = first(np.where(np.isin(mask, sorted(thin)), mask, 0))
    return np.flipud(np.where(vessels > 0, vessels, first(mask)))


def _axial(mask: np.ndarray) -> np.ndarray:
    return mask[mask.shape[0] // 2]
