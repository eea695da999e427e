"""Draw a reading as in the paper's Fig. 9: box plots of the ranks, a radar chart of the scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcas_nnunet.evaluation.reading.results import RANK
from fcas_nnunet.evaluation.viewing.colours import STRUCTURE_COLOURS
from fcas_nnunet.files import PICTURE_METADATA, atomic_path

#: The darkest of the palette first, without yellow, which fades on white; more methods get other strokes.
_COLOURS = tuple(STRUCTURE_COLOURS[number] for number in (4, 2, 3, 5, 0, 1, 6))
_STROKES = ("-", "--", ":", "-.")
_DOTS_PER_INCH = 160
_INK, _GRID = "#22282c", "#d9d9d6"


def write_box_plots(report: Mapping[str, Any], path: Path) -> None:
    """Write box plots of every method's ranks, and of its scores on every criterion.

    Boxes are quartiles with the median, whiskers 1.5 interquartile ranges, diamonds means; lower ranks are better.
    """
    methods, criteria = list(report["summary"]), report["protocol"]["criteria"]
    columns = min(len(criteria), 5)
    rows = -(-len(criteria) // columns)
    width = max(9.0, 2.0 * columns, 0.9 * len(methods) + 2)
    figure = Figure(figsize=(width, 3.4 + 2.5 * rows), layout="constrained", facecolor="white")
    parts: Any = figure.subfigures(2, 1, height_ratios=[3.4, 2.5 * rows], hspace=0.04)
    ranks = parts[0].subplots()
    _boxes(ranks, _values(report, RANK), methods)
    ranks.set_title("Rank within the bag (1 is best)", loc="left", fontsize=11, color=_INK)
    ranks.set_ylim(0.6, len(methods) + 0.4)
    ranks.set_yticks(range(1, len(methods) + 1))
    small = parts[1].subplots(rows, columns, squeeze=False, sharey=True)
    low, high = report["protocol"]["lowest"], report["protocol"]["highest"]
    for axes, criterion in zip(small.ravel(), criteria, strict=False):
        _boxes(axes, _values(report, criterion["key"]), methods)
        axes.set_title(criterion["name"], loc="left", fontsize=8.5, color=_INK, wrap=True)
        axes.set_ylim(low - 0.3, high + 0.3)
        axes.set_yticks(range(low, high + 1))
        slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(methods) <= 6 else {"rotation": 90}
        axes.set_xticks(range(1, len(methods) + 1), methods, fontsize=7.5, **slanted)
    for axes in small.ravel()[len(criteria) :]:
        axes.set_axis_off()
    _save(figure, path)


def write_radar(report: Mapping[str, Any], path: Path) -> None:
    """Write the mean score of every method on every criterion, a polygon a method; the larger, the better."""
    criteria = report["protocol"]["criteria"]
    low, high = report["protocol"]["lowest"], report["protocol"]["highest"]
    angles = np.linspace(0, 2 * math.pi, len(criteria), endpoint=False)
    figure = Figure(figsize=(7.6, 6.2), layout="constrained", facecolor="white")
    axes: Any = figure.add_subplot(projection="polar")
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    for number, (method, scores) in enumerate(report["summary"].items()):
        means = [scores[criterion["key"]]["mean"] for criterion in criteria]
        if all(math.isnan(mean) for mean in means):
            continue
        colour, stroke = _style(number)
        axes.plot(
            [*angles, angles[0]], [*means, means[0]], stroke, color=colour, lw=1.8, marker="o", ms=3.5, label=method
        )
        axes.fill(angles, means, color=colour, alpha=0.07)
    axes.set_xticks(angles, [_two_lines(criterion["name"]) for criterion in criteria], fontsize=9.5, color=_INK)
    for angle, text in zip(angles, axes.get_xticklabels(), strict=True):
        side = math.sin(angle)
        text.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
    axes.set_ylim(low - (high - low) * 0.15, high)
    axes.set_yticks(range(low, high + 1), [str(level) for level in range(low, high + 1)], fontsize=8, color="#6a6f73")
    axes.set_rlabel_position(180 / len(criteria))
    axes.grid(color=_GRID, lw=0.8)
    axes.spines["polar"].set_color(_GRID)
    figure.legend(loc="outside lower center", ncols=min(4, len(report["summary"])), frameon=False, fontsize=9.5)
    _save(figure, path)


def _values(report: Mapping[str, Any], name: str) -> list[list[float]]:
    """Scores of all readers, method by method in the order of the summary."""
    found: dict[str, list[float]] = {method: [] for method in report["summary"]}
    for image in report["images"]:
        value = image[RANK] if name == RANK else image["scores"].get(name)
        if value is not None:
            found[image["method"]].append(float(value))
    return list(found.values())


def _boxes(axes: Axes, values: Sequence[Sequence[float]], methods: Sequence[str]) -> None:
    positions = range(1, len(methods) + 1)
    drawn = axes.boxplot(
        values,
        positions=positions,
        widths=0.55 * min(1.0, len(methods) / 6) if len(methods) > 2 else 0.2,
        patch_artist=True,
        showmeans=True,
        medianprops={"color": _INK, "linewidth": 1.6},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": _INK, "markersize": 4.5},
        flierprops={"marker": "o", "markersize": 3, "markerfacecolor": "none", "markeredgecolor": "#8a8f93"},
        whiskerprops={"color": "#6a6f73"},
        capprops={"color": "#6a6f73"},
    )
    for number, box in enumerate(drawn["boxes"]):
        colour, stroke = _style(number)
        box.set(facecolor=(colour, 0.28), edgecolor=colour, linestyle=stroke)
    axes.set_xticks(list(positions), list(methods))
    axes.tick_params(colors=_INK, length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)


def _style(number: int) -> tuple[str, str]:
    return _COLOURS[number % len(_COLOURS)], _STROKES[number // len(_COLOURS) % len(_STROKES)]


def _two_lines(name: str) -> str:
    words = name.split()
    middle = -(-len(words) // 2)
    return "\n".join([" ".join(words[:middle]), " ".join(words[middle:])]).rstrip()


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH, metadata=PICTURE_METADATA)
