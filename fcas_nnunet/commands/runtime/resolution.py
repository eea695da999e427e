"""Check before the long work that the working grid is fine enough for the structures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fcas_nnunet.config.generator import FCaSConfig
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_grid
from fcas_nnunet.orientation import SPL, Orientation

if TYPE_CHECKING:
    from fcas_nnunet.generator.checkpoint import GeneratorRecord

logger = logging.getLogger(__name__)

#: Width in working voxels below which the networks cannot distinguish a structure's interior from its border.
FEW_VOXELS = 3.0
LOOKED_AT = 4  # number of cases that are measured; structures of others are alike


def say_grid(source: RawDataset, config: FCaSConfig, record: GeneratorRecord | None = None) -> None:
    """Log the working grid of a data set's scans, and the thinnest structure if it is under three of its voxels across.

    The working spacing is that of the generator's record if there is one, else the one that `config` will give.
    """
    from fcas_nnunet.generator.data.grid import working_spacing

    grids = turned_grids(source)
    spacing = working_spacing(grids, config.grid) if record is None else record.working_spacing_mm
    shape, own = (np.median([grid[part] for grid in grids], axis=0) for part in (0, 1))
    working = [max(1, round(n * mm / new)) for n, mm, new in zip(shape, own, spacing, strict=True)]
    logger.info(
        f"working grid of preset {config.preset}: {_shown(spacing)} mm, {_shown(working)} voxels for a scan of "
        f"{_shown(shape)} voxels of {_shown(own)} mm (D × H × W)"
    )
    _warn_of_thin_structures(source, spacing)


def _warn_of_thin_structures(source: RawDataset, spacing: tuple[float, ...]) -> None:
    from fcas_nnunet.generator.data.calibre import voxels_across

    found: dict[int, list[float]] = {}
    looked_at = source.case_ids[:: max(1, len(source.case_ids) // LOOKED_AT)][:LOOKED_AT]
    for case_id in looked_at:
        case = source.load_mask(case_id)
        turn = Orientation.of(case.affine, SPL)
        for label, voxels in voxels_across(turn.turn(case.mask), turn.reorder(case.spacing_mm), spacing).items():
            found.setdefault(label, []).append(voxels)
    across = {label: float(np.median(voxels)) for label, voxels in found.items()}
    thinnest = min(across, key=across.__getitem__, default=None)
    if thinnest is None or across[thinnest] >= FEW_VOXELS:
        return
    name = next((name for name, label in source.labels.items() if label == thinnest), f"label {thinnest}")
    logger.warning(
        f"{name}: about {across[thinnest]:.1f} voxels across on the working grid of {_shown(spacing)} mm (median of "
        f"{len(looked_at)} cases); the image of structures under {FEW_VOXELS:g} is coarse, though their masks stay "
        "whole. For a finer grid set grid.spacing_mm, or raise grid.max_voxels, in a --config of your own."
    )


def turned_grids(source: RawDataset) -> Sequence[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return shape and voxel size in mm of every case, along the axes that are turned as the generator turns them."""
    grids = []
    for case_id in source.case_ids:
        shape, affine = read_grid(source.mask_path(case_id))
        turn = Orientation.of(affine, SPL)
        grids.append((turn.reorder(shape), turn.spacing_mm(affine)))
    return grids


def _shown(values: Iterable[float]) -> str:
    return " × ".join(f"{value:.3g}" for value in values)
