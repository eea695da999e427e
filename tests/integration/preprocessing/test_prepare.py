"""Confidence lies voxel for voxel on nnU-Net's own grid, and finished work is kept."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from nnunet_cases import MOVED_PLANS, PLANS, REAL, SYNTHETIC, Prepared, quick_nnunet, random_case

from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, read_confidence, write_case
from fcas_nnunet.integration.preprocessing import cases
from fcas_nnunet.integration.preprocessing import prepare as preprocessing
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore, preprocessed_confidence_path
from fcas_nnunet.integration.preprocessing.plans import read_plans
from fcas_nnunet.integration.preprocessing.prepare import Geometry

CONFIGURATIONS = ["3d_fullres", "2d"]


def properties_of(folder: Path, case_id: str) -> dict[str, Any]:
    content: dict[str, Any] = pickle.loads((folder / f"{case_id}.pkl").read_bytes())
    return content


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_labels_replayed_through_the_confidence_path_equal_nnunets_segmentation(
    prepared: Prepared, configuration: str
) -> None:
    geometry = Geometry.of(read_plans(prepared.synthetic, MOVED_PLANS), configuration)
    assert geometry.plans.transpose_forward != [0, 1, 2], "the cases are made so that nnU-Net transposes"
    folder = prepared.preprocessed(SYNTHETIC) / geometry.configuration.data_identifier
    resampled = 0
    for case_id in prepared.synthetic.case_ids:
        properties = properties_of(folder, case_id)
        raw = geometry.read(prepared.synthetic.mask_path(case_id))
        replayed = geometry.replay(raw, properties, geometry.configuration.resampling_fn_seg)
        stored = blosc2.open(str(folder / f"{case_id}_seg.b2nd"))[:]
        assert np.count_nonzero(replayed != np.maximum(stored, 0)) == 0
        assert properties["shape_after_cropping_and_before_resampling"] != raw.shape[1:], "cropped"
        resampled += tuple(stored.shape[1:]) != tuple(properties["shape_after_cropping_and_before_resampling"])
    assert resampled > 0, "the cases are made so that nnU-Net resamples"


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_stored_maps_are_the_raw_ones_on_the_segmentations_grid(prepared: Prepared, configuration: str) -> None:
    geometry = Geometry.of(read_plans(prepared.synthetic, MOVED_PLANS), configuration)
    folder = prepared.preprocessed(SYNTHETIC) / geometry.configuration.data_identifier
    for case_id in prepared.synthetic.case_ids:
        stored = blosc2.open(str(preprocessed_confidence_path(folder, case_id)))[:]
        assert stored.dtype == np.uint8
        assert stored.shape == blosc2.open(str(folder / f"{case_id}_seg.b2nd")).shape
        raw = read_confidence(prepared.synthetic.confidence_path(case_id)).array[None]
        fn = geometry.configuration.resampling_fn_probabilities
        expected = geometry.replay(raw, properties_of(folder, case_id), fn)
        assert np.abs(stored / 255 - expected).max() <= 0.5 / 255 + 1e-6


def test_replay_moves_each_voxel_where_nnunet_moves_it() -> None:
    """By hand: transpose (2, 0, 1), crop one voxel on each side, no resampling."""
    plans = {"transpose_forward": [2, 0, 1]}
    configuration = {"spacing": [3.0, 1.0, 2.0]}
    geometry = Geometry(preprocessing.PlansManager(plans), preprocessing.ConfigurationManager(_modern(configuration)))
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(1, 4, 5, 6)
    properties = {"spacing": [1.0, 2.0, 3.0], "bbox_used_for_cropping": [[1, 5], [1, 3], [1, 4]]}
    out = geometry.replay(array, properties, lambda a, shape, *_: a if a.shape[1:] == tuple(shape) else None)
    assert out.shape == (1, 4, 2, 3)
    assert out[0, 0, 0, 0] == array[0, 1, 1, 1]
    assert out[0, 3, 1, 2] == array[0, 2, 3, 4]


def _modern(configuration: dict[str, Any]) -> dict[str, Any]:
    return configuration | {"architecture": {}}


def test_both_data_sets_share_plans_and_normalisation(prepared: Prepared) -> None:
    real, synthetic = read_plans(prepared.real, PLANS), read_plans(prepared.synthetic, MOVED_PLANS)
    assert synthetic["dataset_name"] == SYNTHETIC
    for key in ("foreground_intensity_properties_per_channel", "transpose_forward"):
        assert synthetic[key] == real[key]
    ours, theirs = synthetic["configurations"]["3d_fullres"], real["configurations"]["3d_fullres"]
    assert {k: v for k, v in ours.items() if k != "data_identifier"} == {
        k: v for k, v in theirs.items() if k != "data_identifier"
    }
    assert ours["data_identifier"] == f"{MOVED_PLANS}_3d_fullres"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that nnU-Net preprocesses, and the data sets that it extracts a fingerprint of, in order."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    calls: list[str] = []
    extract, preprocess = api.extract_fingerprints, cases._preprocess

    def extracting(dataset_ids: list[int], *args: Any, **kwargs: Any) -> Any:
        calls.append(f"fingerprint {dataset_ids[0]}")
        return extract(dataset_ids, *args, **kwargs)

    def preprocessing_case(dataset: RawDataset, *args: Any) -> None:
        calls.append(f"preprocess {args[-1]}")
        preprocess(dataset, *args)

    monkeypatch.setattr(cases, "_preprocess", preprocessing_case)
    monkeypatch.setattr(api, "extract_fingerprints", extracting)
    return calls


def again(root: Prepared) -> str:
    with quick_nnunet():
        return prepare("902", REAL, ["3d_fullres"], PLANS, 1)


def test_a_second_call_does_nothing_anew(own_copy: Prepared, counted: list[str]) -> None:
    files = sorted(path for path in (own_copy.root / "preprocessed").rglob("*.b2nd"))
    before = [path.stat().st_mtime_ns for path in files]
    again(own_copy)
    assert counted == []
    assert [path.stat().st_mtime_ns for path in files] == before


def test_stock_preprocessing_of_the_real_data_set_is_kept(own_copy: Prepared, counted: list[str]) -> None:
    (own_copy.preprocessed(REAL) / "fcas_prepared.json").unlink()  # as nnU-Net's own commands leave it
    again(own_copy)
    assert counted == []


def test_a_map_lost_to_a_kill_is_made_again_and_the_others_are_kept(own_copy: Prepared, counted: list[str]) -> None:
    folder = own_copy.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"
    lost, kept = (preprocessed_confidence_path(folder, f"syn_{i}") for i in (1, 2))
    content, changed = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    lost.with_name(f".{lost.name}.0a1b2c3d.part").write_bytes(b"half")
    again(own_copy)
    assert counted == []
    assert kept.stat().st_mtime_ns == changed
    assert (blosc2.open(str(lost))[:] == blosc2.from_cframe(content)[:]).all()
    assert not lost.with_name(f".{lost.name}.0a1b2c3d.part").exists()


def test_maps_that_were_swapped_are_made_again(own_copy: Prepared, counted: list[str]) -> None:
    folder = own_copy.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"
    first, second = (preprocessed_confidence_path(folder, f"syn_{i}") for i in (1, 2))
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    again(own_copy)
    assert counted == []
    for path, content in zip((first, second), contents, strict=True):
        assert (blosc2.open(str(path))[:] == blosc2.from_cframe(content)[:]).all()
    store = ConfidenceStore.read(folder)
    store.verify(own_copy.synthetic.case_ids, lambda i: blosc2.open(str(folder / f"{i}_seg.b2nd")).shape)


def test_a_real_case_among_synthetic_ones_needs_no_map_and_a_synthetic_one_does(own_copy: Prepared) -> None:
    synthetic = own_copy.synthetic
    for case_id in synthetic.case_ids[:-1]:
        Manifest(synthetic.folder).append({"case_id": case_id, "confidence": {"norm": "robust_std"}})
    synthetic.confidence_path(synthetic.case_ids[-1]).unlink()  # not in the manifest: a real case
    again(own_copy)
    folder = own_copy.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"
    store = ConfidenceStore.read(folder)
    assert [store.open(i) is None for i in synthetic.case_ids] == [False, False, False, True]
    synthetic.confidence_path(synthetic.case_ids[0]).unlink()
    with pytest.raises(ValueError, match="syn_0: confidence must exist, got no file"):
        again(own_copy)


def test_a_case_whose_files_are_not_all_there_is_preprocessed_again_and_no_other(
    own_copy: Prepared, counted: list[str]
) -> None:
    folder = own_copy.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"
    again(own_copy)
    (folder / "syn_3.pkl").unlink()
    again(own_copy)
    assert counted == ["preprocess syn_3"]
    assert sorted(path.stem for path in folder.glob("*.pkl")) == own_copy.synthetic.case_ids
    assert all(preprocessed_confidence_path(folder, i).is_file() for i in own_copy.synthetic.case_ids)


@pytest.mark.parametrize("name", [REAL, SYNTHETIC])
def test_cases_whose_preprocessed_files_are_damaged_are_made_again_and_no_others(
    own_copy: Prepared, counted: list[str], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Cut short, overwritten in the middle, or a label map's copy that lost a part."""
    again(own_copy)
    folder = own_copy.preprocessed(name)
    first, second, third, *_ = own_copy.real.case_ids if name == REAL else own_copy.synthetic.case_ids
    prepared = next(folder.glob("*_3d_fullres"))
    cut, overwritten = prepared / f"{first}_seg.b2nd", prepared / f"{second}.b2nd"
    copied = folder / "gt_segmentations" / f"{third}.nii.gz"
    before = {path: blosc2.open(str(path))[:] for path in prepared.rglob("*.b2nd")}
    label, content = copied.read_bytes(), overwritten.read_bytes()
    middle = len(content) // 2
    cut.write_bytes(cut.read_bytes()[:-20])
    overwritten.write_bytes(content[: middle - 500] + bytes(1000) + content[middle + 500 :])
    copied.write_bytes(label[:-20])
    again(own_copy)
    assert sorted(counted) == [f"preprocess {first}", f"preprocess {second}"]
    assert f"preprocessed cases are damaged and made again: {first}, {second}" in caplog.text
    assert all((blosc2.open(str(path))[:] == array).all() for path, array in before.items())
    assert copied.read_bytes() == label
    counted.clear()
    again(own_copy)
    assert counted == []


def test_what_a_killed_run_preprocessed_is_kept(
    own_copy: Prepared, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it began because a raw file had changed; the other cases are kept as well."""
    again(own_copy)
    write_case(own_copy.synthetic.folder, random_case("syn_0", 999, confidence=True))
    write_case(own_copy.synthetic.folder, random_case("syn_2", 998, confidence=True))
    with monkeypatch.context() as patch:
        count = cases._preprocess

        def dies_at_the_second(dataset: RawDataset, *args: Any) -> None:
            if args[-1] == "syn_2":
                raise RuntimeError("killed")
            count(dataset, *args)

        patch.setattr(cases, "_preprocess", dies_at_the_second)
        with pytest.raises(RuntimeError, match="killed"):
            again(own_copy)
    again(own_copy)
    assert counted == ["fingerprint 902", "preprocess syn_0", "preprocess syn_2"]
    folder = own_copy.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"
    store = ConfidenceStore.read(folder)
    store.verify(own_copy.synthetic.case_ids, lambda i: blosc2.open(str(folder / f"{i}_seg.b2nd")).shape)


def test_plans_that_nnunet_was_killed_at_are_made_again(own_copy: Prepared) -> None:
    plans = own_copy.preprocessed(REAL) / f"{PLANS}.json"
    content = plans.read_bytes()
    plans.write_bytes(content[:1000])
    plans.with_name(f".{plans.name}.unfinished").touch()
    (own_copy.preprocessed(REAL) / "dataset_fingerprint.json").write_text('{"spacings": [')
    again(own_copy)
    assert plans.read_bytes() == content
    assert not plans.with_name(f".{plans.name}.unfinished").exists()


def test_a_changed_synthetic_data_set_is_not_taken_for_prepared(own_copy: Prepared, counted: list[str]) -> None:
    synthetic = own_copy.synthetic
    again(own_copy)
    shutil.copyfile(synthetic.confidence_path("syn_0"), kept := own_copy.root / "old.nii.gz")
    write_case(synthetic.folder, random_case("syn_0", 999, confidence=True))
    assert kept.read_bytes() != synthetic.confidence_path("syn_0").read_bytes()
    again(own_copy)
    assert counted == ["fingerprint 902", "preprocess syn_0"]
    folder = own_copy.preprocessed(SYNTHETIC) / f"{MOVED_PLANS}_3d_fullres"
    shape = blosc2.open(str(folder / "syn_0_seg.b2nd")).shape
    assert blosc2.open(str(preprocessed_confidence_path(folder, "syn_0"))).shape == shape
    gt = own_copy.preprocessed(SYNTHETIC) / "gt_segmentations" / "syn_0.nii.gz"
    assert gt.read_bytes() == synthetic.mask_path("syn_0").read_bytes()


def test_a_set_that_passed_as_real_is_read_again_as_synthetic(own_copy: Prepared) -> None:
    """Without a manifest, real cases may lack their map, and synthetic ones must not."""
    synthetic = own_copy.synthetic
    synthetic.confidence_path("syn_1").unlink()
    preprocessing.ensure_checked(synthetic)
    preprocessing.ensure_checked(synthetic)
    with pytest.raises(ValueError, match=r"^syn_1: confidence must exist, got no file .*syn_1\.nii\.gz\. Add it"):
        preprocessing.ensure_checked(own_copy.real, synthetic)
