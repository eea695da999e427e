"""Synthetic scans against the real ones: SSIM and RMSE per pair under the same mask, intensities over the sets."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcas_nnunet.anatomy import match_labels
from fcas_nnunet.commands.case_files import case_files, grid_faults, run_cases
from fcas_nnunet.evaluation.image_quality import (
    SSIM_SIGMA_VOXELS,
    SSIM_WINDOW_VOXELS,
    ImageScores,
    IntensityRange,
    foreground_histogram,
    foreground_range,
    score_pair,
)
from fcas_nnunet.evaluation.intensities import IntensityComparison, compare_intensities, structure_histograms
from fcas_nnunet.evaluation.statistics import summarise
from fcas_nnunet.integration.manifest import Manifest, versions
from fcas_nnunet.integration.raw_dataset import RawDataset, resolve_dataset
from fcas_nnunet.integration.volumes import read_volume

SCHEMA = "fcas-nnunet/image-quality"
SCHEMA_VERSION = 1
OTHER_MASK = "its mask is not its reference's: nothing to compare it with"
MEASURES = ("ssim", "rmse", "rmse_hu")


@dataclass(frozen=True)
class Scans:
    """Scans to compare.

    Attributes:
        name: of the data set, or the folder.
        files: case id → scan.
        dataset: the data set they are the training cases of; None for a bare folder.
    """

    name: str
    files: dict[str, Path]
    dataset: RawDataset | None = None


@dataclass(frozen=True)
class _Masks:
    """Where a pair's masks lie, and which synthetic id each real id becomes."""

    real: Path
    synthetic: Path
    mapping: Mapping[int, int]


@dataclass(frozen=True)
class _Job:
    reference: str
    real: Path
    synthetic: Path
    intensity_range: IntensityRange
    masks: _Masks | None


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """What `fcas_evaluate images` does before it prints."""
    real, synthetic = open_scans(args.r), open_scans(args.s)
    if args.range:
        low_hu, high_hu = args.range
        intensity_range = IntensityRange(low_hu, high_hu, "stated")
    else:
        intensity_range = real_intensity_range(args.r, workers=workers)
    return evaluate_images(real, synthetic, intensity_range, workers=workers)


def open_scans(argument: str) -> Scans:
    """The scans that `-r` or `-s` names: a data set's id, name or folder, or a bare folder of scans."""
    folder = Path(argument)
    if folder.is_dir() and not (folder / "dataset.json").is_file():
        return Scans(str(folder), case_files(folder))
    dataset = RawDataset.open(folder if folder.is_dir() else resolve_dataset(argument))
    return Scans(dataset.name, {case_id: dataset.image_path(case_id) for case_id in dataset.case_ids}, dataset)


def real_intensity_range(argument: str, *, workers: int) -> IntensityRange:
    """The range of the real data set's labelled voxels; for a folder inside a data set, of that one's training cases.

    Raises:
        ValueError: if there is no data set to take it from.
    """
    folder = Path(argument)
    if folder.is_dir():
        around = next(
            (place for place in (folder, folder.absolute().parent) if (place / "dataset.json").is_file()), None
        )
        if around is None:
            raise ValueError(
                f"{folder}: the intensity range must come from a data set's labels, got a folder without. "
                "State it: --range LOW HIGH (in HU)."
            )
        dataset = RawDataset.open(around)
    else:
        dataset = RawDataset.open(resolve_dataset(argument))
    paths = {case_id: (dataset.image_path(case_id), dataset.mask_path(case_id)) for case_id in dataset.case_ids}
    histograms = run_cases(_histogram, paths, workers=workers, description="intensity range")
    return foreground_range(histograms.values(), dataset.name)


def pairs(real: Scans, synthetic: Scans) -> dict[str, str]:
    """Synthetic case id → real case id: by the manifest's `reference` where there is a manifest, else by equal ids.

    Raises:
        ValueError: if there is no pair.
    """
    records = Manifest(synthetic.dataset.folder).read() if synthetic.dataset else {}
    named = {case_id: str(records.get(case_id, {}).get("reference", case_id)) for case_id in synthetic.files}
    found = {case_id: reference for case_id, reference in named.items() if reference in real.files}
    if not found:
        raise ValueError(
            f"{synthetic.name}: cases must have a partner in {real.name} (the manifest's reference, or the same id), "
            "got none. Name the real data set that the masks came from."
        )
    return found


def evaluate_images(real: Scans, synthetic: Scans, intensity_range: IntensityRange, *, workers: int) -> dict[str, Any]:
    """Score every pair of scans under the same mask.

    Where both are data sets, a pair counts only if the masks are equal voxel by voxel (after matching labels); a mask
    deformed by MGM has no real scan to be held against. Those are left out and named.

    Args:
        real: the real scans.
        synthetic: the synthetic ones.
        intensity_range: what the scans are normalised by.
        workers: processes.

    Returns:
        The report as docs/evaluation.md describes it, JSON-able but for NaN.

    Raises:
        ValueError: if no pair is left, or scans are not comparable; every fault listed.
    """
    paired = pairs(real, synthetic)
    left_out = {case_id: f"no partner in {real.name}" for case_id in synthetic.files if case_id not in paired}
    faults: list[str] = []
    jobs = {}
    for case_id, reference in paired.items():
        masks = _masks(real, synthetic, reference, case_id)
        grid = grid_faults(real.files[reference], synthetic.files[case_id])
        if grid and masks is not None:
            left_out[case_id] = OTHER_MASK
        elif grid:
            faults += [f"{case_id}: {fault}" for fault in grid]
        else:
            jobs[case_id] = _Job(reference, real.files[reference], synthetic.files[case_id], intensity_range, masks)
    if faults:
        raise ValueError("\n".join(faults))
    scores = run_cases(_score, jobs, workers=workers, description="image pairs")
    left_out |= {case_id: OTHER_MASK for case_id, score in scores.items() if score is None}
    cases = {case_id: score for case_id, score in scores.items() if score is not None}
    if not cases:
        raise ValueError(
            f"{synthetic.name}: masks must be those of {real.name}, got {len(left_out)} others. "
            "Generate with --masks given to compare scans one by one."
        )
    structures = _structures(real, synthetic, workers)
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "real": real.name,
        "synthetic": synthetic.name,
        "settings": {
            "intensity_range": vars(intensity_range),
            "ssim": {"window": "gaussian", "sigma_voxels": SSIM_SIGMA_VOXELS, "window_voxels": SSIM_WINDOW_VOXELS},
        },
        "summary": {name: vars(summarise([getattr(score, name) for score in cases.values()])) for name in MEASURES},
        "cases": {case_id: {"reference": paired[case_id], **vars(score)} for case_id, score in cases.items()},
        "structures": {name: asdict(comparison) for name, comparison in structures.items()},
        "left_out": dict(sorted(left_out.items())),
        "versions": versions(),
    }


def _structures(real: Scans, synthetic: Scans, workers: int) -> dict[str, IntensityComparison]:
    """Intensities per structure over all cases of both data sets, paired or not; nothing for bare folders."""
    if real.dataset is None or synthetic.dataset is None:
        return {}
    mapping = match_labels(real.dataset.labels, synthetic.dataset.labels)
    named = {name: mapping[label] for name, label in real.dataset.labels.items() if mapping[label]}
    sets = []
    for dataset, labels in (
        (real.dataset, {name: real.dataset.labels[name] for name in named}),
        (synthetic.dataset, named),
    ):
        paths = {
            case_id: (dataset.image_path(case_id), dataset.mask_path(case_id), labels) for case_id in dataset.case_ids
        }
        found = run_cases(_structure_histograms, paths, workers=workers, description=f"intensities of {dataset.name}")
        sets.append(list(found.values()))
    return compare_intensities(*sets)


def _structure_histograms(job: tuple[Path, Path, Mapping[str, int]]) -> dict[str, np.ndarray]:
    image_path, mask_path, labels = job
    return structure_histograms(read_volume(image_path).array, read_volume(mask_path).array, labels)


def _masks(real: Scans, synthetic: Scans, reference: str, case_id: str) -> _Masks | None:
    """The masks to compare, where both scans belong to data sets."""
    if real.dataset is None or synthetic.dataset is None:
        return None
    mapping = match_labels(real.dataset.labels, synthetic.dataset.labels)
    return _Masks(real.dataset.mask_path(reference), synthetic.dataset.mask_path(case_id), mapping)


def _score(job: _Job) -> ImageScores | None:
    """A pair's scores; None where the masks differ."""
    if job.masks is not None and not _equal_masks(job.masks):
        return None
    return score_pair(read_volume(job.real).array, read_volume(job.synthetic).array, job.intensity_range)


def _equal_masks(masks: _Masks) -> bool:
    real, synthetic = read_volume(masks.real).array, read_volume(masks.synthetic).array
    if real.shape != synthetic.shape:
        return False
    becomes = np.zeros(256, dtype=np.uint8)
    for source, target in masks.mapping.items():
        becomes[source] = target
    return bool(np.array_equal(becomes[real.astype(np.uint8)], synthetic))


def _histogram(paths: tuple[Path, Path]) -> np.ndarray:
    image, mask = (read_volume(path).array for path in paths)
    if image.shape != mask.shape:
        raise ValueError(f"mask: shape must be the scan's {image.shape}, got {mask.shape}. Run fcas_doctor -d on it.")
    return foreground_histogram(image, mask)


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a report's printed table."""
    summary = report["summary"]
    rows = [
        [
            title,
            f"{summary[name]['mean']:.{digits}f}",
            f"{summary[name]['std']:.{digits}f}",
            str(summary[name]["count"]),
        ]
        for name, title, digits in (("ssim", "SSIM", 4), ("rmse", "RMSE", 4), ("rmse_hu", "RMSE (HU)", 1))
    ]
    rows += [
        [f"{name}: HU real → synthetic", f"{e['real']['mean_hu']:.0f} → {e['synthetic']['mean_hu']:.0f}",
         f"moved by {e['wasserstein_hu']:.0f}", f"{e['real']['count']}, {e['synthetic']['count']}"]
        for name, e in report["structures"].items()
    ]  # fmt: skip
    return ["measure", "mean", "std", "pairs"], rows


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], Sequence[list[Any]]]:
    """Header and rows for --csv, a row per pair."""
    rows = [
        [case_id, case["reference"], *(case[name] for name in MEASURES)] for case_id, case in report["cases"].items()
    ]
    return ["case_id", "reference", *MEASURES], rows
