"""Score a segmentation against its reference, per label and case: overlap (Dice, and RDice of the paper's Eq. 15),
surfaces (HD95, surface Dice) and, for vessels, centrelines and topology.

Empty masks, one policy throughout: a label that is empty in reference and prediction has no score (NaN), is left out
of the means and counted; a label that is empty in only one of the two gets the worst score there is: 0, and for HD95
the largest distance that two voxels of the image can have (Metrics Reloaded, arXiv 2206.01653), so that a miss never
improves a mean.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import edt
import numpy as np
from scipy import ndimage

from fcas_nnunet.evaluation.segmentation.surfaces import hausdorff_95_mm, surface_dice, surface_distances
from fcas_nnunet.evaluation.segmentation.vessels import centreline_dice, topology_errors
from fcas_nnunet.evaluation.statistics.means import Summary, summarise
from fcas_nnunet.faults import InputError
from fcas_nnunet.labels.anatomy import GivenRoles, Role, roles_of
from fcas_nnunet.labels.regions import Entries, ids_of
from fcas_nnunet.listing import listed

RDICE_RADII_VOXELS = (1, 2, 3)
TOLERANCE_MM = 1.0
EMPTY_MASK_POLICY = (
    "both empty: no score, left out of the means and counted; only one of the two empty: 0, and for HD95 the largest "
    "distance between two voxels of the image; errors of pieces and tunnels count an empty mask as none"
)
#: Measures besides Dice and RDice, by their field in `LabelScores`.
FURTHER_MEASURES = ("hd95_mm", "surface_dice", "centreline_dice", "pieces_error", "tunnels_error")


@dataclass(frozen=True)
class LabelScores:
    """One label of one case."""

    dice: float  # 2|P∩Q| / (|P| + |Q|) in [0, 1], NaN when P and Q are empty
    rdice: Mapping[int, float]  # radius in voxels → relaxed Dice in [0, 1], NaN in the same case
    reference_voxels: int  # |Q|
    prediction_voxels: int  # |P|
    hd95_mm: float = math.nan  # 95 % Hausdorff distance in mm; `worst_distance_mm` where one mask is empty
    surface_dice: float = math.nan  # share of both surfaces within the tolerance, in [0, 1]
    centreline_dice: float = math.nan  # clDice in [0, 1]; NaN for what is no vessel
    pieces_error: float = math.nan  # |difference of β0|, the numbers of pieces
    tunnels_error: float = math.nan  # |difference of β1|, the numbers of loops and handles


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases."""

    dice: Summary  # Dice over the cases that have a score
    rdice: Mapping[int, Summary]  # radius in voxels → relaxed Dice over them
    both_empty: int  # number of cases without a score
    only_prediction_empty: int  # number of cases where the label was missed altogether (they score 0)
    only_reference_empty: int  # number of cases where the label was predicted but is not there (they score 0)
    further: Mapping[str, Summary]  # each of FURTHER_MEASURES → the measure over them


def score_case(
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: Entries,
    radii: Sequence[int] = RDICE_RADII_VOXELS,
    spacing_mm: Sequence[float] | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    roles: GivenRoles | None = None,
) -> dict[str, LabelScores]:
    """Score every label but the background.

    Args:
        reference: Label ids [D, H, W], Q.
        prediction: Label ids on the same grid, P.
        labels: Name → id, or ids of a region, which is scored as one; 0 is the background and not scored.
        radii: Radii in voxels of the ball that dilates Q for RDice.
        spacing_mm: Voxel size along (D, H, W); None = Dice and RDice alone.
        tolerance_mm: Tolerance of the surface Dice.
        roles: Label name → roles that a user has given it; thin and wide vessels have further scores.

    Raises:
        InputError: if the shapes differ, or a value is no label id; all such faults at once.
    """
    known = {i for entry in labels.values() for i in ids_of(entry)}
    faults = label_map_faults(reference, prediction, known)
    if faults:
        raise InputError("\n".join(faults))
    confusion = confusion_matrix(reference, prediction, max(known) + 1)
    reference_voxels, prediction_voxels = confusion.sum(axis=1), confusion.sum(axis=0)
    boxes = [ndimage.find_objects(volume.astype(np.int32, copy=False)) for volume in (reference, prediction)]
    vessels = vessel_names(labels, roles)
    worst_mm = math.nan if spacing_mm is None else worst_distance_mm(reference.shape, spacing_mm)
    scores = {}
    for name, entry in labels.items():
        ids = [i for i in ids_of(entry) if i]
        if not ids:
            continue
        q, p = int(reference_voxels[ids].sum()), int(prediction_voxels[ids].sum())
        box = _box_around(ids, boxes, max(radii, default=0), reference.shape)
        masks = (np.isin(reference[box], ids), np.isin(prediction[box], ids))
        near = _voxels_near(*masks, radii)
        overlap = int(confusion[np.ix_(ids, ids)].sum())
        further = {}
        if spacing_mm is not None:
            further = _further_scores(*masks, spacing_mm, tolerance_mm, worst_mm, name in vessels)
        scores[name] = LabelScores(
            dice=_dice(overlap, p, q),
            rdice={radius: _dice(overlap, near[radius], q) if p and q else _dice(0, p, q) for radius in radii},
            reference_voxels=q,
            prediction_voxels=p,
            **further,
        )
    return scores


def vessel_names(labels: Iterable[str], roles: GivenRoles | None = None) -> list[str]:
    """The labels and regions that are vessels, which have further scores."""
    return [name for name in labels if {Role.THIN, Role.WIDE} & set(roles_of(name, roles))]


def confusion_matrix(reference: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """Voxel counts [num_labels, num_labels]: reference label along the rows, predicted label along the columns."""
    counts = np.zeros(num_labels * num_labels, dtype=np.int64)
    for reference_slice, prediction_slice in zip(reference, prediction, strict=True):  # slices: little memory
        pairs = reference_slice.astype(np.int64) * num_labels + prediction_slice
        counts += np.bincount(pairs.ravel().astype(np.int64), minlength=counts.size)
    return counts.reshape(num_labels, num_labels)


def label_map_faults(reference: np.ndarray, prediction: np.ndarray, known: Collection[int]) -> list[str]:
    """List what keeps two label maps of known ids from being compared, a sentence each."""
    faults = []
    if reference.shape != prediction.shape:
        faults.append(
            f"prediction: shape must be the reference's {reference.shape}, got {prediction.shape}. "
            "Compare on the reference's grid."
        )
    for name, volume in (("reference", reference), ("prediction", prediction)):
        unknown = _values_beside(volume, {0, *known})
        if unknown:
            faults.append(
                f"{name}: values must be label ids [{listed(sorted({0, *known}))}], got [{listed(unknown)}] as well. "
                "Give the dataset.json that describes it."
            )
    return faults


def summarise_labels(cases: Sequence[Mapping[str, LabelScores]]) -> dict[str, LabelSummary]:
    """Summarise every label over all cases.

    Args:
        cases: Label name → scores of each case; the same labels in each.
    """
    summaries = {}
    for name in cases[0]:
        scores = [case[name] for case in cases]
        summaries[name] = LabelSummary(
            dice=summarise([score.dice for score in scores]),
            rdice={radius: summarise([score.rdice[radius] for score in scores]) for radius in scores[0].rdice},
            both_empty=sum(not s.reference_voxels and not s.prediction_voxels for s in scores),
            only_prediction_empty=sum(bool(s.reference_voxels) and not s.prediction_voxels for s in scores),
            only_reference_empty=sum(not s.reference_voxels and bool(s.prediction_voxels) for s in scores),
            further={measure: summarise([getattr(score, measure) for score in scores]) for measure in FURTHER_MEASURES},
        )
    return summaries


def _further_scores(
    q: np.ndarray, p: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float, worst_mm: float, vessel: bool
) -> dict[str, float]:
    """FURTHER_MEASURES of one label."""
    one_empty = bool(q.any()) != bool(p.any())
    distances = surface_distances(q, p, spacing_mm)
    topology = topology_errors(q, p)
    return {
        "hd95_mm": worst_mm if one_empty else hausdorff_95_mm(distances),
        "surface_dice": 0.0 if one_empty else surface_dice(distances, tolerance_mm),
        "centreline_dice": centreline_dice(q, p) if vessel else math.nan,
        "pieces_error": topology.pieces,
        "tunnels_error": topology.tunnels,
    }


def worst_distance_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """The largest distance between two voxels of an image, in mm: from corner to corner."""
    return math.dist([0.0] * len(shape), [(n - 1) * step for n, step in zip(shape, spacing_mm, strict=True)])


def _dice(overlap: int, p: int, q: int) -> float:
    return 2 * overlap / (p + q) if p + q else math.nan


def _box_around(
    ids: Sequence[int], boxes: Sequence[Sequence[tuple[slice, ...] | None]], margin: int, shape: Sequence[int]
) -> tuple[slice, ...]:
    """The box around all ids in both volumes, and a margin in voxels; one voxel where none occurs."""
    found = [box for of in boxes for i in ids if i <= len(of) and (box := of[i - 1]) is not None]
    if not found:
        return tuple(slice(0, 1) for _ in shape)
    low = [max(min(side.start for side in sides) - margin, 0) for sides in zip(*found, strict=True)]
    high = [max(side.stop for side in sides) + margin for sides in zip(*found, strict=True)]
    return tuple(slice(a, min(b, length)) for a, b, length in zip(low, high, shape, strict=True))


def _voxels_near(q: np.ndarray, p: np.ndarray, radii: Sequence[int]) -> dict[int, int]:
    """|P′| = |P ∩ Q′| for every radius; Q′ is Q dilated by a ball: all voxels within `radius` of one of Q.

    Source: paper Eq. 15, which names no radius and no structuring element.
    """
    if not radii or not q.any():
        return dict.fromkeys(radii, 0)
    squared_distance = edt.edtsq(np.ascontiguousarray(~q))  # in voxels, 0 inside Q
    return {radius: int(np.count_nonzero(p & (squared_distance <= radius * radius))) for radius in radii}


def _values_beside(volume: np.ndarray, known: set[int]) -> list[float]:
    """Up to five values of a volume that are not `known`."""
    present = np.flatnonzero(np.bincount(volume.ravel())) if volume.dtype == np.uint8 else np.unique(volume)
    return [value for value in present.tolist() if value not in known][:5]
