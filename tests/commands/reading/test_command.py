"""fcas_report reading from data sets to a page and a key, and from readers' files to numbers and pictures."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reading_cases import BACKGROUND_LABELS, SHIFTS, Prepared, prepare, scores_file, write_sets

from fcas_nnunet.case import Case
from fcas_nnunet.commands.reading.command import run
from fcas_nnunet.commands.report.command import main
from fcas_nnunet.commands.runtime.outputs import holds_table
from fcas_nnunet.evaluation.reading import results as reading_results
from fcas_nnunet.files import file_sha256
from fcas_nnunet.integration.dataset.manifest import Manifest
from fcas_nnunet.integration.dataset.raw_dataset import RawDataset, write_case, write_dataset_json
from fcas_nnunet.integration.dataset.volumes import read_scan, write_volume

METHODS = list(SHIFTS)
PAYLOAD = re.compile(r'<script type="text/plain" id="([\w-]+)">([A-Za-z0-9+/=]+)</script>')


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sets(tmp_path_factory.mktemp("sets"), num_references=3)


@pytest.fixture(scope="module")
def reading(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(folders, tmp_path_factory.mktemp("reading"), "--seed", "11")


def write_readers(reading: Prepared, folder: Path) -> list[Path]:
    """Two readers who agree but for one criterion of one method."""
    base = {"Zylindrix": 4, "real": 5, "Quastenflosser": 2}
    files = []
    for name, less in (("Ada", 0), ("Bob", 1)):
        content = scores_file(
            reading.key, name, lambda m, c, _, less=less: base[m] - less * ((m, c) == ("Zylindrix", "visual_realism"))
        )
        path = folder / f"scores_{name}.json"
        path.write_text(json.dumps(content))
        files.append(path)
    return files


def test_the_page_names_no_method_case_or_folder(reading: Prepared, folders: dict[str, Path]) -> None:
    text = reading.page.read_text()
    payloads = dict(PAYLOAD.findall(text))
    assert len(payloads) == 3 * 4  # three images and a mask a bag
    hidden = [text, *(base64.b64decode(data).decode("latin-1") for data in payloads.values())]
    cases = [case_id for folder in folders.values() for case_id in RawDataset.open(folder).case_ids]
    for name in ["Zylindrix", "Quastenflosser", *cases, *(folder.name for folder in folders.values())]:
        for form in (name, base64.b64encode(name.encode()).decode().rstrip("=")):
            assert not any(form.lower() in place.lower() for place in hidden), form
    without_pictures = PAYLOAD.sub("", text)
    assert not re.search(r"\breal\b", without_pictures)
    (data,) = re.findall(r'id="data">(.*?)</script>', without_pictures)
    assert set(json.loads(data)) == {
        "schema", "schema_version", "reading_id", "protocol", "greyKnots", "greyValues", "unit", "windows", "labels",
        "bags",
    }  # fmt: skip
    assert {name for bag in json.loads(data)["bags"] for name in bag} == {
        "id", "shape", "spacing_mm", "letters", "atlases",
    }  # fmt: skip


def test_the_page_asks_no_network(reading: Prepared) -> None:
    text = PAYLOAD.sub("", reading.page.read_text())
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert "default-src 'none'" in text


def test_the_key_says_which_image_is_whose(reading: Prepared, folders: dict[str, Path]) -> None:
    key = reading.key
    assert (key["schema"], key["schema_version"], key["seed"]) == ("fcas-nnunet/reading-key", 1, 11)
    assert key["methods"] == {m: folders[m].name for m in ["Zylindrix", "Quastenflosser", "real"]}
    assert sorted(bag["reference"] for bag in key["bags"].values()) == ["patient_0", "patient_1", "patient_2"]
    payloads = dict(PAYLOAD.findall(reading.page.read_text()))
    for bag_id, bag in key["bags"].items():
        assert sorted(entry["method"] for entry in bag["letters"].values()) == sorted(METHODS)
        for letter, entry in bag["letters"].items():
            number = bag["reference"].split("_")[1]
            prefix = "patient" if entry["method"] == "real" else f"syn_{entry['method'][:3].lower()}"
            assert entry["case_id"] == f"{prefix}_{number}"
            path = RawDataset.open(folders[entry["method"]]).image_path(entry["case_id"])
            assert (entry["image"], entry["image_sha256"]) == (str(path), file_sha256(path))
            shown = base64.b64decode(payloads[f"{bag_id}-{letter}"])
            assert entry["shown_sha256"] == hashlib.sha256(shown).hexdigest()
    assert key["page_sha256"] == file_sha256(reading.page)


def test_a_seed_repeats_and_none_is_new(folders: dict[str, Path], reading: Prepared, tmp_path: Path) -> None:
    again = prepare(folders, tmp_path / "again", "--seed", "11")
    assert again.page.read_bytes() == reading.page.read_bytes()
    assert again.key == reading.key
    drawn = [prepare(folders, tmp_path / name, "-n", "1").key["seed"] for name in ("a", "b")]
    assert drawn[0] != drawn[1]


def test_fewer_references_and_other_criteria(folders: dict[str, Path], tmp_path: Path) -> None:
    criteria = tmp_path / "criteria.yaml"
    criteria.write_text("title: Noise\ncriteria: [{key: noise, name: Noise}]\nlowest: 0\nhighest: 10\n")
    made = prepare(folders, tmp_path / "out", "-n", "2", "--criteria", str(criteria), "--seed", "1")
    assert len(made.key["bags"]) == 2
    assert made.key["protocol"]["criteria"] == [{"key": "noise", "name": "Noise", "question": ""}]
    assert "<title>Noise</title>" in made.page.read_text()


def test_results_unblind_to_numbers_and_pictures(
    reading: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_readers(reading, tmp_path)
    out, table = tmp_path / "out", tmp_path / "scores.csv"
    command = ["results", "-k", str(reading.key_path), *map(str, files), "-o", str(out), "--csv", str(table)]
    run(command)
    run(command)  # over its own
    report = json.loads((out / "reading_results.json").read_text())
    assert (report["schema"], report["schema_version"]) == ("fcas-nnunet/reading", 1)
    realism = report["summary"]["Zylindrix"]["visual_realism"]
    assert realism["mean"] == pytest.approx(3.5)  # 4 and 3, three bags each
    assert realism["std"] == pytest.approx(np.std([4, 4, 4, 3, 3, 3], ddof=1))
    assert {m: s["rank"]["mean"] for m, s in report["summary"].items()} == {
        "real": 1,
        "Zylindrix": 2,
        "Quastenflosser": 3,
    }
    assert report["summary"]["real"]["first_share"] == 1
    assert report["agreement"]["interlayer_continuity"] == 1
    assert report["tests"]["rank"]["friedman_statistic"] == pytest.approx(6)  # n (k − 1) for three bags ranked alike
    assert report["tests"]["rank"]["count"] == 3
    rows = list(csv.DictReader(table.open()))
    assert holds_table(reading_results.CSV_COLUMNS)(table), "which the same command may write over"
    assert len(rows) == 2 * 3 * 3
    assert {(row["method"], row["total"], row["rank"]) for row in rows if row["reader"] == "Bob"} == {
        ("real", "25", "1.0"), ("Zylindrix", "19", "2.0"), ("Quastenflosser", "10", "3.0"),
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert re.search(r"Zylindrix +3\.50 ± 0\.55 \(3\.5\)", printed)
    assert "Ada: 3 of 3 bags" in printed
    for name in ("box_plots.png", "radar.png"):
        with Image.open(out / name) as picture:
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            assert picture.width > 900
        # the second method's colour as a line: the box of its visual realism, its polygon
        assert (np.abs(pixels.astype(int) - (0xD5, 0x5E, 0x00)).max(axis=1) < 12).sum() > 100


def test_results_take_no_other_files_place(
    reading: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_readers(reading, tmp_path)
    for name in ("reading_results.json", "radar.png"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "reading_results.json").write_text('{"schema": "fcas-nnunet/reading-key"}')
    with pytest.raises(SystemExit, match="^2$"):
        main(["reading", "results", "-k", str(reading.key_path), *map(str, files), "-o", str(tmp_path)])
    error = capsys.readouterr().err
    assert "reading_results.json: results must go into a new file or an earlier one of its kind" in error
    assert "radar.png: radar chart must go into a new file" in error
    assert error.count("Name another folder: -o DIR") == 2
    assert (tmp_path / "radar.png").read_text() == "mine" and not (tmp_path / "box_plots.png").exists()


def test_unfinished_readings_need_partial(
    reading: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_readers(reading, tmp_path)
    content = json.loads(files[1].read_text())
    del content["bags"]["bag-03"]
    files[1].write_text(json.dumps(content))
    arguments = ["reading", "results", "-k", str(reading.key_path), *map(str, files), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    assert "got 1 that are not: bag-03" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    main([*arguments, "--partial"])
    assert "Bob: 2 of 3 bags, 1 not complete" in capsys.readouterr().out
    readers = json.loads((tmp_path / "out" / "reading_results.json").read_text())["readers"]
    assert [(reader["name"], reader["complete_bags"]) for reader in readers] == [("Ada", 3), ("Bob", 2)]


def test_only_equal_masks_make_a_bag(folders: dict[str, Path], tmp_path: Path) -> None:
    """A method with one deformed mask, one given, and other ids for its labels."""
    real = RawDataset.open(folders["real"])
    method = tmp_path / "Dataset920_Relabelled"
    ids = {name: (9 - label_id if label_id else 0) for name, label_id in BACKGROUND_LABELS.items()}
    for number, roll in ((0, 1), (1, 0)):
        case = real.load_case(f"patient_{number}")
        mask = np.where(case.mask > 0, 9 - case.mask, 0).astype(np.uint8)
        write_case(method, Case(f"syn_{number}", case.image, np.roll(mask, roll, axis=0), case.affine))
        Manifest(method).append({"case_id": f"syn_{number}", "reference": case.case_id})
    write_dataset_json(method, ids, 2)
    made = prepare({"Relabelled": method, "real": folders["real"]}, tmp_path / "out")
    (bag,) = made.key["bags"].values()
    assert bag["reference"] == "patient_1"
    assert made.key["left_out"] == {"patient_0": "masks differ between the methods"}


def test_folders_of_scans_pair_by_id_and_have_no_contours(folders: dict[str, Path], tmp_path: Path) -> None:
    arguments = [f"{name}={folders['real'] / 'imagesTr'}" for name in ("one", "two")]
    run(["prepare", "--methods", *arguments, "-o", str(tmp_path), "-np", "1", "--seed", "1"])
    made = Prepared(tmp_path)
    assert sorted(bag["reference"] for bag in made.key["bags"].values()) == ["patient_0", "patient_1", "patient_2"]
    assert len(PAYLOAD.findall(made.page.read_text())) == 3 * 2


def test_scans_without_hu_are_read_in_a_window_of_their_own(
    folders: dict[str, Path], tmp_path: Path, reading: Prepared
) -> None:
    def windows(made: Prepared) -> list[dict[str, Any]]:
        (data,) = re.findall(r'id="data">(.*?)</script>', made.page.read_text())
        return json.loads(data)["windows"]

    assert windows(reading) == [
        {"name": "Cardiac CTA", "level": 200, "width": 800},
        {"name": "Vessels", "level": 350, "width": 1000},
        {"name": "Soft tissue", "level": 50, "width": 400},
    ]
    scans = []
    for folder in folders.values():
        shutil.copytree(folder, tmp_path / folder.name)
        path = tmp_path / folder.name / "dataset.json"
        path.write_text(path.read_text().replace('"CT"', '"MRI"'))
        scans += [read_scan(RawDataset.open(path.parent).image_path(i), "MRI").array
                  for i in RawDataset.open(path.parent).case_ids]  # fmt: skip
    (window,) = windows(prepare({m: tmp_path / f.name for m, f in folders.items()}, tmp_path / "mr", "--seed", "11"))
    low, high = np.median([np.percentile(scan, (0.5, 99.5)) for scan in scans], axis=0)
    assert window["name"] == "Scan"
    assert window["level"] - window["width"] / 2 == pytest.approx(low, abs=20)  # the pages crop to the heart
    assert window["level"] + window["width"] / 2 == pytest.approx(high, abs=20)


def test_noisy_scans_get_coarser_to_keep_the_page_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pure noise hardly compresses: three bags of two would be 4 MB and more at their own 1 mm."""
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        for case_id in "abc":
            noise = rng.normal(200, 200, (64, 112, 112)).astype(np.int16)
            write_volume(tmp_path / name / f"{case_id}_0000.nii.gz", noise, np.eye(4))
    methods = [f"{name}={tmp_path / name}" for name in ("one", "two")]
    run(["prepare", "--methods", *methods, "-o", str(tmp_path / "out"), "-np", "1", "--megabytes", "3.2"])
    made = Prepared(tmp_path / "out")
    assert 2e6 < made.page.stat().st_size < 3.3e6
    assert all(mm > 1.01 for bag in made.key["bags"].values() for mm in bag["spacing_mm"])
    assert re.search(r"3 bags of 2 images, 1\.\d\d to 1\.\d\d mm a voxel, [23]\.\d MB", capsys.readouterr().out)


def test_what_cannot_be_prepared_is_refused(
    folders: dict[str, Path], reading: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, real, out = f"ours={folders['Zylindrix']}", str(folders["real"]), str(tmp_path / "out")

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit, match="^2$"):
            main(["reading", "prepare", *arguments])
        return capsys.readouterr().err

    assert "must not hold the key of another reading" in refused(
        "--methods", ours, "--real", real, "-o", str(reading.folder)
    )
    wrong = refused("--methods", "ours", ours, ours, f"REAL={real}", "--real", real, "-o", out)
    assert "must be NAME=DATASET_OR_FOLDER, got 'ours'" in wrong
    assert "got 'ours' again" in wrong
    assert "got 'REAL' again" in wrong
    assert "there must be two to compare, got ours" in refused("--methods", ours, "-o", out)
    assert "number of 1 or more, got 0" in refused("--methods", ours, "--real", real, "-o", out, "-n", "0")
    named = ["--methods", f"Aorta={folders['Zylindrix']}", "--real", real, "-o", out]
    refusal = refused(*named, "--criteria", str(_titled(tmp_path, "An aorta")))
    assert "title: text on the page must not name a method, got 'An aorta' with 'Aorta' in it" in refusal
    assert "label ascending_aorta: text on the page must not name a method" in refusal
    assert "page must leave 500000 voxels" in refused(
        "--methods", ours, "--real", real, "-o", out, "--megabytes", "0.4"
    )
    stranger = tmp_path / "Dataset930_Stranger"
    case = RawDataset.open(folders["real"]).load_case("patient_0")
    write_case(stranger, Case("someone", case.image, case.mask, case.affine))
    write_dataset_json(stranger, BACKGROUND_LABELS, 1)
    assert "must have a case of every method, got none (3 in ours, 1 in theirs)" in refused(
        "--methods", ours, f"theirs={stranger}", "-o", out
    )
    write_case(stranger, Case("patient_0", case.image, np.roll(case.mask, 2, axis=1), case.affine))
    assert "patient_0: masks differ between the methods" in refused("--methods", ours, f"theirs={stranger}", "-o", out)
    assert not (tmp_path / "out").exists()


def _titled(folder: Path, title: str) -> Path:
    path = folder / "criteria.yaml"
    path.write_text(f"title: {title}\n")
    return path


@pytest.mark.parametrize("part", [[], ["prepare"], ["results"]], ids=["reading", "prepare", "results"])
def test_help_has_an_example(part: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(["reading", *part, "--help"])
    assert f"fcas_report reading {part[0] if part else 'prepare'}" in capsys.readouterr().out.split("example:")[1]
