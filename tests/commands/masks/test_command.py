"""fcas_masks: masks, their manifest, a measure and a picture; it resumes after a kill."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fcas_nnunet.commands import phantom
from fcas_nnunet.commands.masks import command
from fcas_nnunet.config.files import to_dict
from fcas_nnunet.config.presets import PRESETS
from fcas_nnunet.generator.generate import replayed_mask
from fcas_nnunet.generator.mgm.quality import mask_faults
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume
from fcas_nnunet.labels.anatomy import label_roles


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nnunet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(folder / "raw"))
        (folder / "raw").mkdir()
        phantom.main(["-d", "901", "-n", "3", "--shape", "48", "48", "48", "-np", "2"])
    return folder


@pytest.fixture
def source(root: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    monkeypatch.setenv("nnUNet_raw", str(root / "raw"))
    return RawDataset.open(root / "raw" / "Dataset901_Phantom")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".png"}


def test_masks_are_whole_measured_and_shown(source: RawDataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command.main(["-d", "901", "-n", "5", "-o", str(tmp_path / "out"), "-np", "1", "--stenosis", "0.3", "0.5"])
    records = Manifest(tmp_path / "out").read()
    roles = label_roles(source.labels)
    assert len(records) == 5
    for case_id, record in records.items():
        given = source.load_mask(record["reference"])
        volume = read_volume(tmp_path / "out" / f"{case_id}.nii.gz")
        assert not mask_faults(volume.array, given.mask, given.spacing_mm, roles=roles)
        np.testing.assert_allclose(volume.affine, given.affine, atol=1e-4)
        np.testing.assert_array_equal(replayed_mask(record, source.load_mask(record["reference"]), roles), volume.array)
        assert [change["kind"] for change in record["mgm"]["local_changes"]] == ["stenosis"]
    report = json.loads((tmp_path / "out" / command.DIVERSITY_FILE).read_text())
    assert set(report["labels"]) == set(source.labels) - {"background"}
    aorta = report["labels"]["ascending_aorta"]
    assert 0.1 < aorta["dice_between"]["mean"] < 0.98
    assert 0.3 < aorta["dice_to_source"]["mean"] < 0.98
    rejections = [len(record["mgm"]["rejections"]) for record in records.values()]
    assert report["rejected"]["count"] == sum(rejections) == len(report["rejected"]["reasons"])
    with Image.open(tmp_path / "out" / command.SHEET_FILE) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 8
    printed = capsys.readouterr().out
    assert "5 masks in" in printed
    assert "coronary_arteries" in printed


def test_interrupted_or_with_more_processes_the_masks_are_the_same(
    source: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["-d", "901", "-n", "4", "--masks", "both", "-o"]
    command.main([*arguments, str(tmp_path / "two"), "-np", "2"])
    make, made = command._make, []

    def dies(job: object, plan: object) -> dict[str, object]:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(plan)
        return make(job, plan)

    monkeypatch.setattr(command, "_make", dies)
    with pytest.raises(SystemExit, match="130"):
        command.main([*arguments, str(tmp_path / "one"), "-np", "1"])
    monkeypatch.setattr(command, "_make", make)
    assert len(Manifest(tmp_path / "one").read()) == 2
    command.main([*arguments, str(tmp_path / "one"), "-np", "1"])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    first = Manifest(tmp_path / "one").read()["fcas_00000"]
    assert first["masks"] == "given"
    given = source.load_mask(first["reference"]).mask
    np.testing.assert_array_equal(read_volume(tmp_path / "one" / "fcas_00000.nii.gz").array, given)


def test_other_settings_are_refused(source: RawDataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / "out")
    command.main(["-d", "901", "-n", "1", "-o", out, "-np", "1"])
    before = contents(tmp_path / "out")
    with pytest.raises(SystemExit, match="2"):
        command.main(["-d", "901", "-n", "2", "-o", out, "-np", "1", "--seed", "1"])
    assert "its masks must have been made from the same data set with the same seed" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["-d", "901", "-o", out, "--stenosis", "0.5", "1.5"])
    assert "error: --stenosis: must be in [0, 1), got (0.5, 1.5). Give another value" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        command.main(["-d", "901", "-n", "0", "-o", out])
    assert "-n: must be 1 to 1,000,000, got 0" in capsys.readouterr().err
    assert contents(tmp_path / "out") == before


def test_ranges_that_leave_no_mask_are_refused_at_once(
    source: RawDataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["-d", "901", "-o", str(tmp_path), "-np", "1", "--calibre", "5", "9", "--wall_mm", "60", "70"])
    error = capsys.readouterr().err
    assert "--calibre: must leave every structure 0.4 to 2 of its volume" in error
    assert ", got 5 9: of phantom_000" in error
    assert "--wall_mm: must leave every structure" in error
    assert "mask rejected" not in error


def test_where_no_mask_can_be_made_the_flags_are_named_and_reasons_counted(
    source: RawDataset, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    strict = {"max_tries": 3, "volume_tolerance": 1e-6}
    content = to_dict(PRESETS["tiny"])
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content | {"masks": content["masks"] | strict}))
    flags = ["--config", str(tmp_path / "own.yaml"), "--calibre", "0.9", "0.95"]
    with pytest.raises(SystemExit, match="2"):
        command.main(["-d", "901", "-n", "1", "-o", str(tmp_path / "out"), "-np", "1", *flags])
    *cases, last = capsys.readouterr().err.split("error: ")[1].splitlines()
    assert len(cases) == 3  # each of the references a line
    assert all(line.count("of the volume that its deformation predicts") == 1 for line in cases)
    assert all("3 × class 8 has " in line for line in cases)
    assert "Narrow --calibre, or the ranges under masks in a --config" in last
    assert "MaskConfig" not in "".join(cases)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "{}: its disk must have room, got 'No space left on device'. Free some, and start again"),
        (errno.EROFS, "{}: must be yours to read and to write, got 'Read-only file system'. Choose another folder"),
        (errno.EIO, "{}: must be a path that can be used, got 'Input/output error'. Check it, and the disk"),
    ],
)
def test_what_the_disk_refuses_is_a_sentence_and_the_same_command_goes_on(
    source: RawDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    message: str,
) -> None:
    arguments = ["-d", "901", "-n", "2", "-np", "1", "--masks", "given", "-o", str(tmp_path / "out")]

    def refuses(stream: object, content: bytes) -> int:
        if (tmp_path / "out" / "fcas_00000.nii.gz").exists():
            raise OSError(number, os.strerror(number))
        return write(stream, content)

    write = gzip.GzipFile.write
    with monkeypatch.context() as patch:
        patch.setattr(gzip.GzipFile, "write", refuses)
        with pytest.raises(SystemExit, match="^2$"):
            command.main(arguments)
    assert "error: " + message.format(tmp_path / "out" / "fcas_00001.nii.gz") in capsys.readouterr().err
    command.main(arguments)
    assert sorted(Manifest(tmp_path / "out").read()) == ["fcas_00000", "fcas_00001"]


def test_a_path_through_a_file_is_named(source: RawDataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="^2$"):
        command.main(["-d", "901", "-n", "1", "-o", str(tmp_path / "file" / "out")])
    assert "must be a folder or be new, got 'Not a directory'" in capsys.readouterr().err


@pytest.mark.parametrize("part", [".", "labelsTr"])
def test_the_data_set_itself_is_not_written_into(source: RawDataset, capsys: pytest.CaptureFixture, part: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in source.folder.rglob("*")}
    with pytest.raises(SystemExit, match="2"):
        command.main(["-d", "901", "-n", "1", "-o", str(source.folder / part), "-np", "1"])
    assert "must be new, empty or begun by fcas_masks, got" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in source.folder.rglob("*")} == before
