"""Render the report's measures as one self-contained HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from fcas_nnunet.evaluation.images.intensities import LOWEST
from fcas_nnunet.evaluation.report.checks import Check, Level, verdict
from fcas_nnunet.evaluation.report.curves import Curves
from fcas_nnunet.evaluation.report.measures import CaseMeasures, StructureSummary, mean_shares
from fcas_nnunet.evaluation.report.packing import grey_scale
from fcas_nnunet.evaluation.report.results import ShownResult
from fcas_nnunet.evaluation.viewing.charts import confidence_chart, intensity_chart, strip_chart
from fcas_nnunet.evaluation.viewing.colours import HEART_WINDOW, confidence_colours, label_colours
from fcas_nnunet.evaluation.viewing.pictures import Pictures
from fcas_nnunet.evaluation.viewing.templates import page_environment
from fcas_nnunet.intensities import CT_UNIT

Windows = Mapping[str, tuple[float, float]]

#: Of CT: name → low and high.
WINDOWS: Windows = {"heart": HEART_WINDOW, "soft tissue": (-160, 240), "wide": (-1000, 1000)}


@dataclass(frozen=True)
class CaseRow:
    """A case in the list."""

    case_id: str
    masks: str  # `given`, `mgm`, or another value of the manifest
    reference: str  # case whose mask was drawn
    template: str  # case whose contrast guided the drawing
    redrawn: int  # masks that were refused before this one
    confidence: float  # mean inside the structures; NaN without a map
    scores: Mapping[str, float]  # measure → value, from results
    shown: bool  # whether the page shows its scan


@dataclass(frozen=True)
class Card:
    """A case's picture to click on."""

    case_id: str
    caption: str  # reason for showing it
    pictures: Pictures


@dataclass(frozen=True)
class Companion:
    """A real scan beside a synthetic one."""

    case_id: str  # id of the real case
    scan: int  # number of the scan among the page's
    same_grid: bool  # whether both lie on one grid, so that places correspond voxel by voxel


@dataclass(frozen=True)
class ViewerCase:
    """A case to scroll through."""

    case_id: str
    scan: int  # number of the scan among the page's
    companions: Mapping[str, Companion]  # `reference` and `template`, where they can be shown
    volumes_ml: Mapping[str, float]  # structure → volume


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    name: str  # name of the synthetic data set
    real_name: str | None  # name of the real one; None without
    made: str  # sentence on how it was made
    checks: Sequence[Check]
    labels: Mapping[str, int]  # structure → id, without the background
    structures: Sequence[StructureSummary]  # summaries, in the order of the labels
    synthetic: Mapping[str, CaseMeasures]  # measures by case id
    real: Sequence[CaseMeasures] | None  # measures of the real cases; None without
    cases: Sequence[CaseRow]  # the list
    worst: Sequence[Card]  # least confident, or least similar, cases
    best: Sequence[Card]  # the other end
    viewer: Sequence[ViewerCase]  # cases to scroll through
    scans: Sequence[str]  # packed scans as JSON text, synthetic and real
    reduction: str  # sentence on what was reduced
    results: Sequence[ShownResult]  # results of fcas_evaluate
    curves: Sequence[Curves]  # curves of the trainings found
    curves_note: str  # where logs were looked for, and what was not found
    provenance: Sequence[tuple[str, str]]  # (field, value) that all cases share
    replay: str | None  # the command that makes its cases again from their lines; None where there are no such lines
    remake: str | None  # the command line of the run that made the set; None where unknown
    records: Mapping[str, str]  # case id → its whole record as text
    faults: Sequence[str] = field(default_factory=tuple)  # faults of manifest and files, a sentence each
    command: str = "fcas_report"  # the command that made this page
    unit: str = CT_UNIT  # what intensities are counted in
    windows: Windows = field(default_factory=lambda: WINDOWS)  # to choose from, the first at first


def windows_for(shown: Sequence[tuple[float, float]], unit: str) -> Windows:
    """The windows to choose from: of CT those of its tissues, else one for all scans, and a wide one.

    Args:
        shown: Low and high of each scan's own window.
        unit: Name of the scans' unit (`unit_name`).
    """
    if unit == CT_UNIT:
        return WINDOWS
    low, high = np.rint(np.median(shown, axis=0)).tolist()
    return {"scan": (low, high), "wide": WINDOWS["wide"]}


def render(report: Report) -> str:
    """The whole page."""
    environment = page_environment("fcas_nnunet.evaluation.report")
    environment.filters |= {"words": _words, "number": _number, "percent": _percent, "breakable": _breakable}
    colours = label_colours(report.labels)
    return environment.get_template("report.html").render(
        report=report,
        verdict=verdict(report.checks),
        checks=sorted(report.checks, key=lambda check: list(Level).index(check.level), reverse=True),
        colours=colours,
        charts=_intensity_charts(report, colours),
        confidence=_confidence_chart(report),
        strips=_strips(report),
        viewer_data=Markup(_without_tags(json.dumps(_viewer_data(report, colours)))),
        scans=[Markup(_without_tags(scan)) for scan in report.scans],
        measures=list(dict.fromkeys(name for case in report.cases for name in case.scores)),
    )


def _intensity_charts(report: Report, colours: Mapping[str, str]) -> dict[str, Markup]:
    charts = {}
    for name in report.labels:
        synthetic = mean_shares([case.intensities for case in report.synthetic.values()], name)
        real = None if report.real is None else mean_shares([case.intensities for case in report.real], name)
        title = f"Intensities of {_words(name)} in {report.unit}, synthetic{'' if real is None else ' and real'}"
        charts[name] = intensity_chart(synthetic, real, LOWEST, colours[name], title)
    return charts


def _confidence_chart(report: Report) -> Markup:
    inside = [case.inside for case in report.synthetic.values() if case.inside is not None]
    if not inside:
        return Markup("")
    return confidence_chart(np.mean(inside, axis=0), "Confidence of the voxels inside the structures, from 0 to 1")


def _strips(report: Report) -> list[tuple[str, Markup]]:
    """A strip of dots per measure that cases have."""
    names = [case.case_id for case in report.cases]
    strips = [("Mean confidence per case", [case.confidence for case in report.cases])]
    for measure in dict.fromkeys(name for case in report.cases for name in case.scores):
        strips.append((f"{measure} per case", [case.scores.get(measure, math.nan) for case in report.cases]))
    return [(title, chart) for title, values in strips if (chart := strip_chart(values, names, title))]


def _viewer_data(report: Report, colours: Mapping[str, str]) -> dict[str, Any]:
    return {
        "labels": [{"id": label, "name": _words(name), "key": name, "colour": colours[name]}
                   for name, label in report.labels.items()],
        "greyKnots": grey_scale(report.unit).knots,
        "greyValues": grey_scale(report.unit).values,
        "unit": report.unit,
        "confidenceColours": confidence_colours(256),
        "windows": report.windows,
        "cases": [
            {
                "id": case.case_id, "scan": case.scan,
                "companions": {role: vars(companion) for role, companion in case.companions.items()},
                "volumes": {name: round(volume, 1) for name, volume in case.volumes_ml.items()},
            }
            for case in report.viewer
        ],
    }  # fmt: skip


def _without_tags(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _breakable(name: str) -> Markup:
    """A long name that may be broken after its underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.0f} %"
