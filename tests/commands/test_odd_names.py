"""Case ids and folders with dots, spaces, accents, emoji, signs and 200 characters go through every command."""

from __future__ import annotations

import json
import shlex
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fcas_nnunet_small import set_roots
from nnunet_cases import ENVIRONMENT, PLANS, affine_of, quick_nnunet

from fcas_nnunet.case import Case
from fcas_nnunet.commands.doctor import dataset_findings
from fcas_nnunet.commands.evaluate.command import main as evaluate
from fcas_nnunet.commands.export import main as export
from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.masks.command import main as make_masks
from fcas_nnunet.commands.prepare import prepare
from fcas_nnunet.commands.report.command import main as report
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.environment.checks import Status
from fcas_nnunet.integration.preprocessing.confidence_store import ConfidenceStore, preprocessed_confidence_path

IDS = [
    "with.dots.1.2", "with spaces  two", unicodedata.normalize("NFC", "José_Muñoz"),
    unicodedata.normalize("NFD", "Zoë"), "❤️_heart", "-minus", "100%", "a[1]*?", "'quoted\"", "L" * 200, "case_0000",
]  # fmt: skip
LABELS = {"background": 0, "left_ventricle": 1, "left_myocardium": 2}
SYNTHETIC = "Dataset902_Synthetic"


def ball_case(case_id: str, seed: int) -> Case:
    """A ball in a shell, with confidence."""
    rng = np.random.default_rng(seed)
    shape = (26, 28, 30)
    radius = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - (13, 14, 15), axis=-1)
    mask = (2 * (radius < 8) - (radius < 5)).astype(np.uint8)
    image = np.array([-80, 350, 120])[mask] + rng.normal(0, 20, shape)
    confidence = np.where(mask > 0, 0.5, 1).astype(np.float32)
    return Case(case_id, image.round()[None], mask, affine_of((1.5, 1.4, 1.6), seed), confidence=confidence)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Real scans under odd ids, and the same as a synthetic set, in folders with spaces and accents."""
    folder = tmp_path_factory.mktemp("a home") / "Ärzte & Söhne (100%)"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        set_roots(patch, folder)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        raw = folder / "nnUNet_raw"
        for number, case_id in enumerate(IDS):
            case = ball_case(case_id, number)
            write_case(raw / SYNTHETIC, case)
            write_case(raw / "Dataset901_Ödland.v2", replace(case, confidence=None))
        for name in (SYNTHETIC, "Dataset901_Ödland.v2"):
            write_dataset_json(raw / name, LABELS, len(IDS))
        yield folder


def test_nnunet_itself_takes_them(home: Path) -> None:
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    with quick_nnunet():
        verify_dataset_integrity(str(home / "nnUNet_raw" / SYNTHETIC), 1)


def test_a_data_set_is_sound_and_a_fault_names_its_file(home: Path) -> None:
    assert {finding.status for finding in dataset_findings("901")} == {Status.OK}
    label = RawDataset.open(home / "nnUNet_raw" / SYNTHETIC).mask_path("100%")
    kept = label.read_bytes()
    label.write_bytes(kept[:-9])
    (finding,) = dataset_findings("902")
    assert finding.message.startswith(f"100%: {label}: file must be whole")
    label.write_bytes(kept)


def test_masks_and_scans_are_made_from_them(home: Path) -> None:
    references = ["--references", *(f"901:{case_id}" for case_id in IDS)]
    flags = ["-d", "901", "-n", str(len(IDS)), "-np", "1"]
    generate([*flags, "-o", "Dataset903_Warped", "--source", "warped", "--masks", "given", *references])
    made = RawDataset.open(home / "nnUNet_raw" / "Dataset903_Warped")
    records = Manifest(made.folder).read()
    assert sorted(record["reference"] for record in records.values()) == sorted(IDS)
    source = RawDataset.open(home / "nnUNet_raw" / "Dataset901_Ödland.v2")
    for case_id, record in records.items():
        np.testing.assert_array_equal(made.load_mask(case_id).mask, source.load_mask(record["reference"]).mask)
    make_masks([*flags[:2], "-n", "2", "-np", "1", "-o", "new masks/ä"])
    assert len(list((home / "new masks" / "ä").glob("*.nii.gz"))) == 2


def test_they_are_prepared_and_the_commands_can_be_pasted(home: Path) -> None:
    with quick_nnunet():
        commands = prepare("902", "901", ["3d_fullres"], PLANS, 1)
    folder = home / "nnUNet_preprocessed" / SYNTHETIC / "nnUNetPlansFrom901_3d_fullres"
    assert sorted(path.stem for path in folder.glob("*.pkl")) == sorted(IDS)
    assert set(ConfidenceStore.read(folder).sha256) == set(IDS)
    assert all(preprocessed_confidence_path(folder, case_id).is_file() for case_id in IDS)
    words = [word for line in commands.splitlines() if "-pretrained_weights" in line for word in shlex.split(line)]
    weights = {Path(word) for before, word in zip(words, words[1:], strict=False) if before == "-pretrained_weights"}
    (path,) = weights
    assert path.is_relative_to(home / "nnUNet_results" / SYNTHETIC)
    modified = {path: path.stat().st_mtime_ns for path in folder.rglob("*.b2nd")}
    with quick_nnunet():
        prepare("902", "901", ["3d_fullres"], PLANS, 1)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.b2nd")} == modified, "nothing was done again"


def test_they_are_scored_reported_and_exported(home: Path) -> None:
    labels = home / "nnUNet_raw" / SYNTHETIC / "labelsTr"
    predictions = home / "predictions of é"
    shutil.copytree(labels, predictions)
    evaluate(["segmentations", "-r", str(labels), "-p", str(predictions), "-o", "dice ä.json", "--overlap_only",
              "-np", "1"])  # fmt: skip
    scores = json.loads((home / "dice ä.json").read_text())
    assert sorted(scores["cases"]) == sorted(case_id.removesuffix("_0000") for case_id in IDS)
    assert scores["summary"]["foreground_mean"]["dice"] == 1
    report(["-d", "902", "-o", "page ä.html", "-np", "1"])
    page = (home / "page ä.html").read_text(encoding="utf-8")
    assert "with.dots.1.2" in page
    assert "José_Muñoz" in page
    export(["medsam", "-d", "902", "-o", "slices ä", "--size", "32"])
    slices = {path.stem for path in (home / "slices ä" / "imgs").glob("*.npy")}
    assert all(any(case_id in name for name in slices) for case_id in IDS)


def test_no_file_is_left_beside_them(home: Path) -> None:
    assert not [path for path in home.rglob(".*") if path.suffix in (".part", ".lock")]
