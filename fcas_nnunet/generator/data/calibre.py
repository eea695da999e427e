"""Measure the thickness of structures in voxels of the working grid."""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
from scipy.ndimage import maximum_filter

from fcas_nnunet.generator.mgm.topology import class_boxes, union_box


def voxels_across(
    labels: np.ndarray, spacing_mm: Sequence[float], working_spacing_mm: Sequence[float]
) -> dict[int, float]:
    """The usual thickness of every label, in voxels of the working grid.

    It is the median, over the places where a structure is locally deepest, of the distance from border to border there:
    a vessel's diameter, and not the thinnest corner of a chamber. Borders of the volume do not count.

    Args:
        labels: Ids [D, H, W].
        spacing_mm: Voxel size along (D, H, W).
        working_spacing_mm: Voxel size of the working grid along the same axes.

    Returns:
        Label id → voxels across, for the labels that occur.
    """
    boxes = class_boxes(labels)
    if not boxes:
        return {}
    part = np.ascontiguousarray(
        labels[tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in union_box(boxes.values()))]
    )
    step = [native / working for native, working in zip(spacing_mm, working_spacing_mm, strict=True)]
    depth = edt.edt(part, anisotropy=step, black_border=False)
    ridge = (part > 0) & (depth == maximum_filter(depth, 3))
    deepest, owner = depth[ridge], part[ridge]
    return {
        label: 2 * float(np.median(deepest[owner == label])) - min(step) for label in boxes if (owner == label).any()
    }
