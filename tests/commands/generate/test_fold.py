"""fcas_train and fcas_generate on one of nnU-Net's folds, and with references and templates of another data set."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from fcas_nnunet_small import LABELS, SURROUNDINGS, short_config, small_case
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.report.remake import remake_command
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config.files import save_config
from fcas_nnunet.generator.checkpoint import load_record
from fcas_nnunet.image_content import image_sha256
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json

SOURCE, OTHER = "Dataset901_Small", "Dataset903_Other"
TRAINING, VALIDATION = (
    [str(case_id) for case_id in generate_crossval_split([f"p{n}" for n in range(5)])[0][part]]
    for part in ("train", "val")
)
CPU = torch.device("cpu")
ROOTS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """901 with five cases and a generator of fold 0, its validation labels unreadable then; 903 with others."""
    home = tmp_path_factory.mktemp("home")
    for name in ROOTS:
        (home / name).mkdir()
    for name, numbers in ((SOURCE, range(5)), (OTHER, (7, 8))):
        for number in numbers:
            write_case(home / "nnUNet_raw" / name, small_case(number))
        write_dataset_json(home / "nnUNet_raw" / name, LABELS, len(numbers), surroundings=SURROUNDINGS)
    save_config(short_config(2), home / "short.yaml")
    unseen = [
        home / "nnUNet_raw" / SOURCE / part / f"{VALIDATION[0]}.nii.gz" for part in ("labelsTr", "surroundingsTr")
    ]
    contents = [path.read_bytes() for path in unseen]
    with pytest.MonkeyPatch.context() as patch:
        for name in ROOTS:
            patch.setenv(name, str(home / name))
        for path in unseen:
            path.write_bytes(b"unreadable")
        train(["-d", "901", "--fold", "0", "--config", str(home / "short.yaml"), "-device", "cpu"])
    for path, content in zip(unseen, contents, strict=True):
        path.write_bytes(content)
    return home


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ROOTS:
        monkeypatch.setenv(name, str(home / name))


def _settings(home: Path) -> list[str]:
    return ["--config", str(home / "short.yaml"), "-np", "1", "-device", "cpu"]


def test_generator_masks_and_templates_are_of_the_folds_training_cases_alone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = load_record(home / "nnUNet_results" / SOURCE / "fcas__tiny__fold_0")
    assert list(record.cases) == TRAINING
    cases = {case_id: RawDataset.open(home / "nnUNet_raw" / SOURCE).load_case(case_id) for case_id in TRAINING}
    assert record.images == {case_id: image_sha256(case.image[0], case.affine) for case_id, case in cases.items()}
    generate(["-d", "901", "-n", "40", "--fold", "0", "--dry-run", *_settings(home)])
    printed = capsys.readouterr().out
    assert "40 cases into" in printed
    assert "_SmallFCaSFold0; 0 are there" in printed
    planned = re.findall(r"mask of (\w+) \(mgm\), template (\w+),", printed)
    assert [set(names) for names in zip(*planned, strict=True)] == [set(TRAINING), set(TRAINING)]


def test_references_and_templates_of_another_data_set(home: Path) -> None:
    """As the paper takes masks and templates: from any data set, any of its cases."""
    output = home / "nnUNet_raw" / "Dataset905_SmallFCaS"
    generate(["-d", "901", "-o", "Dataset905_SmallFCaS", "-n", "3", "--fold", "0", "--references", "903",
              "--templates", "903:p7", f"901:{TRAINING[0]}", *_settings(home)])  # fmt: skip
    records = Manifest(output).read()
    assert [r["fold"] for r in records.values()] == [0, 0, 0]
    assert {r["reference"] for r in records.values()} == {f"{OTHER}:p7", f"{OTHER}:p8"}
    assert {r["template"] for r in records.values()} <= {f"{OTHER}:p7", TRAINING[0]}
    command = remake_command(output.name, records)
    assert f"--fold 0 --references {OTHER} --templates {OTHER}:p7 {SOURCE}:{TRAINING[0]} " in command
    # a line of the manifest is enough to make its case again
    generate(["--replay", output.name, "-o", "Dataset906_Again", "fcas_00001", "-device", "cpu"])
    for part in ("imagesTr/fcas_00001_0000", "labelsTr/fcas_00001", "confidenceTr/fcas_00001"):
        again, first = (folder / f"{part}.nii.gz" for folder in (output.with_name("Dataset906_Again"), output))
        assert again.read_bytes() == first.read_bytes()


def test_folds_that_have_changed_since_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / "nnUNet_preprocessed" / SOURCE / "splits_final.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([{"train": [*TRAINING[:1], *VALIDATION], "val": TRAINING[1:]}]))
    try:
        with pytest.raises(SystemExit, match="^2$"):
            generate(["-d", "901", "-n", "2", "--fold", "0", *_settings(home)])
    finally:
        path.unlink()
    assert "the generator's cases must be training cases of fold 0" in capsys.readouterr().err


def test_an_unknown_fold_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fold, sentence in (("7", "fold must be 0 to 4, got 7"), ("x", "must be a fold's number or all, got x")):
        with pytest.raises(SystemExit, match="^2$"):
            generate(["-d", "901", "--fold", fold, *_settings(home)])
        assert sentence in capsys.readouterr().err
