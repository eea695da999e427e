"""The quality gate: compare a mask's topology and contacts with its source's, and its volumes with patients'.

faults = mask_faults(new_mask, source_mask, spacing_mm, roles=label_roles(labels))     # any two masks
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fcas_nnunet.case import NUM_CODES
from fcas_nnunet.config.masks import MaskConfig
from fcas_nnunet.generator.mgm.topology import ClassTopology, describe_mask, fills_volume
from fcas_nnunet.geometry import Triple
from fcas_nnunet.labels.anatomy import LabelRoles
from fcas_nnunet.listing import listed

Bounds = Mapping[int, tuple[float, float]]

_BOUND_SIGMAS = 3.0
_SHOWN_KINDS = 4
_ROUNDING_VOXELS = 8  # by which sampling alone changes a volume
_PIECES_PER_CHANGE = 20  # of a class that is no vessel: one of so many small ones may merge with another or vanish
_LEAST_LOG_SPREAD = 0.3  # a factor of 2.5 either way: a few patients do not show the whole range


def mask_faults(
    mask: np.ndarray,
    source: np.ndarray,
    spacing_mm: Triple[float],
    *,
    roles: LabelRoles | None = None,
    config: MaskConfig | None = None,
    bounds_ml: Bounds | None = None,
) -> list[str]:
    """List the faults of a mask against the one it was made from, a sentence each.

    Args:
        mask: Label ids, uint8 [D, H, W].
        source: Mask it was made from.
        spacing_mm: Voxel size of both along (D, H, W).
        roles: Vessels, whose tunnels and contact to their roots are compared; None = no vessels.
        config: Bounds; None = the defaults.
        bounds_ml: Bounds of the data set (`volume_bounds_ml`); None = the configuration's range about the source's.
    """
    roles, config = roles or LabelRoles(), config or MaskConfig()
    before, after = (describe_mask(volume, roles.vessels, roles.roots) for volume in (source, mask))
    return topology_faults(before, after, config, spacing_mm, bounds_ml, fills=fills_volume(source))


def topology_faults(
    source: Mapping[int, ClassTopology],
    candidate: Mapping[int, ClassTopology],
    config: MaskConfig,
    spacing_mm: Triple[float],
    bounds_ml: Bounds | None = None,
    *,
    fills: bool = False,
) -> list[str]:
    """As `mask_faults`, for masks that are already described.

    Where labels fill the source's volume (`fills`), any deformation carries some across the border: classes may be cut
    by it, and those that are may have any volume.
    """
    faults = []
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    for label, before in source.items():
        after = candidate.get(label)
        if after is None:
            faults.append(f"class {label} vanished")
            continue
        is_vessel = before.tunnels is not None
        may_change = 0 if is_vessel else before.components // _PIECES_PER_CHANGE
        if abs(after.components - before.components) > may_change:
            faults.append(f"class {label} has {after.components} components, its source {before.components}")
        if before.tunnels is not None and after.tunnels is not None:
            if abs(after.tunnels - before.tunnels) > config.max_tunnel_change:
                faults.append(f"class {label} has {after.tunnels} tunnels, its source {before.tunnels}")
        cut = sorted(after.touched_faces - before.touched_faces)
        if cut and not fills:
            faults.append(f"class {label} is newly cut by the border at {', '.join(cut)}")
        lost = sorted(before.touched_roots - after.touched_roots)
        if lost:
            faults.append(f"class {label} no longer touches class {listed(lost)}")
        at_border = fills and bool(before.touched_faces | after.touched_faces)
        rounding = 0 if is_vessel else _ROUNDING_VOXELS
        if at_border or abs(after.num_voxels - before.num_voxels) <= rounding:
            continue
        ratio = after.num_voxels / before.num_voxels
        low, high = config.volume_ratio_range
        source_ml, volume_ml = before.num_voxels * voxel_ml, after.num_voxels * voxel_ml
        least_ml, most_ml = (bounds_ml or {}).get(label, (0.0, np.inf))
        least_ml, most_ml = min(least_ml, source_ml), max(most_ml, source_ml)  # a source is plausible
        if not low <= ratio <= high:
            faults.append(f"class {label} has {ratio:.2f} of its source's volume, outside [{low}, {high}]")
        elif not least_ml <= volume_ml <= most_ml:
            allowed = f"the data set's masks allow {least_ml:.1f} to {most_ml:.1f} mL"
            faults.append(f"class {label} has {volume_ml:.1f} mL, {allowed}")
    faults += [f"class {label} is not in the source" for label in sorted(candidate.keys() - source.keys())]
    return faults


def counted_faults(faults: Sequence[str]) -> str:
    """Summarise faults of many draws: an example and the number of each kind, the most frequent first.

    Sentences of `topology_faults` that differ only in numbers or borders are of one kind.
    """
    kinds: dict[str, list[str]] = {}
    for fault in faults:
        kind = re.sub(r"(?<!class )\b\d[\d.]*", "", fault.partition(" at ")[0])
        kinds.setdefault(kind, []).append(fault)
    ordered = sorted(kinds.values(), key=len, reverse=True)
    shown = [f"{len(alike)} × {alike[0]}" for alike in ordered[:_SHOWN_KINDS]]
    rest = sum(map(len, ordered[_SHOWN_KINDS:]))
    return "; ".join([*shown, *([f"{rest} × others"] if rest else [])])


def volume_bounds_ml(volumes_ml: Sequence[Mapping[int, float]]) -> dict[int, tuple[float, float]]:
    """Derive each class's smallest and largest plausible volume from the volumes (label id → mL) of a data set's masks.

    Three standard deviations of the logarithm, at least 0.3 each, about its mean; never narrower than the volumes.
    Masks without a class do not count for it.
    """
    bounds = {}
    for label in sorted({label for volumes in volumes_ml for label in volumes}):
        logs = np.log([volumes[label] for volumes in volumes_ml if volumes.get(label, 0) > 0])
        if len(logs):
            reach = _BOUND_SIGMAS * max(_LEAST_LOG_SPREAD, float(logs.std(ddof=1)) if len(logs) > 1 else 0.0)
            low, high = min(logs.min(), logs.mean() - reach), max(logs.max(), logs.mean() + reach)
            bounds[label] = (float(np.exp(low)), float(np.exp(high)))
    return bounds


def label_volumes_ml(mask: np.ndarray, spacing_mm: Triple[float], label_ids: Collection[int]) -> dict[int, float]:
    """Volume of each label in mL."""
    counts = np.bincount(mask.ravel(), minlength=NUM_CODES)
    return {label: float(counts[label]) * float(np.prod(spacing_mm)) / 1000 for label in label_ids}
