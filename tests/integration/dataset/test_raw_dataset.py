"""Raw data sets: geometry and values survive, bytes repeat, every fault is named at once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunet_cases import LABELS, affine_of, quick_nnunet, random_case, write_set

from fcas_nnunet.case import Case
from fcas_nnunet.integration.dataset.checks import check_dataset, dataset_faults
from fcas_nnunet.integration.dataset.folders import new_dataset_folder, resolve_dataset
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
    write_image,
    write_labels,
    write_volume,
)
from fcas_nnunet.labels.anatomy import Role


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path / "raw"


@pytest.fixture
def dataset(raw: Path) -> RawDataset:
    return write_set(raw / "Dataset901_Heart", ["a", "b"], 0, confidence=True)


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
    write_image(path, image, affine)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, image)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert same_grid(volume.affine, affine, image.shape)


def test_nnunets_reader_sees_the_same_spacing_origin_and_direction(tmp_path: Path) -> None:
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    affine = affine_of((1.25, 0.4, 0.45), 3)
    write_image(tmp_path / "a.nii.gz", np.zeros((3, 4, 5)), affine)
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
    write_image(tmp_path / "a.nii.gz", np.array([[[-1e6, -0.6, 0.4, 1e6]]]), np.eye(4))
    volume = read_volume(tmp_path / "a.nii.gz")
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
    for path, kind, dtype in (("imagesTr/a_0000", "short", np.int16), ("labelsTr/a", "uchar", np.uint8)):
        (folder / path).parent.mkdir(parents=True)
        (folder / f"{path}.nrrd").write_bytes(header.format(kind).encode() + np.ones((4, 5, 6), dtype).tobytes())
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
    broken = cases["g"].image.astype(np.float32).copy()
    broken[0, 0, 0], broken[1, 1, 1] = np.nan, np.inf
    write_volume(folder / "imagesTr/g_0000.nii.gz", broken, cases["g"].affine)
    write_labels(folder / "labelsTr/h.nii.gz", cases["h"].mask * 7, cases["h"].affine)
    write_labels(folder / "labelsTr/i.nii.gz", cases["i"].mask * 0, cases["i"].affine)
    (folder / "imagesTr/j_0000.nii.gz").write_bytes(b"not a volume")
    (folder / "confidenceTr/a.nii.gz").unlink()
    write_volume(folder / "confidenceTr/b.nii.gz", dataset.load_case("b").mask.astype(np.float32) * 3, np.eye(4))
    write_image(folder / "imagesTr/a_0001.nii.gz", np.zeros((2, 2, 2)), np.eye(4))

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


def _drop(key: str) -> Callable[[dict], dict]:
    return lambda content: {k: v for k, v in content.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"channel_names": {"0": "CT", "1": "PET"}}, "channel_names must name one channel"),
        (lambda c: c | {"channel_names": {"0": "MRI"}}, r"channel_names must be {'0': 'CT'}, got {'0': 'MRI'}"),
        (lambda c: c | {"fcas_roles": ["LCA"]}, "fcas_roles must be an object of label name and list of roles"),
        (lambda c: c | {"fcas_roles": {"LCA": ["thin"]}}, "fcas_roles must name labels of the data set, got LCA"),
        (
            lambda c: c | {"fcas_roles": {"left_ventricle": ["thick"]}},
            "fcas_roles of left_ventricle must be a list of thin, wide, root, chamber, wall, got",
        ),
        (_drop("labels"), "keys labels must be present"),
        (lambda c: c | {"file_ending": ".png"}, "file_ending must be one of"),
        (lambda c: c | {"labels": {"background": 0, "whole": [1, 2]}}, "got regions for whole"),
        (lambda c: c | {"labels": {"background": 0, "a": 1, "ignore": 2}}, "must not have an ignore label"),
        (lambda c: c | {"labels": {"background": 0, "a": 2}}, "without gaps, got"),
        (lambda c: c | {"labels": {"bg": 0, "a": 1}}, "label 0 must be called background"),
        (lambda c: c | {"labels": {"background": 0}}, "must name 1 to 255 structures besides the background, got 0"),
    ],
)
def test_a_description_that_cannot_be_served_is_refused(
    dataset: RawDataset, change: Callable[[dict], dict], message: str
) -> None:
    path = dataset.folder / "dataset.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message):
        RawDataset.open(dataset.folder)


def test_roles_and_names_of_the_channel_are_read(dataset: RawDataset) -> None:
    path = dataset.folder / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"channel_names": {"0": "ct"}, "fcas_roles": {"left_ventricle": ["wall"]}}))
    assert RawDataset.open(dataset.folder).roles == {"left_ventricle": (Role.WALL,)}
    path.write_text(json.dumps(content | {"channel_names": {"0": "T1"}}))
    assert RawDataset.open(dataset.folder, any_channel=True).load_mask("a").mask.any()


def test_an_ignore_label_is_for_synthetic_sets_alone(dataset: RawDataset) -> None:
    path = dataset.folder / "dataset.json"
    labels = LABELS | {"ignore": 3}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    opened = RawDataset.open(dataset.folder, ignore_label=True)
    assert (opened.labels, opened.ignored_ids) == (LABELS, [3])
    check_dataset(opened)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels | {"ignore": 1, "left_ventricle": 3}}))
    with pytest.raises(ValueError, match="ignore must have the highest label id, 3, got 1"):
        RawDataset.open(dataset.folder, ignore_label=True)


def test_nnunets_other_kinds_are_opened_on_request(dataset: RawDataset) -> None:
    """Regions, an ignore label and several channels: for the trainers, not for the generator."""
    path = dataset.folder / "dataset.json"
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    changed = {"labels": labels, "regions_class_order": [1, 2], "channel_names": {"0": "CT", "1": "PET"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    opened = RawDataset.open(dataset.folder, any_kind=True)
    assert opened.labels == {"background": 0, "core": 2}
    assert opened.label_ids == [0, 1, 2, 3]
    assert [p.name for p in opened.image_paths("a")] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    with pytest.raises(ValueError, match="a: channel 1 must exist, got no file"):
        check_dataset(opened)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"regions_class_order": None}))
    with pytest.raises(ValueError, match=r"labels must be what nnU-Net's dataset_format\.md describes, got"):
        RawDataset.open(dataset.folder, any_kind=True)


@pytest.mark.parametrize("case_id", ["../../../evil", "a/b", "..", ""])
def test_a_described_case_must_not_lead_elsewhere(dataset: RawDataset, case_id: str) -> None:
    path = dataset.folder / "dataset.json"
    entry = {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    path.write_text(json.dumps(dataset.dataset_json | {"dataset": {"Patient 1": entry, case_id: entry}}))
    with pytest.raises(
        ValueError, match=f"dataset must name cases as files are named, without folders, got '{case_id}'"
    ):
        RawDataset.open(dataset.folder, any_kind=True)


@pytest.mark.parametrize("what", ["image", "confidence"])
def test_a_case_with_nan_is_not_written_at_all(tmp_path: Path, what: str) -> None:
    case = random_case("a", 0, confidence=True)
    volume = getattr(case, what).astype(np.float32)
    volume[3, 4, 5], volume[6, 7, 8] = np.nan, np.inf
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


def test_ids_and_names_lead_to_the_folder(dataset: RawDataset) -> None:
    assert resolve_dataset("901") == resolve_dataset("Dataset901_Heart") == dataset.folder
    assert (dataset.name, dataset.dataset_id) == ("Dataset901_Heart", 901)


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


@pytest.mark.parametrize(
    ("identifier", "kind", "message"),
    [
        ("902", FileNotFoundError, "data set 902: it must be a folder in nnUNet_raw=.*, which holds Dataset901_Heart"),
        ("Dataset901_Hart", FileNotFoundError, "which holds Dataset901_Heart"),
        ("heart", ValueError, "must be an id from 1 to 999 or a name like"),
        ("1000", ValueError, "must be an id from 1 to 999"),
    ],
)
def test_a_wrong_identifier_is_named(dataset: RawDataset, identifier: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        resolve_dataset(identifier)


def test_an_id_with_two_names_is_refused(dataset: RawDataset) -> None:
    (dataset.folder.parents[1] / "results" / "Dataset901_Old").mkdir()
    with pytest.raises(ValueError, match="got Dataset901_Heart, Dataset901_Old"):
        resolve_dataset("901")


def test_unset_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(ValueError, match="nnUNet_raw: environment variable must name a folder, got nothing"):
        resolve_dataset("901")


def test_new_data_sets_take_free_ids(dataset: RawDataset) -> None:
    raw = dataset.folder.parent
    (raw.parent / "preprocessed" / "Dataset905_Other").mkdir()
    assert new_dataset_folder(None, default_name="HeartFCaS") == raw / "Dataset906_HeartFCaS"
    assert new_dataset_folder("907", default_name="HeartFCaS") == raw / "Dataset907_HeartFCaS"
    assert new_dataset_folder("901", default_name="HeartFCaS") == raw / "Dataset901_Heart"
    assert new_dataset_folder("Dataset908_Mine", default_name="HeartFCaS") == raw / "Dataset908_Mine"
    (raw / "Dataset903_HeartFCaS").mkdir()  # begun by the same command earlier
    assert new_dataset_folder(None, default_name="HeartFCaS") == raw / "Dataset903_HeartFCaS"
    with pytest.raises(ValueError, match="got one that belongs to Dataset905_Other"):
        new_dataset_folder("Dataset905_Mine", default_name="HeartFCaS")


def test_sizes_that_no_scan_has_are_named(raw: Path) -> None:
    """A spacing in metres or micrometres, and a stamp of eight voxels; each would end in no volume, or in terabytes."""
    folder = raw / "Dataset903_Sizes"
    for case_id, shape, spacing_mm in (
        ("metres", (8, 8, 8), 1000.0),
        ("micro", (8, 8, 8), 0.001),
        ("stamp", (2, 2, 2), 4.4),
    ):
        mask = np.ones(shape, np.uint8)
        write_case(folder, Case(case_id, mask.astype(np.float32), mask, np.diag([spacing_mm] * 3 + [1])))
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
