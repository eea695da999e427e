"""Procedural cardiac CTA and MR: anatomy, coronary tree and surroundings of invented patients, in any number of scans.

Everything is a solid in millimetres, so a patient is the same on every grid. `phantom_case` is the entry point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from fcas_nnunet.case import Case
from fcas_nnunet.datasets.phantom.acquisition import Tissue, draw_acquisition, scan
from fcas_nnunet.datasets.phantom.coronaries import CoronaryTree, grow_coronaries
from fcas_nnunet.datasets.phantom.fields import Warp
from fcas_nnunet.datasets.phantom.heart import Heart, HeartSizes, Layer, build_heart
from fcas_nnunet.datasets.phantom.mr import draw_mr_acquisition, scan_mr
from fcas_nnunet.datasets.phantom.render import Canvas, Grid
from fcas_nnunet.datasets.phantom.thorax import ChestSizes, build_chest
from fcas_nnunet.faults import InputError
from fcas_nnunet.intensities import CT, IntensityScale
from fcas_nnunet.labels.anatomy import Structure, Surrounding

#: Label name → id in labelsTr.
LABELS: dict[str, int] = {structure.value: number for number, structure in enumerate(Structure, start=1)}
#: Name → id in surroundingsTr.
SURROUNDINGS: dict[str, int] = {surrounding.value: number for number, surrounding in enumerate(Surrounding, start=1)}

MRI = "MRI"
#: Names of the channels that phantoms are scanned in.
MODALITIES = (CT, MRI)
#: Epicardial fat around arteries, even where the heart touches the chest wall or a lung.
_FAT_AROUND_MM = 2.0
#: Distance that the coronary arteries keep from the edge of the field of view.
_MARGIN_MM = 5.0
#: Field of view along D, H, W for a heart of average size.
_FIELD_OF_VIEW_MM = np.array([134.0, 142.0, 142.0])
_ANATOMY_STREAM, _ACQUISITION_STREAM = 0, 1
#: Codes on the canvas: labels first, surroundings after.
_CODES: dict[str, int] = LABELS | {name: len(LABELS) + number for name, number in SURROUNDINGS.items()}
_BODY = _CODES[Surrounding.BODY]


@dataclass(frozen=True)
class Patient:
    """An invented patient."""

    heart: Heart
    coronaries: CoronaryTree
    chest: list[Layer]
    warp: Warp  # irregularity of the whole anatomy
    scan_center: np.ndarray  # [3], middle of the field of view in mm
    scan_rotation: np.ndarray  # [3, 3], how obliquely the grid lies
    field_of_view_mm: np.ndarray  # [3], along D, H, W
    scan_origin: np.ndarray  # [3], shift of the scanner's coordinates


def draw_patient(seed: int) -> Patient:
    """The patient of a seed."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, _ANATOMY_STREAM]))
    heart = build_heart(HeartSizes.draw(rng), rng)
    chest = build_chest(ChestSizes.draw(rng, heart.sizes.scale), heart, rng)
    coronaries, warp = grow_coronaries(heart, rng), Warp.draw(rng)
    rotation = Rotation.from_rotvec(rng.normal(0, 3, 3).clip(-6, 6), degrees=True).as_matrix()
    arteries = warp.inverse(coronaries.points()[0].T)
    center = _middle(heart, arteries) + rng.normal(0, [1.0, 2.0, 2.5])
    wanted = heart.sizes.scale * _FIELD_OF_VIEW_MM * rng.uniform(0.98, 1.06, 3)
    reach = np.abs(rotation.T @ (arteries - center[:, None])).max(axis=1)[::-1]
    return Patient(
        heart=heart,
        coronaries=coronaries,
        chest=chest,
        warp=warp,
        scan_center=center,
        scan_rotation=rotation,
        field_of_view_mm=np.maximum(wanted, 2 * (reach + _MARGIN_MM)),
        scan_origin=rng.uniform(-150, 150, 3),
    )


def patient_seed(population: int, index: int) -> int:
    """Seed of a patient, from the seed of the population (a data set) and the patient's number in it."""
    return int(np.random.SeedSequence([population, index]).generate_state(1)[0])


def phantom_case(
    case_id: str, shape: tuple[int, int, int], seed: int, acquisition: int = 0, modality: str = CT
) -> Case:
    """Make a patient's scan with labels and surroundings.

    Args:
        case_id: nnU-Net's case identifier.
        shape: Number of voxels along (D, H, W); the field of view stays the same.
        seed: Seed of the patient.
        acquisition: Number of the scan; other scans of the same patient share mask, surroundings and affine.
        modality: One of `MODALITIES`.

    Returns:
        image int16, HU in [-1024, 3071] or arbitrary units from 0 (MRI), mask (`LABELS`), surroundings
        (`SURROUNDINGS`, 0 where the mask is not).

    Raises:
        InputError: for negative numbers or a grid too small for a heart.
    """
    if len(shape) != 3 or min(shape) < 16:
        raise InputError(
            f"{case_id}: shape must be three numbers of at least 16, got {tuple(shape)}. Take a finer grid."
        )
    if modality not in MODALITIES:
        raise InputError(f"{case_id}: modality must be one of {', '.join(MODALITIES)}, got {modality}. Correct it.")
    if seed < 0 or acquisition < 0:
        raise InputError(f"{case_id}: seed and acquisition must be at least 0, got {seed} and {acquisition}.")
    patient = draw_patient(seed)
    rng = np.random.default_rng(np.random.SeedSequence([seed, _ACQUISITION_STREAM, acquisition]))
    settings = draw_mr_acquisition(rng) if modality == MRI else draw_acquisition(rng)
    grid = Grid(_affine(patient, shape), shape, patient.warp)
    canvas = Canvas(grid, settings)
    for solid, tissue, name in (*patient.chest, *patient.heart.layers):
        canvas.paint(solid, tissue, _CODES[name])
    tree, arteries = patient.coronaries, _CODES[Structure.CORONARY_ARTERIES]
    canvas.paint_vessels(tree.veins, Tissue.CORONARY_VEIN, None)
    canvas.paint_vessels(tree.vessels, Tissue.CORONARY_BLOOD, arteries, wrapped_mm=_FAT_AROUND_MM)
    canvas.paint_plaques(tree.plaques, tree)
    for structure in Structure:
        if structure != Structure.CORONARY_ARTERIES:
            canvas.keep_largest(_CODES[structure], otherwise=_BODY)
    if modality == MRI:
        image = scan_mr(canvas.hu, canvas.positions, grid.spacing_mm, settings)
    else:
        caval_vein = patient.heart.placement.at(-72, 3, 0)[:2]
        image = scan(canvas.hu, canvas.positions, grid.spacing_mm, caval_vein, settings)
    mask = np.where(canvas.codes <= len(LABELS), canvas.codes, 0).astype(np.uint8)
    surroundings = np.where(canvas.codes > len(LABELS), canvas.codes - len(LABELS), 0).astype(np.uint8)
    affine = grid.affine.copy()
    affine[:3, 3] += patient.scan_origin
    scales = (IntensityScale.of(image, modality),)
    return Case(case_id, image[None], mask, affine, surroundings=surroundings, scales=scales)


def _middle(heart: Heart, arteries: np.ndarray) -> np.ndarray:
    """Find where a radiographer centres the scan, in mm: between the heart's sides, a little above its middle."""
    right, left = heart.ra_wall.bounds[0][0], arteries[0].max() + _MARGIN_MM
    return np.array([(right + left) / 2, 12 * heart.sizes.scale, 17 * heart.sizes.scale])


def _affine(patient: Patient, shape: tuple[int, int, int]) -> np.ndarray:
    """Array index (d, h, w, 1) → LPS mm: d points up, h to the back, w to the left, all a little oblique."""
    upright = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])
    affine = np.eye(4)
    affine[:3, :3] = patient.scan_rotation @ upright * (patient.field_of_view_mm / shape)
    affine[:3, 3] = patient.scan_center - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine
