"""Measures of synthetic scans that need a network: LPIPS of pairs; FID, KID and a map of two whole sets, without pairs.

Each is the result with its network and weights named, or `{"not_computed": why}`; nothing is downloaded and no network
stands in for another.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fcas_nnunet.commands.evaluate.scans import Scans
from fcas_nnunet.commands.runtime.devices import resolve_device
from fcas_nnunet.commands.runtime.kept_results import kept
from fcas_nnunet.evaluation.images.embedding import LEAST_POINTS, embed
from fcas_nnunet.evaluation.images.fid_2p5d import RECIPE, fid_2p5d, plane_features
from fcas_nnunet.evaluation.images.frechet import feature_faults, frechet_distance, kernel_distance
from fcas_nnunet.evaluation.images.perceptual import (
    LEAST_SIDE,
    MIDDLE_SHARE,
    SLICES_PER_PLANE,
    TRUNK_FILES,
    PerceptualDistance,
    Trunk,
    find_trunk_weights,
    open_perceptual_distance,
)
from fcas_nnunet.evaluation.images.pretrained_weights import hub_checkpoints
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.evaluation.images.set_table import FID, NETWORK, NOT_COMPUTED, PERCEPTUAL
from fcas_nnunet.evaluation.images.slice_extractor import FidExtractor, SliceExtractor, open_slice_extractor
from fcas_nnunet.evaluation.images.variety import feature_variety
from fcas_nnunet.evaluation.statistics.means import summarise
from fcas_nnunet.faults import InputError
from fcas_nnunet.files import PICTURE_METADATA, atomic_path
from fcas_nnunet.integration.dataset.volumes import read_grid, read_scan

Files = Mapping[str, Path]
Channels = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Networks:
    """The networks that a run has, each opened and checked, or why there is none.

    Attributes:
        perceptual: For LPIPS.
        slices: For FID 2.5D.
        size: Voxels along each axis for FID 2.5D.
        bottleneck: A trained nnU-Net (`BottleneckExtractor`).
    """

    perceptual: PerceptualDistance | str
    slices: SliceExtractor | str
    size: int
    bottleneck: Any

    def measure(
        self,
        pairs: Mapping[str, tuple[Path, Path]],
        intensity_range: IntensityRange | None,
        real: Scans,
        synthetic: Scans,
    ) -> dict[str, Any]:
        """The parts of a report that need a network.

        Args:
            pairs: Synthetic case id → real and synthetic scan.
            intensity_range: Range of the scans of a pair; None where there is no pair.
            real: All scans of the set.
            synthetic: All scans of the synthetic set.
        """
        name = real.channel_name
        parts: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
            PERCEPTUAL: (
                self.perceptual,
                lambda network: _measure_pairs(network, pairs, intensity_range, name),
            ),
            FID: (self.slices, lambda network: _measure_fid(network, self.size, real.files, synthetic.files, name)),
            NETWORK: (
                self.bottleneck,
                lambda network: _measure_network_features(network, real.channels, synthetic.channels),
            ),
        }
        return {
            name: {NOT_COMPUTED: network} if isinstance(network, str) else measure(network)
            for name, (network, measure) in parts.items()
        }


def open_networks(args: argparse.Namespace, number_of_cases: int, channel_names: Sequence[str]) -> Networks:
    """Open what the command line names, before the long work.

    Raises:
        MissingFileError: when a file or folder is missing.
        InputError: when it holds another network.
    """
    if args.tsne and number_of_cases < LEAST_POINTS:
        raise InputError(f"--tsne: there must be at least {LEAST_POINTS} cases, got {number_of_cases}. Leave it out.")
    device = resolve_device(args.device)
    slices: SliceExtractor | str = "no extractor: give --fid_weights FILE"
    if args.fid_weights:
        extractor = FidExtractor(args.fid_extractor or FidExtractor.RADIMAGENET)
        slices = open_slice_extractor(extractor, args.fid_weights, device)
    bottleneck: Any = "no network: give --network MODEL_FOLDER of a trained nnU-Net"
    if args.network:
        from fcas_nnunet.integration.models.features import open_extractor  # nnU-Net's imports take seconds

        bottleneck = open_extractor(args.network, args.fold, args.chk, device, channel_names)
    return Networks(_open_perceptual(args, device), slices, args.fid_size, bottleneck)


def _open_perceptual(args: argparse.Namespace, device: Any) -> PerceptualDistance | str:
    trunk = Trunk(args.lpips_net or Trunk.ALEX)
    if args.lpips_weights:
        return open_perceptual_distance(trunk, args.lpips_weights, device)
    found = find_trunk_weights([trunk] if args.lpips_net else tuple(Trunk))
    if found is None:
        where = f"put {TRUNK_FILES[trunk]} into {hub_checkpoints()}"
        return f"no weights of the trunk: give --lpips_weights FILE, or {where}"
    try:
        return open_perceptual_distance(*found, device)
    except InputError as error:
        if args.lpips_net:
            raise
        return str(error)  # nobody asked for what lies there


def _measure_pairs(
    network: PerceptualDistance,
    pairs: Mapping[str, tuple[Path, Path]],
    intensity_range: IntensityRange | None,
    channel_name: str,
) -> dict[str, Any]:
    """LPIPS of every pair; the range becomes [−1, 1]."""
    if not pairs or intensity_range is None:
        return {NOT_COMPUTED: "no pair of scans under the same mask"}
    small = {case_id: shape for case_id, (path, _) in pairs.items() if min(shape := read_grid(path)[0]) < LEAST_SIDE}
    if small:
        case_id, shape = next(iter(small.items()))
        return {NOT_COMPUTED: f"every side must be at least {LEAST_SIDE} voxels, got {shape} ({case_id})"}
    cases = {}
    for case_id, paths in tqdm(pairs.items(), desc="LPIPS", unit="pair", disable=None):

        def score(paths: tuple[Path, Path] = paths) -> dict[str, float]:
            real, synthetic = (read_scan(path, channel_name).array for path in paths)
            return vars(network.score(real, synthetic, intensity_range))

        cases[case_id] = kept(score, "LPIPS", network.name, paths, intensity_range, channel_name)
    return {
        "name": network.name,
        "slices_per_plane": SLICES_PER_PLANE,
        "middle_share": MIDDLE_SHARE,
        "summary": vars(summarise([case["lpips"] for case in cases.values()])),
        "cases": cases,
    }


def _measure_fid(
    network: SliceExtractor, size: int, real: Files, synthetic: Files, channel_name: str
) -> dict[str, Any]:
    def features(scans: Files, what: str) -> Iterator[dict[str, np.ndarray]]:
        for path in tqdm(scans.values(), desc=f"FID 2.5D, {what}", unit="case", disable=None):

            def of_planes(path: Path = path) -> dict[str, np.ndarray]:
                volume = read_scan(path, channel_name)
                return plane_features(volume.array, volume.affine, network, size)

            yield kept(of_planes, "FID 2.5D", network.name, path, channel_name, size)

    result = fid_2p5d(features(real, "real"), features(synthetic, "synthetic"))
    return {
        "name": network.name,
        "recipe": RECIPE,
        "size_voxels": size,
        **vars(result),
        "real_cases": len(real),
        "synthetic_cases": len(synthetic),
    }


def _measure_network_features(network: Any, real: Channels, synthetic: Channels) -> dict[str, Any]:
    """FID and KID over windows, and a map of cases, by a trained nnU-Net."""
    sets = [_features(network, scans, what) for scans, what in ((real, "real"), (synthetic, "synthetic"))]
    windows = [np.concatenate(list(cases.values())) for cases in sets]
    tsne = _map_of_cases(*sets)
    if faults := feature_faults(*windows):
        return {"name": network.name, NOT_COMPUTED: " ".join(faults), "tsne": tsne}
    case_ids = [[case_id for case_id, rows in cases.items() for _ in rows] for cases in sets]
    return {
        "name": network.name,
        "channels": windows[0].shape[1],
        "real_cases": len(real),
        "synthetic_cases": len(synthetic),
        "real_windows": len(windows[0]),
        "synthetic_windows": len(windows[1]),
        "fid": frechet_distance(*windows),
        "kid": vars(kernel_distance(windows[0], windows[1], *case_ids)),
        "variety": vars(feature_variety(*(list(cases.values()) for cases in sets))),
        "tsne": tsne,
    }


def _features(network: Any, scans: Channels, what: str) -> dict[str, np.ndarray]:
    found = {}
    for case_id, paths in tqdm(scans.items(), desc=f"features, {what}", unit="case", disable=None):
        found[case_id] = kept(partial(network.features, paths), "features", network.name, paths)
        if not np.isfinite(found[case_id]).all():
            raise InputError(f"{paths[0]}: features must be finite, got NaN or infinite ones. Check the scan's values.")
    return found


def _map_of_cases(real: Mapping[str, np.ndarray], synthetic: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """t-SNE of the cases' mean features."""
    named = [(name, i, rows) for name, cases in (("real", real), ("synthetic", synthetic)) for i, rows in cases.items()]
    if len(named) < LEAST_POINTS:
        return {NOT_COMPUTED: f"a map must have at least {LEAST_POINTS} cases, got {len(named)}"}
    embedding = embed(np.stack([rows.mean(axis=0) for _, _, rows in named]))
    cases = [
        {"set": name, "case_id": case_id, "x": float(x), "y": float(y)}
        for (name, case_id, _), (x, y) in zip(named, embedding.coordinates, strict=True)
    ]
    return {"perplexity": embedding.perplexity, "seed": embedding.seed, "cases": cases}


def draw_map(path: Path, features: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Draw the t-SNE of a report's `network_features` into a PNG, with the names of the two sets."""
    from matplotlib.figure import Figure

    tsne = features["tsne"]
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot()
    for name, marker in (("real", "o"), ("synthetic", "x")):
        points = np.array([(case["x"], case["y"]) for case in tsne["cases"] if case["set"] == name])
        axes.scatter(*points.T, marker=marker, alpha=0.7, label=f"{name}: {names[name]} ({len(points)})")
    axes.set(xticks=[], yticks=[], title=f"t-SNE, perplexity {tsne['perplexity']:.1f}, seed {tsne['seed']}")
    axes.legend()
    figure.supxlabel(features["name"], fontsize=6)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata=PICTURE_METADATA)
