"""Synthetic scans against the training scans: the nearest one of each, and whether it is nearer than it should be."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fcas_nnunet.commands.evaluate.centred_files import Cases, CentredFiles, open_all
from fcas_nnunet.commands.evaluate.copy_pictures import write_copy_picture
from fcas_nnunet.commands.evaluate.images import real_intensity_range
from fcas_nnunet.commands.runtime.case_files import stream_cases
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.evaluation.images.centred_scans import MARGIN_MM, CentredScan, centre_scan
from fcas_nnunet.evaluation.images.memorisation import (
    COPY_MEASURES,
    IDENTICAL,
    Measure,
    Nearest,
    Threshold,
    distances,
    feature_distances,
    held_out_threshold,
    mean_features,
    nearer_share,
    nearest,
    parent_copy_rate,
    rmse_hu,
    without,
)
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.evaluation.results import MEMORISATION, header
from fcas_nnunet.evaluation.segmentation.diversity import GRID_MM, GRID_VOXELS
from fcas_nnunet.integration.dataset.manifest import versions

BYTES_PER_VOXEL = 24.0  # a scan as it is read and its mask, twice over while converted
HELD_OUT, LEAVE_ONE_OUT = "held-out", "leave-one-out"

_FLAGGED_SHOWN = 10

Found = dict[Measure, np.ndarray]


@dataclass
class _Library:
    """The training scans, as they are compared."""

    case_ids: list[str]
    scans: list[CentredScan]
    features: np.ndarray | None = None

    @property
    def copy_measures(self) -> list[Measure]:
        return [m for m in COPY_MEASURES if m is not Measure.FEATURES or self.features is not None]

    def scan(self, case_id: str) -> CentredScan:
        return self.scans[self.case_ids.index(case_id)]

    def distances(self, scan: CentredScan, features: np.ndarray | None) -> Found:
        found = distances(scan, self.scans)
        if features is not None and self.features is not None:
            found[Measure.FEATURES] = feature_distances(features, self.features)
        return found

    def nearest(self, found: Found) -> dict[Measure, Nearest]:
        return {measure: nearest(values, self.case_ids) for measure, values in found.items()}


@dataclass(frozen=True)
class Extracted:
    """Mean features of every scan.

    Attributes:
        name: of the network; None where none is given.
        vectors: scan → `mean_features`.
    """

    name: str | None = None
    vectors: dict[Path, np.ndarray] = field(default_factory=dict)

    def of(self, files: CentredFiles) -> np.ndarray | None:
        """Of one scan; None where no network is given."""
        return self.vectors.get(files.image)


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """What `fcas_evaluate memorisation` does before it prints."""
    synthetic, training, held_out = open_all(args.d, args.train, args.held_out)
    extractor = _open_extractor(args)  # what can be refused is refused before the long work
    if args.range:
        low_hu, high_hu = args.range
        intensity_range = IntensityRange(low_hu, high_hu, "stated")
    else:
        intensity_range = real_intensity_range(args.train, workers=workers)
    extracted = _extract(extractor, [synthetic, training, *([held_out] if held_out else [])])
    return evaluate_memorisation(
        synthetic, training, held_out, extracted, intensity_range, pictures=args.pictures, workers=workers
    )


def evaluate_memorisation(
    synthetic: Cases,
    training: Cases,
    held_out: Cases | None,
    extracted: Extracted,
    intensity_range: IntensityRange,
    *,
    pictures: Path | None = None,
    workers: int,
) -> dict[str, Any]:
    """Look for copies of training scans.

    One scan is in memory at a time for each process, and of the training scans 5 MB each.

    Args:
        synthetic: with the manifest's records, which name each case's template.
        training: what the generator learnt from.
        held_out: real scans that it did not; None = each training scan is held against the others.
        extracted: features of all scans, or none.
        intensity_range: all scans are clipped to it.
        pictures: folder for a PNG of each flagged case.
        workers: processes.

    Returns:
        The report as docs/evaluation.md describes it, JSON-able but for NaN.

    Raises:
        ValueError: when a scan does not fit its mask, or a held-out scan is a training scan; every fault listed.
    """
    library = _read_library(training, extracted, intensity_range, workers)
    real = _real_nearest(library, held_out, extracted, intensity_range, workers)
    thresholds = {measure: held_out_threshold([n.distance for n in real[measure]]) for measure in library.copy_measures}
    cases: dict[str, Any] = {}
    for case_id, scan in _stream(synthetic, intensity_range, workers):
        found = library.nearest(library.distances(scan, extracted.of(synthetic.files[case_id])))
        cases[case_id] = entry = _case_entry(found, thresholds, scan, library, synthetic.records.get(case_id, {}))
        if pictures and entry["flagged_by"]:
            _draw(pictures, case_id, entry, synthetic, training, intensity_range, thresholds)
    cases = {case_id: cases[case_id] for case_id in synthetic.files}
    return {
        **header(MEMORISATION),
        "synthetic": synthetic.name,
        "training": training.name,
        "settings": {
            "intensity_range": vars(intensity_range),
            "grid": {"voxels": GRID_VOXELS, "step_mm": GRID_MM, "margin_mm": MARGIN_MM},
            "features": extracted.name,
            "real_scans": {
                "kind": HELD_OUT if held_out else LEAVE_ONE_OUT,
                "source": held_out.name if held_out else training.name,
                "count": len(held_out.files if held_out else training.files),
            },
        },
        "summary": {measure: _summary(measure, cases, real[measure], thresholds[measure]) for measure in thresholds},
        "flagged": [case_id for case_id, entry in cases.items() if entry["flagged_by"]],
        "nearest_is_template": _copy_rates(cases, "template", training),
        "nearest_is_mask_source": _copy_rates(cases, "reference", training),
        "cases": cases,
        "versions": versions(),
    }


def _sample(job: tuple[CentredFiles, IntensityRange]) -> CentredScan:
    files, intensity_range = job
    return centre_scan(*files.read(), intensity_range)


def _stream(cases: Cases, intensity_range: IntensityRange, workers: int) -> Iterator[tuple[str, CentredScan]]:
    jobs = {case_id: (files, intensity_range) for case_id, files in cases.files.items()}
    need = MemoryNeed.of((files.image for files in cases.files.values()), BYTES_PER_VOXEL)
    return stream_cases(_sample, jobs, workers=workers, description=f"scans of {Path(cases.name).name}", need=need)


def _read_library(training: Cases, extracted: Extracted, intensity_range: IntensityRange, workers: int) -> _Library:
    scans = dict(_stream(training, intensity_range, workers))
    case_ids = list(training.files)
    features = [extracted.of(training.files[case_id]) for case_id in case_ids]
    known = [vector for vector in features if vector is not None]
    return _Library(case_ids, [scans[case_id] for case_id in case_ids], np.stack(known) if known else None)


def _real_nearest(
    library: _Library, held_out: Cases | None, extracted: Extracted, intensity_range: IntensityRange, workers: int
) -> dict[Measure, list[Nearest]]:
    """How near real scans come to the training scans: held-out ones, or each training scan to the others."""
    rows: dict[str, dict[Measure, Nearest]] = {}
    if held_out is not None:
        for case_id, scan in _stream(held_out, intensity_range, workers):
            rows[case_id] = library.nearest(library.distances(scan, extracted.of(held_out.files[case_id])))
        rows = {case_id: rows[case_id] for case_id in held_out.files}
    else:
        scans = tqdm(library.scans, desc="training scans among themselves", unit="case", disable=None)
        for index, scan in enumerate(scans):
            vector = library.features[index] if library.features is not None else None
            rows[library.case_ids[index]] = library.nearest(without(library.distances(scan, vector), index))
    name, remedy = (
        ("training scan", "Name other real scans with --held_out, or remove one of the two.")
        if held_out is None
        else ("held-out scan", "Hold out scans of other patients.")
    )
    faults = [
        f"{case_id}: {name} must be another than every training scan, got a twin of {row[Measure.IMAGE].case_id}. "
        f"{remedy}"
        for case_id, row in rows.items()
        if row[Measure.IMAGE].distance < IDENTICAL
    ]
    if faults:
        raise ValueError("\n".join(faults))
    return {measure: [row[measure] for row in rows.values()] for measure in library.copy_measures}


def _case_entry(
    found: Mapping[Measure, Nearest],
    thresholds: Mapping[Measure, Threshold],
    scan: CentredScan,
    library: _Library,
    record: Mapping[str, Any],
) -> dict[str, Any]:
    entry: dict[str, Any] = {key: record.get(key) for key in ("template", "reference")}
    entry["flagged_by"] = [str(m) for m, limit in thresholds.items() if found[m].distance < limit.value]
    for measure, closest in found.items():
        entry[measure] = {"nearest": closest.case_id, "distance": closest.distance}
    closest = found[Measure.IMAGE]
    other = library.scan(closest.case_id) if closest.case_id else None
    entry[Measure.IMAGE]["rmse_hu"] = rmse_hu(scan, other) if other else math.nan
    return entry


def _draw(
    pictures: Path,
    case_id: str,
    entry: Mapping[str, Any],
    synthetic: Cases,
    training: Cases,
    intensity_range: IntensityRange,
    thresholds: Mapping[Measure, Threshold],
) -> None:
    """A picture of a flagged case beside the training scan that it is nearest to by the first measure in its flags."""
    closest = entry[entry["flagged_by"][0]]["nearest"]
    reasons = [f"{name} {entry[name]['distance']:.3f} < {thresholds[Measure(name)].value:.3f}"
               for name in entry["flagged_by"]]  # fmt: skip
    title = "\n".join([f"{case_id} and {closest}", *reasons])
    files = synthetic.files[case_id], training.files[closest]
    write_copy_picture(pictures / f"{case_id}.png", *files, intensity_range, title)


def _summary(
    measure: Measure, cases: Mapping[str, Any], real: Sequence[Nearest], threshold: Threshold
) -> dict[str, Any]:
    synthetic = [entry[measure]["distance"] for entry in cases.values()]
    own = [n.distance for n in real]
    return {
        "synthetic": _spread(synthetic),
        "real": _spread(own),
        "threshold": vars(threshold),
        "flagged": sum(measure in entry["flagged_by"] for entry in cases.values()),
        "expected_flagged": threshold.expected_share * len(cases),
        "nearer": vars(nearer_share(synthetic, [_parents(entry) for entry in cases.values()], own)),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    present = [value for value in values if not math.isnan(value)]
    if not present:
        return {"min": math.nan, "median": math.nan, "max": math.nan, "count": 0}
    return {"min": min(present), "median": float(np.median(present)), "max": max(present), "count": len(present)}


def _copy_rates(cases: Mapping[str, Any], key: str, training: Cases) -> dict[str, Any]:
    """By each measure, how often the nearest training case is the one that the manifest names under a key."""
    known = [entry for entry in cases.values() if entry[key] in training.files]
    measures = [measure for measure in Measure if any(measure in entry for entry in known)]
    rates = {
        measure: vars(
            parent_copy_rate(
                [entry[measure]["nearest"] for entry in known],
                [entry[key] for entry in known],
                [_parents(entry) for entry in known],
            )
        )
        for measure in measures
    }
    return {"cases": len(known), "cases_without": len(cases) - len(known), "measures": rates}


def _parents(entry: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return entry["template"], entry["reference"]


def _open_extractor(args: argparse.Namespace) -> Any:
    """The network whose features are compared; None without -m."""
    if args.m is None:
        return None
    from fcas_nnunet.commands.runtime.devices import resolve_device
    from fcas_nnunet.integration.models.features import open_extractor

    return open_extractor(args.m, args.f, args.chk, resolve_device(args.device))


def _extract(extractor: Any, sets: Sequence[Cases]) -> Extracted:
    """Features of all scans, one after the other: the network is in this process."""
    if extractor is None:
        return Extracted()
    images = [files.image for cases in sets for files in cases.files.values()]
    vectors = {
        image: mean_features(extractor.features(image))
        for image in tqdm(images, desc="features", unit="case", disable=None)
    }
    return Extracted(extractor.name, vectors)


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table, a row per measure."""
    header = ["distance to the nearest training scan", "synthetic", "real", "threshold", "flagged", "expected"]
    header += ["nearer than real", "nearest is template", "by chance"]
    rates = report["nearest_is_template"]["measures"]
    rows = []
    for measure, entry in report["summary"].items():
        numbers = [entry["synthetic"]["median"], entry["real"]["median"], entry["threshold"]["value"]]
        rows.append(
            [
                _TITLES[measure], *(f"{value:.4f}" for value in numbers), str(entry["flagged"]),
                f"{entry['expected_flagged']:.1f}", _share(entry["nearer"]), *_rate_cells(rates, measure),
            ]
        )  # fmt: skip
    rows.append([_TITLES[Measure.CONTRAST], *[""] * 6, *_rate_cells(rates, Measure.CONTRAST)])
    return header, rows


_TITLES = {
    Measure.IMAGE: "image (1 − correlation)",
    Measure.CONTRAST_MATCHED: "contrast-matched (likewise)",
    Measure.FEATURES: "features (1 − cosine)",
    Measure.CONTRAST: "contrast alone: meant to follow",
}


def _share(nearer: Mapping[str, Any]) -> str:
    low, high = nearer["interval"]
    return f"{nearer['share']:.2f}" + ("" if math.isnan(low) else f" ({low:.2f} … {high:.2f})")


def _rate_cells(rates: Mapping[str, Any], measure: str) -> list[str]:
    if measure not in rates:
        return ["–", "–"]
    rate = rates[measure]
    return [f"{rate['matches']} of {rate['count']}", f"{rate['chance'] * rate['count']:.1f}"]


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    real = report["settings"]["real_scans"]
    rules = sorted({entry["threshold"]["rule"] for entry in report["summary"].values()})
    kind = "held-out scans" if real["kind"] == HELD_OUT else "training scans, each against the others (no --held_out)"
    lines = [f"real: {real['count']} {kind}; flagged below the {' or '.join(rules)}"]
    lines.append(
        "nearer than real: share of pairs in which the synthetic scan is the nearer one, 0.5 = as near as real scans, "
        "and its 95 % interval over templates, masks and real scans"
    )
    missing = report["nearest_is_template"]["cases_without"]
    if missing:
        lines.append(f"{missing} synthetic cases without a template in {report['training']}")
    if report["settings"]["features"]:
        lines.append(f"features of {report['settings']['features']}")
    for case_id in report["flagged"][:_FLAGGED_SHOWN]:
        entry = report["cases"][case_id]
        reasons = [f"{name} {entry[name]['distance']:.4f} to {entry[name]['nearest']}" for name in entry["flagged_by"]]
        lines.append(f"flagged: {case_id}: {', '.join(reasons)}")
    more = len(report["flagged"]) - _FLAGGED_SHOWN
    return lines + ([f"and {more} more: see the result (-o) or the pictures (--pictures)"] if more > 0 else [])


#: Columns of --csv, as a regular expression.
CSV_COLUMNS = rf"case_id,template,reference,flagged_by(,({'|'.join(Measure)})_(nearest|distance))+,rmse_hu"


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv, a row per synthetic case."""
    measures = [m for m in Measure if any(m in entry for entry in report["cases"].values())]
    header = ["case_id", "template", "reference", "flagged_by"]
    header += [f"{measure}_{what}" for measure in measures for what in ("nearest", "distance")] + ["rmse_hu"]
    rows = [
        [
            case_id, entry["template"], entry["reference"], " ".join(entry["flagged_by"]),
            *(entry[measure][what] for measure in measures for what in ("nearest", "distance")),
            entry[Measure.IMAGE]["rmse_hu"],
        ]
        for case_id, entry in report["cases"].items()
    ]  # fmt: skip
    return header, rows
