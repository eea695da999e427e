"""Images, labels and confidence lie where the scan lies, whatever way a file's axes run: measured in world coordinates.

One physical scene in eight orientations goes through fcas_generate, fcas_prepare, nnU-Net's preprocessing and export.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import blosc2
import nibabel as nib
import numpy as np
import pytest
import torch
from fcas_nnunet_small import set_roots
from nnunet_cases import ENVIRONMENT, PLANS, quick_nnunet
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from turned_scenes import BALLS, BRIGHT, DARK, ORIENTATIONS, largest_offset, places, shift, write_scenes

from fcas_nnunet.case import Case
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.generator.data.grid import WorkingGrid
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import write_volume
from fcas_nnunet.integration.preprocessing.confidence_store import preprocessed_confidence_path
from fcas_nnunet.integration.preprocessing.plans import moved_plans_name, read_plans
from fcas_nnunet.integration.preprocessing.prepare import Geometry
from fcas_nnunet.orientation import Orientation

VOXEL = 0.1  # the most that anything may be off
SCENES = "Dataset961_Turned"
LEVELS = (0.3, 0.4, 0.5, 0.6, 0.7)  # of a soft edge; averaged, so that rounding to voxels counts less
TOLERATED = {"given": VOXEL, "mgm": 3.5 * VOXEL}  # nearest-neighbour masks of small balls


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("turned")
    with pytest.MonkeyPatch.context() as patch:
        set_roots(patch, home)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        write_scenes(home / "nnUNet_raw" / SCENES)
        yield home / "nnUNet_raw"


def files(folder: Path, case_id: str) -> list[Path]:
    """Image, label and confidence."""
    names = (f"imagesTr/{case_id}_0000", f"labelsTr/{case_id}", f"confidenceTr/{case_id}")
    return [folder / f"{name}.nii.gz" for name in names]


def made_of(folder: Path) -> dict[str, str]:
    """Made case → the scene of its mask; all scenes are there."""
    found = {case_id: str(record["reference"]) for case_id, record in Manifest(folder).read().items()}
    assert sorted(found.values()) == sorted(ORIENTATIONS)
    return found


def assert_one_grid(paths: list[Path], original: Path) -> None:
    for path in paths:
        np.testing.assert_allclose(nib.load(path).affine, nib.load(original).affine, atol=1e-4)
        assert nib.load(path).shape == nib.load(original).shape


def test_the_scenes_are_asymmetric_and_where_they_should_be(raw: Path) -> None:
    axes = set()
    for case_id in ORIENTATIONS:
        image, label, _ = files(raw / SCENES, case_id)
        assert largest_offset(image, places(image, BALLS), BALLS) < VOXEL
        assert largest_offset(label, places(label), BALLS) < VOXEL
        axes.add(nib.aff2axcodes(nib.load(image).affine))
    assert len(axes) == 7, "the tilted one has the axes of another, 17 degrees off"
    middle = np.mean(list(BALLS.values()), axis=0)
    spots = np.array(list(BALLS.values())) - middle
    for turned in (spots * [-1, 1, 1], spots * [1, -1, 1], spots[:, [1, 0, 2]], spots[:, [2, 1, 0]], -spots):
        assert np.linalg.norm(turned - spots, axis=1).max() > 15, "a wrong turn is far off"


@pytest.mark.parametrize("masks", ["given", "mgm"])
def test_warped_scans_lie_where_their_reference_lies(raw: Path, masks: str) -> None:
    folder = raw / {"given": "Dataset962_Given", "mgm": "Dataset963_Deformed"}[masks]
    generate(["-d", "961", "-o", folder.name, "-n", "8", "--source", "warped", "--masks", masks, "-np", "1"])
    drift = []
    for case_id, scene in made_of(folder).items():
        image, label, confidence = files(folder, case_id)
        original_image, original_label, _ = files(raw / SCENES, scene)
        assert_one_grid([image, label, confidence], original_label)
        balls = places(label)
        assert balls.keys() == BALLS.keys()
        assert largest_offset(image, places(image, balls), balls) < TOLERATED[masks]
        drift.append(np.mean([places(image, balls)[i] - balls[i] for i in balls], axis=0))
        if masks == "given":
            np.testing.assert_array_equal(nib.load(label).dataobj, nib.load(original_label).dataobj)
            assert largest_offset(image, places(image, BALLS), places(original_image, BALLS)) < VOXEL / 2
            assert np.asanyarray(nib.load(confidence).dataobj).min() == pytest.approx(1)
        else:
            assert max(np.linalg.norm(balls[i] - BALLS[i]) for i in BALLS) < 20, "deformed, not turned"
    assert np.abs(np.mean(drift, axis=0)).max() < VOXEL / 2, "no direction is favoured"


@pytest.mark.parametrize("case_id", ORIENTATIONS)
def test_drawn_scans_come_back_from_the_working_grid_to_where_they_were(
    raw: Path, tmp_path: Path, case_id: str
) -> None:
    """All that lies between a data set and the networks, without the networks."""
    case = RawDataset.open(raw / SCENES).load_case(case_id)
    grid = WorkingGrid.of(case.shape, case.spacing_mm, (2.1, 1.9, 2.0), 8, orientation=Orientation.of(case.affine))
    assert case.image is not None
    working = grid.image_to_working(case.image)
    labels = grid.labels_to_working(case.mask).numpy()
    indices = np.moveaxis(np.indices(labels.shape), 0, -1)
    first_to_fourth = (indices[labels == 4].mean(axis=0) - indices[labels == 1].mean(axis=0)) * (2.1, 1.9, 2.0)
    tilted = ORIENTATIONS[case_id][2] is not None
    assert first_to_fourth == pytest.approx([24, -13, -4], abs=15 if tilted else 1), "to the head, back and left"
    for number, found in enumerate((grid.image_to_native(working)[0], grid.confidence_to_native(working[0]))):
        path = tmp_path / f"{number}.nii.gz"
        write_volume(path, found, case.affine)
        assert largest_offset(path, places(path, BALLS), BALLS) < VOXEL


def landmark_confidence(case: Case) -> np.ndarray:
    """Confidence that falls from 1 to 0.1 in every ball."""
    assert case.image is not None
    return (1 - 0.9 * (case.image[0] - DARK) / (BRIGHT - DARK)).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("number", "reader"), [(970, "SimpleITKIO"), (980, "NibabelIOWithReorient")], ids=lambda value: str(value)
)
def test_nnunet_brings_image_label_and_confidence_back_to_where_they_were(
    raw: Path, tmp_path: Path, number: int, reader: str
) -> None:
    """Preprocessed, and exported by nnU-Net itself as if a network had segmented them."""
    write_scenes(raw / f"Dataset{number}_Real")
    description = raw / f"Dataset{number}_Real" / "dataset.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"overwrite_image_reader_writer": reader}))
    scenes = RawDataset.open(description.parent)
    synthetic = raw / f"Dataset{number + 1}_Prepared"
    for case_id in scenes.case_ids:
        case = scenes.load_case(case_id)
        write_case(synthetic, replace(case, confidence=landmark_confidence(case)))
    write_dataset_json(synthetic, scenes.labels, len(scenes.case_ids))
    with quick_nnunet():
        prepare(str(number + 1), str(number), ["3d_fullres"], PLANS, 1)
    made = RawDataset.open(synthetic)
    plans = read_plans(made, moved_plans_name(scenes.dataset_id, PLANS))
    assert plans["image_reader_writer"] == reader, "both sets are read alike"
    geometry = Geometry.of(plans, "3d_fullres")
    folder = raw.parent / "nnUNet_preprocessed" / synthetic.name / geometry.configuration.data_identifier
    moved = 0
    for case_id in made.case_ids:
        image, label, confidence = files(made.folder, case_id)
        original_image, original_label, _ = files(scenes.folder, case_id)
        assert_one_grid([image, label, confidence], original_label)
        assert largest_offset(confidence, places(confidence, BALLS), places(original_image, BALLS)) < VOXEL
        values = blosc2.open(str(folder / f"{case_id}.b2nd"))[0]
        trust = blosc2.open(str(preprocessed_confidence_path(folder, case_id)))[0]
        segmentation = blosc2.open(str(folder / f"{case_id}_seg.b2nd"))[0]
        moved += segmentation.shape != nib.load(label).shape[::-1]
        bright = (values - np.median(values)) / (values.max() - np.median(values))
        soft = {"image": bright, "confidence": (255 - trust.astype(np.float32)) / (0.9 * 255)}
        labels = np.stack([segmentation == i for i in range(len(made.labels))])
        exports = {"label": [labels]} | {
            what: [np.stack([array <= level, *len(BALLS) * [array > level]]) for level in LEVELS]
            for what, array in soft.items()
        }
        for what, networks in exports.items():
            found = []
            for number, logits in enumerate(networks):
                properties = pickle.loads((folder / f"{case_id}.pkl").read_bytes())
                truncated = str(tmp_path / f"{case_id}_{what}_{number}")
                export_prediction_from_logits(
                    torch.from_numpy(logits.astype(np.float32)), properties, geometry.configuration, geometry.plans,
                    made.dataset_json, truncated, num_threads_torch=1,
                )  # fmt: skip
                exported = Path(f"{truncated}.nii.gz")
                assert_one_grid([exported], original_label)
                found.append(places(exported, None if what == "label" else BALLS))
            average = {i: np.mean([each[i] for each in found], axis=0) for i in BALLS}
            wanted = places(original_label) if what == "label" else BALLS
            assert shift(original_label, average, wanted) < VOXEL, (case_id, what)
    assert moved >= len(ORIENTATIONS) - 1, "nnU-Net has transposed or resampled them"


@pytest.mark.slow
def test_drawn_scans_lie_where_their_masks_lie(raw: Path) -> None:
    """By a generator of a minute's training, whose own error is a fraction of a voxel; a wrong turn is far off."""
    generate(["-d", "961", "-o", "Dataset964_Drawn", "-n", "8", "--masks", "given", "--preset", "tiny", "-np", "1"])
    folder = raw / "Dataset964_Drawn"
    drift = []
    for case_id, scene in made_of(folder).items():
        image, label, confidence = files(folder, case_id)
        assert_one_grid([image, label, confidence], files(raw / SCENES, scene)[1])
        np.testing.assert_array_equal(nib.load(label).dataobj, nib.load(files(raw / SCENES, scene)[1]).dataobj)
        found = places(image, BALLS)
        assert largest_offset(image, found, BALLS) < 6 * VOXEL
        drift.append(np.mean([found[i] - BALLS[i] for i in BALLS], axis=0))
    assert np.abs(np.mean(drift, axis=0)).max() < 0.4, "mm"
