"""Regions, an ignore label, one class, hundreds of classes or pieces, full volumes: through whole commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fcas_nnunet_small import ROOTS, SHAPE, set_roots, short_config, small_case
from nnunet_cases import quick_nnunet
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from fcas_nnunet.case import Case
from fcas_nnunet.commands.doctor import dataset_findings
from fcas_nnunet.commands.evaluate.command import main as evaluate
from fcas_nnunet.commands.export import main as export
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.masks.command import main as make_masks
from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.commands.report.command import main as report
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.presets import TINY
from fcas_nnunet.generator.mgm.deformation import IDENTITY
from fcas_nnunet.generator.mgm.recipe import Recipe
from fcas_nnunet.generator.mgm.resampling import deform_labels, within_volume
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore
from fcas_nnunet.integration.preprocessing.plans import pair_faults

IGNORED = 7
#: Ventricle and myocardium of a small case are 2 and 5, with gaps before and between; the vessel is 6.
IDS = np.array([0, 2, 5, 6], np.uint8)
REGIONS = {"background": 0, "heart": [2, 5, 6], "left_ventricle": 2, "coronary_arteries": [6], "ignore": IGNORED}
ORDER = [5, 2, 6]
NAMES = {"background": 0, "left_ventricle": 2, "left_myocardium": 5, "coronary_arteries": 6}


def region_case(number: int) -> Case:
    """A small case, of which a slab through the heart, and a corner of the background, have no label."""
    case = small_case(number)
    mask = IDS[case.mask]
    mask[:, 8:11], mask[:3, :3] = IGNORED, IGNORED
    return replace(case, mask=mask, surroundings=None)


def write_set(folder: Path, cases: list[Case], labels: dict[str, Any], more: dict[str, Any] | None = None) -> Path:
    for case in cases:
        write_case(folder, case)
    write_dataset_json(folder, labels, len(cases), more=more)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Data set 941 with regions, an ignore label and gaps between ids; 942, three cases of each source."""
    folder = tmp_path_factory.mktemp("kinds")
    for name in ROOTS:
        (folder / name).mkdir()
    write_set(
        folder / "nnUNet_raw" / "Dataset941_Kinds", [region_case(number) for number in range(3)], REGIONS,
        {"regions_class_order": ORDER, "fcas_names": {"left_myocardium": 5}},
    )  # fmt: skip
    calibration = replace(TINY.calibration, num_drawings=4, num_steps=4)
    save_config(replace(short_config(), calibration=calibration), folder / "short.yaml")
    with pytest.MonkeyPatch.context() as patch:
        set_roots(patch, folder)
        generate(mixed(folder, "942"))
        yield folder


def mixed(home: Path, output: str, *more: str) -> list[str]:
    flags = ["--source", "mixed", "--masks", "both", "--config", str(home / "short.yaml"), "-np", "1"]
    return ["-d", "941", "-o", output, "-n", "12", *flags, *more]


def opened(home: Path, number: int) -> RawDataset:
    (folder,) = (home / "nnUNet_raw").glob(f"Dataset{number}_*")
    return RawDataset.open(folder)


def test_ignored_voxels_move_with_the_mask_and_have_no_confidence(home: Path) -> None:
    source, made = opened(home, 941), opened(home, 942)
    check_dataset(made)
    records = Manifest(made.folder).read()
    seen = set()
    for case_id in made.case_ids:
        record = records[case_id]
        given = read_volume(source.mask_path(record["reference"])).array
        deformation = Recipe.from_dict(record["mgm"]).deformation if record["mgm"] else IDENTITY
        ignored = deform_labels((given == IGNORED).astype(np.uint8), deformation, (2.0, 2.0, 2.0)) > 0
        labels = read_volume(made.mask_path(case_id)).array
        np.testing.assert_array_equal(labels == IGNORED, ignored)
        confidence = made.load_case(case_id).confidence
        assert confidence is not None
        assert not confidence[ignored].any()
        structures = np.isin(labels, IDS[1:])
        assert record["mean_confidence_in_structures"] == pytest.approx(confidence[structures].mean(), abs=3e-3)
        if record["scan"] == "warped":
            np.testing.assert_array_equal(confidence, within_volume(SHAPE, deformation, (2.0, 2.0, 2.0)) & ~ignored)
        seen.add((record["scan"], record["masks"]))
    assert {scan for scan, _ in seen} == {"drawn", "warped", "registered", "painted"}
    assert {masks for _, masks in seen} == {"given", "mgm"}


def test_nnunet_sees_the_same_heads(home: Path) -> None:
    source, made = opened(home, 941), opened(home, 942)
    assert source.labels == made.labels == NAMES
    assert list(made.dataset_json["labels"].items()) == list(REGIONS.items())
    assert (made.dataset_json["regions_class_order"], made.ignore_id) == (ORDER, IGNORED)
    assert pair_faults(made, source) == []
    manager = LabelManager(made.dataset_json["labels"], made.dataset_json["regions_class_order"])
    assert manager.foreground_regions == [(2, 5, 6), 2, (6,)]
    with quick_nnunet():
        prepare("942", "941", ["3d_fullres"], "nnUNetPlans", 1)
    plans = json.loads((home / "nnUNet_preprocessed" / made.name / "nnUNetPlansFrom941.json").read_text())
    folder = home / "nnUNet_preprocessed" / made.name / plans["configurations"]["3d_fullres"]["data_identifier"]
    dataset = infer_dataset_class(str(folder))(str(folder))
    for case_id in made.case_ids:
        _, seg, _, properties = dataset.load_case(case_id)
        confidence = ConfidenceStore.read(folder).open(case_id)[:]
        ignored = np.asarray(seg[:]) == IGNORED
        assert ignored.any()
        assert not confidence[ignored].any(), "nothing is resampled here"
        assert {(2, 5, 6), 2, (6,)} <= set(properties["class_locations"])


def test_the_same_set_again(home: Path, tmp_path: Path) -> None:
    """Bare masks, a replay of the lines, and a second start have the same label maps; nothing is made twice."""
    made = opened(home, 942)
    before = {path: path.read_bytes() for path in sorted(made.folder.rglob("*")) if path.is_file()}
    generate(mixed(home, "942"))
    assert {path: path.read_bytes() for path in sorted(made.folder.rglob("*")) if path.is_file()} == before
    generate(["--replay", "942", "-o", "Dataset943_Again", "-np", "1", *made.case_ids[:4]])
    again = opened(home, 943)
    assert again.dataset_json["labels"] == REGIONS
    make_masks(["-d", "941", "-n", "4", "--masks", "both", "-o", str(tmp_path / "masks"), "-np", "1"])
    for case_id in made.case_ids[:4]:
        label = made.mask_path(case_id).read_bytes()
        assert again.mask_path(case_id).read_bytes() == label
        assert (tmp_path / "masks" / f"{case_id}.nii.gz").read_bytes() == label
        assert again.image_path(case_id).read_bytes() == made.image_path(case_id).read_bytes()
        assert again.confidence_path(case_id).read_bytes() == made.confidence_path(case_id).read_bytes()


def test_regions_and_an_ignore_label_for_another_data_set(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, flags = home / "nnUNet_raw", ["--source", "warped", "-n", "2", "--preset", "tiny", "-np", "1"]
    labels = {"background": 0, "all": [1, 2], "LV": 1, "coronaries": 3}
    write_set(raw / "Dataset950_Real", [small_case(5)], labels, {"regions_class_order": [2, 1, 3]})
    with pytest.raises(SystemExit, match="^2$"):
        generate(["-d", "941", "-o", "Dataset951_For", "--for", "950", *flags])
    message = capsys.readouterr().err
    assert "--for: every label must have a counterpart among those of -d, got none for all_2" in message
    assert 'Dataset950_Real has regions: Name its single ids in its dataset.json: "fcas_names": {' in message
    path = raw / "Dataset950_Real" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fcas_names": {"LV_myocardium": 2}}))
    generate(["-d", "941", "-o", "Dataset951_For", "--for", "950", *flags])
    generate(["-d", "941", "-o", "Dataset952_Own", *flags])
    ours, own = opened(home, 951), opened(home, 952)
    assert list(ours.dataset_json["labels"].items()) == [*labels.items(), ("ignore", 4)]
    assert pair_faults(ours, opened(home, 950)) == []
    check_dataset(ours)
    table = np.zeros(8, np.uint8)
    table[[2, 5, 6, IGNORED]] = 1, 2, 3, 4
    for case_id in own.case_ids:
        theirs, original = (read_volume(dataset.mask_path(case_id)).array for dataset in (ours, own))
        np.testing.assert_array_equal(theirs, table[original])


def test_what_reads_data_sets_reads_these(home: Path, tmp_path: Path) -> None:
    """Report, measures and MedSAM's slices: what is ignored is background there."""

    def result(what: str, *arguments: str) -> Any:
        evaluate([what, *arguments, "-np", "1", "-o", str(tmp_path / f"{what}.json")])
        return json.loads((tmp_path / f"{what}.json").read_text())

    raw = home / "nnUNet_raw"
    made = opened(home, 942)
    report(["-d", "942", "--against", "941", "-o", str(tmp_path / "page.html"), "-np", "1"])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "left_myocardium" in page
    assert "label values must be" not in page
    labels = str(made.folder / "labelsTr")
    scores = result("segmentations", "-r", labels, "-p", labels)
    assert set(scores["settings"]["labels"]) == {"heart", "left_ventricle", "coronary_arteries"}
    assert scores["summary"]["labels"]["heart"]["dice"]["mean"] == 1
    images = result("images", "-r", "941", "-s", "942")
    assert set(images["structures"]) == set(NAMES) - {"background"}
    assert len(images["cases"]) == 3, "those of given masks"
    assert len(result("memorisation", "-d", "942", "--train", "941")["cases"]) == 12
    write_set(raw / "Dataset960_Held", [region_case(number) for number in (7, 8)], REGIONS,
              {"regions_class_order": ORDER, "fcas_names": {"left_myocardium": 5}})  # fmt: skip
    flags = ["--config", str(home / "short.yaml"), "-device", "cpu", "--held_out", "960", "--draws", "1"]
    assert len(result("confidence", "-d", "941", *flags)["cases"]) == 2
    assert [finding.status.name for finding in dataset_findings("941")] == ["OK", "OK"]
    export(["medsam", "-d", "942", "-o", str(tmp_path / "npy"), "--size", "32"])
    assert max(np.load(path).max() for path in (tmp_path / "npy" / "gts").glob("*.npy")) == 6
