"""`fcas_report`: read, measure and pack the cases, and write the page."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcas_nnunet.commands.evaluate import fidelity, memorisation
from fcas_nnunet.commands.report.cases import (
    CaseFiles,
    PackJob,
    measure,
    on_one_grid,
    pack,
    real_files,
    synthetic_files,
)
from fcas_nnunet.commands.report.logs import find_curves
from fcas_nnunet.commands.report.remake import remake_command, replay_command
from fcas_nnunet.commands.runtime.case_files import default_workers, run_cases
from fcas_nnunet.commands.runtime.channels import refuse_other_channels, showing
from fcas_nnunet.commands.runtime.kept_results import kept_results
from fcas_nnunet.commands.runtime.label_table import say_roles
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.commands.runtime.outputs import Output, check_outputs, is_page
from fcas_nnunet.config.options import ScanSource
from fcas_nnunet.evaluation.report.checks import Check, all_checks
from fcas_nnunet.evaluation.report.measures import (
    CaseMeasures,
    StructureSummary,
    confidence_spread,
    summarise_structures,
)
from fcas_nnunet.evaluation.report.packing import PackedScan, grey_scale
from fcas_nnunet.evaluation.report.page import Card, CaseRow, Companion, Report, ViewerCase, render, windows_for
from fcas_nnunet.evaluation.report.provenance import common_fields, flat_fields, run_seed
from fcas_nnunet.evaluation.report.results import ShownResult, show_result
from fcas_nnunet.evaluation.results import FIDELITY, MEMORISATION, read_result
from fcas_nnunet.evaluation.viewing.colours import label_colours
from fcas_nnunet.evaluation.viewing.pictures import Pictures
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import atomic_write_text
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, open_dataset
from fcas_nnunet.intensities import unit_name
from fcas_nnunet.labels.anatomy import thin_label_ids

#: Bytes of all packed scans together, so that the page stays under 25 MB: they grow by a third as text.
SCANS_BUDGET = 17_000_000
REAL_SHARE = 0.6  # share of a synthetic scan's budget: a real one has no confidence
CARDS = 3
BYTES_PER_VOXEL = 32.0  # image, mask and confidence as they are read, and twice over while converted
Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Sets:
    """Data sets that are reported on."""

    synthetic: RawDataset
    real: RawDataset | None  # data set that it is compared with; None without
    source: RawDataset | None  # data set of its manifest's references and templates; None where it is not found
    records: Records  # records of its manifest


def run(args: argparse.Namespace) -> None:
    """Run `fcas_report`.

    Raises:
        MissingFileError: if a data set or a result is missing.
        InputError: if one of them is invalid, or no case can be read.
    """
    sets = _open(args.d, args.against, args.channel)
    output = args.o or Path(f"{sets.synthetic.name}_report.html")
    check_outputs(argparse.Namespace(**vars(args) | {"o": output}), [Output("o", "page", ".html", is_page)])
    say_roles(sets.synthetic.name, sets.synthetic.labels, sets.synthetic.roles)
    results = [shown_result(read_result(path)) for path in args.results]
    with kept_results(output):
        _write(sets, results, output, args)


def _write(sets: _Sets, results: Sequence[ShownResult], output: Path, args: argparse.Namespace) -> None:
    workers = args.np or default_workers()

    # Measure
    files = synthetic_files(sets.synthetic)
    synthetic, faults = _measure_synthetic(sets, files, workers)
    real = _measure_real(sets, workers)
    names = [name for name, label in sets.synthetic.labels.items() if label]
    structures = summarise_structures(list(synthetic.values()), real, names)

    # Pack
    cases = _case_rows(sets, files, synthetic, results, args.cases)
    shown = [case for case in cases if case.shown]
    packed, viewer = _pack(sets, files, synthetic, shown, workers)
    worst, best = _cards(shown, {row.case_id: packed[f"synthetic {row.case_id}"][1] for row in shown})

    # Write
    scans = [scan for scan, _ in packed.values()]
    common = common_fields(sets.records)
    curves, curves_note = find_curves(common, [sets.synthetic.name] + ([sets.real.name] if sets.real else []))
    page = render(
        Report(
            name=sets.synthetic.name, real_name=sets.real.name if sets.real else None,
            made=_made(sets, common, len(synthetic)) + _channel(sets.synthetic),
            checks=_checks(sets, files, synthetic, real, structures, faults),
            labels={name: sets.synthetic.labels[name] for name in names}, structures=structures,
            synthetic=synthetic, real=real, cases=cases, worst=worst, best=best, viewer=viewer,
            scans=[json.dumps(scan.to_json()) for scan in scans],
            reduction=_reduction(scans, len(shown), len(cases), _unit(sets)),
            windows=windows_for([scan.window for scan in scans], _unit(sets)), results=results, curves=curves,
            curves_note=curves_note, provenance=flat_fields(common) if common else [],
            replay=replay_command(sets.synthetic.name, sets.records),
            remake=remake_command(sets.synthetic.name, sets.records),
            records={case_id: json.dumps(record, indent=1) for case_id, record in sorted(sets.records.items())},
            faults=faults, command=_command(args), unit=_unit(sets),
        )
    )  # fmt: skip
    atomic_write_text(output, page)
    print(f"{output}: {len(page.encode()) / 1e6:.1f} MB, {len(shown)} of {len(cases)} cases to scroll through")


def shown_result(result: Mapping[str, Any]) -> ShownResult:
    """Turn a result of fcas_evaluate into the tables of the page."""
    printed = {FIDELITY: fidelity, MEMORISATION: memorisation}
    return show_result(result, printed.get(result["schema"]))


def _unit(sets: _Sets) -> str:
    return unit_name(sets.synthetic.channel_name)


def _open(synthetic: str, against: str | None, channel: int) -> _Sets:
    dataset = showing(open_dataset(synthetic, by="-d"), channel)
    if not dataset.case_ids:
        raise InputError(f"{dataset.folder}: at least one case must be there, got none. Run fcas_generate.")
    records = Manifest(dataset.folder).read()
    real = open_dataset(against, by="--against").showing(channel) if against else None
    if real is not None and real.folder.resolve() == dataset.folder.resolve():
        raise InputError(f"--against: must be another data set than -d, got {real.name} for both. Name the real one.")
    if real is not None:
        refuse_other_channels(dataset, real)
    source_name = common_fields(records).get("source")
    source = None
    if real is not None and source_name in (None, real.name):
        source = real
    elif source_name:
        try:
            source = open_dataset(str(source_name)).showing(channel)
        except (FileNotFoundError, ValueError):
            source = None  # moved or renamed since: the viewer then shows the synthetic scan alone
    return _Sets(dataset, real, source, records)


def _measure_synthetic(
    sets: _Sets, files: Mapping[str, CaseFiles], workers: int
) -> tuple[dict[str, CaseMeasures], list[str]]:
    """Measure the cases that are whole, and list the faults of files and manifest, a sentence each.

    Raises:
        InputError: if no case is whole.
    """
    measures, faults = _measured(sets.synthetic, files, workers)
    if not measures:
        reasons = "".join(f"\n{fault}" for fault in faults)
        raise InputError(
            f"{sets.synthetic.folder}: at least one case must be whole, got none of {len(files)}. "
            f"Run fcas_generate again.{reasons}"
        )
    if sets.records:
        faults += [f"{name}: a record is in the manifest, but no file." for name in sets.records if name not in files]
        faults += [f"{name}: files are there, but no record in the manifest." for name in files
                   if name not in sets.records]  # fmt: skip
    return measures, faults


def _measured(
    dataset: RawDataset, files: Mapping[str, CaseFiles], workers: int
) -> tuple[dict[str, CaseMeasures], list[str]]:
    description, need = f"measuring {dataset.name}", _need(files.values())
    found = run_cases(measure, files, workers=workers, description=description, need=need)
    measures = {case_id: measures for case_id, (measures, _) in found.items() if measures is not None}
    return measures, [fault for _, faults in found.values() for fault in faults]


def _need(files: Iterable[CaseFiles]) -> MemoryNeed:
    return MemoryNeed.of((case.image for case in files), BYTES_PER_VOXEL)


def _measure_real(sets: _Sets, workers: int) -> list[CaseMeasures] | None:
    """Measure the real cases; None without a real set.

    Raises:
        InputError: with every case that cannot be measured.
    """
    if sets.real is None:
        return None
    measures, faults = _measured(sets.real, real_files(sets.real, sets.synthetic.labels), workers)
    if faults or not measures:
        raise InputError("\n".join(faults) or f"{sets.real.folder}: at least one case must be there, got none.")
    return list(measures.values())


def _checks(
    sets: _Sets, files: Mapping[str, CaseFiles], synthetic: Mapping[str, CaseMeasures],
    real: Sequence[CaseMeasures] | None, structures: Sequence[StructureSummary], faults: Sequence[str],
) -> list[Check]:  # fmt: skip
    without_map = [case_id for case_id in synthetic if files[case_id].confidence is None]
    real_name, num_real = (sets.real.name, len(real)) if sets.real is not None and real is not None else (None, None)
    inside = confidence_spread([case.inside for case in synthetic.values() if case.inside is not None])
    return all_checks(
        len(synthetic), sets.records, inside, without_map, structures, real_name, num_real, faults, _unit(sets)
    )


def _case_rows(
    sets: _Sets, files: Mapping[str, CaseFiles], synthetic: Mapping[str, CaseMeasures],
    results: Sequence[ShownResult], most: int,
) -> list[CaseRow]:  # fmt: skip
    """Every case that was measured, those to be shown marked."""
    scores: dict[str, dict[str, float]] = {case_id: {} for case_id in synthetic}
    for result in results:
        for name, values in result.scores.items():
            for case_id in values.keys() & synthetic.keys():
                scores[case_id][name] = values[case_id]
    chosen = _chosen(synthetic, {case_id: found["SSIM"] for case_id, found in scores.items() if "SSIM" in found}, most)
    rows = []
    for case_id, measures in synthetic.items():
        record = sets.records.get(case_id, {})
        masks, reference, template = (str(record.get(key, "–")) for key in ("masks", "reference", "template"))
        redrawn, trust = len(record.get("mgm", {}).get("rejections", [])), measures.mean_confidence
        rows.append(CaseRow(case_id, masks, reference, template, redrawn, trust, scores[case_id], case_id in chosen))
    return rows


def _chosen(synthetic: Mapping[str, CaseMeasures], ssim: Mapping[str, float], most: int) -> set[str]:
    """At most so many cases: both ends by SSIM where there is one, both ends by confidence, the others evenly."""
    by_ssim = sorted(ssim, key=lambda case_id: (ssim[case_id], case_id))
    chosen = set(by_ssim[:1] + by_ssim[-1:]) if most >= 4 else set()
    order = sorted(
        synthetic.keys() - chosen, key=lambda case_id: (_or_low(synthetic[case_id].mean_confidence), case_id)
    )
    count = min(most - len(chosen), len(order))
    return chosen | {order[round(i * (len(order) - 1) / max(1, count - 1))] for i in range(count)}


def _pack(
    sets: _Sets, files: Mapping[str, CaseFiles], synthetic: Mapping[str, CaseMeasures], shown: Sequence[CaseRow],
    workers: int,
) -> tuple[dict[str, tuple[PackedScan, Pictures | None]], list[ViewerCase]]:  # fmt: skip
    """Pack the shown cases and the real scans they came from, each once, within one budget."""
    beside = real_files(sets.source, sets.synthetic.labels) if sets.source is not None else {}
    beside = {name: case for name, case in beside.items() if case.image.is_file() and case.mask.is_file()}
    wanted = {row.case_id: {role: other for role, other in (("reference", row.reference), ("template", row.template))
                            if other in beside} for row in shown}  # fmt: skip
    real_ids = sorted({other for roles in wanted.values() for other in roles.values()})
    budget = int(SCANS_BUDGET / (len(shown) + REAL_SHARE * len(real_ids)))
    ids = sets.synthetic.labels
    colours = {ids[name]: colour for name, colour in label_colours(ids).items()}
    thin = thin_label_ids(ids, sets.synthetic.roles)
    jobs = {f"synthetic {row.case_id}": PackJob(files[row.case_id], budget, colours, thin) for row in shown}
    jobs |= {f"real {case_id}": PackJob(beside[case_id], int(REAL_SHARE * budget), {}, thin) for case_id in real_ids}
    need = _need(job.files for job in jobs.values())
    packed = run_cases(pack, jobs, workers=workers, description="packing scans", need=need)
    place = {key: number for number, key in enumerate(packed)}
    viewer = [
        ViewerCase(
            row.case_id,
            place[f"synthetic {row.case_id}"],
            {
                role: Companion(other, place[f"real {other}"], on_one_grid(files[row.case_id].mask, beside[other].mask))
                for role, other in wanted[row.case_id].items()
            },
            synthetic[row.case_id].volumes_ml,
        )
        for row in shown
    ]
    return packed, viewer


def _cards(shown: Sequence[CaseRow], pictures: Mapping[str, Pictures | None]) -> list[list[Card]]:
    """Both ends of the shown cases: by confidence, and one of each by SSIM where results give it; none twice."""
    by_confidence = sorted(shown, key=lambda row: (_or_low(row.confidence), row.case_id))
    by_ssim = sorted((row for row in shown if "SSIM" in row.scores), key=lambda row: (row.scores["SSIM"], row.case_id))
    taken: set[str] = set()
    sides = []
    for step in (1, -1):
        order = [*by_ssim[::step][:1], *by_confidence[::step]]
        unique = {row.case_id: row for row in order if row.case_id not in taken}
        rows = list(unique.values())[: min(CARDS, -(-len(shown) // 2))]
        taken |= {row.case_id for row in rows}
        sides.append([_card(row, pictures[row.case_id]) for row in rows])
    return sides


def _card(row: CaseRow, pictures: Pictures | None) -> Card:
    assert pictures is not None, "synthetic cases are drawn"
    words = [f"SSIM {row.scores['SSIM']:.3f}"] if "SSIM" in row.scores else []
    words.append(f"confidence {row.confidence:.2f}" if row.confidence == row.confidence else "no confidence map")
    return Card(row.case_id, ", ".join(words), pictures)


def _made(sets: _Sets, common: Mapping[str, Any], num_cases: int) -> str:
    """Say in a sentence how the set was made."""
    if not sets.records:
        return f"{num_cases} cases; no manifest says how they were made."
    words = [f"{num_cases} synthetic cases"]
    scans = sorted({ScanSource.of(record) for record in sets.records.values()})
    words += [f"{' and '.join(scans)} from {common['source']}"] if "source" in common else []
    words += [f"by the {common['preset']} generator"] if "preset" in common and ScanSource.DRAWN in scans else []
    words = [" ".join(words)]
    sampling = common.get("sampling", {})
    if sampling.get("num_inference_steps"):
        strength = f" at strength {sampling['strength']:g}" if sampling.get("strength", 1) != 1 else ""
        solver = sampling.get("solver") or "its default solver"
        words.append(f"{sampling['num_inference_steps']} steps of {solver}{strength}")
    seed = run_seed(sets.records)
    words += [f"seed {seed}"] if seed is not None else []
    version = common.get("versions", {}).get("fcas-nnunet")
    words += [f"fcas-nnunet {version}"] if version else []
    return ", ".join(words) + "."


def _channel(shown: RawDataset) -> str:
    """Say in a sentence which channel the page is about, where there are several."""
    if shown.num_channels == 1:
        return ""
    return f" Channel {shown.shown} ({shown.channel_name}) of {shown.num_channels} is measured and shown."


def _reduction(scans: Sequence[PackedScan], num_shown: int, num_cases: int, unit: str) -> str:
    """Say how the pictures were reduced."""
    sides = [max(scan.shape) for scan in scans if scan.shape != scan.frame.sizes]
    lossy = sum(scan.quality > 0 for scan in scans)
    greys = grey_scale(unit)
    low, high = (f"{knot:g}".replace("-", "−") for knot in greys.knots[1:3])
    step = round((greys.knots[2] - greys.knots[1]) / (greys.values[2] - greys.values[1]))
    text = (
        f"{num_shown} of {num_cases} cases can be opened. Scans are cropped to the heart with a margin of 12 mm and "
        f"hold 256 grey values, {step} {unit} apart between {low} and {high} {unit} and coarser outside."
    )
    if sides:
        longest = f"{min(sides)} to {max(sides)}" if min(sides) < max(sides) else str(max(sides))
        text += (
            f" {len(sides)} of {len(scans)} scans were averaged down, the longest side to {longest} voxels; masks keep "
            "the label in the middle of each voxel, and coronary arteries where they fill a quarter of one."
        )
    text += f" {lossy} of {len(scans)} are stored with loss." if lossy else " They are stored without loss."
    return text + " All numbers on this page come from the files themselves."


def _command(args: argparse.Namespace) -> str:
    words = ["fcas_report", "-d", args.d]
    words += ["--against", args.against] if args.against else []
    words += ["--channel", str(args.channel)] if args.channel else []
    words += ["-o", str(args.o)] if args.o else []
    words += ["--results", *map(str, args.results)] if args.results else []
    return shlex.join(words)


def _or_low(value: float) -> float:
    """A missing confidence sorts first."""
    return value if value == value else -1.0
