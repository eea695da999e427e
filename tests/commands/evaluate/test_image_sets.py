"""fcas_evaluate images with networks: LPIPS of pairs, FID and KID of whole sets, what is not computed and why."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunet_cases import CPU, PLANS, Prepared
from report_sets import assert_shown_by_the_report
from scipy import ndimage
from trunk_files import write_keras_resnet50, write_trunk

from fcas_nnunet.case import Case
from fcas_nnunet.commands.evaluate import images as evaluate_images
from fcas_nnunet.commands.evaluate.command import main
from fcas_nnunet.commands.runtime.outputs import holds_table
from fcas_nnunet.evaluation.images.embedding import embed
from fcas_nnunet.evaluation.images.fid_2p5d import fid_2p5d, plane_features
from fcas_nnunet.evaluation.images.frechet import frechet_distance, kernel_distance
from fcas_nnunet.evaluation.images.perceptual import TRUNK_FILES, Trunk, open_perceptual_distance
from fcas_nnunet.evaluation.images.quality import IntensityRange
from fcas_nnunet.evaluation.images.slice_extractor import FidExtractor, open_slice_extractor
from fcas_nnunet.evaluation.images.variety import feature_variety
from fcas_nnunet.files import atomic_write_json
from fcas_nnunet.integration.cal.trainers import nnUNetTrainerCAL
from fcas_nnunet.integration.dataset.raw_dataset import write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import read_volume, write_volume
from fcas_nnunet.integration.models.features import open_extractor
from fcas_nnunet.integration.preprocessing.plans import read_plans, shrink_plans

AFFINE = np.array([[0, 0, 1.0, 10], [0, 1.0, 0, -20], [1.2, 0, 0, 5], [0, 0, 0, 1.0]])
SHAPE = (33, 36, 34)


@pytest.fixture(autouse=True)
def no_weights_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))


def scan(seed: int) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    return (100 + 3000 * field).astype(np.int16)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Bare folders of three scans, two of them under one id."""
    for folder, first, ids in (("real", 0, "abc"), ("syn", 10, "abd")):
        for number, case_id in enumerate(ids):
            write_volume(tmp_path / folder / f"{case_id}.nii.gz", scan(first + number), AFFINE)
    return tmp_path / "real", tmp_path / "syn"


def run(real: Path | str, synthetic: Path | str, out: Path, *more: str) -> dict[str, Any]:
    main(["images", "-r", str(real), "-s", str(synthetic), "-np", "1", "-device", "cpu", "-o", str(out), *more])
    assert_shown_by_the_report(out)
    report: dict[str, Any] = json.loads(out.read_text())
    return report


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    def check(real: Path, synthetic: Path, out: Path, sentence: str, *more: str) -> None:
        with pytest.raises(SystemExit, match="^2$"):
            run(real, synthetic, out, *more)
        error = capsys.readouterr().err
        assert sentence in error
        assert "image pairs" not in error, "refused before the long work"
        assert not out.exists()

    return check


def test_without_networks_the_report_says_why(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(*folders, tmp_path / "out.json", "--range", "-200", "600")
    checkpoints = tmp_path / "torch_home" / "hub" / "checkpoints"
    assert report["perceptual"] == {
        "not_computed": "no weights of the trunk: give --lpips_weights FILE, or put alexnet-owt-7be5be79.pth "
        f"into {checkpoints}"
    }
    assert report["fid_2p5d"] == {"not_computed": "no extractor: give --fid_weights FILE"}
    assert report["network_features"] == {
        "not_computed": "no network: give --network MODEL_FOLDER of a trained nnU-Net"
    }
    assert report["schema_version"] == 1
    assert sorted(report["cases"]) == ["a", "b"]
    printed = capsys.readouterr().out
    assert "LPIPS: not computed: no weights of the trunk" in printed
    assert "FID 2.5D: not computed: no extractor" in printed
    assert "features of nnU-Net: not computed: no network" in printed


@pytest.mark.parametrize("where", ["option", "torch_home"])
def test_lpips_of_every_pair(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    folder = tmp_path / "torch_home" / "hub" / "checkpoints" if where == "torch_home" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    path = write_trunk(Trunk.ALEX, folder / TRUNK_FILES[Trunk.ALEX], seed=0)
    table = tmp_path / "out.csv"
    options = ["--range", "-200", "600", "--csv", str(table)]
    options += ["--lpips_weights", str(path)] if where == "option" else []
    report = run(*folders, tmp_path / "out.json", *options)["perceptual"]
    distance = open_perceptual_distance(Trunk.ALEX, path)
    wanted = [distance.score(scan(n), scan(10 + n), IntensityRange(-200, 600, "stated")).lpips for n in range(2)]
    assert [report["cases"][case_id]["lpips"] for case_id in "ab"] == pytest.approx(wanted)
    assert report["summary"]["mean"] == pytest.approx(np.mean(wanted))
    assert report["cases"]["a"]["slices"] == {"along_d": 14, "along_h": 15, "along_w": 13}
    assert report["name"] == distance.name
    assert report["name"].startswith("LPIPS 0.1, alex, alexnet-owt-7be5be79.pth, sha256 ")
    assert [float(row["lpips"]) for row in csv.DictReader(table.open())] == pytest.approx(wanted)
    assert holds_table(evaluate_images.CSV_COLUMNS)(table), "which the same command may write over"
    printed = capsys.readouterr().out
    assert f"{np.mean(wanted):.4f}" in next(line for line in printed.splitlines() if line.startswith("LPIPS "))
    assert f"LPIPS: {distance.name}" in printed


def test_fid_of_sets_without_any_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `--masks mgm`: every mask is another, so nothing is compared scan by scan."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[5:20, 5:20, 5:20] = 1
    for name, first, shift in (("Dataset901_Heart", 0, 0), ("Dataset902_HeartFCaS", 10, 3)):
        for number in range(2):
            write_case(tmp_path / name, Case(f"c{number}", scan(first + number)[None], np.roll(mask, shift, 0), AFFINE))
        write_dataset_json(tmp_path / name, {"background": 0, "aorta": 1}, 2)
    weights = write_keras_resnet50(tmp_path / "RadImageNet-ResNet50_notop.pth")
    options = ["--fid_weights", str(weights), "--fid_size", "32"]
    report = run("901", "902", tmp_path / "out.json", *options)
    network = open_slice_extractor(FidExtractor.RADIMAGENET, weights)
    sets = [[plane_features(scan(first + n), AFFINE, network, 32) for n in range(2)] for first in (0, 10)]
    wanted = fid_2p5d(*sets)
    fid = report["fid_2p5d"]
    assert fid["fid"] == pytest.approx(wanted.fid, rel=1e-4)
    assert fid["planes"] == pytest.approx(wanted.planes, rel=1e-4)
    assert fid["name"] == network.name
    assert (fid["size_voxels"], fid["real_slices"], fid["synthetic_cases"]) == (32, 26, 2)
    assert report["cases"] == {}
    why = (
        "at least one mask must equal that of its reference in Dataset901_Heart, voxel by voxel, got none: the masks "
        "of c0, c1 are deformed or labelled otherwise"
    )
    assert report["summary"]["ssim"] == {"mean": None, "std": None, "count": 0, "not_computed": why}
    assert report["settings"]["intensity_range"] is None
    assert report["perceptual"]["not_computed"].startswith("no weights of the trunk")
    assert report["structures"]["aorta"]["synthetic"]["count"] == 2
    printed = capsys.readouterr().out
    assert f"SSIM, RMSE: not computed: {why}" in printed
    assert f"FID 2.5D: {network.name}" in printed
    table = tmp_path / "out.csv"
    run("901", "902", tmp_path / "out.json", "--csv", str(table))  # the structures alone
    assert table.read_text().splitlines() == ["case_id,reference,ssim,rmse,rmse_units"]


def test_bare_folders_without_pairs_need_no_range(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[1] / "a.nii.gz").rename(folders[1] / "e.nii.gz")
    (folders[1] / "b.nii.gz").rename(folders[1] / "f.nii.gz")
    weights = write_keras_resnet50(tmp_path / "RadImageNet-ResNet50_notop.pth")
    report = run(*folders, tmp_path / "out.json", "--fid_weights", str(weights), "--fid_size", "32")
    assert report["fid_2p5d"]["fid"] > 0
    assert "cases must have a partner in" in report["summary"]["rmse"]["not_computed"]
    with pytest.raises(SystemExit, match="^2$"):
        run(*folders, tmp_path / "none.json")


@pytest.fixture
def model(prepared: Prepared) -> Path:
    """A narrow network that has just begun."""
    plans = shrink_plans(
        read_plans(prepared.real, PLANS), "3d_fullres", plans_name="nnUNetPlansSets", features_per_stage=[4, 8, 16],
        patch_size=[24, 24, 24],
    )  # fmt: skip
    torch.manual_seed(0)
    trainer = nnUNetTrainerCAL(
        deepcopy(plans) | {"continue_training": False}, "3d_fullres", "all", prepared.real.dataset_json, CPU
    )
    trainer.initialize()
    folder = Path(trainer.output_folder_base)
    Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    atomic_write_json(folder / "plans.json", plans)
    atomic_write_json(folder / "dataset.json", prepared.real.dataset_json)
    return folder


def test_features_of_a_trained_network(
    prepared: Prepared, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--network", str(model), "--fold", "all", "--tsne", str(tmp_path / "map.png")]
    report = run("901", "902", tmp_path / "out.json", *options)
    found = report["network_features"]
    network = open_extractor(model, "all")
    rows = [{i: network.features([d.image_path(i)]) for i in d.case_ids} for d in (prepared.real, prepared.synthetic)]
    windows = [np.concatenate(list(cases.values())) for cases in rows]
    cases = [[i for i, features in one.items() for _ in features] for one in rows]
    kid = kernel_distance(*windows, *cases)
    assert found["fid"] == pytest.approx(frechet_distance(*windows), rel=1e-5)
    assert found["kid"] == pytest.approx({"value": kid.value, "standard_error": kid.standard_error}, rel=1e-4)
    variety = feature_variety(*(list(cases.values()) for cases in rows))
    assert found["variety"] == pytest.approx(vars(variety), rel=1e-4)
    assert (found["real_cases"], found["synthetic_cases"]) == (5, 4)
    assert (found["real_windows"], found["synthetic_windows"]) == tuple(len(w) for w in windows)
    assert found["name"] == network.name
    means = np.stack([features.mean(axis=0) for one in rows for features in one.values()])
    points = found["tsne"]["cases"]
    assert [(point["set"], point["case_id"]) for point in points] == [
        *(("real", case_id) for case_id in prepared.real.case_ids),
        *(("synthetic", case_id) for case_id in prepared.synthetic.case_ids),
    ]
    np.testing.assert_allclose([(p["x"], p["y"]) for p in points], embed(means).coordinates, rtol=1e-4)
    assert found["tsne"]["perplexity"] == pytest.approx(8 / 3)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"SE {kid.standard_error:.4f}" in printed
    assert f"features of nnU-Net: {network.name}" in printed


def test_bad_networks_are_refused_before_the_work(
    folders: tuple[Path, Path], tmp_path: Path, refused: Callable[..., None]
) -> None:
    out, stated = tmp_path / "out.json", ["--range", "-200", "600"]
    alex = write_trunk(Trunk.ALEX, tmp_path / "some.pth", seed=0)
    for sentence, options in (
        ("none.pth: file of weights must exist", ["--lpips_weights", str(tmp_path / "none.pth")]),
        ("weights must be those of torchvision's vgg16", ["--lpips_weights", str(alex), "--lpips_net", "vgg"]),
        ("none.pth: file of weights must exist", ["--fid_weights", str(tmp_path / "none.pth")]),
        ("weights must be those of radimagenet_resnet50", ["--fid_weights", str(alex)]),
        ("--fid_extractor: must go with --fid_weights, got it alone", ["--fid_extractor", "imagenet_resnet50"]),
        ("model folder must hold dataset.json and plans.json", ["--network", str(tmp_path / "no_model")]),
        ("--tsne: must go with --network, got it alone", ["--tsne", str(tmp_path / "map.png")]),
        ("map must go into a file, got a folder", ["--tsne", str(tmp_path), "--network", str(tmp_path)]),
    ):
        refused(*folders, out, sentence, *stated, *options)
    (folders[0] / "c.nii.gz").unlink()
    for case_id in "bd":
        (folders[1] / f"{case_id}.nii.gz").unlink()
    sentence = "--tsne: there must be at least 4 cases, got 3"
    refused(*folders, out, sentence, *stated, "--tsne", str(tmp_path / "map.png"), "--network", str(tmp_path))


def test_what_lies_in_torchs_cache_and_is_broken_stops_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "torch_home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / TRUNK_FILES[Trunk.ALEX]).write_bytes(b"half a download")
    report = run(*folders, tmp_path / "out.json", "--range", "-200", "600")
    assert "file must hold torch weights alone" in report["perceptual"]["not_computed"]
    with pytest.raises(SystemExit, match="^2$"):
        run(*folders, tmp_path / "asked.json", "--range", "-200", "600", "--lpips_net", "alex")


def test_small_scans_have_no_lpips(tmp_path: Path) -> None:
    for folder, seed in (("real", 0), ("syn", 1)):
        write_volume(tmp_path / folder / "a.nii.gz", scan(seed)[:20], AFFINE)
    path = write_trunk(Trunk.ALEX, tmp_path / "some.pth", seed=0)
    options = ["--range", "-200", "600", "--lpips_weights", str(path)]
    report = run(tmp_path / "real", tmp_path / "syn", tmp_path / "out.json", *options)
    assert report["perceptual"] == {"not_computed": "every side must be at least 32 voxels, got (20, 36, 34) (a)"}
    assert report["summary"]["ssim"]["count"] == 1
    assert read_volume(tmp_path / "syn" / "a.nii.gz").array.shape == (20, 36, 34)
