"""Write the results of fcas_demo: a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from fcas_nnunet.case import Case
from fcas_nnunet.evaluation.statistics.comparison import compare
from fcas_nnunet.evaluation.viewing.colours import CONFIDENCE_MAP, HEART_WINDOW, label_map
from fcas_nnunet.evaluation.viewing.pictures import middle, planes_of
from fcas_nnunet.files import atomic_path, atomic_write_json, atomic_write_text
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.json_files import read_json
from fcas_nnunet.orientation import Orientation


@dataclass(frozen=True)
class Column:
    """One way of training: title, what its network has seen, and the JSON file of `fcas_evaluate segmentations`."""

    title: str
    facts: Mapping[str, int]
    scores: Path


def write_table(columns: Sequence[Column], path: Path, num_test: int) -> None:
    """Write what every network has seen, its Dice per class, and the differences of the others to the first.

    The differences are those of each held-out case's mean over the classes; the p-values are corrected for all of them.
    A JSON file with the same numbers is written beside the text file.
    """
    results = {column.title: read_json(column.scores) for column in columns}
    means = {title: _case_means(result) for title, result in results.items()}
    baseline, *others = means
    compared = compare({title: means[baseline] for title in others}, {title: means[title] for title in others})
    dice = {
        name: [result["summary"]["labels"][name]["dice"]["mean"] for result in results.values()]
        for name in next(iter(results.values()))["summary"]["labels"]
    }
    dice["mean"] = [result["summary"]["foreground_mean"]["dice"] for result in results.values()]
    rows = {"": [column.title for column in columns]}
    rows |= {fact: [str(column.facts[fact]) for column in columns] for fact in columns[0].facts}
    rows |= {f"Dice %, {name}": [_percent(value) for value in values] for name, values in dice.items()}
    found = list(compared.values())
    low_and_high = [f"{100 * c.interval[0]:+.1f}…{100 * c.interval[1]:+.1f}" for c in found]
    rows |= {
        f"mean less {baseline}": ["", *(f"{100 * c.difference:+.1f}" for c in found)],
        "  95 % over scans": ["", *low_and_high],
        f"  p, Holm over {len(others)} tests": ["", *(f"{c.holm_p_value:.3f}" for c in found)],
    }
    first = max(map(len, rows)) + 2
    width = max(len(cell) for cells in rows.values() for cell in cells) + 2
    lines = [f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in rows.items()]
    notes = [
        f"{num_test} held-out phantoms. One training of each network with one seed: the intervals and p-values "
        "(Wilcoxon,",
        "paired by scan) are over these scans, and do not cover another seed or other labelled scans.",
    ]
    atomic_write_text(path, "\n".join([*lines, "", *notes]) + "\n")
    atomic_write_json(
        path.with_suffix(".json"),
        {
            "held_out_scans": num_test,
            "columns": {column.title: dict(column.facts) for column in columns},
            "dice": {name: dict(zip(results, values, strict=True)) for name, values in dice.items()},
            "baseline": baseline,
            "differences": {title: vars(comparison) for title, comparison in compared.items()},
        },
    )


def _case_means(result: Mapping[str, Any]) -> list[float]:
    """Return each case's mean Dice over the classes that have one, cases in the order of their ids."""
    means = []
    for _, case in sorted(result["cases"].items()):
        values = [label["dice"] for label in case.values() if label["dice"] is not None]
        means.append(float(np.mean(values)) if values else math.nan)
    return means


def write_picture(real: RawDataset, synthetic: RawDataset, path: Path) -> None:
    """Draw a real scan above the synthetic ones of median and of least confidence, each in three planes, into a PNG."""
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
        _draw_case(case, row, label_map(synthetic.labels))
        row[0].set_ylabel(title, fontsize=8)
    for axis, plane in zip(axes[0], np.repeat(["axial", "coronal", "sagittal"], 3), strict=True):
        axis.set_title(plane, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_case(case: Case, axes: np.ndarray, colours: ListedColormap) -> None:
    """Draw image, mask over image, and confidence for each of three planes through the heart's centre."""
    assert case.image is not None, "the picture shows a scan"
    turn = Orientation.of(case.affine).turn
    centre = middle(turn(case.mask))
    images, masks = (planes_of(turn(volume), centre) for volume in (case.standard_image[0], case.mask))
    trust = None if case.confidence is None else planes_of(turn(case.confidence), centre)
    for plane, (image, mask) in enumerate(zip(images, masks, strict=True)):
        plain, overlay, confident = axes[3 * plane : 3 * plane + 3]
        for axis in (plain, overlay):
            axis.imshow(image, cmap="gray", vmin=HEART_WINDOW[0], vmax=HEART_WINDOW[1])
        overlay.imshow(np.ma.masked_equal(mask, 0), cmap=colours, vmin=1, vmax=colours.N, alpha=0.6)
        if trust is None:
            confident.axis("off")
        else:
            confident.imshow(trust[plane], cmap=CONFIDENCE_MAP, vmin=0, vmax=1)
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
