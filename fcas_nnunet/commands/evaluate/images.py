"""Synthetic scans against the real ones: SSIM, RMSE and LPIPS per pair under the same mask; intensities, FID and KID of
the sets."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcas_nnunet.commands.runtime.case_files import case_files, grid_faults, run_cases
from fcas_nnunet.commands.runtime.memory import MemoryNeed
from fcas_nnunet.evaluation.images import set_table as image_set_table
from fcas_nnunet.evaluation.images.intensities import IntensityComparison, compare_intensities, structure_histograms
from fcas_nnunet.evaluation.images.quality import (
    SSIM_SIGMA_VOXELS,
    SSIM_WINDOW_VOXELS,
    ImageScores,
    IntensityRange,
    foreground_histogram,
    foreground_range,
    score_pair,
)
from fcas_nnunet.evaluation.images.set_table import NETWORK, NOT_COMPUTED, PERCEPTUAL
from fcas_nnunet.evaluation.results import IMAGE_QUALITY, header
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.integration.dataset.library import name_in
from fcas_nnunet.integration.dataset.manifest import Manifest, versions
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, bare_folder, is_dataset, open_dataset
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.labels.matching import compare_labels, id_table

if TYPE_CHECKING:
    from fcas_nnunet.commands.evaluate.image_sets import Networks

OTHER_MASK = "its mask is not its reference's: nothing to compare it with"
#: Bytes a voxel: measured for SSIM (1.2 GB at 256³); a scan as it is read and its mask, twice over while converted.
SSIM_BYTES, READING_BYTES = 75.0, 24.0
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
    """The masks of a pair, and which synthetic id each real id becomes."""

    real: Path
    synthetic: Path
    mapping: Mapping[int, int]

    def are_equal(self) -> bool:
        real, synthetic = read_volume(self.real).array, read_volume(self.synthetic).array
        return bool(np.array_equal(id_table(self.mapping)[real.astype(np.uint8)], synthetic))


@dataclass(frozen=True)
class _Pair:
    reference: str
    real: Path
    synthetic: Path
    masks: _Masks | None


@dataclass(frozen=True)
class _Pairs:
    """What can be compared scan by scan.

    Attributes:
        pairs: synthetic case id → its pair; grids agree, masks are still to be compared.
        left_out: synthetic case id → why it has no pair.
    """

    pairs: dict[str, _Pair]
    left_out: dict[str, str]


def run(args: argparse.Namespace, workers: int) -> dict[str, Any]:
    """What `fcas_evaluate images` does before it prints."""
    from fcas_nnunet.commands.evaluate import image_sets  # not at the top: worker processes need no networks

    real, synthetic = open_scans(args.r, "-r"), open_scans(args.s, "-s")
    intensity_range = IntensityRange(args.range[0], args.range[1], "stated") if args.range else None
    networks = image_sets.open_networks(args, len(real.files) + len(synthetic.files))
    found = find_pairs(real, synthetic)
    if found.pairs and intensity_range is None:
        intensity_range = real_intensity_range(args.r, workers=workers)
    report = evaluate_images(real, synthetic, found, intensity_range, networks, workers=workers)
    if args.tsne:
        image_sets.draw_map(args.tsne, report[NETWORK], {"real": real.name, "synthetic": synthetic.name})
    return report


def open_scans(argument: str, by: str) -> Scans:
    """The scans that a flag names: a data set's id, name or folder, or a bare folder of scans."""
    folder = bare_folder(argument)
    if folder is not None:
        return Scans(str(folder), case_files(folder))
    dataset = open_dataset(argument, by=by, ignore_label=True)
    return Scans(dataset.name, {case_id: dataset.image_path(case_id) for case_id in dataset.case_ids}, dataset)


def real_intensity_range(argument: str, *, workers: int) -> IntensityRange:
    """The range of the real data set's labelled voxels; for a folder inside a data set, of that one's training cases.

    Raises:
        ValueError: if there is no data set to take it from.
    """
    folder = bare_folder(argument)
    if folder is None:
        dataset = open_dataset(argument)
    elif is_dataset(folder.absolute().parent):
        dataset = RawDataset.open(folder.absolute().parent)
    else:
        raise ValueError(
            f"{folder}: the intensity range must come from a data set's labels, got a folder without. "
            "State it: --range LOW HIGH (in HU)."
        )
    paths = {case_id: (dataset.image_path(case_id), dataset.mask_path(case_id)) for case_id in dataset.case_ids}
    need = MemoryNeed.of((image for image, _ in paths.values()), READING_BYTES)
    histograms = run_cases(_histogram, paths, workers=workers, description="intensity range", need=need)
    return foreground_range(histograms.values(), dataset.name)


def find_pairs(real: Scans, synthetic: Scans) -> _Pairs:
    """Scans that may lie under the same mask: by the manifest's `reference` where there is a manifest, else equal ids.

    Raises:
        ValueError: if scans without masks do not lie on one grid; every fault listed.
    """
    records = Manifest(synthetic.dataset.folder).read() if synthetic.dataset else {}
    pairs: dict[str, _Pair] = {}
    left_out: dict[str, str] = {}
    faults: list[str] = []
    for case_id, path in synthetic.files.items():
        reference = name_in(str(records.get(case_id, {}).get("reference", case_id)), real.name)
        if reference not in real.files:
            left_out[case_id] = f"no partner in {real.name}"
            continue
        masks = _masks(real, synthetic, reference, case_id)
        grid = grid_faults(real.files[reference], path)
        if grid and masks is not None:
            left_out[case_id] = OTHER_MASK
        elif grid:
            faults += [f"{case_id}: {fault}" for fault in grid]
        else:
            pairs[case_id] = _Pair(reference, real.files[reference], path, masks)
    if faults:
        raise ValueError("\n".join(faults))
    return _Pairs(pairs, left_out)


def evaluate_images(
    real: Scans,
    synthetic: Scans,
    found: _Pairs,
    intensity_range: IntensityRange | None,
    networks: Networks,
    *,
    workers: int,
) -> dict[str, Any]:
    """Score every pair of scans under the same mask, and the two sets as such.

    Where both are data sets, a pair counts only if the masks are equal voxel by voxel (after matching labels); a mask
    deformed by MGM has no real scan to be held against. Those are left out and named.

    Args:
        real: Real scans.
        synthetic: Synthetic scans.
        found: Result of `find_pairs`.
        intensity_range: HU range that the scans of a pair are normalised by; None where there is no pair.
        networks: Networks for LPIPS, FID and KID.
        workers: Number of processes.

    Returns:
        The report as docs/evaluation.md describes it, JSON-able but for NaN.

    Raises:
        ValueError: if not one measure can be computed, or scans are not comparable; every fault listed.
    """
    scores = _score_pairs(found.pairs, intensity_range, workers)
    cases = {case_id: score for case_id, score in scores.items() if score is not None}
    left_out = found.left_out | {case_id: OTHER_MASK for case_id, score in scores.items() if score is None}
    structures = _structures(real, synthetic, workers)
    summary = {name: vars(summarise([getattr(score, name) for score in cases.values()])) for name in MEASURES}
    if not cases:
        why = _why_no_pairs(real, left_out)
        if not structures and isinstance(networks.slices, str) and isinstance(networks.bottleneck, str):
            raise ValueError(
                f"{synthetic.name}: {why}. Name the real data set that the masks came from, generate with --masks "
                "given, or measure the sets without pairs: --network MODEL_FOLDER, --fid_weights FILE."
            )
        summary = {name: entry | {NOT_COMPUTED: why} for name, entry in summary.items()}
    paths = {case_id: (found.pairs[case_id].real, found.pairs[case_id].synthetic) for case_id in cases}
    return {
        **header(IMAGE_QUALITY),
        "real": real.name,
        "synthetic": synthetic.name,
        "settings": {
            "intensity_range": vars(intensity_range) if cases and intensity_range else None,
            "ssim": {"window": "gaussian", "sigma_voxels": SSIM_SIGMA_VOXELS, "window_voxels": SSIM_WINDOW_VOXELS},
        },
        "summary": summary,
        "cases": {i: {"reference": found.pairs[i].reference, **vars(score)} for i, score in cases.items()},
        **networks.measure(paths, intensity_range, real.files, synthetic.files),
        "structures": {name: asdict(comparison) for name, comparison in structures.items()},
        "left_out": dict(sorted(left_out.items())),
        "versions": versions(),
    }


def _why_no_pairs(real: Scans, left_out: Mapping[str, str]) -> str:
    others = sum(reason == OTHER_MASK for reason in left_out.values())
    if others:
        return f"masks must be those of {real.name}, got {others} others"
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
    sets = []
    for dataset, mapping in ((real.dataset, becomes), (synthetic.dataset, {i: i for i in labels.values()})):
        paths = {
            case_id: (dataset.image_path(case_id), dataset.mask_path(case_id), mapping, labels)
            for case_id in dataset.case_ids
        }
        need = MemoryNeed.of((image for image, *_ in paths.values()), READING_BYTES)
        found = run_cases(
            _structure_histograms, paths, workers=workers, description=f"intensities of {dataset.name}", need=need
        )
        sets.append(list(found.values()))
    return compare_intensities(*sets)


def _structure_histograms(job: tuple[Path, Path, Mapping[int, int], Mapping[str, int]]) -> dict[str, np.ndarray]:
    image_path, mask_path, mapping, labels = job
    mask = id_table(mapping)[read_volume(mask_path).array.astype(np.uint8)]
    return structure_histograms(read_volume(image_path).array, mask, labels)


def _masks(real: Scans, synthetic: Scans, reference: str, case_id: str) -> _Masks | None:
    """The masks to compare, where both scans belong to data sets."""
    if real.dataset is None or synthetic.dataset is None:
        return None
    theirs, ours = real.dataset.labels, synthetic.dataset.labels
    mapping = compare_labels(theirs, ours).with_incomplete().ids(theirs, ours)  # as --unmatched background writes them
    return _Masks(real.dataset.mask_path(reference), synthetic.dataset.mask_path(case_id), mapping)


def _score_pairs(
    pairs: Mapping[str, _Pair], intensity_range: IntensityRange | None, workers: int
) -> dict[str, ImageScores | None]:
    if not pairs or intensity_range is None:
        return {}
    need = MemoryNeed.of((pair.synthetic for pair in pairs.values()), SSIM_BYTES)
    return run_cases(partial(_score, intensity_range), pairs, workers=workers, description="image pairs", need=need)


def _score(intensity_range: IntensityRange, pair: _Pair) -> ImageScores | None:
    """A pair's scores; None where the masks differ."""
    if pair.masks is not None and not pair.masks.are_equal():
        return None
    return score_pair(read_volume(pair.real).array, read_volume(pair.synthetic).array, intensity_range)


def _histogram(paths: tuple[Path, Path]) -> np.ndarray:
    image, mask = (read_volume(path).array for path in paths)
    if image.shape != mask.shape:
        raise ValueError(f"mask: shape must be the scan's {image.shape}, got {mask.shape}. Run fcas_doctor -d on it.")
    return foreground_histogram(image, mask)


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a report's printed table."""
    summary = report["summary"]
    rows = [
        [title, *(f"{summary[name][key]:.{digits}f}" for key in ("mean", "std")), str(summary[name]["count"])]
        for name, title, digits in (("ssim", "SSIM", 4), ("rmse", "RMSE", 4), ("rmse_hu", "RMSE (HU)", 1))
        if summary[name]["count"]
    ]
    rows += image_set_table.table_rows(report)
    rows += [
        [f"{name}: HU real → synthetic", f"{e['real']['mean_hu']:.0f} → {e['synthetic']['mean_hu']:.0f}",
         f"moved by {e['wasserstein_hu']:.0f}", f"{e['real']['count']}, {e['synthetic']['count']}"]
        for name, e in report["structures"].items()
    ]  # fmt: skip
    return ["measure", "mean", "std", "pairs"], rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    lines = []
    used = report["settings"]["intensity_range"]
    if used:
        lines.append(f"RMSE and SSIM on [{used['low_hu']:g}, {used['high_hu']:g}] HU → [0, 1] ({used['source']})")
    else:
        lines.append(f"SSIM, RMSE: not computed: {report['summary']['ssim'][NOT_COMPUTED]}")
    if report["left_out"]:
        lines.append(f"{len(report['left_out'])} synthetic cases left out: no real scan under the same mask")
    return lines + image_set_table.notes(report)


#: Columns of --csv, as a regular expression.
CSV_COLUMNS = f"case_id,reference,{','.join(MEASURES)}(,lpips)?"


def csv_rows(report: Mapping[str, Any]) -> tuple[list[str], Sequence[list[Any]]]:
    """Header and rows for --csv, a row per pair; LPIPS where it was computed."""
    perceptual = report[PERCEPTUAL].get("cases")
    rows = [
        [case_id, case["reference"], *(case[name] for name in MEASURES)]
        + ([perceptual[case_id]["lpips"]] if perceptual else [])
        for case_id, case in report["cases"].items()
    ]
    return ["case_id", "reference", *MEASURES, *(["lpips"] if perceptual else [])], rows
