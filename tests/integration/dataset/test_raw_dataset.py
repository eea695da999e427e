"""Raw data sets: geometry and values survive, bytes repeat, every fault is named at once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunet_cases import LABELS, affine_of, quick_nnunet, random_case

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.checks import check_dataset, dataset_faults
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import (
    RawDataset,
    bare_folder,
    is_dataset,
    open_dataset,
    reopen_dataset,
    write_case,
)
from fcas_nnunet.integration.dataset.raw_dataset import write_dataset_json as write_json
from fcas_nnunet.integration.dataset.volumes import (
    dequantise_confidence,
    quantise_confidence,
    read_volume,
    same_grid,
    write_labels,
    write_volume,
)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), spacing=st.tuples(*[st.floats(0.2, 5)] * 3), flip=st.booleans())
def test_rotation_and_anisotropic_spacing_survive(
    tmp_path_factory: pytest.TempPathFactory, seed: int, spacing: tuple[float, float, float], flip: bool
) -> None:
    path = tmp_path_factory.mktemp("volume") / "case_0000.nii.gz"
    affine = affine_of(spacing, seed)
    if flip:
        affine[:, 0] *= -1
    image = np.random.default_rng(seed).integers(-1024, 3000, (3, 4, 5)).astype(np.float32)
    write_volume(path, image, affine)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, image)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert same_grid(volume.affine, affine, image.shape)


def test_nnunets_reader_sees_the_same_spacing_origin_and_direction(tmp_path: Path) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    affine = affine_of((1.25, 0.4, 0.45), 3)
    write_volume(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.int16), affine)
    array, properties = SimpleITKIO().read_images([str(tmp_path / "a.nii.gz")])
    assert array.shape == (1, 3, 4, 5)
    np.testing.assert_allclose(properties["spacing"], (1.25, 0.4, 0.45), rtol=1e-6)
    np.testing.assert_allclose(properties["sitk_stuff"]["origin"], affine[:3, 3], rtol=1e-6)
    direction = np.reshape(properties["sitk_stuff"]["direction"], (3, 3))
    np.testing.assert_allclose(direction[:, ::-1] * (1.25, 0.4, 0.45), affine[:3, :3], atol=1e-6)


def test_what_is_read_and_written_again_has_the_same_bytes(dataset: RawDataset, tmp_path: Path) -> None:
    write_case(tmp_path / "again", dataset.load_case("a"))
    for path in sorted((tmp_path / "again").rglob("*.nii.gz")):
        assert path.read_bytes() == (dataset.folder / path.relative_to(tmp_path / "again")).read_bytes()


def test_confidence_is_exact_at_0_and_1_for_every_reader(tmp_path: Path) -> None:
    confidence = np.linspace(0, 1, 256, dtype=np.float32).reshape(4, 8, 8)
    case = Case("a", None, np.ones((4, 8, 8), np.uint8), np.eye(4), confidence=confidence)
    write_case(tmp_path, case)
    path = tmp_path / "confidenceTr" / "a.nii.gz"
    seen = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
    assert seen.min() == 0.0
    assert seen.max() == 1.0
    np.testing.assert_array_equal(quantise_confidence(seen).ravel(), np.arange(256))


def test_quantised_confidence_returns_itself() -> None:
    steps = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantise_confidence(dequantise_confidence(steps)), steps)


def test_hu_are_rounded_and_clipped_to_int16(tmp_path: Path) -> None:
    image = np.array([[[-1e6, -0.6, 0.4, 1e6]]])
    write_case(tmp_path, Case("a", image[None], np.ones(image.shape, np.uint8), np.eye(4)))
    volume = read_volume(tmp_path / "imagesTr/a_0000.nii.gz")
    assert volume.array.dtype == np.int16
    assert volume.array.ravel().tolist() == [-32768, -1, 0, 32767]


def test_shear_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.3
    with pytest.raises(
        ValueError, match=r"a\.nii\.gz: axes of the affine must be perpendicular, got a cosine of 0\.287"
    ):
        write_labels(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8), affine)
    assert list(tmp_path.iterdir()) == []


def test_a_case_comes_back_as_it_was(raw: Path) -> None:
    case = random_case("a", 5, confidence=True)
    case = dataclasses.replace(case, surroundings=(case.mask == 0).astype(np.uint8))
    folder = raw / "Dataset003_X"
    write_case(folder, case)
    write_json(folder, LABELS, 1, surroundings={"lungs": 1})
    loaded = RawDataset.open(folder).load_case("a")
    assert case.image is not None
    assert case.confidence is not None
    assert loaded.image is not None
    assert loaded.image.dtype == np.float32
    np.testing.assert_array_equal(loaded.image, case.image)
    np.testing.assert_array_equal(loaded.mask, case.mask)
    np.testing.assert_array_equal(loaded.surroundings, case.surroundings)
    np.testing.assert_allclose(loaded.confidence, case.confidence, atol=0.5001 / 255)
    np.testing.assert_allclose(loaded.affine, case.affine, atol=1e-4)
    assert RawDataset.open(folder).surroundings == {"lungs": 1}


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_other_file_endings_are_read(raw: Path, ending: str) -> None:
    case = random_case("a", 1, confidence=False)
    source = raw / "Dataset001_Source"
    write_case(source, case)
    folder = raw / "Dataset002_Other"
    for name in ("imagesTr/a_0000", "labelsTr/a"):
        (folder / name).parent.mkdir(parents=True)
        sitk.WriteImage(sitk.ReadImage(str(source / f"{name}.nii.gz")), str(folder / f"{name}{ending}"))
    write_json(folder, LABELS, 1)
    content = json.loads((folder / "dataset.json").read_text()) | {"file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(content))
    dataset = RawDataset.open(folder)
    check_dataset(dataset)
    np.testing.assert_allclose(dataset.load_case("a").affine, case.affine, atol=1e-4)


def test_a_tilted_grid_is_named_before_anything_is_drawn_on_it(raw: Path) -> None:
    folder = raw / "Dataset001_Tilted"
    header = (
        "NRRD0004\ntype: {}\ndimension: 3\nspace: left-posterior-superior\nsizes: 6 5 4\nencoding: raw\n"
        "endian: little\nspace directions: (1,0,0) (0,1,0) (0,0.17,0.98)\n"
        "kinds: domain domain domain\nspace origin: (0,0,0)\n\n"
    )
    voxels = np.arange(4 * 5 * 6) % 3
    for path, kind, dtype in (("imagesTr/a_0000", "short", np.int16), ("labelsTr/a", "uchar", np.uint8)):
        (folder / path).parent.mkdir(parents=True)
        (folder / f"{path}.nrrd").write_bytes(header.format(kind).encode() + voxels.astype(dtype).tobytes())
    write_json(folder, LABELS, 1)
    content = json.loads((folder / "dataset.json").read_text()) | {"file_ending": ".nrrd"}
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a: axes of the affine must be perpendicular, got a cosine of 0\.171"):
        check_dataset(RawDataset.open(folder))
    assert dataset_faults(RawDataset.open(folder), any_grid=True) == [], "nnU-Net trains on it"


def test_every_fault_is_listed_at_once(dataset: RawDataset) -> None:
    folder = dataset.folder
    cases = {name: random_case(name, 10 + i, confidence=True) for i, name in enumerate("cdefghij")}
    for case in cases.values():
        write_case(folder, case)
    (folder / "imagesTr/c_0000.nii.gz").unlink()
    (folder / "labelsTr/d.nii.gz").unlink()
    write_labels(folder / "labelsTr/e.nii.gz", np.ones((4, 4, 4), np.uint8), cases["e"].affine)
    moved = cases["f"].affine.copy()
    moved[0, 3] += 2
    write_labels(folder / "labelsTr/f.nii.gz", cases["f"].mask, moved)
    assert cases["g"].image is not None
    broken = cases["g"].image[0].astype(np.float32).copy()
    broken[0, 0, 0], broken[1, 1, 1] = np.nan, np.inf
    write_volume(folder / "imagesTr/g_0000.nii.gz", broken, cases["g"].affine)
    write_labels(folder / "labelsTr/h.nii.gz", cases["h"].mask * 7, cases["h"].affine)
    write_labels(folder / "labelsTr/i.nii.gz", cases["i"].mask * 0, cases["i"].affine)
    (folder / "imagesTr/j_0000.nii.gz").write_bytes(b"not a volume")
    (folder / "confidenceTr/a.nii.gz").unlink()
    Manifest(folder).append({"case_id": "a", "confidence": {}})
    write_volume(folder / "confidenceTr/b.nii.gz", dataset.load_case("b").mask.astype(np.float32) * 3, np.eye(4))
    write_volume(folder / "imagesTr/a_0001.nii.gz", np.zeros((2, 2, 2), np.int16), np.eye(4))

    with pytest.raises(ValueError, match="numTraining") as caught:
        check_dataset(RawDataset.open(folder), min_cases=20)
    faults = str(caught.value).splitlines()
    for wanted in (
        "Dataset901_Heart: number of cases must be at least 20, got 10.",
        "Dataset901_Heart: numTraining in dataset.json must be the number of cases 10, got 2.",
        "a_0001.nii.gz: images must have one channel",
        "a: confidence must exist, got no file",
        "b: confidence must lie in [0, 1], got 0 to 6.",
        "b: affine of confidence must be that of the label",
        "c: image must exist, got no file",
        "d: label must exist, got no file",
        f"e: shape of label must be that of the image {cases['e'].shape}, got (4, 4, 4).",
        f"e: shape of confidence must be that of the label (4, 4, 4), got {cases['e'].shape}.",
        "f: affine of label must be that of the image",
        "g: image must be finite, got 2 NaN or infinite voxels.",
        "h: label values must be those that dataset.json names, [0, 1, 2], got 7, 14.",
        "i: label must mark at least one voxel, got an empty mask.",
        "j: " + str(folder / "imagesTr/j_0000.nii.gz") + ": file must be a readable volume",
    ):
        assert [line for line in faults if line.startswith(wanted)], wanted


@pytest.mark.parametrize("what", ["image", "confidence"])
def test_a_case_with_nan_is_not_written_at_all(tmp_path: Path, what: str) -> None:
    case = random_case("a", 0, confidence=True)
    volume = getattr(case, what).astype(np.float32)
    volume[..., 3, 4, 5], volume[..., 6, 7, 8] = np.nan, np.inf
    called: list[str] = []
    with pytest.raises(ValueError, match=f"a: every voxel of the {what} must be finite, got 2 that are not"):
        write_case(
            tmp_path / "set", dataclasses.replace(case, **{what: volume}), before_label=lambda: called.append("")
        )
    assert not (tmp_path / "set").exists()
    assert not called


def test_broken_json_is_named(dataset: RawDataset) -> None:
    (dataset.folder / "dataset.json").write_text('{"labels": ')
    with pytest.raises(ValueError, match=r"dataset\.json: content must be JSON"):
        RawDataset.open(dataset.folder)


def test_an_unfinished_data_set_has_no_description(raw: Path) -> None:
    write_case(raw / "Dataset005_X", random_case("a", 0, confidence=False))
    with pytest.raises(FileNotFoundError, match=r"dataset\.json: file must exist"):
        RawDataset.open(raw / "Dataset005_X")


def test_nnunet_finds_the_data_set_sound(dataset: RawDataset) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    check_dataset(dataset, min_cases=2)
    with quick_nnunet():
        verify_dataset_integrity(str(dataset.folder), 1)


def test_a_data_set_is_opened_by_name_or_path_and_in_doubt_by_name(
    dataset: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere" / "Dataset901_Heart"
    shutil.copytree(dataset.folder, elsewhere)
    monkeypatch.chdir(elsewhere.parent)
    assert is_dataset(elsewhere)
    assert not is_dataset(elsewhere.parent)
    assert [open_dataset(argument).folder for argument in ("901", "Dataset901_Heart")] == 2 * [dataset.folder]
    assert open_dataset("./Dataset901_Heart").folder == elsewhere.resolve()
    assert bare_folder("./Dataset901_Heart") is None
    (elsewhere / "dataset.json").unlink()
    assert bare_folder("./Dataset901_Heart") == Path("Dataset901_Heart")
    assert [bare_folder(argument) for argument in ("901", "Dataset901_Heart", "nowhere")] == 3 * [None]
    with pytest.raises(FileNotFoundError, match="dataset.json"):
        open_dataset(str(elsewhere))


def test_sizes_that_no_scan_has_are_named(raw: Path) -> None:
    """A spacing in metres or micrometres, and a stamp of eight voxels; each would end in no volume, or in terabytes."""
    folder = raw / "Dataset903_Sizes"
    for case_id, shape, spacing_mm in (
        ("metres", (8, 8, 8), 1000.0),
        ("micro", (8, 8, 8), 0.001),
        ("stamp", (2, 2, 2), 4.4),
    ):
        mask = np.ones(shape, np.uint8)
        image = np.arange(mask.size, dtype=np.float32).reshape(1, *shape)
        write_case(folder, Case(case_id, image, mask, np.diag([spacing_mm] * 3 + [1])))
    write_json(folder, LABELS, 3)
    with pytest.raises(ValueError, match="image must") as caught:
        check_dataset(RawDataset.open(folder))
    assert str(caught.value).splitlines() == [
        "metres: image must be 1 to 3000 mm long along its longest axis, got 8000 × 8000 × 8000 mm. Correct the "
        "spacing in its header.",
        "micro: image must be 1 to 3000 mm long along its longest axis, got 0.008 × 0.008 × 0.008 mm. Correct the "
        "spacing in its header.",
        "stamp: image must hold at least 64 voxels, got 2 × 2 × 2. Take the whole scan.",
    ]


def test_what_the_user_adds_to_a_description_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset902_Own"
    folder.mkdir()
    write_json(folder, LABELS, 1, description="first", more={"made_by": "us"})
    fresh = json.loads((folder / "dataset.json").read_text())
    own = {"licence": "CC0", "numTraining": 7, "regions": {"a": [1, 2]}, "fcas_roles": {"left_ventricle": ["wall"]}}
    (folder / "dataset.json").write_text(json.dumps(fresh | own))
    wanted = fresh | own | {"numTraining": 2, "description": "second"}
    for _ in range(2):  # a run that was killed while the set was unfinished leaves it put aside
        reopen_dataset(folder)
        assert not is_dataset(folder)
    write_json(folder, LABELS, 2, description="second", more={"made_by": "us"})
    assert json.loads((folder / "dataset.json").read_text()) == wanted
    written = (folder / "dataset.json").read_bytes()
    write_json(folder, LABELS, 2, description="second", more={"made_by": "us"})
    assert (folder / "dataset.json").read_bytes() == written
    (folder / ".fcas_unfinished").rmdir()  # which is empty
