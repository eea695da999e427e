"""Show results of fcas_evaluate in the report."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

from fcas_nnunet.evaluation.images import set_table as image_set_table
from fcas_nnunet.evaluation.results import COMPARISON, CONFIDENCE, IMAGE_QUALITY, SEGMENTATIONS, VERSIONS
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.faults import InputError
from fcas_nnunet.intensities import CT_UNIT


@dataclass(frozen=True)
class Table:
    """A table of text."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class ShownResult:
    """A result as the page shows it.

    Attributes:
        title: Name of the measurement.
        subtitle: Names of what was measured.
        tables: Tables of its numbers.
        notes: Remarks for the reader.
        settings: Settings of the measurement.
        scores: Measure → case id → value, for charts and the list of cases.
    """

    title: str
    subtitle: str
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)


class PrintedPart(Protocol):
    """A part of fcas_evaluate, as it prints its result."""

    def table(self, report: Mapping[str, Any], /) -> tuple[list[str], list[list[str]]]:
        """Header and rows."""

    def notes(self, report: Mapping[str, Any], /) -> list[str]:
        """Remarks for the reader of the table."""


def show_result(content: Mapping[str, Any], part: PrintedPart | None = None) -> ShownResult:
    """Turn a result into tables.

    Args:
        content: Result that `read_result` returned.
        part: Part of fcas_evaluate that shows a result without a form of its own here.

    Raises:
        InputError: if a known schema lacks what it must have.
    """
    show = {
        SEGMENTATIONS: _segmentations, COMPARISON: _comparison, IMAGE_QUALITY: _image_quality, CONFIDENCE: _confidence,
    }  # fmt: skip
    try:
        return _as_printed(content, part) if part else show[content["schema"]](content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{content['schema']}: fields must be those of docs/evaluation.md, got none or another for {error}. "
            "Run fcas_evaluate again."
        ) from error


def _segmentations(content: Mapping[str, Any]) -> ShownResult:
    settings, summary = content["settings"], content["summary"]
    radii = [str(radius) for radius in settings["rdice_radii_voxels"]]
    measures = [("Dice %", ("dice",), 100, 1), *((f"RDice {r} %", ("rdice", r), 100, 1) for r in radii)]
    further = [("HD95 mm", ("hd95_mm",), 1, 2), ("Surface Dice %", ("surface_dice",), 100, 1),
               ("clDice %", ("centreline_dice",), 100, 1), ("β0 error", ("pieces_error",), 1, 1),
               ("β1 error", ("tunnels_error",), 1, 1)]  # fmt: skip
    shown = [m for m in further if any(m[1][0] in entry for entry in summary["labels"].values())]
    columns = measures + [(f"{title} (n)", path, factor, digits) for title, path, factor, digits in shown]
    rows = []
    for name, entry in summary["labels"].items():
        cells = [_mean_and_spread(_at(entry, path), factor, digits) for _, path, factor, digits in measures]
        cells += [f"{_mean_and_spread(entry[m], f, digits)} ({entry[m]['count']})" for _, (m,), f, digits in shown]
        missed = f"{entry['only_prediction_empty']} missed, {entry['only_reference_empty']} false"
        rows.append([name, *cells, str(entry["dice"]["count"]), missed])
    mean = summary["foreground_mean"]
    rows.append(["mean of labels", *(_number(_at(mean, path), f, d) for _, path, f, d in columns), "", ""])
    header = ["label", *(title for title, *_ in columns), "cases", "empty in one"]
    means = {case: summarise([_float(scores["dice"]) for scores in labels.values()]).mean
             for case, labels in content["cases"].items()}  # fmt: skip
    return ShownResult(
        "Segmentation", f"{content['predictions']} against {content['references']}",
        [Table("Mean ± spread over cases", header, rows)], [f"Empty masks: {settings['empty_masks']}"],
        _flat({key: value for key, value in settings.items() if key not in ("labels", "empty_masks")}),
        {"mean Dice": means},
    )  # fmt: skip


def _comparison(content: Mapping[str, Any]) -> ShownResult:
    rows = []
    for label, e in content["labels"].items():
        low, high = e["interval"]
        first, second = (_number(e[key], 1, 4) for key in ("first_mean", "second_mean"))
        interval = f"{_number(low, 1, 4, '+')} … {_number(high, 1, 4, '+')}"
        p_values = [_number(e[key], 1, 4) for key in ("p_value", "holm_p_value")]
        rows.append([label, first, second, _number(e["difference"], 1, 4, "+"), interval, *p_values, str(e["count"])])
    header = ["label", "first", "second", "difference", "95 % interval", "p", "p (Holm)", "cases"]
    title = f"{content['settings']['measure']}, second minus first"
    subtitle = f"first: {content['first']}; second: {content['second']}"
    return ShownResult("Comparison", subtitle, [Table(title, header, rows)], [], _flat(content["settings"]))


def _image_quality(content: Mapping[str, Any]) -> ShownResult:
    unit = content["settings"].get("unit", CT_UNIT)
    titles = {"ssim": ("SSIM", 4), "rmse": ("RMSE", 4), "rmse_units": (f"RMSE {unit}", 1)}
    rows = [[titles[m][0], _number(s["mean"], 1, titles[m][1]), _number(s["std"], 1, titles[m][1]), str(s["count"])]
            for m, s in content["summary"].items() if m in titles and s["count"]]  # fmt: skip
    used = content["settings"]["intensity_range"]
    if used is not None:
        notes = [f"On {used['low']:g} {unit} to {used['high']:g} {unit} ({used['source']})"]
    else:
        notes = [f"SSIM, RMSE: not computed: {content['summary']['ssim']['not_computed']}"]
    if content.get("left_out"):
        notes.append(f"{len(content['left_out'])} synthetic cases left out: no real scan under the same mask")
    if image_set_table.NETWORK in content:
        rows += [[name, *cells] for name, *cells in image_set_table.table_rows(content)]
        notes += image_set_table.notes(content)
    scores = {titles[m][0]: {case: _float(entry[m]) for case, entry in content["cases"].items()} for m in titles}
    return ShownResult(
        "Image quality", f"{content['synthetic']} against {content['real']}",
        [Table("Pairs under the same mask, and whole sets", ["measure", "mean", "spread", "cases"], rows)], notes,
        _flat(content["settings"]), scores,
    )  # fmt: skip


def _confidence(content: Mapping[str, Any]) -> ShownResult:
    """A row per map inside the structures and around their walls, and what errors go with what confidence."""
    summary, unit = content["summary"], content["settings"].get("unit", CT_UNIT)
    matched = summary["scores"]["matched"]
    places = {"structures": "inside structures", "shell": "around walls", "volume": "everywhere"}
    header = ["map", *(f"{measure} {place}" for place in places.values() for measure in ("AUSE", "ρ"))]
    rows = [
        [name, *(_number(matched[place][name][measure]["mean"], 1, 3)
                 for place in places for measure in ("ause", "spearman"))]
        for name in matched["structures"]
    ]  # fmt: skip
    bins = summary["reliability"]
    expected = bins.get("expected") or [math.nan] * len(bins["error"])
    reliability = [
        [f"{confidence:.2f}", _number(promised, 1, 0), f"{error:.0f}"]
        for confidence, promised, error in zip(bins["confidence"], expected, bins["error"], strict=True)
    ]
    notes = [
        "AUSE: 0 is the error's own order, 0.5 a random one; ρ: rank correlation of doubt and error",
        f"Confidence inside structures {_mean_and_spread(summary['mean_confidence'], 1, 3)}",
        *(line[0].upper() + line[1:] for line in content["verdict"]),
    ]
    return ShownResult(
        "Confidence", f"{content['held_out']} drawn by the generator of {content['source']}",
        [Table("Maps against the error after matching contrast", header, rows),
         Table("What a confidence means", ["confidence", *(f"{e} error, {unit}" for e in ("expected", "mean"))],
               reliability)],
        notes, _flat(content["settings"]),
    )  # fmt: skip


def _as_printed(content: Mapping[str, Any], part: PrintedPart) -> ShownResult:
    """The table that fcas_evaluate prints, and those of the result within the result."""
    printed = {key: value if key == "settings" else _with_nan(value) for key, value in content.items()}
    header, rows = part.table(printed)
    within = [show_result(value) for value in content.values()
              if isinstance(value, dict) and value.get("schema") in VERSIONS]  # fmt: skip
    tables = [Table(f"{inner.title}: {table.title}", table.header, table.rows)
              for inner in within for table in inner.tables]  # fmt: skip
    title = _words(content["schema"].rsplit("/", 1)[-1]).capitalize()
    named = [f"{_words(key)}: {value}" for key, value in content.items() if isinstance(value, str) and key != "schema"]
    return ShownResult(
        title, "; ".join(named), [Table("Summary", header, rows), *tables], part.notes(printed),
        _flat(content["settings"]),
        {name: values for inner in within for name, values in inner.scores.items()},
    )  # fmt: skip


def _with_nan(value: Any) -> Any:
    """A value of a result as fcas_evaluate had it before writing: NaN for scores that do not exist, null in JSON."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value, 1, None)
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        return ", ".join(_text(item) for item in value[:12]) + (" …" if len(value) > 12 else "")
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_text(item)}" for key, item in value.items())
    return str(value)


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    return {_words(key): _text(value) for key, value in settings.items()}


def _at(entry: Mapping[str, Any], path: Sequence[str]) -> Any:
    return reduce(operator.getitem, path, entry)


def _mean_and_spread(summary: Mapping[str, Any], factor: float, digits: int | None) -> str:
    mean = _number(summary["mean"], factor, digits)
    return mean if summary["std"] is None or mean == "–" else f"{mean} ± {_number(summary['std'], factor, digits)}"


def _number(value: float | None, factor: float, digits: int | None, sign: str = "") -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{factor * value:{sign}.4g}" if digits is None else f"{factor * value:{sign}.{digits}f}"


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _words(name: Any) -> str:
    return str(name).replace("_", " ")
