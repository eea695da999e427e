"""fcas_prepare of real scans with confidence maps of the user: plans, preprocessing and folds are nnU-Net's own."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_cases import CPU, LABELS, PLANS, REAL, SYNTHETIC, Prepared, affine_of, make_root, quick_nnunet, random_case
from nnunet_commands import (
    NARROW_PLANS,
    ONE_EPOCH,
    needs_torchvision,
    printed_commands,
    run,
    shell_environment,
    write_narrow_plans,
)
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fcas_nnunet.commands import doctor
from fcas_nnunet.commands.prepare import main
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL
from fcas_nnunet.integration.dataset.manifest import MANIFEST_FILE, Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.integration.preprocessing import cases
from fcas_nnunet.integration.preprocessing import prepare as preprocessing
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore, preprocessed_confidence_path
from fcas_nnunet.integration.preprocessing.plans import read_plans
from fcas_nnunet.integration.preprocessing.prepare import Geometry
from fcas_nnunet.integration.preprocessing.stamps import STAMPS_FILE

OWN = "Dataset903_Own"
MAPPED = [f"real_{i}" for i in range(4)]  # the fifth case has none


def write_map(dataset: RawDataset, case_id: str, array: np.ndarray) -> Path:
    """A map as a user's own tool writes it: SimpleITK, the label's header, the array's number type."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(sitk.ReadImage(str(dataset.mask_path(case_id))))
    path = dataset.confidence_path(case_id)
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(image, str(path), True)
    return path


def doubtful(dataset: RawDataset, case_id: str) -> np.ndarray:
    """1 where there is a label, falling to 0 along an axis elsewhere, float64."""
    labels = read_volume(dataset.mask_path(case_id)).array
    fall = np.linspace(1, 0, labels.shape[2])
    return np.where(labels > 0, 1.0, np.broadcast_to(fall, labels.shape))


@pytest.fixture
def home(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A preprocessed real data set, and maps in several number types of four of its five cases."""
    for kind in ("raw", "preprocessed", "results"):
        shutil.copytree(prepared.root / kind, tmp_path / kind)
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    own = Prepared(tmp_path, "")
    for case_id, dtype in zip(MAPPED, (np.float64, np.float32, np.uint8, np.int16), strict=True):
        write_map(own.real, case_id, doubtful(own.real, case_id).astype(dtype))
    return own


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps of nnU-Net that are run, in order."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    calls: list[str] = []

    def counting(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return step(*args, **kwargs)

        return counted

    for module, name in ((api, "extract_fingerprints"), (api, "plan_experiments"), (cases, "_preprocess")):
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls


def prepare(*arguments: str) -> None:
    with quick_nnunet():
        main(["-d", "901", "-np", "1", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="^2$"):
        prepare(*arguments)
    return capsys.readouterr().err


def folder_of(home: Prepared) -> Path:
    return home.preprocessed(REAL) / f"{PLANS}_3d_fullres"


def properties_of(folder: Path, case_id: str) -> dict[str, Any]:
    content: dict[str, Any] = pickle.loads((folder / f"{case_id}.pkl").read_bytes())
    return content


def stored(home: Prepared, case_id: str) -> np.ndarray:
    return np.asarray(blosc2.open(str(preprocessed_confidence_path(folder_of(home), case_id)))[:])


def test_maps_join_what_nnunet_has_preprocessed(
    home: Prepared, steps: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (home.preprocessed(REAL) / STAMPS_FILE).unlink()  # as nnU-Net's own commands leave it
    with caplog.at_level(logging.WARNING):
        prepare()
    assert steps == []
    assert f"{REAL}: 1 of 5 cases have no confidence map and count fully, 1 everywhere: real_4" in caplog.text
    geometry = Geometry.of(read_plans(home.real, PLANS), "3d_fullres")
    assert ConfidenceStore.read(folder_of(home)).sha256["real_4"] is None
    for case_id in MAPPED:
        raw = geometry.read(home.real.confidence_path(case_id))
        properties = properties_of(folder_of(home), case_id)
        expected = geometry.replay(raw, properties, geometry.configuration.resampling_fn_probabilities)
        assert stored(home, case_id).dtype == np.uint8
        assert np.abs(stored(home, case_id) / 255 - expected).max() <= 0.5 / 255 + 1e-6
        assert stored(home, case_id).std() > 10
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("nnUNetv2")]
    device = " -device cpu" if " -device cpu" in lines[0] else ""
    assert lines[:5] == [
        f"nnUNetv2_train 901 3d_fullres {fold} -p {PLANS} -tr nnUNetTrainerCAL{device}" for fold in range(5)
    ]
    assert lines[5:10] == [f"nnUNetv2_train 901 3d_fullres {fold} -p {PLANS}{device}" for fold in range(5)]
    assert lines[10].startswith(f"nnUNetv2_predict -d 901 -c 3d_fullres -f 0 1 2 3 4 -p {PLANS} -tr nnUNetTrainerCAL ")


def test_folds_are_nnunets_own(home: Prepared) -> None:
    prepare("-f", "0", "3")
    plans = read_plans(home.real, PLANS) | {"continue_training": False}
    trainer = nnUNetTrainerCAL(plans, "3d_fullres", 3, home.real.dataset_json, CPU)
    training, validation = trainer.do_split()
    wanted = generate_crossval_split(home.real.case_ids)[3]
    assert (list(training), list(validation)) == (list(wanted["train"]), list(wanted["val"]))


def test_a_changed_map_alone_is_made_again_and_a_removed_one_is_forgotten(home: Prepared, steps: list[str]) -> None:
    prepare()
    paths = [preprocessed_confidence_path(folder_of(home), case_id) for case_id in MAPPED]
    times = [path.stat().st_mtime_ns for path in paths]
    before = stored(home, "real_0")
    write_map(home.real, "real_0", 1 - doubtful(home.real, "real_0"))
    home.real.confidence_path("real_3").unlink()
    prepare()
    assert steps == []
    assert (stored(home, "real_0") != before).any()
    assert [path.is_file() and path.stat().st_mtime_ns == time for path, time in zip(paths, times, strict=True)] == [
        False, True, True, False,
    ]  # fmt: skip
    store = ConfidenceStore.read(folder_of(home))
    assert [store.sha256[case_id] is None for case_id in home.real.case_ids] == [False] * 3 + [True] * 2
    assert not paths[3].exists()


@pytest.mark.parametrize("changed", [False, True], ids=["same maps", "a map changed in between"])
def test_a_killed_run_is_continued(home: Prepared, changed: bool) -> None:
    """What it wrote is kept, but not if any raw map is another than when it began."""

    def killed_run() -> None:
        write = preprocessing._write_map

        def dies_at_the_third(dataset: RawDataset, geometry: Geometry, folder: Path, case_id: str) -> None:
            if case_id == MAPPED[2]:
                raise RuntimeError("killed")
            write(dataset, geometry, folder, case_id)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            patch.setattr(preprocessing, "_write_map", dies_at_the_third)
            prepare()

    killed_run()
    kept = [preprocessed_confidence_path(folder_of(home), case_id) for case_id in MAPPED[:2]]
    times = [path.stat().st_mtime_ns for path in kept]
    if changed:
        write_map(home.real, "real_1", 1 - doubtful(home.real, "real_1"))
    prepare()
    assert [path.stat().st_mtime_ns == time for path, time in zip(kept, times, strict=True)] == [not changed] * 2
    folder = folder_of(home)
    store = ConfidenceStore.read(folder)
    store.verify(home.real.case_ids, lambda i: blosc2.open(str(folder / f"{i}_seg.b2nd")).shape)


def test_for_a_real_set_with_maps_both_are_weighted_until_its_maps_are_gone(
    home: Prepared, steps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with quick_nnunet():
        main(["-d", "902", "--for", "901", "-np", "1"])
    assert "Its confidence maps weight this step, too." in capsys.readouterr().out
    assert ConfidenceStore.read(folder_of(home)).sha256["real_0"]
    shutil.rmtree(home.real.folder / "confidenceTr")
    with quick_nnunet():
        main(["-d", "902", "--for", "901", "-np", "1"])
    assert "weight this step" not in capsys.readouterr().out
    assert steps == []
    assert not (folder_of(home) / "confidence").exists()


def test_what_an_earlier_version_prepared_is_kept(home: Prepared, steps: list[str]) -> None:
    """Its digests cover the maps, and its index does not name the raw ones."""
    from fcas_nnunet.integration.preprocessing.stamps import Stamps, preprocessing_digests, raw_digest

    synthetic = home.synthetic
    plans = read_plans(synthetic, "nnUNetPlansFrom901")
    geometry = Geometry.of(plans, "3d_fullres")
    identifier = geometry.configuration.data_identifier
    earlier = preprocessing_digests(synthetic, plans, geometry.configuration.configuration)[1]
    stamps = {identifier: earlier, "fingerprint": raw_digest(synthetic)}
    atomic_write_json(home.preprocessed(SYNTHETIC) / STAMPS_FILE, Stamps.of(synthetic).read() | stamps)
    index = home.preprocessed(SYNTHETIC) / identifier / "confidence" / "index.json"
    atomic_write_json(index, {"sha256": json.loads(index.read_text())["sha256"]})
    maps = sorted(index.parent.glob("*.b2nd"))
    times = [path.stat().st_mtime_ns for path in maps]
    with quick_nnunet():
        main(["-d", "902", "--for", "901", "-np", "1"])
    assert steps == []
    assert [path.stat().st_mtime_ns for path in maps] == times


def test_a_set_without_maps_is_refused(home: Prepared, steps: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(home.real.folder / "confidenceTr")
    before = (home.preprocessed(REAL) / STAMPS_FILE).read_bytes()
    message = refused(capsys, "-f", "7")
    assert f"{REAL}: confidenceTr must hold the confidence map of at least one case" in message
    assert "-f: folds must be among 0, 1, 2, 3, 4, all, got 7." in message
    assert (home.preprocessed(REAL) / STAMPS_FILE).read_bytes() == before


def test_a_synthetic_set_needs_the_real_one(home: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    Manifest(home.real.folder).append({"case_id": "real_0", "confidence": {}})
    remedy = "Name the real one that it is for: fcas_prepare -d 901 --for REAL."
    assert remedy in refused(capsys)
    (home.real.folder / MANIFEST_FILE).unlink()
    atomic_write_json(home.real.folder / "dataset.json", home.real.dataset_json | {"fcas_parents": {}})
    assert remedy in refused(capsys)


def test_bad_maps_are_listed_before_any_work(home: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    real = home.real
    write_map(real, "real_0", doubtful(real, "real_0") * 3)
    write_map(real, "real_1", doubtful(real, "real_1") - 0.5)
    write_map(real, "real_2", np.where(doubtful(real, "real_2") > 0.5, np.nan, 1))
    write_map(real, "real_3", (255 * doubtful(real, "real_3")).astype(np.uint8))
    message = refused(capsys)
    allow = 'or allow such weights by "fcas_max_weight": 3 in dataset.json.'
    assert f"real_0: confidence must lie in [0, 1], got 0 to 3. Write the map or generate the case again, {allow}" in (
        message
    )
    assert "real_1: confidence must lie in [0, 1], got -0.5 to 0.5. Write the map or generate the case again.\n" in (
        message
    )
    assert "real_2: confidence must be finite, got " in message
    assert "real_3: confidence must lie in [0, 1], got 0 to 255. Write the map or generate the case again.\n" in message
    assert not (folder_of(home) / "confidence").exists()


def test_a_misspelt_map_is_named(home: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home.real.folder / "confidenceTr"
    (folder / "real_3.nii.gz").rename(folder / "real_3_0000.nii.gz")
    (folder / "real_2.nii.gz").rename(folder / "real_2.nrrd")
    (folder / "notes.txt").touch()
    message = refused(capsys)
    for name in ("real_2.nrrd", "real_3_0000.nii.gz"):
        assert f"{folder / name}: confidence map must be named as the label of its case" in message
    assert "notes.txt" not in message


@pytest.mark.parametrize("value", ["3", 0.5, 101, True, None])
def test_the_largest_weight_is_a_number_that_can_be_stored(
    home: Prepared, capsys: pytest.CaptureFixture[str], value: Any
) -> None:
    atomic_write_json(home.real.folder / "dataset.json", home.real.dataset_json | {"fcas_max_weight": value})
    assert f"fcas_max_weight must be a number from 1 to 100, got {value!r}. Correct it." in refused(capsys)


def test_the_doctor_reads_the_maps(home: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    def findings() -> list[str]:
        return [f"{f.status} {f.message} {f.remedy}" for f in doctor.dataset_findings("901")]

    assert any("5 cases are sound" in line for line in findings())
    assert any(line.startswith("warning 1 of 5 cases have no confidence map") for line in findings())
    prepare()
    assert not any("fcas_prepare -d 901" in line for line in findings())
    write_map(home.real, "real_2", 1 - doubtful(home.real, "real_2"))
    home.real.confidence_path("real_3").unlink()
    (changed,) = (line for line in findings() if "fcas_prepare -d 901" in line)
    assert changed.startswith("warning ")
    assert "real_2, real_3" in changed
    write_map(home.real, "real_2", 2 - doubtful(home.real, "real_2"))
    assert any("real_2: confidence must lie in [0, 1], got 1 to 2." in line for line in findings())


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """Five .mha cases of one spacing, so that nnU-Net does not resample, with weights 0, 0.5, 1 and 3; no plans."""
    make_root(tmp_path)
    for name, value in Prepared(tmp_path, "").environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "raw" / OWN
    for part in ("imagesTr", "labelsTr", "confidenceTr"):
        (folder / part).mkdir(parents=True)
    for number in range(5):
        case = random_case(f"own_{number}", number, confidence=False)
        weights = np.random.default_rng(number).choice([0.0, 0.5, 1.0, 3.0], case.shape)
        for part, ending, array in (("imagesTr", "_0000", case.image[0]), ("labelsTr", "", case.mask),
                                    ("confidenceTr", "", weights)):  # fmt: skip
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1.5, 0.9, 0.8))
            image.SetOrigin(affine_of((1, 1, 1), number)[:3, 3].tolist())
            sitk.WriteImage(image, str(folder / part / f"own_{number}{ending}.mha"))
    atomic_write_json(
        folder / "dataset.json",
        {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 5, "file_ending": ".mha",
         "fcas_max_weight": 3},
    )  # fmt: skip
    return RawDataset.open(folder, any_kind=True)


def test_weights_above_1_that_are_not_resampled_are_exact(own: RawDataset, steps: list[str]) -> None:
    """The whole way: fingerprint, plans and preprocessing of a set that nnU-Net has not seen yet."""
    with quick_nnunet():
        main(["-d", "903", "-np", "1", "-f", "all"])
    assert steps == ["extract_fingerprints", "plan_experiments", *["_preprocess"] * len(own.case_ids)]
    geometry = Geometry.of(read_plans(own, PLANS), "3d_fullres")
    folder = Path(own.folder.parents[1] / "preprocessed" / OWN / geometry.configuration.data_identifier)
    for case_id in own.case_ids:
        raw = read_volume(own.confidence_path(case_id)).array.transpose(geometry.plans.transpose_forward)
        box = properties_of(folder, case_id)["bbox_used_for_cropping"]
        wanted = raw[tuple(slice(*bounds) for bounds in box)]
        steps_of_255 = blosc2.open(str(preprocessed_confidence_path(folder, case_id)))[:][0]
        assert steps_of_255.dtype == np.uint16
        assert set(np.unique(wanted)) == {0, 0.5, 1, 3}
        for value, step in ((0, 0), (0.5, 128), (1, 255), (3, 765)):
            np.testing.assert_array_equal(steps_of_255 == step, wanted == value)
    case = own.load_case("own_0")
    assert case.confidence is not None
    assert set(np.unique(case.confidence)) == {0, np.float32(128 / 255), 1, 3}


@pytest.mark.slow
def test_a_weighted_training_and_fine_tuning_with_the_commands_as_printed(
    home: Prepared, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Stock nnU-Net in processes of its own: one epoch from scratch, one of fine-tuning, a prediction."""
    needs_torchvision()
    for name, value in (home.environment | ONE_EPOCH).items():
        monkeypatch.setenv(name, value)
    write_narrow_plans(home.real)
    write_map(home.real, "real_0", 3 * doubtful(home.real, "real_0"))
    atomic_write_json(home.real.folder / "dataset.json", home.real.dataset_json | {"fcas_max_weight": 3})
    main(["-d", "901", "-p", NARROW_PLANS, "-np", "1", "-f", "0"])
    train, predict = printed_commands(capfd.readouterr().out)
    shell = shell_environment()
    printed = run(train, shell)
    assert "Confidence weights the loss: 3 of 4 training cases have a map, the others count fully." in printed or (
        "Confidence weights the loss: 4 of 4 training cases have a map." in printed
    )
    assert "mean confidence " in printed
    results = home.root / "results" / REAL
    weights = results / f"nnUNetTrainerCAL_demo__{NARROW_PLANS}__3d_fullres" / "fold_0" / "checkpoint_final.pth"
    tune = train.replace("nnUNetTrainerCAL_demo", f"nnUNetTrainerCALFinetune_demo -pretrained_weights {weights}")
    printed = run(tune, shell)
    assert "Confidence weights the loss: " in printed
    assert "mean confidence " in printed
    inputs = home.root / "inputs"
    inputs.mkdir()
    shutil.copyfile(home.real.image_path("real_0"), inputs / "new_0000.nii.gz")
    run(predict.replace("INPUT_FOLDER", str(inputs)).replace("OUTPUT_FOLDER", str(home.root / "out")), shell)
    assert read_volume(home.root / "out" / "new.nii.gz").array.shape == (
        read_volume(home.real.mask_path("real_0")).array.shape
    )
