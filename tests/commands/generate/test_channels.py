"""fcas_generate on scans of two channels: drawn, warped and painted together, written as _0000 and _0001."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from channel_cases import CHANNELS, DTYPES, SOURCE, means, write_channel_set
from consoles import kill_at_first_case
from fcas_nnunet_small import LABELS, SURROUNDINGS, set_roots, short_config, small_case

from fcas_nnunet.commands.generate.command import main as generate
from fcas_nnunet.commands.train import main as train
from fcas_nnunet.config.files import save_config
from fcas_nnunet.config.sources import WarpConfig
from fcas_nnunet.generator.checkpoint import load_record
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json

SOURCES = ["drawn", "warped", "painted"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """nnU-Net's folders with 941, four scans of two channels, and 942, 943, 944: three cases of each source."""
    folder = tmp_path_factory.mktemp("channels")
    write_channel_set(folder)
    weak = WarpConfig(contrast_jitter=20.0, surroundings_jitter=5.0)  # so that a structure does not look like another
    save_config(replace(short_config(30, 15), warp=weak), folder / "short.yaml")
    with pytest.MonkeyPatch.context() as patch:
        set_roots(patch, folder)
        for number, source in enumerate(SOURCES):
            generate(flags(folder, source, f"Dataset{942 + number}_Made"))
        yield folder


def flags(home: Path, source: str, output: str, processes: int = 1) -> list[str]:
    words = ["-d", "941", "-o", output, "-n", "3", "--source", source, "--config", str(home / "short.yaml")]
    return [*words, "-np", str(processes)]


def made(home: Path, source: str) -> RawDataset:
    return RawDataset.open(home / "nnUNet_raw" / f"Dataset{942 + SOURCES.index(source)}_Made")


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "dataset.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit, match="^2$"):
        generate(list(arguments))
    return capsys.readouterr().err


@pytest.mark.parametrize("source", SOURCES)
def test_both_channels_are_written_in_their_own_types(home: Path, source: str) -> None:
    dataset = made(home, source)
    check_dataset(dataset)
    assert dataset.channel_names == CHANNELS
    names = sorted(path.name for path in (dataset.folder / "imagesTr").iterdir())
    assert names == [f"fcas_{number:05d}_{channel:04d}.nii.gz" for number in range(3) for channel in range(2)]
    for case_id in dataset.case_ids:
        stored = [nib.load(path) for path in dataset.image_paths(case_id)]
        assert [image.get_data_dtype() for image in stored] == list(DTYPES)
        np.testing.assert_array_equal(stored[0].affine, stored[1].affine)
    record = Manifest(dataset.folder).read()["fcas_00001"]
    assert set(record["contents"]) == {"image", "image_0001", "label", "confidence"}


@pytest.mark.parametrize("source", ["drawn", "warped"])
def test_each_channel_looks_like_itself_and_not_like_the_other(home: Path, source: str) -> None:
    real, dataset = RawDataset.open(home / "nnUNet_raw" / SOURCE), made(home, source)
    for case_id, record in Manifest(dataset.folder).read().items():
        template = real.load_case(record["template"])
        case = replace(dataset.load_case(case_id), scales=template.scales)
        expected, found = (
            means(each)[:, :2] for each in (template, case)
        )  # a vessel is too thin for so short a training
        assert np.abs(expected[0] - expected[1]).min() > 300
        own, other = np.abs(found - expected), np.abs(found - expected[::-1])
        assert (own < 0.6 * other).all(), f"{found} for {expected}"


def test_painted_channels_have_contrasts_of_their_own(home: Path) -> None:
    dataset = made(home, "painted")
    levels = np.array([means(dataset.load_case(case_id)) for case_id in dataset.case_ids])
    assert np.abs(levels[:, 0] - levels[:, 1]).max(axis=1).min() > 50
    assert np.abs(np.diff(levels, axis=0)).max(axis=(1, 2)).min() > 50, "and each case, too"


@pytest.mark.parametrize("source", SOURCES)
def test_two_workers_a_kill_and_a_lost_channel_give_the_same_bytes(home: Path, source: str) -> None:
    expected = hashes(made(home, source).folder)
    two = home / "nnUNet_raw" / f"Dataset95{SOURCES.index(source)}_Two"
    kill_at_first_case(two, flags(home, source, two.name))
    generate(flags(home, source, two.name, processes=2))
    assert hashes(two) == expected
    (two / "imagesTr" / "fcas_00001_0001.nii.gz").unlink()
    generate(flags(home, source, two.name))
    assert hashes(two) == expected


def test_a_case_without_a_channel_and_one_with_more_are_named(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_channel_set(tmp_path)
    set_roots(monkeypatch, tmp_path)
    (source / "imagesTr" / "p1_0001.nii.gz").unlink()
    (source / "imagesTr" / "p2_0002.nii.gz").write_bytes((source / "imagesTr" / "p2_0001.nii.gz").read_bytes())
    for kind in SOURCES:
        message = refused(capsys, *flags(tmp_path, kind, "Dataset942_Made"))
        assert "p1: channel 1 (T2) must exist, got no file" in message
        assert "p2_0002.nii.gz: images must have the 2 of dataset.json, got another. Remove it." in message
    assert not (tmp_path / "nnUNet_raw" / "Dataset942_Made").exists()
    assert not list((tmp_path / "nnUNet_results").iterdir()), "nothing was trained"


def test_channels_that_were_swapped_are_noticed(home: Path) -> None:
    dataset = made(home, "warped")
    first, second = dataset.image_paths("fcas_00002")
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    with pytest.raises(ValueError, match="fcas_00002: image must be the one .*\n.*image_0001 must be the one"):
        check_dataset(dataset)
    first.write_bytes(contents[0])
    second.write_bytes(contents[1])


def test_scans_of_other_channels_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = home / "nnUNet_raw" / "Dataset961_One"
    for number in (7, 8):
        write_case(other, small_case(number))
    write_dataset_json(other, LABELS, 2, surroundings=SURROUNDINGS)
    both, one = "{'0': 'CT', '1': 'T2'}", "{'0': 'CT'}"
    for flag in ("--templates", "--references"):
        message = refused(capsys, *flags(home, "drawn", "Dataset969_New"), flag, "961")
        assert f"Dataset961_One: channel_names must be those of {SOURCE}, {both}, got {one}" in message
    message = refused(capsys, *flags(home, "drawn", "Dataset969_New"), "--for", "961")
    assert f"--for: channel_names of Dataset961_One must be those of {SOURCE}, {both}" in message


def test_a_generator_of_other_channels_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "nnUNet_results" / SOURCE / "fcas__tiny"
    record = load_record(folder)
    assert record.channel_names == ("CT", "T2")
    assert (record.tcdm.image_channels, len(record.latent_scale.mean)) == (2, 8)
    assert {len(mean) for mean in record.label_means.values()} == {2}
    description = home / "nnUNet_raw" / SOURCE / "dataset.json"
    before = description.read_text()
    description.write_text(json.dumps(json.loads(before) | {"channel_names": {"0": "CT", "1": "T1"}}))
    wanted = f"the generator's channels must be those of {SOURCE}, CT, T1, got CT, T2. Delete the folder"
    assert wanted in refused(capsys, *flags(home, "drawn", "Dataset969_New"))
    with pytest.raises(SystemExit, match="^2$"):
        train(["-d", "941", "--config", str(home / "short.yaml")])
    assert wanted in capsys.readouterr().err
    description.write_text(before)
