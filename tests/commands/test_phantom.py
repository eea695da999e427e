"""fcas_phantom: a whole data set or an unfinished one, never a half case; the same bytes however it was made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peers import Peer

from fcas_nnunet.commands import phantom
from fcas_nnunet.datasets.phantom import LABELS, SURROUNDINGS, patient_seed, phantom_case
from fcas_nnunet.integration.dataset import locks
from fcas_nnunet.integration.dataset.checks import check_dataset
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset
from fcas_nnunet.integration.dataset.volumes import read_volume

SMALL = ["--shape", "16", "18", "20", "-np", "1"]


def digests(folder: Path) -> dict[str, str]:
    """Relative path → hash of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as exit_:
        phantom.main([*arguments])
    assert exit_.value.code == code
    return capsys.readouterr().err


def test_data_set_is_whole_and_passes_its_check(raw: Path) -> None:
    phantom.main(["-d", "901", "-n", "2", "--num-test", "1", "--seed", "5", *SMALL])
    dataset = RawDataset.open(raw / "Dataset901_Phantom")
    check_dataset(dataset, min_cases=2)
    assert dataset.case_ids == ["phantom_0000", "phantom_0001"]
    assert dataset.labels == {"background": 0} | LABELS
    assert dataset.surroundings == SURROUNDINGS
    assert dataset.dataset_json["numTraining"] == 2
    expected = phantom_case("phantom_0001", (16, 18, 20), patient_seed(5, 1))
    found = dataset.load_case("phantom_0001")
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.surroundings, expected.surroundings)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    held_out = phantom_case("phantom_0002", (16, 18, 20), patient_seed(5, 2))
    np.testing.assert_array_equal(read_volume(dataset.folder / "labelsTs" / "phantom_0002.nii.gz").array, held_out.mask)
    np.testing.assert_array_equal(
        read_volume(dataset.folder / "imagesTs" / "phantom_0002_0000.nii.gz").array, held_out.image[0]
    )


def test_mr_shows_the_same_patients_in_its_own_units(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--shape", "32", "32", "32", "-np", "1"]
    phantom.main(["-d", "901", "-n", "2", *size])
    phantom.main(["-d", "902", "-n", "2", "--modality", "MRI", *size])
    ct, mr = (RawDataset.open(raw / name) for name in ("Dataset901_Phantom", "Dataset902_Phantom"))
    check_dataset(mr, min_cases=2)
    assert mr.channel_names == {"0": "MRI"}
    for case_id in mr.case_ids:
        np.testing.assert_array_equal(mr.load_case(case_id).mask, ct.load_case(case_id).mask)
        image = read_volume(mr.image_paths(case_id)[0]).array
        assert image.min() >= 0
        blood, muscle = (
            np.median(image[mr.load_case(case_id).mask == LABELS[name]])
            for name in ("left_ventricle", "left_myocardium")
        )
        assert 1.6 < blood / muscle < 4
        assert np.percentile(image, 2) < 0.2 * blood, "lungs and airways are dark"
    before = digests(mr.folder)
    message = fails(capsys, "-d", "902", "-n", "3", *size)
    assert "Dataset902_Phantom: --modality must be that of the cases that are there, MRI, got CT." in message
    assert digests(mr.folder) == before


def test_two_processes_write_the_bytes_of_one(raw: Path) -> None:
    phantom.main(["-d", "Dataset001_One", "-n", "3", "--acquisitions", "2", *SMALL])
    phantom.main(["-d", "Dataset002_Two", "-n", "3", "--acquisitions", "2", *SMALL[:-1], "2"])
    one, two = digests(raw / "Dataset001_One"), digests(raw / "Dataset002_Two")
    del one["dataset.json"], two["dataset.json"]  # holds the data set's name
    assert len(one) == 3 * 6 + 2
    assert one == two


def test_acquisitions_of_a_patient_belong_together(raw: Path) -> None:
    phantom.main(["-d", "901", "-n", "2", "--acquisitions", "2", *SMALL])
    folder = raw / "Dataset901_Phantom"
    made = digests(folder)
    for patient in ("phantom_0000", "phantom_0001"):
        assert made[f"labelsTr/{patient}_a0.nii.gz"] == made[f"labelsTr/{patient}_a1.nii.gz"]
        assert made[f"surroundingsTr/{patient}_a0.nii.gz"] == made[f"surroundingsTr/{patient}_a1.nii.gz"]
        assert made[f"imagesTr/{patient}_a0_0000.nii.gz"] != made[f"imagesTr/{patient}_a1_0000.nii.gz"]
    patients = {case_id: record["patient"] for case_id, record in Manifest(folder).read().items()}
    assert patients == {f"phantom_000{i}_a{k}": f"phantom_000{i}" for i in range(2) for k in range(2)}


def test_start_names_the_same_patients_in_another_set(raw: Path) -> None:
    phantom.main(["-d", "901", "-n", "3", *SMALL])
    phantom.main(["-d", "902", "-n", "2", "--start", "2", "--name", "Other", *SMALL])
    first, second = digests(raw / "Dataset901_Phantom"), digests(raw / "Dataset902_Other")
    shared = {name for name in second if name in first and name.startswith("imagesTr")}
    assert shared == {"imagesTr/phantom_0002_0000.nii.gz"}
    assert first["imagesTr/phantom_0002_0000.nii.gz"] == second["imagesTr/phantom_0002_0000.nii.gz"]


def test_manifest_line_is_enough_to_make_its_case_again(raw: Path) -> None:
    phantom.main(["-d", "901", "-n", "2", "--acquisitions", "2", *SMALL])
    folder = raw / "Dataset901_Phantom"
    record = Manifest(folder).read()["phantom_0001_a1"]
    again = phantom_case("again", tuple(record["shape"]), record["seed"], record["acquisition"])
    stored = folder / "imagesTr" / "phantom_0001_a1_0000.nii.gz"
    np.testing.assert_array_equal(again.image[0], read_volume(stored).array)
    assert record["image_sha256"] == hashlib.sha256(stored.read_bytes()).hexdigest()


def interrupting(at: int, real: Callable[..., None]) -> Callable[..., None]:
    """`write_case` that is interrupted at a call, as by Ctrl-C."""
    calls = 0

    def write(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        real(*arguments, **named)

    return write


def test_interrupted_run_is_unfinished_and_goes_on_to_the_same_bytes(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-n", "3", *SMALL]
    phantom.main(["-d", "Dataset001_Phantom", *arguments])
    whole = digests(raw / "Dataset001_Phantom")
    with monkeypatch.context() as patch:
        patch.setattr(phantom, "write_case", interrupting(3, phantom.write_case))
        assert "resumes from here" in fails(capsys, "-d", "Dataset002_Phantom", *arguments, code=130)
    folder = raw / "Dataset002_Phantom"
    assert not (folder / "dataset.json").exists()
    assert sorted(Manifest(folder).read()) == ["phantom_0000", "phantom_0001"]
    first = (folder / "imagesTr" / "phantom_0000_0000.nii.gz").stat().st_mtime_ns
    phantom.main(["-d", "Dataset002_Phantom", *arguments])
    assert (folder / "imagesTr" / "phantom_0000_0000.nii.gz").stat().st_mtime_ns == first  # kept
    resumed = digests(folder)
    del whole["dataset.json"], resumed["dataset.json"]
    assert resumed == whole


def test_finished_set_is_left_alone_and_a_lost_file_is_made_again(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["-d", "901", "-n", "2", *SMALL]
    phantom.main(arguments)
    folder = raw / "Dataset901_Phantom"
    whole = digests(folder)
    with monkeypatch.context() as patch:
        patch.setattr(phantom, "phantom_case", None)  # a call would fail
        phantom.main(arguments)
    assert digests(folder) == whole
    (folder / "surroundingsTr" / "phantom_0001.nii.gz").unlink()
    phantom.main(arguments)
    assert digests(folder) == whole


def test_larger_number_adds_patients(raw: Path) -> None:
    phantom.main(["-d", "901", "-n", "1", *SMALL])
    before = digests(raw / "Dataset901_Phantom")
    phantom.main(["-d", "901", "-n", "2", *SMALL])
    after = digests(raw / "Dataset901_Phantom")
    assert after["imagesTr/phantom_0000_0000.nii.gz"] == before["imagesTr/phantom_0000_0000.nii.gz"]
    assert json.loads((raw / "Dataset901_Phantom" / "dataset.json").read_text())["numTraining"] == 2


def test_other_arguments_for_the_same_cases_are_refused_and_change_nothing(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantom.main(["-d", "901", "-n", "2", *SMALL])
    before = digests(raw / "Dataset901_Phantom")
    message = fails(capsys, "-d", "901", "-n", "2", "--seed", "1", *SMALL)
    assert message.count("case must be made with {'seed'") == 2  # every case is named
    assert "phantom_0000: a patient" not in message
    message = fails(capsys, "-d", "901", "-n", "1", "--num-test", "1", "--acquisitions", "2", *SMALL)
    assert "phantom_0001_a0: a patient must be in training or test cases, got both" in message
    assert digests(raw / "Dataset901_Phantom") == before


@pytest.mark.parametrize("name", ["dataset.json", "labelsTr/phantom_0000.nii.gz"])
def test_another_data_set_is_not_overwritten(raw: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = raw / "Dataset901_Heart" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    message = fails(capsys, "-d", "901", "-n", "1", *SMALL)
    assert f"Dataset901_Heart: must be new, empty or begun by fcas_phantom, got other files: {name[:8]}" in message
    assert digests(raw / "Dataset901_Heart") == {name: hashlib.sha256(b"{}").hexdigest()}


def test_a_set_of_another_command_is_not_overwritten(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = raw / "Dataset901_HeartFCaS"
    Manifest(folder).append({"case_id": "fcas_00000", "command": "fcas_generate"})
    (folder / "dataset.json").write_text("{}")
    before = digests(folder)
    message = fails(capsys, "-d", "901", "-n", "1", *SMALL)
    assert "must be new, empty or begun by fcas_phantom, got cases of fcas_generate" in message
    assert digests(folder) == before


def test_a_users_case_among_the_phantoms_counts_and_is_not_overwritten(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phantom.main(["-d", "901", "-n", "1", *SMALL])
    folder = raw / "Dataset901_Phantom"
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (folder / part / f"phantom_0002{ending}").write_bytes((folder / part / f"phantom_0000{ending}").read_bytes())
    phantom.main(["-d", "901", "-n", "2", *SMALL])
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 3
    before = digests(folder)
    message = fails(capsys, "-d", "901", "-n", "3", *SMALL)
    assert "phantom_0002: case must be new, got one that the manifest does not name" in message
    assert digests(folder) == before


@pytest.mark.parametrize("name", ["a/../../x", "with space", "", "-x", "a\\b"])
def test_a_name_that_is_none_is_refused(raw: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    message = fails(capsys, "-d", "905", "-n", "1", f"--name={name}", *SMALL)
    assert "--name: must begin with a letter, a digit or '_'" in message
    assert list(raw.parent.rglob("*905*")) == []


def test_a_name_beside_that_of_the_data_set_is_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["-d", "901", "--name", "Other", "-n", "1", *SMALL]
    phantom.main(named)
    phantom.main(named)
    for identifier in ("901", "Dataset901_Other"):
        message = fails(capsys, "-d", identifier, "--name", "Phantom", "-n", "1", *SMALL)
        assert "--name: must be the name that -d has, got Phantom for Dataset901_Other." in message


def test_the_second_of_two_runs_waits_for_the_first(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer(raw / "Dataset901_Phantom", "stack.enter_context(exclusive(folder))")
    peer.ask("None")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        assert not (raw / "Dataset901_Phantom" / "imagesTr").exists()
        peer.kill()

    monkeypatch.setattr(locks.time, "sleep", wait)
    phantom.main(["-d", "Dataset901_Phantom", "-n", "1", *SMALL])
    assert waits
    assert (raw / "Dataset901_Phantom" / "dataset.json").is_file()


def test_wrong_numbers_are_all_named_at_once(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(capsys, "-d", "901", "-n", "0", "--seed", "-1", "--shape", "8", "64", "64")
    for fault in ("-n: must be at least 1, got 0", "--seed: must be at least 0, got -1",
                  "--shape: must be at least 16, got 8"):  # fmt: skip
        assert fault in message
    assert not list(raw.iterdir())


def test_numbers_that_no_disk_holds_are_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fails(
        capsys, "-d", "901", "-n", "1000000000000", "--acquisitions", "2000000", "--shape", "9999", "64", "64"
    )
    for fault in ("-n: must be at most 1,000,000, got 1000000000000", "--acquisitions: must be at most 1,000,000, got",
                  "--shape: must be at most 1,024, got 9999"):  # fmt: skip
        assert fault in message
    assert not list(raw.iterdir())


def test_wrong_identifier_is_refused(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "-d heart: it must be an id from 1 to 999" in fails(capsys, "-d", "heart", "-n", "1", *SMALL)
    assert not list(raw.iterdir())
