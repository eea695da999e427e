"""What fcas_demo shows at the end: a table and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from fcas_nnunet.case import Case
from fcas_nnunet.commands.contact_sheet import LABEL_COLOURS
from fcas_nnunet.files import atomic_path, atomic_write_text
from fcas_nnunet.integration.manifest import Manifest
from fcas_nnunet.integration.raw_dataset import RawDataset

WINDOW_HU = (-200, 600)


def write_table(scores: Mapping[str, Path], path: Path, heading: str) -> None:
    """Dice per class, one column per way of training.

    Args:
        scores: title of the column → JSON that `fcas_evaluate segmentations` wrote.
        path: text file to write.
        heading: what was scored.
    """
    labels = {title: json.loads(file.read_text())["summary"] for title, file in scores.items()}
    first = next(iter(labels.values()))
    width = max(len(title) for title in scores) + 2
    lines = [f"Dice in %, {heading}", f"{'':<22}" + "".join(f"{title:>{width}}" for title in labels)]
    for name in first["labels"]:
        values = [summary["labels"][name]["dice"]["mean"] for summary in labels.values()]
        lines.append(f"{name:<22}" + "".join(_percent(value, width) for value in values))
    means = [summary["foreground_mean"]["dice"] for summary in labels.values()]
    lines.append(f"{'mean':<22}" + "".join(_percent(value, width) for value in means))
    atomic_write_text(path, "\n".join(lines) + "\n")


def write_picture(real: RawDataset, synthetic: RawDataset, path: Path) -> None:
    """A real scan above two synthetic ones: image, mask and confidence in three planes.

    Args:
        real: its first case is shown.
        synthetic: the case of median confidence and the least confident one are shown.
        path: PNG to write.
    """
    records = Manifest(synthetic.folder).read()
    by_confidence = sorted(records, key=lambda case_id: records[case_id]["mean_confidence_in_structures"])
    rows = [
        ("real", real.load_case(real.case_ids[0])),
        ("synthetic, median confidence", synthetic.load_case(by_confidence[len(by_confidence) // 2])),
        ("synthetic, least confident", synthetic.load_case(by_confidence[0])),
    ]
    figure = Figure(figsize=(15, 5.6), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 9)
    for (title, case), row in zip(rows, axes, strict=True):
        _draw_case(case, row)
        row[0].set_ylabel(title, fontsize=8)
    for axis, plane in zip(axes[0], [p for p in ("axial", "coronal", "sagittal") for _ in range(3)], strict=True):
        axis.set_title(plane, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_case(case: Case, axes: np.ndarray) -> None:
    """Image, mask over image, confidence; for each of three planes through the heart's centre."""
    assert case.image is not None, "a scan is shown"
    centre = [int(round(c)) for c in np.argwhere(case.mask > 0).mean(axis=0)]
    colours = ListedColormap(list(LABEL_COLOURS))
    for plane in range(3):
        image, mask = (np.flipud(np.take(volume, centre[plane], plane)) for volume in (case.image, case.mask))
        if plane == 0:
            image, mask = np.flipud(image), np.flipud(mask)  # axial slices already have the front on top
        plain, overlay, confident = axes[3 * plane : 3 * plane + 3]
        for axis in (plain, overlay, confident):
            _show(axis, image)
        overlay.imshow(np.ma.masked_equal(mask, 0), cmap=colours, vmin=1, vmax=len(LABEL_COLOURS), alpha=0.6)
        if case.confidence is None:
            confident.clear()
            confident.axis("off")
            continue
        values = np.take(case.confidence, centre[plane], plane)
        confident.imshow(values if plane == 0 else np.flipud(values), cmap="viridis", vmin=0, vmax=1)


def _show(axis: Axes, image: np.ndarray) -> None:
    axis.imshow(image, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1])
    axis.set(xticks=[], yticks=[])


def _percent(value: float | None, width: int) -> str:
    return f"{'–':>{width}}" if value is None else f"{100 * value:>{width}.1f}"
