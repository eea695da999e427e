"""Synthetic scans against the real ones: SSIM, RMSE and LPIPS per pair under the same mask; intensities, FID and KID of
the sets."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fcas_nnunet.commands.evaluate.scans import Scans, open_scans
from fcas_nnunet.commands.runtime.case_files import grid_faults, run_cases
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.evaluation.images import quality
from fcas_nnunet.evaluation.images import set_table as image_set_table
from fcas_nnunet.evaluation.images.intensities import IntensityComparison, compare_intensities, structure_histograms
from fcas_nnunet.evaluation.images.set_table import NETWORK, NOT_COMPUTED, PERCEPTUAL
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.faults import InputError
from fcas_nnunet.integration.dataset.library import name_in
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, bare_folder, is_dataset, open_dataset
from fcas_nnunet.integration.dataset.volumes import read_label_map, read_labelled_scan, read_scan
from fcas_nnunet.intensities import is_ct, unit_name
from fcas_nnunet.labels.matching import compare_labels, id_table
from fcas_nnunet.listing import listed

Result = TypeVar("Result")

OTHER_MASK = "its mask is not its reference's: nothing to compare it with"
#: Bytes a voxel: measured for SSIM (1.2 GB at 256³); a scan as it is read and its mask, twice over while converted.
SSIM_BYTES, READING_BYTES = 75.0, 24.0
SSIM_SETTINGS = {
    "window": "gaussian",
    "sigma_voxels": quality.SSIM_SIGMA_VOXELS,
    "window_voxels": quality.SSIM_WINDOW_VOXELS,
}
MEASURES = ("ssim", "rmse", "rmse_units")


@dataclass(frozen=True)
class _Pair:
    """Two scans on one grid, and their masks where both belong to data sets; `becomes` makes ids of the first's those
    of the second's."""

    reference: str
    real: Path
    synthetic: Path
    masks: tuple[Path, Path] | None
    becomes: Mapping[int, int]


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Score every pair of scans under the same mask, and the two sets as such.

    Where both are data sets, a pair counts only if the masks are equal voxel by voxel (after matching labels); a mask
    deformed by MGM has no real scan to be compared with. Those are left out and named.

    Raises:
        MissingFileError: if a data set, a folder or weights are missing.
        InputError: if not one measure can be computed, or scans are not comparable; every fault listed.
    """
    from fcas_nnunet.commands.evaluate import image_sets  # not at the top: worker processes need no networks

    real, synthetic = open_scans(args.r, "-r", args.channel), open_scans(args.s, "-s", args.channel)
    _refuse_another_modality(real, synthetic)
    intensity_range = quality.IntensityRange(*args.range) if args.range else None
    networks = image_sets.open_networks(args, len(real.files) + len(synthetic.files), real.channel_names)
    pairs, left_out = _find_pairs(real, synthetic)
    scores: dict[str, quality.ImageScores | None] = {}
    if pairs:
        intensity_range = intensity_range or real_intensity_range(args.r, workers, args.channel)
        need = MemoryNeed.of((pair.synthetic for pair in pairs.values()), SSIM_BYTES)
        scores = run_cases(
            partial(_score, intensity_range, real.channel_name),
            pairs,
            workers=workers,
            description="image pairs",
            need=need,
        )
    cases = {case_id: score for case_id, score in scores.items() if score is not None}
    left_out |= {case_id: OTHER_MASK for case_id, score in scores.items() if score is None}
    structures = _structures(real, synthetic, workers)
    summary = {name: vars(summarise([getattr(score, name) for score in cases.values()])) for name in MEASURES}
    if not cases:
        why = _why_no_pairs(real, left_out)
        if not structures and isinstance(networks.slices, str) and isinstance(networks.bottleneck, str):
            raise InputError(
                f"{synthetic.name}: {why}. Name the data set that the masks came from by -r, generate with --masks "
                "given (by default fcas_generate deforms masks), or measure the sets without pairs: --network "
                "MODEL_FOLDER, --fid_weights FILE."
            )
        summary = {name: entry | {NOT_COMPUTED: why} for name, entry in summary.items()}
    paths = {case_id: (pairs[case_id].real, pairs[case_id].synthetic) for case_id in cases}
    measured = networks.measure(paths, intensity_range, real, synthetic)
    if args.tsne:
        image_sets.draw_map(args.tsne, measured[NETWORK], {"real": real.name, "synthetic": synthetic.name})
    return {
        "real": real.name,
        "synthetic": synthetic.name,
        "settings": {
            "unit": unit_name(real.channel_name),
            **({"channel": real.channel_name} if len(real.channel_names) > 1 else {}),
            "intensity_range": vars(intensity_range) if cases and intensity_range else None,
            "ssim": SSIM_SETTINGS,
        },
        "summary": summary,
        "cases": {case_id: {"reference": pairs[case_id].reference, **vars(score)} for case_id, score in cases.items()},
        **measured,
        "structures": {name: asdict(comparison) for name, comparison in structures.items()},
        "left_out": dict(sorted(left_out.items())),
    }


def _refuse_another_modality(real: Scans, synthetic: Scans) -> None:
    ours, theirs = synthetic.channel_names, real.channel_names
    if is_ct(real.channel_name) != is_ct(synthetic.channel_name) or len(ours) != len(theirs):
        raise InputError(
            f"{synthetic.name}: channel_names must be {', '.join(theirs)} as in {real.name}, got {', '.join(ours)}. "
            "Compare scans of one modality."
        )


def real_intensity_range(argument: str, workers: int, channel: int = 0) -> quality.IntensityRange:
    """The range of the real data set's labelled voxels; for a folder inside a data set, of that one's training cases.

    Raises:
        InputError: if there is no data set to take it from.
    """
    folder = bare_folder(argument)
    if folder is None:
        dataset = open_dataset(argument)
    elif is_dataset(folder.absolute().parent):
        dataset = RawDataset.open(folder.absolute().parent)
    else:
        raise InputError(
            f"{folder}: the intensity range must come from a data set's labels, got a folder without. "
            "State it: --range LOW HIGH, in standard units."
        )
    dataset = dataset.showing(channel)
    counting = partial(_foreground_histogram, dataset.channel_name, dataset.ignore_id)
    histograms = _of_cases(counting, dataset, "intensity range", workers)
    return quality.foreground_range(histograms, dataset.name)


def _of_cases(
    work: Callable[[tuple[Path, Path]], Result], dataset: RawDataset, description: str, workers: int
) -> list[Result]:
    """Apply `work` to each case's scan and mask."""
    paths = {case_id: (dataset.image_path(case_id), dataset.mask_path(case_id)) for case_id in dataset.case_ids}
    need = MemoryNeed.of((image for image, _ in paths.values()), READING_BYTES)
    return list(run_cases(work, paths, workers=workers, description=description, need=need).values())


def _find_pairs(real: Scans, synthetic: Scans) -> tuple[dict[str, _Pair], dict[str, str]]:
    """Synthetic case id → its pair, by the manifest's `reference` or else by equal ids; and why others have none."""
    records = Manifest(synthetic.dataset.folder).read() if synthetic.dataset else {}
    becomes = {}
    if real.dataset and synthetic.dataset:
        theirs, ours = real.dataset.labels, synthetic.dataset.labels
        becomes = compare_labels(theirs, ours).with_incomplete().ids(theirs, ours)  # as --unmatched background does
        if real.dataset.ignore_id is not None:
            becomes[real.dataset.ignore_id] = synthetic.dataset.ignore_id or 0
    pairs: dict[str, _Pair] = {}
    left_out: dict[str, str] = {}
    faults: list[str] = []
    for case_id, path in synthetic.files.items():
        reference = name_in(str(records.get(case_id, {}).get("reference", case_id)), real.name)
        if reference not in real.files:
            left_out[case_id] = f"no partner in {real.name}"
            continue
        masks = None
        if real.dataset and synthetic.dataset:
            masks = real.dataset.mask_path(reference), synthetic.dataset.mask_path(case_id)
        grid = grid_faults(real.files[reference], path)
        if not grid:
            pairs[case_id] = _Pair(reference, real.files[reference], path, masks, becomes)
        elif masks:
            left_out[case_id] = OTHER_MASK
        else:
            faults += [f"{case_id}: {fault}" for fault in grid]
    if faults:
        raise InputError("\n".join(faults))
    return pairs, left_out


def _why_no_pairs(real: Scans, left_out: Mapping[str, str]) -> str:
    others = sorted(case_id for case_id, reason in left_out.items() if reason == OTHER_MASK)
    if others:
        return (
            f"at least one mask must equal that of its reference in {real.name}, voxel by voxel, got none: the masks "
            f"of {listed(others)} are deformed or labelled otherwise"
        )
    return f"cases must have a partner in {real.name} (the manifest's reference, or the same id), got none"


def _structures(real: Scans, synthetic: Scans, workers: int) -> dict[str, IntensityComparison]:
    """Intensities per structure over all cases of both data sets, paired or not; nothing for bare folders."""
    if real.dataset is None or synthetic.dataset is None:
        return {}
    match = compare_labels(real.dataset.labels, synthetic.dataset.labels)
    becomes = match.ids(real.dataset.labels, synthetic.dataset.labels)
    parts = Counter(match.names.values())  # the name is the real data set's, but for parts that the other has as one
    labels = {
        target if parts[target] > 1 else name: synthetic.dataset.labels[target] for name, target in match.names.items()
    }
    sets = [
        _of_cases(
            partial(_structure_histograms, ids, labels, dataset.channel_name),
            dataset,
            f"intensities of {dataset.name}",
            workers,
        )
        for dataset, ids in ((real.dataset, becomes), (synthetic.dataset, {i: i for i in labels.values()}))
    ]
    return compare_intensities(*sets)


def _structure_histograms(
    becomes: Mapping[int, int], labels: Mapping[str, int], channel_name: str, paths: tuple[Path, Path]
) -> dict[str, np.ndarray]:
    image, mask = read_labelled_scan(*paths, channel_name)
    return structure_histograms(image.array, id_table(becomes)[mask], labels)


def _foreground_histogram(channel_name: str, ignore_id: int | None, paths: tuple[Path, Path]) -> np.ndarray:
    image, mask = read_labelled_scan(*paths, channel_name)
    return quality.foreground_histogram(image.array, mask * (mask != ignore_id))


def _score(intensity_range: quality.IntensityRange, channel_name: str, pair: _Pair) -> quality.ImageScores | None:
    """A pair's scores; None where the masks differ."""
    if pair.masks:
        theirs, ours = (read_label_map(path).array for path in pair.masks)
        if not np.array_equal(id_table(pair.becomes)[theirs], ours):
            return None
    real, synthetic = (read_scan(path, channel_name).array for path in (pair.real, pair.synthetic))
    return quality.score_pair(real, synthetic, intensity_range)


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed table: a row per measure."""
    summary, unit = report["summary"], report["settings"]["unit"]
    rows = [
        [title, *(f"{summary[name][key]:.{digits}f}" for key in ("mean", "std")), str(summary[name]["count"])]
        for name, title, digits in (("ssim", "SSIM", 4), ("rmse", "RMSE", 4), ("rmse_units", f"RMSE ({unit})", 1))
        if summary[name]["count"]
    ]
    rows += image_set_table.table_rows(report)
    rows += [
        [f"{name}: {unit} real → synthetic", f"{e['real']['mean']:.0f} → {e['synthetic']['mean']:.0f}",
         f"moved by {e['wasserstein']:.0f}", f"{e['real']['count']}, {e['synthetic']['count']}"]
        for name, e in report["structures"].items()
    ]  # fmt: skip
    return ["measure", "mean", "std", "pairs"], rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """Lines below the printed table."""
    lines = []
    used, unit = report["settings"]["intensity_range"], report["settings"]["unit"]
    if used:
        lines.append(f"RMSE and SSIM on [{used['low']:g}, {used['high']:g}] {unit} → [0, 1] ({used['source']})")
    else:
        lines.append(f"SSIM, RMSE: not computed: {report['summary']['ssim'][NOT_COMPUTED]}")
    if report["left_out"]:
        lines.append(f"{len(report['left_out'])} synthetic cases left out: no real scan under the same mask")
    return lines + image_set_table.notes(report)


CSV_COLUMNS = r"case_id,reference,ssim,rmse,rmse_(units|hu)(,lpips)?"


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows for --csv: a row per pair."""
    perceptual = report[PERCEPTUAL].get("cases", {})
    rows = [
        [case_id, case["reference"], *(case[name] for name in MEASURES)]
        + ([perceptual[case_id]["lpips"]] if perceptual else [])
        for case_id, case in report["cases"].items()
    ]
    return ["case_id", "reference", *MEASURES, *(["lpips"] if perceptual else [])], rows
