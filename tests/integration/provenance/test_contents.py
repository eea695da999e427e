"""Hashes of a data set's scans: read once, read again after a change, and there without the raw data set."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from channel_cases import CHANNELS, two_channels
from fcas_nnunet_small import LABELS, small_case

from fcas_nnunet.image_content import image_sha256
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.provenance import contents
from fcas_nnunet.integration.provenance.contents import held_out_contents, known_contents, training_contents

NAME = "Dataset901_Small"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RawDataset:
    """Two training cases, and a test case that is the second one's scan."""
    (tmp_path / "preprocessed").mkdir()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    folder = tmp_path / "raw" / NAME
    for number in range(2):
        write_case(folder, replace(small_case(number), surroundings=None))
    write_case(folder, replace(small_case(1), case_id="t0", surroundings=None), split="Ts")
    write_dataset_json(folder, LABELS, 2)
    return RawDataset.open(folder)


def test_hashes_are_of_what_the_files_hold(dataset: RawDataset) -> None:
    cases = [dataset.load_case(case_id) for case_id in ("p0", "p1")]
    own = {case.case_id: image_sha256(case.image[0], case.affine) for case in cases}
    assert training_contents(dataset) == own
    assert held_out_contents(dataset) == {"t0_0000.nii.gz": own["p1"]}


def test_of_several_channels_the_first_counts(tmp_path: Path) -> None:
    """As docs/cal.md says; the hashes are stored in users' files, so they stay what they are."""
    case = replace(two_channels(0), case_id="a", surroundings=None)
    hashes = []
    for name, order in ((NAME, [0, 1]), ("Dataset902_Other", [0, 0]), ("Dataset903_Swapped", [1, 0])):
        ordered = replace(case, image=case.image[order], scales=tuple(case.scales[i] for i in order))
        write_case(tmp_path / "raw" / name, ordered)
        write_dataset_json(tmp_path / "raw" / name, LABELS, 1, channel_names=CHANNELS)
        hashes.append(training_contents(RawDataset.open(tmp_path / "raw" / name))["a"])
    loaded = RawDataset.open(tmp_path / "raw" / NAME).load_case("a")
    assert hashes == [*[image_sha256(loaded.image[0], case.affine)] * 2, image_sha256(loaded.image[1], case.affine)]


def test_a_file_is_read_once_and_again_when_it_changes(dataset: RawDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(contents, "_hash", lambda path, **_: read.append(path.name) or path.name)
    training_contents(dataset)
    held_out_contents(dataset)
    assert sorted(read) == ["p0_0000.nii.gz", "p1_0000.nii.gz", "t0_0000.nii.gz"]
    os.utime(dataset.image_path("p1"), (1, 1))
    training_contents(dataset)
    held_out_contents(dataset)
    assert read[3:] == ["p1_0000.nii.gz"]


def test_a_test_scan_that_cannot_be_read_is_named_and_left_out(
    dataset: RawDataset, caplog: pytest.LogCaptureFixture
) -> None:
    whole = held_out_contents(dataset)
    scan = dataset.folder / "imagesTs" / "t0_0000.nii.gz"
    shutil.copyfile(scan, scan.with_name("t1_0000.nii.gz"))
    scan.with_name("t2_0000.nii.gz").symlink_to("gone.nii.gz")
    scan.write_bytes(scan.read_bytes()[:-400])  # it was whole when it was hashed
    assert list(held_out_contents(dataset).items()) == [("t1_0000.nii.gz", whole["t0_0000.nii.gz"])]
    damaged, dangling = sorted(record.message for record in caplog.records)  # threads warn in any order
    assert damaged.startswith(f"{scan}: ") and "t2_0000.nii.gz: file must exist" in dangling
    assert damaged.endswith("Left out: whether it is a training scan is not known.")
    shutil.copyfile(scan, dataset.image_path("p1"))
    with pytest.raises(ValueError, match="p1_0000"):
        training_contents(dataset)


def test_they_are_known_without_the_raw_data_set(dataset: RawDataset, tmp_path: Path) -> None:
    hashes = training_contents(dataset)
    shutil.rmtree(dataset.folder)
    assert known_contents(tmp_path / "preprocessed" / NAME) == hashes
    assert known_contents(tmp_path / "preprocessed" / "Dataset902_None") == {}


def test_where_nothing_can_be_kept_they_are_found_all_the_same(
    dataset: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = training_contents(dataset)
    (tmp_path / "preprocessed" / NAME / contents.CONTENTS_FILE).write_text("broken")
    assert training_contents(dataset) == hashes
    monkeypatch.delenv("nnUNet_preprocessed")
    assert training_contents(dataset) == hashes


@pytest.mark.parametrize("entry", [{"size": 1}, "a hash", None])
def test_an_entry_without_a_hash_counts_as_none(dataset: RawDataset, tmp_path: Path, entry: object) -> None:
    hashes = training_contents(dataset)
    file = tmp_path / "preprocessed" / NAME / contents.CONTENTS_FILE
    kept = json.loads(file.read_text())
    kept["imagesTr"]["p0"] = entry
    file.write_text(json.dumps(kept))
    assert known_contents(file.parent) == {"p1": hashes["p1"]}
    assert training_contents(dataset) == hashes
    assert known_contents(file.parent) == hashes


def test_hashes_hold_though_another_process_writes_the_file_anew(
    dataset: RawDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = training_contents(dataset, ["p0"])
    file = tmp_path / "preprocessed" / NAME / contents.CONTENTS_FILE
    hash_file = contents._hash
    monkeypatch.setattr(contents, "_hash", lambda path, **how: file.unlink() or hash_file(path, **how))
    assert training_contents(dataset)["p0"] == hashes["p0"]
    assert known_contents(file.parent).keys() == {"p0", "p1"}
