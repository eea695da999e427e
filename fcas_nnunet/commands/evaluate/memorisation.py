"""Find copies of training scans: the nearest one to each synthetic scan, and whether it is too near."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fcas_nnunet.commands.evaluate.centred_files import Cases, CentredFiles, open_all
from fcas_nnunet.commands.evaluate.images import real_intensity_range
from fcas_nnunet.commands.runtime.case_files import stream_cases
from fcas_nnunet.commands.runtime.kept_results import kept
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.evaluation.images import memorisation as copies
from fcas_nnunet.evaluation.images.centred_scans import MARGIN_MM, CentredScan, centre_scan, centred_image
from fcas_nnunet.evaluation.images.memorisation import Measure, Nearest, Threshold
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.evaluation.segmentation.diversity import GRID_MM, GRID_VOXELS
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import PICTURE_METADATA, atomic_path
from fcas_nnunet.generator.optimisation.progress import PIXELS_PER_INCH, Panel, plot_panels
from fcas_nnunet.intensities import unit_name

BYTES_PER_VOXEL = 24.0  # a scan as it is read and its mask, twice over while converted
HELD_OUT, LEAVE_ONE_OUT = "held-out", "leave-one-out"
#: Cube in which a copy is shown: that of the comparison, twice as fine.
PICTURE_VOXELS, PICTURE_STEP_MM = 2 * GRID_VOXELS, GRID_MM / 2
DIFFERENCE = 200.0

_FLAGGED_SHOWN = 10

Found = Mapping[Measure, Nearest]


@dataclass(frozen=True)
class _Library:
    """The training scans, reduced for comparison to 5 MB each.

    Attributes:
        files: Case id → files.
        scans: Case id → scan, in the same order.
        features: Image → `mean_features`, of all sets of scans; empty without a network.
    """

    files: Mapping[str, CentredFiles]
    scans: Mapping[str, CentredScan]
    features: Mapping[Path, np.ndarray]

    def nearest(self, scan: CentredScan, image: Path, own_index: int | None = None) -> dict[Measure, Nearest]:
        """The nearest training scan by each measure, but for the one at `own_index`."""
        found = copies.distances(scan, list(self.scans.values()))
        if self.features:
            vectors = np.stack([self.features[files.image] for files in self.files.values()])
            found[Measure.FEATURES] = copies.feature_distances(self.features[image], vectors)
        if own_index is not None:
            found = copies.without(found, own_index)
        return {measure: copies.nearest(values, list(self.scans)) for measure, values in found.items()}


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Look for copies of training scans, with one scan in memory at a time for each process.

    Raises:
        MissingFileError: when a data set, a file or the network is missing.
        InputError: when a scan does not fit its mask, or a held-out scan is a training scan; every fault listed.
    """
    synthetic, training, held_out = open_all(args.d, args.train, args.held_out, args.channel)
    extractor: Any = None
    if args.m:  # refuse what can be refused before the long work
        from fcas_nnunet.commands.runtime.devices import resolve_device
        from fcas_nnunet.integration.models.features import open_extractor

        extractor = open_extractor(args.m, args.f, args.chk, resolve_device(args.device), training.channel_names)
    intensity_range = (
        IntensityRange(*args.range) if args.range else real_intensity_range(args.train, workers, args.channel)
    )
    features = _features(extractor, [synthetic, training, *([held_out] if held_out else [])]) if extractor else {}
    scans = dict(_stream(training, intensity_range, workers))
    library = _Library(training.files, {case_id: scans[case_id] for case_id in training.files}, features)
    real = _real_nearest(library, held_out, intensity_range, workers)
    thresholds = {
        measure: copies.held_out_threshold([found[measure].distance for found in real])
        for measure in copies.COPY_MEASURES
        if measure is not Measure.FEATURES or features
    }
    cases: dict[str, Any] = {}
    unit = unit_name(training.channel_names[args.channel])
    for case_id, scan in _stream(synthetic, intensity_range, workers):
        found = library.nearest(scan, synthetic.files[case_id].image)
        cases[case_id] = entry = _case_entry(found, thresholds, scan, library, synthetic.records.get(case_id, {}))
        if args.pictures and entry["flagged_by"]:
            _draw(args.pictures, case_id, entry, synthetic, training, intensity_range, thresholds, unit)
    cases = {case_id: cases[case_id] for case_id in synthetic.files}
    return {
        "synthetic": synthetic.name,
        "training": training.name,
        "settings": {
            **({"channel": training.channel_names[args.channel]} if len(training.channel_names) > 1 else {}),
            "unit": unit,
            "intensity_range": vars(intensity_range),
            "grid": {"voxels": GRID_VOXELS, "step_mm": GRID_MM, "margin_mm": MARGIN_MM},
            "features": extractor.name if extractor else None,
            "real_scans": {
                "kind": HELD_OUT if held_out else LEAVE_ONE_OUT,
                "source": (held_out or training).name,
                "count": len(real),
            },
        },
        "summary": {measure: _summary(measure, cases, real, limit) for measure, limit in thresholds.items()},
        "flagged": [case_id for case_id, entry in cases.items() if entry["flagged_by"]],
        "nearest_is_template": _copy_rates(cases, "template", training.files),
        "nearest_is_mask_source": _copy_rates(cases, "reference", training.files),
        "cases": cases,
    }


def _features(extractor: Any, sets: Sequence[Cases]) -> dict[Path, np.ndarray]:
    """Features of all scans, one after the other: the network is in this process."""
    scans = [files for cases in sets for files in cases.files.values()]
    bar = tqdm(scans, desc="features", unit="case", disable=None)
    return {
        files.image: copies.mean_features(
            kept(partial(extractor.features, files.channels), "features", extractor.name, files.channels)
        )
        for files in bar
    }


def _stream(cases: Cases, intensity_range: IntensityRange, workers: int) -> Iterator[tuple[str, CentredScan]]:
    need = MemoryNeed.of((files.image for files in cases.files.values()), BYTES_PER_VOXEL)
    description = f"scans of {Path(cases.name).name}"
    sample = partial(_sample, intensity_range)
    return stream_cases(sample, cases.files, workers=workers, description=description, need=need)


def _sample(intensity_range: IntensityRange, files: CentredFiles) -> CentredScan:
    return centre_scan(*files.read(), intensity_range)


def _real_nearest(
    library: _Library, held_out: Cases | None, intensity_range: IntensityRange, workers: int
) -> list[Found]:
    """Find the training scans nearest to real scans: held-out ones, or each training scan among the others."""
    if held_out is not None:
        name, remedy = "held-out scan", "Hold out scans of other patients."
        stream = _stream(held_out, intensity_range, workers)
        rows = {case_id: library.nearest(scan, held_out.files[case_id].image) for case_id, scan in stream}
        rows = {case_id: rows[case_id] for case_id in held_out.files}
    else:
        name, remedy = "training scan", "Name other real scans with --held_out, or remove one of the two."
        bar = tqdm(library.scans.items(), desc="training scans among themselves", unit="case", disable=None)
        rows = {
            case_id: library.nearest(scan, library.files[case_id].image, index)
            for index, (case_id, scan) in enumerate(bar)
        }
    faults = [
        f"{case_id}: {name} must be another than every training scan, got a twin of {row[Measure.IMAGE].case_id}. "
        f"{remedy}"
        for case_id, row in rows.items()
        if row[Measure.IMAGE].distance < copies.IDENTICAL
    ]
    if faults:
        raise InputError("\n".join(faults))
    return list(rows.values())


def _case_entry(
    found: Found,
    thresholds: Mapping[Measure, Threshold],
    scan: CentredScan,
    library: _Library,
    record: Mapping[str, Any],
) -> dict[str, Any]:
    entry: dict[str, Any] = {key: record.get(key) for key in ("template", "reference")}
    entry["flagged_by"] = [str(m) for m, limit in thresholds.items() if found[m].distance < limit.value]
    for measure, closest in found.items():
        entry[measure] = {"nearest": closest.case_id, "distance": closest.distance}
    twin = found[Measure.IMAGE].case_id
    entry[Measure.IMAGE]["rmse_units"] = copies.rmse_units(scan, library.scans[twin]) if twin else math.nan
    return entry


def _draw(
    folder: Path,
    case_id: str,
    entry: Mapping[str, Any],
    synthetic: Cases,
    training: Cases,
    intensity_range: IntensityRange,
    thresholds: Mapping[Measure, Threshold],
    unit: str,
) -> None:
    """A flagged scan, the training scan it is nearest to by the first measure in its flags, and their difference."""
    closest = entry[entry["flagged_by"][0]]["nearest"]
    reasons = [f"{name} {entry[name]['distance']:.3f} < {thresholds[name].value:.3f}" for name in entry["flagged_by"]]
    limits = intensity_range.low, intensity_range.high
    first, second = (
        centred_image(*files.read(), intensity_range, PICTURE_VOXELS, PICTURE_STEP_MM)[::-1]  # head up
        for files in (synthetic.files[case_id], training.files[closest])
    )
    panels = [
        Panel("synthetic", np.nan_to_num(first, nan=limits[0]), limits),
        Panel("nearest training scan", np.nan_to_num(second, nan=limits[0]), limits),
        Panel(f"difference, ±{DIFFERENCE:g} {unit}", np.nan_to_num(first - second), (-DIFFERENCE, DIFFERENCE)),
    ]
    figure = plot_panels(panels, "\n".join([f"{case_id} and {closest}", *reasons]))
    with atomic_path(folder / f"{case_id}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=PIXELS_PER_INCH, metadata=PICTURE_METADATA)


def _summary(measure: Measure, cases: Mapping[str, Any], real: Sequence[Found], threshold: Threshold) -> dict[str, Any]:
    synthetic = [entry[measure]["distance"] for entry in cases.values()]
    own = [found[measure].distance for found in real]
    return {
        "synthetic": _spread(synthetic),
        "real": _spread(own),
        "threshold": vars(threshold),
        "flagged": sum(measure in entry["flagged_by"] for entry in cases.values()),
        "expected_flagged": threshold.expected_share * len(cases),
        "nearer": vars(copies.nearer_share(synthetic, [_parents(entry) for entry in cases.values()], own)),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    present = [value for value in values if not math.isnan(value)]
    low, median, high = (min(present), float(np.median(present)), max(present)) if present else [math.nan] * 3
    return {"min": low, "median": median, "max": high, "count": len(present)}


def _copy_rates(cases: Mapping[str, Any], key: str, training: Collection[str]) -> dict[str, Any]:
    """By each measure, how often the nearest training case is the one that the manifest names under a key."""
    known = [entry for entry in cases.values() if entry[key] in training]
    parents = [_parents(entry) for entry in known]
    rates = {}
    for measure in (measure for measure in Measure if any(measure in entry for entry in known)):
        nearest_ids = [entry[measure]["nearest"] for entry in known]
        rates[measure] = vars(copies.parent_copy_rate(nearest_ids, [entry[key] for entry in known], parents))
    return {"cases": len(known), "cases_without": len(cases) - len(known), "measures": rates}


def _parents(entry: Mapping[str, Any]) -> tuple[str | None, str | None]:
    return entry["template"], entry["reference"]


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a row per measure."""
    header = ["distance to the nearest training scan", "synthetic", "real", "threshold", "flagged", "expected"]
    header += ["nearer than real", "nearest is template", "by chance"]
    rates = report["nearest_is_template"]["measures"]
    rows = []
    for measure, entry in report["summary"].items():
        numbers = [entry["synthetic"]["median"], entry["real"]["median"], entry["threshold"]["value"]]
        cells = [*(f"{value:.4f}" for value in numbers), str(entry["flagged"]), f"{entry['expected_flagged']:.1f}"]
        rows.append([_TITLES[measure], *cells, _share(entry["nearer"]), *_rate_cells(rates, measure)])
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
    """Lines below the printed table."""
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


CSV_COLUMNS = rf"case_id,template,reference,flagged_by(,({'|'.join(Measure)})_(nearest|distance))+,rmse_(units|hu)"


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv: a row per synthetic case."""
    measures = [m for m in Measure if any(m in entry for entry in report["cases"].values())]
    columns = [(measure, what) for measure in measures for what in ("nearest", "distance")]
    rows = [
        [case_id, entry["template"], entry["reference"], " ".join(entry["flagged_by"]),
         *(entry[measure][what] for measure, what in columns), entry[Measure.IMAGE]["rmse_units"]]
        for case_id, entry in report["cases"].items()
    ]  # fmt: skip
    named = [f"{measure}_{what}" for measure, what in columns]
    return ["case_id", "template", "reference", "flagged_by", *named, "rmse_units"], rows
