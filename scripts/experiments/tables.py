"""The tables and figures of docs/results.md, and README's short form of them, from an experiment's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from design import Experiment
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from results import Means, compared, patient_means

from fcas_nnunet.evaluation.statistics.comparison import holm
from fcas_nnunet.evaluation.statistics.crossed import CrossedMean
from fcas_nnunet.files import PICTURE_METADATA, atomic_path

BASELINE_ARM = "real"
_MEASURES = {"dice": "Dice", "rdice": "RDice"}
_DOTS_PER_INCH = 110


def report(experiment: Experiment, records: Sequence[Mapping[str, Any]], figure: str = "") -> str:
    """The experiment's section of docs/results.md; `figure` is the path of its figure.

    Raises:
        ValueError: as `check_sizes`.
    """
    check_sizes(experiment, records)
    lines = [f"## {experiment.title}", ""]
    if figure:
        lines += [f"![Differences to real only, and learning curve: {experiment.name}]({figure})", ""]
    means = {measure: patient_means(records, measure, experiment.patient) for measure in _MEASURES}
    for count in experiment.scale.labelled:
        arms = [arm for arm in experiment.arms if (count, arm) in means["dice"]]
        if not arms:
            continue
        seen = sorted({record["seen"] for record in records if record["labelled"] == count})
        lines += [
            f"### {count} labelled patients", "",
            f"Scans that the networks and their synthetic scans come from: {'; or '.join(seen)}.", "",
            "| arm | labelled scans | synthetic scans | steps | CPU s | seeds × held-out scans | Dice % | RDice % | "
            "less real only, Dice |", "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for arm in arms:
            of_arm = [record for record in records if (record["labelled"], record["arm"]) == (count, arm)]
            number = "{} × {}".format(*(len({record[key] for record in of_arm}) for key in ("seed", "case")))
            seconds = np.mean([record["cpu_seconds"] for record in of_arm])
            first = of_arm[0]
            spreads = " | ".join(_spread(means[measure][count, arm]) for measure in _MEASURES)
            lines.append(
                f"| {arm} | {first['scans']} | {first['synthetic']} | {first['steps']} | {seconds:.0f} | {number} | "
                f"{spreads} | {_to_baseline(means['dice'], count, arm)} |"
            )
        lines += ["", *_planned(experiment, count, means), ""]
    return "\n".join(lines)


def check_sizes(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse records of trainings of different sizes or precisions, which no table can compare.

    Raises:
        ValueError: when there are such.
    """
    sizes = {round(record["steps"] / experiment.arms[record["arm"]].length) for record in records}
    if len(sizes) > 1:
        raise ValueError(
            f"{experiment.name}: records must be of one number of steps, got {', '.join(map(str, sorted(sizes)))}. "
            "Remove those of earlier sizes from records/, or run them again."
        )
    precisions = {record.get("precision", "bf16") for record in records}
    if len(precisions) > 1:
        raise ValueError(
            f"{experiment.name}: records must be of networks of one precision, got {', '.join(sorted(precisions))}. "
            "Run the experiment on machines whose CPUs are alike in this."
        )


def short_report(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> str:
    """The experiment's lines of the table in README."""
    dice = patient_means(records, "dice", experiment.patient)
    return "\n".join(
        f"| {experiment.short}, n = {count} | {arm} | {len({seed for seed, _ in dice[count, arm]})} | "
        f"{_spread(dice[count, arm])} | {_to_baseline(dice, count, arm)} |"
        for count in experiment.scale.labelled for arm in experiment.arms if (count, arm) in dice
        if experiment.arms[arm].length == 1
    )  # fmt: skip


def _to_baseline(means: Means, count: int, arm: str) -> str:
    """An arm less real only, with its interval once there are enough seeds."""
    if arm == BASELINE_ARM or (count, BASELINE_ARM) not in means:
        return ""
    first, second = means[count, arm], means[count, BASELINE_ARM]
    if (result := compared(first, second)) is not None:
        return f"{result.mean:+.1f} [{_range(result)}]"
    both = first.keys() & second.keys()
    seeds = len({seed for seed, _ in both})
    difference = np.mean([first[key] - second[key] for key in both]) if both else 0.0
    return f"{difference:+.1f} ({seeds} seed{'s' * (seeds > 1)})" if both else ""


def _planned(experiment: Experiment, count: int, means: Mapping[str, Means]) -> list[str]:
    """The planned comparisons that the records allow, corrected for the number of all that are planned."""
    dice, rdice = means["dice"], means["rdice"]
    pairs = [pair for pair in experiment.planned if all((count, arm) in dice for arm in pair)]
    found = {pair: compared(dice[count, pair[0]], dice[count, pair[1]]) for pair in pairs}
    ready = {pair: result for pair, result in found.items() if result is not None}
    if not ready:
        return ["Comparisons follow with the third seed."]
    open_ones = [1.0] * (len(experiment.planned) - len(ready))
    corrected = holm([*(result.p_value for result in ready.values()), *open_ones])
    lines = [
        "| planned: first less second | Dice | 95 % | p, Holm | detectable | SD seeds / scans / rest | RDice | 95 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (pair, result), p_value in zip(ready.items(), corrected, strict=False):
        other = compared(rdice[count, pair[0]], rdice[count, pair[1]])
        assert other is not None, "both measures have the same cases"
        parts = f"{result.seed_std:.1f} / {result.case_std:.1f} / {result.rest_std:.1f}"
        lines.append(
            f"| {pair[0]} − {pair[1]} | {result.mean:+.1f} | {_range(result)} | {p_value:.3f} | "
            f"{result.detectable:.1f} | {parts} | {other.mean:+.1f} | {_range(other)} |"
        )
    return lines


def draw(experiment: Experiment, records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw every arm's difference to real only, and Dice against the number of steps."""
    dice = patient_means(records, "dice", experiment.patient)
    counts = [count for count in experiment.scale.labelled if (count, BASELINE_ARM) in dice]
    figure = Figure(figsize=(4.6 * (len(counts) + 1), 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    *panels, curve = figure.subplots(1, len(counts) + 1, squeeze=False)[0]
    for axes, count in zip(panels, counts, strict=True):
        arms = [arm for arm in experiment.arms if arm != BASELINE_ARM and (count, arm) in dice]
        arms = [arm for arm in reversed(arms) if experiment.arms[arm].length == 1]
        for height, arm in enumerate(arms):
            _draw_difference(axes, height, dice[count, arm], dice[count, BASELINE_ARM])
        axes.axvline(0, color="grey", linewidth=0.8)
        axes.set_yticks(range(len(arms)), arms)
        axes.set_title(f"{count} labelled patients", fontsize=10)
        axes.set_xlabel("Dice less real only, points")
    steps = {(record["labelled"], record["arm"]): record["steps"] for record in records}
    for count in counts:
        lengths = {steps[key]: means for key, means in dice.items() if key[0] == count and _is_real(experiment, key[1])}
        common = set.intersection(*(set(means) for means in lengths.values()))  # seeds and patients
        values = [float(np.mean([lengths[number][key] for key in common])) for number in sorted(lengths)]
        curve.plot(sorted(lengths), values, marker="o", label=f"real only, n = {count}")
    curve.set_xscale("log")
    curve.set_xticks(sorted(set(steps.values())), list(map(str, sorted(set(steps.values())))))
    curve.minorticks_off()
    curve.set_xlabel("optimiser steps")
    curve.set_ylabel("Dice, %")
    curve.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH, metadata=PICTURE_METADATA)


def _draw_difference(axes: Any, height: int, first: Mapping[Any, float], second: Mapping[Any, float]) -> None:
    """A point with its interval; hollow and without one while there is one seed."""
    result = compared(first, second)
    if result is not None:
        axes.plot(result.interval, [height, height], color="tab:blue", linewidth=1.5)
    mean = np.mean([first[key] - second[key] for key in first.keys() & second.keys()])
    axes.plot(mean, height, "o", color="tab:blue", fillstyle="none" if result is None else "full")


def _is_real(experiment: Experiment, arm: str) -> bool:
    settings = experiment.arms[arm]
    return settings.source is None and not settings.augmentation


def _spread(values: Mapping[Any, float]) -> str:
    scores = np.array(list(values.values()))
    return f"{scores.mean():.1f} ± {scores.std(ddof=1):.1f}" if scores.size > 1 else f"{scores.mean():.1f}"


def _range(result: CrossedMean) -> str:
    return f"{result.interval[0]:+.1f} … {result.interval[1]:+.1f}"
