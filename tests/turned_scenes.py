"""One physical scene in eight orientations: bright balls with a label each, at places that no turn maps onto another.

Files are written and read by nibabel alone, so positions are measured by a reader that the package does not use.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

#: RAS mm.
CENTRE = np.array([30.0, -45.0, 20.0])
BALLS = {
    1: CENTRE + (-11.0, -9.0, -12.0), 2: CENTRE + (12.0, -6.0, 2.0), 3: CENTRE + (1.0, 12.0, -5.0),
    4: CENTRE + (-7.0, 4.0, 12.0),
}  # fmt: skip
RADIUS_MM = 7.5
LABELS = {"background": 0} | {f"ball_{label}": label for label in BALLS}
LENGTH_MM = 64.0
DARK, BRIGHT = -100.0, 400.0

_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
_TILTED = Rotation.from_euler("xyz", [17, 0, 0], degrees=True)
_OBLIQUE = Rotation.from_euler("xyz", [17, -11, 31], degrees=True)
#: Case → directions of the file's axes, voxel size along them in mm, and a rotation of all.
ORIENTATIONS = {
    "ras": ("RAS", (1.5, 1.5, 1.5), None),
    "lps": ("LPS", (1.5, 1.4, 1.6), None),
    "las_anisotropic": ("LAS", (1.1, 1.2, 2.5), None),
    "psr": ("PSR", (1.5, 1.6, 1.4), None),
    "aIl": ("AIL", (1.6, 1.4, 1.5), None),
    "sra_anisotropic": ("SRA", (2.5, 1.2, 1.3), None),
    "tilted": ("LPS", (1.4, 1.5, 1.6), _TILTED),
    "oblique": ("RPI", (1.3, 1.5, 2.0), _OBLIQUE),
}


def affine_of(case_id: str) -> np.ndarray:
    """File axes (x, y, z) → RAS mm, the scene in the middle."""
    letters, spacing, rotation = ORIENTATIONS[case_id]
    affine = np.eye(4)
    for axis, letter in enumerate(letters):
        row, sign = _LETTERS[letter]
        affine[:3, axis] = 0
        affine[row, axis] = sign * spacing[axis]
    if rotation is not None:
        affine[:3, :3] = rotation.as_matrix() @ affine[:3, :3]
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((np.array(shape_of(case_id)) - 1) / 2)
    return affine


def shape_of(case_id: str) -> tuple[int, ...]:
    """Voxels along the file's axes."""
    return tuple(round(LENGTH_MM / spacing) for spacing in ORIENTATIONS[case_id][1])


def scene(affine: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of the scene on a grid, in the file's axes; the balls have soft edges of 1.5 mm."""
    places = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    distances = {label: np.linalg.norm(places - place, axis=-1) for label, place in BALLS.items()}
    labels = sum((label * (distance < RADIUS_MM) for label, distance in distances.items()), np.zeros(shape, int))
    soft = sum(1 / (1 + np.exp((distance - RADIUS_MM) / 0.75)) for distance in distances.values())
    return DARK + (BRIGHT - DARK) * soft, labels.astype(np.uint8)


def write_scenes(folder: Path) -> None:
    """A raw data set of all orientations, written by nibabel."""
    for case_id in ORIENTATIONS:
        affine = affine_of(case_id)
        image, labels = scene(affine, shape_of(case_id))
        files = {f"imagesTr/{case_id}_0000": image.round().astype(np.int16), f"labelsTr/{case_id}": labels}
        for name, array in files.items():
            path = folder / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), path)
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": len(ORIENTATIONS),
                    "file_ending": ".nii.gz"})
    )  # fmt: skip


def places(path: Path, near: dict[int, np.ndarray] | None = None) -> dict[int, np.ndarray]:
    """Centres of mass in RAS mm, by nibabel: of a file's labels; or, near given places, of what is bright or dark.

    The weight of a voxel is its difference from the volume's median, clipped to the side that the places are on.
    """
    volume = nib.load(path)
    values = np.asanyarray(volume.dataobj).astype(float)
    indices = np.moveaxis(np.indices(values.shape), 0, -1)
    world = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    if near is None:
        return {int(label): world[values == label].mean(axis=0) for label in np.unique(values) if label}
    height = np.abs(values - np.median(values))
    found = {}
    for label, place in near.items():
        inside = np.linalg.norm(world - place, axis=-1) < 1.35 * RADIUS_MM
        found[label] = np.average(world[inside], axis=0, weights=height[inside])
    return found


def offsets(path: Path, found: dict[int, np.ndarray], wanted: dict[int, np.ndarray]) -> np.ndarray:
    """Differences of two sets of places, in voxels along each of a file's axes."""
    assert found.keys() == wanted.keys()
    to_voxels = np.linalg.inv(nib.load(path).affine[:3, :3])
    return np.array([to_voxels @ (found[label] - wanted[label]) for label in wanted])


def largest_offset(path: Path, found: dict[int, np.ndarray], wanted: dict[int, np.ndarray]) -> float:
    """The largest distance of two sets of places, in voxels."""
    return float(np.linalg.norm(offsets(path, found, wanted), axis=1).max())


def shift(path: Path, found: dict[int, np.ndarray], wanted: dict[int, np.ndarray]) -> float:
    """How far all places are off together, in voxels: what is left when the rounding of each ball is averaged."""
    assert largest_offset(path, found, wanted) < 0.5, "each ball by itself, rounded to voxels"
    return float(np.linalg.norm(offsets(path, found, wanted).mean(axis=0)))
